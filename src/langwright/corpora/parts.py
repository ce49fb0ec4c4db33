"""The parts of a data set whose rows say which one they belong to, in a column `split`; and `FILE#dev` for one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.reading import MARK, PARTS, ROWS, SPLIT, file_and_part, read_rows


def parts_to_learn(spec: str, validation: str | None = None, split: str | None = None) -> tuple[str, str | None]:
    """What is learnt from, and what is measured in training.

    Where rows say it, training rows are learnt from, and those of the dev part measured unless something else is asked
    for; those of the test part are never seen.

    Args:
        spec: the training file, folder or glob, or a data set of the Hub.
        validation: the validation file.
        split: what is held out of the training rows instead.
    """
    there = parts_in(spec)
    if "train" not in there:
        return spec, validation
    train, dev = f"{spec}{MARK}train", f"{spec}{MARK}dev"
    if validation is not None:
        part = part_to_measure(validation, "dev")
        say(f"{spec}: learnt from {train}, as its column {SPLIT} says")
        return train, part
    measured = dev if "dev" in there and split is None else None
    told = f"measured on {dev}" if measured else "measured on some of its rows"
    say(f"{spec}: learnt from {train}, {told}, as its column {SPLIT} says; {MARK}test is never seen")
    return train, measured


def part_to_measure(spec: str, part: str = "test") -> str:
    """The part of a file that measures a finished model; all of a file whose rows do not say."""
    if part not in parts_in(spec):
        return spec
    say(f"{spec}: measured on {spec}{MARK}{part}, as its column {SPLIT} says; {MARK}train and {MARK}dev are the others")
    return f"{spec}{MARK}{part}"


def parts_in(spec: str) -> set[str]:
    """The parts that rows belong to by their column `split`; none where a row does not say, or one is named already."""
    if file_and_part(Path(spec))[1] is not None:
        return set()
    found: set[Any] = set()
    try:
        for path in find_files(spec, ROWS):
            found |= set(_parts(path))
    except UserError:  # whatever is wrong, who reads the rows says it better
        return set()
    return set() if None in found else found


def _parts(path: Path) -> Iterator[str | None]:
    """The part of each row, None for what is none; one None says that there is no such column."""
    for row in read_rows(path, None):
        if SPLIT not in row.values:
            yield None
            return
        yield PARTS.get(str(row.values[SPLIT]).lower())
