"""Pairs of texts: the lines of two files that translate each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.reading import read_lines
from langwright.corpora.splits import is_held_out, settle_split

JOIN = "::"


class Pair(NamedTuple):
    """A source and its target. where: the files and the line, for people."""

    source: str
    target: str
    where: str


@dataclass(frozen=True)
class Pairs:
    """Pairs in the order of their files; those with an empty side are left out.

    name: what the user calls them.
    """

    name: str
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pairs)

    def corpus(self) -> Corpus:
        """Each pair as a document of two lines."""
        return Corpus(self.name, "pairs", lambda: (Document(_joined(pair), pair.where) for pair in self.pairs), 2)

    def split(self, split: str) -> tuple[list[Pair], list[Pair], str]:
        """The training and the held-out pairs, and the split that was settled on; see `settle_split`."""
        rule = settle_split(self.corpus(), split)
        if rule.by_content:
            held_out = [is_held_out(_joined(pair), rule.share) for pair in self.pairs]
        else:
            held_out = [i >= int(len(self) * rule.share) for i in range(len(self))]
        sides = [[p for p, out in zip(self.pairs, held_out, strict=True) if out == side] for side in (False, True)]
        for side, what in zip(sides, ("train on", "hold out"), strict=True):
            if not side:
                raise UserError(f"{self.name}: no pair is left to {what} with --split {split}")
        return sides[0], sides[1], str(rule)


def open_pairs(spec: str) -> Pairs:
    """The pairs of two parallel files, plain or packed, whose names are joined by `::`.

    Raises:
        UserError: There are not two files, one cannot be read, or they have different numbers of lines.
    """
    names = spec.split(JOIN)
    if len(names) != 2 or not all(names):
        raise UserError(f"{spec}: pairs are two files of parallel lines, such as train.en{JOIN}train.de")
    sides = [list(_lines(Path(name).expanduser())) for name in names]
    if len(sides[0]) != len(sides[1]):
        counts = " and ".join(f"{name} has {len(side):,} lines" for name, side in zip(names, sides, strict=True))
        raise UserError(f"{counts}: line n of one must be the translation of line n of the other")
    found = [
        Pair(source, target, f"{names[0]}:{number}")
        for number, (source, target) in enumerate(zip(*sides, strict=True), start=1)
        if source and target
    ]
    if not found:
        raise UserError(f"{spec}: no line has text on both sides")
    if left := len(sides[0]) - len(found):
        say(f"{spec}: {left:,} lines with an empty side are left out")
    return Pairs(spec, tuple(found))


def _lines(path: Path) -> Iterator[str]:
    return (line.strip() for line in read_lines(path))


def _joined(pair: Pair) -> str:
    return f"{pair.source}\n{pair.target}"
