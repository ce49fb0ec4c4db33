"""A capped sample of a corpus, for what does not need all of it, such as training a tokenizer."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator

from langwright.corpora.document import Document

CHUNK_CHARACTERS = 1 << 16


def sample_texts(documents: Iterable[Document], max_bytes: int, seed: int = 0) -> list[str]:
    """At most `max_bytes` of UTF-8 text, chosen by content: the same whatever the order of the documents.

    Long documents are cut, at line ends where there are any, into chunks of at most `2 * CHUNK_CHARACTERS`; each
    chunk is hashed with the seed, and the chunks with the smallest hashes are kept as far as they fit; everything,
    when everything fits. One pass; the memory is at most `max_bytes` and the document at hand.
    """
    kept: list[tuple[int, str, int]] = []  # a heap with the largest hash on top
    size, limit = 0, 0  # limit: the negated hash from which on nothing more is taken
    for document in documents:
        for chunk in _chunks(document.text):
            data = chunk.encode()
            key = -1 - int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=seed.to_bytes(16, "little")).digest())
            if limit and key <= limit:
                continue
            heapq.heappush(kept, (key, chunk, len(data)))
            size += len(data)
            while kept and (size > max_bytes or (limit and kept[0][0] <= limit)):
                limit, _, length = heapq.heappop(kept)
                size -= length
    return [chunk for _, chunk, _ in sorted(kept, reverse=True)]


def _chunks(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > 2 * CHUNK_CHARACTERS:
        end = start + CHUNK_CHARACTERS
        end = text.find("\n", end, end + CHUNK_CHARACTERS) + 1 or end
        yield text[start:end]
        start = end
    yield text[start:]
