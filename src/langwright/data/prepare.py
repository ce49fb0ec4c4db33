"""From documents to token shards: tokenised on all cores, in bounded memory, and kept for the next run."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from langwright.base.console import progress
from langwright.base.files import atomic_folder
from langwright.corpora.document import Corpus, Document
from langwright.corpora.splits import Split, parse_split, split_documents
from langwright.data.shards import VERSION, Tokens, open_shard, write_shard
from langwright.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
"""How much text is tokenised at a time; the library's own records take about a hundred bytes a token meanwhile."""


def prepare(corpus: Corpus, tokenizer: Tokenizer, split: Split | str | float, cache: Path) -> tuple[Tokens, Tokens]:
    """The training and the validation tokens of a corpus.

    cache: the folder where shards are kept, by the content of the corpus, the tokenizer and the split; what is there
        is opened, not made again.
    Raises UserError when either side of the split is empty, or a kept shard is damaged.
    """
    split = parse_split(split)
    folder = cache / _key(corpus, tokenizer, split)
    if not folder.is_dir():
        parts = split_documents(corpus, split)
        total: int = corpus.record()["bytes"]
        with atomic_folder(folder) as new, progress("tokenising", total, "bytes") as advance:
            for name, documents in zip(_NAMES, parts, strict=True):
                write_documents(new / name, documents, tokenizer, advance)
    training, validation = (open_shard(folder / name) for name in _NAMES)
    return training, validation


def tokenise(documents: Iterable[Document], tokenizer: Tokenizer, path: Path) -> Tokens:
    """All documents as one shard at `path`, without a split; the file is written anew."""
    with progress("tokenising", None, "bytes") as advance:
        write_documents(path, documents, tokenizer, advance)
    return open_shard(path)


def write_documents(
    path: Path, documents: Iterable[Document], tokenizer: Tokenizer, advance: Callable[[int], None]
) -> None:
    """Write documents, in their order, as the shard `path`; each is `opening` + text + [eos].

    advance: told the UTF-8 bytes of text that were done.
    """
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    with write_shard(path, tokenizer.vocab_size, tokenizer.fingerprint()) as writer:
        for pieces, ids in _encoded(_batches(documents, tokenizer), tokenizer):
            for piece, piece_ids in zip(pieces, ids, strict=True):
                size = len(piece.text.encode())
                writer.add(
                    [*(tokenizer.opening if piece.first else []), *piece_ids, *(eos if piece.last else [])], size
                )
                if piece.last:
                    writer.end_document()
                advance(size)


_NAMES = ("training.tokens", "validation.tokens")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a document that is tokenised by itself."""

    text: str
    first: bool
    last: bool


def _batches(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[list[_Piece]]:
    """Pieces in their order, in lists of about `BATCH_CHARACTERS` characters."""
    batch: list[_Piece] = []
    size = 0
    for document in documents:
        for piece in _pieces(document, tokenizer):
            batch.append(piece)
            size += len(piece.text)
            if size >= BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _pieces(document: Document, tokenizer: Tokenizer) -> Iterator[_Piece]:
    first, previous = True, ""
    for text in tokenizer.pieces(document.text):
        if previous:
            yield _Piece(previous, first, last=False)
            first = False
        previous = text
    yield _Piece(previous, first, last=True)


def _encoded(batches: Iterable[list[_Piece]], tokenizer: Tokenizer) -> Iterator[tuple[list[_Piece], list[list[int]]]]:
    """Each batch with its ids. The next batch is tokenised, by the library's threads, while one is written."""
    with ThreadPoolExecutor(1) as worker:
        waiting: tuple[list[_Piece], Future[list[list[int]]]] | None = None
        for batch in batches:
            ready, waiting = waiting, (batch, worker.submit(tokenizer.encode_batch, [piece.text for piece in batch]))
            if ready:
                yield ready[0], ready[1].result()
        if waiting:
            yield waiting[0], waiting[1].result()


def _key(corpus: Corpus, tokenizer: Tokenizer, split: Split) -> str:
    """A folder name that changes with anything that decides the shards' content."""
    content = {
        "version": VERSION,
        "corpus": corpus.record()["hash"],
        "tokenizer": tokenizer.fingerprint(),
        "split": split,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
