"""Recordings of several channels, such as those of sensors: archives of arrays, and tables with a row a sample."""

import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from langwright.base.console import say
from langwright.base.errors import UserError, first_line
from langwright.corpora.files import find_files
from langwright.corpora.labelled import LABELS, Columns, choose_column, plain_name, usual_column
from langwright.corpora.reading import ROWS, Row, ending_of, name_list, read_rows

ENDINGS = (".npz", *ROWS)
NAMES = "columns"
"""The array of an archive that names the channels."""
ACTIVITIES = ("activity", *LABELS)
SUBJECTS = ("subject", "person", "user", "participant", "subject_id", "user_id", "group")
RECORDINGS = ("recording", "trial", "session", "recording_id", "series", "series_id")
"""Usual names of the columns of label, subject and recording; the first that is there is taken."""
PASSED = ("", "index", "unnamed:_0", "time", "timestamp", "t", "seconds", "date", "sample", "split")
"""Names of columns that are no channels."""


class Recording(NamedTuple):
    """One series.

    Args:
        values: [time, channels]
        label: what it is, or None where it need not be known.
        subject: whose it is; what is held out are subjects.
        source: the file and the array, or the row where it begins.
    """

    values: NDArray[np.float32]
    label: str | None
    subject: str
    source: str


def read_recordings(
    spec: str | Path,
    columns: Columns = Columns(),
    *,
    known: Collection[str] | None = None,
    required: bool = True,
    channels: Collection[str] | None = None,
) -> tuple[tuple[str, ...], list[Recording]]:
    """Read the recordings of a file, folder or glob.

    `.npz` has an array [time, channels] a recording, by the name `LABEL_NUMBER/SUBJECT`, and may name the channels in
    `columns`. In `.csv`, `.tsv`, JSON lines, JSON and Parquet each row is a sample; those in a row that share label,
    subject and recording, where there is such a column, are one recording.

    Args:
        spec: the path.
        columns: which columns hold label and subject.
        known: the labels that there can be; any if None.
        required: whether each must have a label and a subject.
        channels: those that there must be.

    Returns:
        The names of the channels, and the recordings.

    Raises:
        UserError: Names file and row, or array, of what is missing, no number, unknown or empty.
    """
    for flag, named in (("--text-field", columns.text_field), ("--second-field", columns.second_field)):
        if named is not None:
            raise UserError(f"{flag} {named}: series have channels, which are all other columns")
    names: tuple[str, ...] | None = None if channels is None else tuple(channels)
    found: list[Recording] = []
    for path in find_files(str(spec), ENDINGS):
        here, recordings = (_archive if ending_of(path) == ".npz" else _table)(path, columns, required)
        names = names or here
        if here != names:
            raise UserError(f"{path}: channels are {name_list(here)}, and must be {name_list(names)}")
        for each in recordings:
            if known is not None and each.label is not None and each.label not in known:
                raise UserError(f'{each.source}: unknown label "{each.label}"; known are {name_list(known)}')
            if not len(each.values):
                raise UserError(f"{each.source}: the recording is empty; leave it out")
            bad = np.argwhere(~np.isfinite(each.values))
            if len(bad):
                time, channel = bad[0]
                raise UserError(f'{each.source}: sample {time} of "{here[channel]}" is no finite number')
            found.append(each)
    assert names is not None
    return names, found


def _archive(path: Path, columns: Columns, required: bool) -> tuple[tuple[str, ...], list[Recording]]:
    """The recordings of an archive, whose names say what they are."""
    if columns.given:
        raise UserError(f"{path}: has arrays, not columns; leave out {name_list(columns.given)}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: not an archive of arrays that can be read: {first_line(error)}") from None
    told = arrays.pop(NAMES, None)
    recordings: list[Recording] = []
    for name, array in arrays.items():
        label, _, subject = name.rpartition("/")
        if array.ndim != 2 or array.dtype.kind not in "fiu" or not (label or not required):
            raise UserError(f'{path}: "{name}" is {array.dtype} {list(array.shape)}; needed is an array '
                            "[time, channels] of numbers, called LABEL_NUMBER/SUBJECT")  # fmt: skip
        if array.shape[1] != len(told if told is not None else next(iter(arrays.values())).T):
            raise UserError(f'{path}: "{name}" has {array.shape[1]} channels, not as many as the others')
        label = re.sub(r"[_-]\d+$", "", label)
        recordings.append(Recording(array.astype(np.float32), label or None, subject, f"{path}: {name}"))
    if not recordings:
        raise UserError(f"{path}: there is no recording in it")
    count = recordings[0].values.shape[1]
    return tuple(map(str, range(1, count + 1) if told is None else told)), recordings


def _table(path: Path, columns: Columns, required: bool) -> tuple[tuple[str, ...], list[Recording]]:
    """The recordings of a table, a row a sample."""
    rows = read_rows(path, None)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{path}: there is no row in it")
    recording = usual_column(first.values, RECORDINGS)

    def column(given: str | None, usual: Collection[str], what: str, flag: str) -> str | None:
        if required or given is not None:
            return choose_column(first, given, usual, what, flag)
        return usual_column(first.values, usual)

    label = column(columns.label_field, ACTIVITIES, "label", "--label-field")
    subject = column(columns.group_field, (*SUBJECTS, *RECORDINGS), "subject", "--group-field")
    about = (label, subject, recording)
    channels = [name for name in first.values if name not in about and plain_name(name) not in PASSED]
    if not channels:
        raise UserError(f"{path}: no column is left for a channel beside {name_list(filter(None, about))}")
    said = f"label in {name_list([label] if label else [])}, subject in {name_list([subject] if subject else [])}"
    say(f"{path}: {said}, channels {name_list(channels)}")

    def whose(row: Row) -> tuple[str | None, ...]:
        return tuple(None if name is None else _text(row, name, required) for name in about)

    recordings = []
    for (activity, person, _), part in groupby(_with(first, rows), whose):
        samples = list(part)
        values = np.array([[_number(row, name) for name in channels] for row in samples], np.float32)
        recordings.append(Recording(values, activity, person or path.stem, samples[0].source))
    return tuple(channels), recordings


def _with(first: Row, rows: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rows


def _text(row: Row, name: str, required: bool) -> str | None:
    """What is in a cell, as text; None where there is nothing and need not be."""
    value = row.values.get(name)
    written = "" if value is None or value != value else str(value).strip()
    if not written and required:
        raise UserError(f'{row.source}: there is nothing in "{name}"')
    return written or None


def _number(row: Row, name: str) -> float:
    value: Any = row.values.get(name)
    try:
        if math.isfinite(number := float(value)):
            return number
    except (TypeError, ValueError):
        pass
    raise UserError(f'{row.source}: the channel "{name}" is {value!r}, not a finite number')
