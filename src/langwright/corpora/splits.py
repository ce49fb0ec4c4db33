"""What is trained on and what is held out."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document

DEFAULT_FRACTION = 0.05


@dataclass(frozen=True)
class ContentSplit:
    """Whole documents are held out, chosen by a hash of their text: stable when documents come, go or change places.

    fraction: the share held out.
    seed: another seed holds out other documents.
    """

    fraction: float = DEFAULT_FRACTION
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.fraction * 100:g}%"


@dataclass(frozen=True)
class ContiguousSplit:
    """The corpus as one long text: its first part trains, the rest is held out, and one document may be cut in two.

    fraction: the share that trains; with n characters, the first int(n * fraction) of them.
    """

    fraction: float

    def __str__(self) -> str:
        return f"{self.fraction:g}"


SplitRule = ContentSplit | ContiguousSplit
DEFAULT_SPLIT = ContentSplit()


@final
class Split:
    """The documents of one side of a split; each iteration is a fresh pass."""

    def __init__(self, read: Callable[[], Iterator[Document]], complaint: str) -> None:
        """read: starts a fresh pass. complaint: what to tell the user when there is no document."""
        self._read = read
        self._complaint = complaint

    def __iter__(self) -> Iterator[Document]:
        """A fresh pass. Raises UserError at its end when there was no document."""
        empty = True
        for document in self._read():
            empty = False
            yield document
        if empty:
            raise UserError(self._complaint)


def parse_split(text: str | float) -> SplitRule:
    """Read "5%" (hold out 5 percent of the documents, by content) or 0.9 (the first 90 percent trains, in order).

    Raises UserError for anything else, and for shares that leave one side empty.
    """
    written = str(text).strip()
    percent = written.endswith("%")
    try:
        fraction = float(written.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise UserError(
            f'"{text}" is not a split; write "5%" to hold out 5 percent of the documents by content, '
            f"or 0.9 to train on the first 90 percent of the text and hold out the rest"
        )
    return ContentSplit(fraction) if percent else ContiguousSplit(fraction)


def is_validation(document: Document, fraction: float = DEFAULT_FRACTION, seed: int = 0) -> bool:
    """Whether a document is held out: a pure function of its text, so equal documents are never on both sides."""
    salt = seed.to_bytes(16, "little")
    digest = hashlib.blake2b(document.text.encode(), digest_size=8, salt=salt, person=b"split").digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def split_documents(corpus: Corpus, split: SplitRule | str | float = DEFAULT_SPLIT) -> tuple[Split, Split]:
    """The training and the validation documents; either can be read again and again, as a stream.

    split: a split, or what `parse_split` reads; see `settle_split`.
    """
    rule = settle_split(corpus, split)
    return _by_content(corpus, rule) if isinstance(rule, ContentSplit) else _in_order(corpus, rule)


def settle_split(corpus: Corpus, split: SplitRule | str | float) -> SplitRule:
    """The split as a rule; one by content that would leave a side empty takes the same share in order instead.

    A corpus of one document is the usual case, and the user is told. Documents are read until both sides have one.
    """
    rule = parse_split(split) if isinstance(split, str | float) else split
    if isinstance(rule, ContiguousSplit):
        return rule
    sides = set()
    for document in corpus.documents():
        sides.add(is_validation(document, rule.fraction, rule.seed))
        if len(sides) == 2:
            return rule
    settled = ContiguousSplit(1 - rule.fraction)
    say(f"{corpus.name}: --split {rule} would hold out no document, or all; the first {settled} of the text trains")
    return settled


def _by_content(corpus: Corpus, split: ContentSplit) -> tuple[Split, Split]:
    def read(held_out: bool) -> Iterator[Document]:
        for document in corpus.documents():
            if is_validation(document, split.fraction, split.seed) == held_out:
                yield document

    complaint = f"{corpus.name}: its documents have changed"
    return Split(lambda: read(False), complaint), Split(lambda: read(True), complaint)


def _in_order(corpus: Corpus, split: ContiguousSplit) -> tuple[Split, Split]:
    characters: int = corpus.record()["characters"]
    boundary = int(characters * split.fraction)

    def read(start: int, stop: int) -> Iterator[Document]:
        position = 0
        for document in corpus.documents():
            text = document.text[max(start - position, 0) : max(stop - position, 0)]
            if text:
                yield Document(text, document.source)
            position += len(document.text)
            if position >= stop:
                return

    complaint = f"{corpus.name}: {characters} characters are too few to split at {split}; more text is needed"
    return Split(lambda: read(0, boundary), complaint), Split(lambda: read(boundary, characters), complaint)
