"""What is trained on and what is held out."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple, TypeVar

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.reading import name_list

T = TypeVar("T")


class Split(NamedTuple):
    """How documents are split.

    share: by content, the share that is held out, else the share that trains: of n characters the first int(n * share).
    by_content: whole documents are held out, chosen by a hash of their text: stable when documents come, go or change
        places. Else the corpus is one long text whose end is held out, and one document may be cut in two.
    """

    share: float
    by_content: bool

    def __str__(self) -> str:
        return f"{self.share * 100:g}%" if self.by_content else f"{self.share:g}"


def parse_split(text: Split | str | float) -> Split:
    """Read "5%" (hold out 5 percent of the documents, by content) or 0.9 (the first 90 percent trains, in order).

    Raises UserError for anything else, and for shares that leave one side empty.
    """
    if isinstance(text, Split):
        return text
    written = str(text).strip()
    percent = written.endswith("%")
    try:
        share = float(written.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(
            f'"{text}" is not a split; write "5%" to hold out 5 percent of the documents by content, '
            "or 0.9 to train on the first 90 percent of the text and hold out the rest"
        )
    return Split(share, percent)


def is_held_out(text: str, share: float) -> bool:
    """Whether a document is held out: a pure function of its text, so equal documents are never on both sides."""
    return _digest(text) < share * 2**64


def _digest(text: str) -> int:
    """A number below 2**64."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, person=b"split").digest(), "big")


def split_items(
    items: Sequence[T],
    split: Split | str | float,
    key: Callable[[T], str],
    *,
    spec: str,
    what: str,
    grouped: bool = False,
) -> tuple[list[T], list[T]]:
    """Those to train on and those held out: by content ("5%"), or the first and the last (0.9).

    Args:
        items: What is in memory as a whole, such as conversations or rows.
        split: The rule.
        key: The content of one.
        spec: Where they are from, for the message.
        what: What they are, in the plural.
        grouped: Whether those with equal content stay on one side of a split in order too.

    Raises:
        UserError: One side is empty.
    """
    share, by_content = rule = parse_split(split)
    last, keys = int(len(items) * share), list(map(key, items))
    first = set(keys[:last]) if grouped else set()
    held = [is_held_out(k, share) if by_content else i >= last and k not in first for i, k in enumerate(keys)]
    training = [item for item, out in zip(items, held, strict=True) if not out]
    measured = [item for item, out in zip(items, held, strict=True) if out]
    if not training or not measured:
        left = f"{len(training)} of {len(held)} {what} to train on and {len(measured)} to measure"
        raise UserError(f"{spec}: the split {rule} leaves {left}; --split 0.8 holds out the last fifth")
    return training, measured


def split_groups(
    items: Sequence[T], split: str, key: Callable[[T], str], *, spec: str, what: str
) -> tuple[list[T], list[T]]:
    """Those to train on and those held out, whole groups on one side.

    Args:
        items: What is in memory as a whole.
        split: As in `split_items`, of the number of groups, at least one on each side; or the names of those that are
            held out, between commas.
        key: The group of one.
        spec: Where they are from, for the message.
        what: What a group is.

    Raises:
        UserError: There is one group only, or a side has none.
    """
    names = sorted(set(map(key, items)))
    if len(names) < 2:
        raise UserError(f"{spec}: there is one {what} only, {names[0]}; others are needed to measure, in --validation")
    out = {name.strip() for name in split.split(",")}
    if unknown := sorted(out - set(names)):
        if not re.fullmatch(r"[\d.]+%?", split):
            known = f"there is {name_list(names)}; or write a share, such as 25%"
            raise UserError(f"{spec}: --split {split}: no {what} is called {name_list(unknown)}; {known}")
        share, by_content = parse_split(split)
        count = min(max(round(len(names) * (share if by_content else 1 - share)), 1), len(names) - 1)
        out = set(sorted(names, key=_digest)[:count] if by_content else names[-count:])
    elif len(out) == len(names):
        raise UserError(f"{spec}: --split {split} holds out every {what}")
    return [item for item in items if key(item) not in out], [item for item in items if key(item) in out]


def split_documents(corpus: Corpus, split: Split | str | float = "5%") -> tuple[Corpus, Corpus]:
    """The training and the validation documents, read as streams again and again; see `settle_split`."""
    rule = settle_split(corpus, split)
    if rule.by_content:
        reads = [partial(_held_out, corpus, rule.share, side) for side in (False, True)]
    else:
        characters: int = corpus.record()["characters"]
        boundary = int(characters * rule.share)
        reads = [partial(_between, corpus, 0, boundary), partial(_between, corpus, boundary, characters)]
    training, validation = (Corpus(f"{corpus.name}, split at {rule}", "split", read) for read in reads)
    return training, validation


def settle_split(corpus: Corpus, split: Split | str | float) -> Split:
    """The split as a rule; one by content that would leave a side empty takes the same share in order instead.

    A corpus of one document is the usual case; the user is told. Documents are read until both sides have one.
    """
    rule = parse_split(split)
    if not rule.by_content:
        return rule
    sides = (is_held_out(document.text, rule.share) for document in corpus)
    first = next(sides)
    if any(side != first for side in sides):
        return rule
    settled = Split(1 - rule.share, by_content=False)
    _tell(f"{corpus.name}: --split {rule} would hold out no document, or all; the first {settled} of the text trains")
    return settled


_tell = cache(say)  # once: a command may split a text several times


def _held_out(corpus: Corpus, share: float, side: bool) -> Iterator[Document]:
    return (document for document in corpus if is_held_out(document.text, share) == side)


def _between(corpus: Corpus, start: int, stop: int) -> Iterator[Document]:
    """The characters from `start` to `stop` of the whole text."""
    position = 0
    for document in corpus:
        yield Document(document.text[max(start - position, 0) : max(stop - position, 0)], document.source)
        position += len(document.text)
        if position >= stop:
            return
