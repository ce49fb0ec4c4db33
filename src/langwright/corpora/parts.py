"""The parts of a data set whose rows say which one they belong to, in a column `split`; and `FILE#dev` for one."""

from pathlib import Path
from typing import Any

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.corpora.files import find_files
from langwright.corpora.reading import MARK, PARTS, ROWS, SPLIT, file_and_part, name_list, read_rows, split_column


def parts_to_learn(spec: str, validation: str | None = None, split: str | None = None) -> tuple[str, str | None]:
    """What is learnt from, and what is measured in training; rows of a test part are in neither.

    Args:
        spec: the training file, folder or glob, or a data set of the Hub.
        validation: the validation file.
        split: what is held out of the training rows in place of the dev part.
    """
    there = parts_in(spec)
    if there and "train" not in there:
        raise UserError(f'{spec}: no row has "train" in its column "{SPLIT}"; {spec}{MARK}dev names another part')
    if validation is not None:
        return part_of(spec, "train"), part_of(validation, "dev")
    return part_of(spec, "train"), part_of(spec, "dev") if "dev" in there and split is None else None


def part_of(spec: str, part: str) -> str:
    """One part of a file, which is announced; the whole of a file whose rows are of no parts, or have not this one."""
    if part not in parts_in(spec):
        return spec
    say(f'{spec}: its rows of the part "{part}" are read, by its column "{SPLIT}"')
    return f"{spec}{MARK}{part}"


def parts_in(spec: str) -> set[str]:
    """The parts that rows belong to by their column `split`; none where no row says so, or one is named already.

    Raises UserError where some rows say so and others do not: which of them may be learnt from is not to be guessed.
    """
    if file_and_part(Path(spec))[1] is not None:
        return set()
    found: set[str] = set()
    odd: tuple[str, Any] | None = None
    try:
        for path in find_files(spec, ROWS):
            for source, said in _said(path):
                part = PARTS.get(str(said).lower())
                if part is not None:
                    found.add(part)
                elif odd is None:
                    odd = source, said
    except UserError:  # whatever is wrong, who reads the rows says it better
        return set()
    if found and odd is not None:
        told = f'its "{SPLIT}" is {odd[1]!r}, and that of others {name_list(sorted(found))}'
        raise UserError(f"{odd[0]}: {told}; mend the row, or name a part, such as {spec}{MARK}train")
    return found


def _said(path: Path) -> list[tuple[str, Any]]:
    """What each row says of its part, None where it says nothing; a table may hold quotes that are none."""
    try:
        rows = list(read_rows(path, None))
    except UserError:
        rows = list(read_rows(path, None, quotes=False))
    return [(row.source, row.values.get(split_column(row.values) or "")) for row in rows]
