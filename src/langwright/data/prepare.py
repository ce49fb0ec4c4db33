"""From documents to token shards: tokenised on all cores, in bounded memory, and kept for the next run."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from langwright.base.console import progress
from langwright.base.files import atomic_folder
from langwright.corpora.document import Corpus, Document
from langwright.corpora.splits import parse_split, split_documents
from langwright.data.prefetch import prefetch
from langwright.data.shards import VERSION, Tokens, open_shard, write_shard
from langwright.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
"""How much text is tokenised at a time; the library's own records take about a hundred bytes a token meanwhile."""


def prepare(corpus: Corpus, tokenizer: Tokenizer, split: str, cache: Path) -> tuple[Tokens, Tokens]:
    """The training and the validation tokens of a corpus.

    Args:
        corpus: the text.
        tokenizer: what makes tokens of it.
        split: which documents are held out.
        cache: the folder where shards are kept, by the content of the corpus, the tokenizer and the split; what is
            there is opened, not made again.

    Raises:
        UserError: Either side of the split is empty, or a kept shard is damaged.
    """
    rule = parse_split(split)
    content = {
        "version": VERSION,
        "corpus": corpus.record()["hash"],
        "tokenizer": tokenizer.fingerprint(),
        "split": [type(rule).__name__, asdict(rule)],
    }
    folder = cache / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    names = ("training.tokens", "validation.tokens")
    if not folder.is_dir():
        parts = split_documents(corpus, rule)
        with atomic_folder(folder) as new, progress("tokenising", corpus.record()["bytes"], "bytes") as advance:
            for name, documents in zip(names, parts, strict=True):
                _write(new / name, documents, tokenizer, advance)
    training, validation = (open_shard(folder / name) for name in names)
    return training, validation


def tokenise(documents: Iterable[Document], tokenizer: Tokenizer, path: Path) -> Tokens:
    """All documents as one shard at `path`, without a split; the file is written anew."""
    with progress("tokenising", None, "bytes") as advance:
        _write(path, documents, tokenizer, advance)
    return open_shard(path)


def _write(path: Path, documents: Iterable[Document], tokenizer: Tokenizer, advance: Callable[[int], None]) -> None:
    """Write documents, in their order, as a shard; each is `opening` + text + [eos].

    The next batch is tokenised, by the library's threads, while one is written. advance: takes the UTF-8 bytes of text
    that were done.
    """
    opening, eos = tokenizer.opening, [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    batches = _batches(documents, tokenizer)
    encoded = ((batch, tokenizer.encode_batch([text for text, _ in batch])) for batch in batches)
    with write_shard(path, tokenizer.vocab_size, tokenizer.fingerprint()) as writer:
        begins = True
        for batch, rows in prefetch(encoded, ahead=1):
            for (text, ends), ids in zip(batch, rows, strict=True):
                size = len(text.encode())
                writer.add([*(opening if begins else []), *ids, *(eos if ends else [])], size)
                if ends:
                    writer.end_document()
                begins = ends
                advance(size)


def _batches(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[tuple[str, bool]]]:
    """Pieces in their order, and whether each ends its document, in lists of about `BATCH_CHARACTERS` characters."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for document in documents:
        left = len(document.text)
        for piece in tokenizer.pieces(document.text):
            left -= len(piece)
            batch.append((piece, left == 0))
            size += len(piece)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
