"""Data sets of the Hugging Face Hub as a corpus."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from langwright.base.console import say
from langwright.base.errors import UserError, first_line
from langwright.base.extras import need
from langwright.corpora.document import Corpus, Document
from langwright.corpora.reading import SPLIT, Row, document_of, name_list

PREFIX = "hf:"

_SPEC = re.compile(
    r"hf:([^:]+)(?::((?!(?:train|validation|valid|test|dev)(?:\[|$))[^:\[]+))?(?::([^:\[]+(?:\[[^\]]*\])?))?"
)
"""Name, config and split; one part after the name is a config unless it is called like a split or has a slice."""


def open_hub(spec: str, field: str = "text") -> Corpus:
    """The corpus `hf:owner/name[:config][:split]`, by default its split "train"; each row's `field` is a document.

    With one part after the name, it is a split if it is called train, validation, valid, test or dev, or has a slice
    such as `train[:1000]`; otherwise a config. The data set is downloaded into the Hub's own cache and memory-mapped.

    Raises:
        UserError: The library is missing, the data set cannot be loaded, or the field is not text.
    """
    name, config, split = parse_hub_spec(spec)
    datasets = need("datasets", "data", spec)
    if os.path.exists(name):  # the library would read it without a word
        raise UserError(f"{spec}: there is a {name} here too; ./{name} means that one, and rename it for the Hub's")
    with _explained(spec):
        rows = datasets.load_dataset(name, config, split=split)
    if field not in rows.column_names:
        raise UserError(f'{spec}: no column "{field}"; there is {name_list(rows.column_names)}')

    def read() -> Iterator[Document]:
        with _explained(spec):
            for number, row in enumerate(rows.select_columns([field])):
                yield document_of(Row(row, f"{spec} row {number}"), field)

    return Corpus(spec, "hub", read)


@cache
def hub_file(spec: str) -> Path:
    """The rows of a data set of the Hub as a file of JSON lines, which is there as long as the process.

    Numbers that the data set has names for, such as those of labels, become the names. Without a split in the
    specification rows of all its splits are there, with a column `split`.

    Raises:
        UserError: The library is missing, or the data set cannot be loaded.
    """
    name, config, _ = parse_hub_spec(spec)
    split = (_SPEC.fullmatch(spec) or [None] * 4)[3]
    datasets = need("datasets", "data", spec)
    if os.path.exists(name):  # the library would read it without a word
        raise UserError(f"{spec}: there is a {name} here too; ./{name} means that one, and rename it for the Hub's")
    with _explained(spec):
        loaded = datasets.load_dataset(name, config, split=split)
    path = Path(_folder().name, *name.split("/"), f"{config or 'default'}-{split or 'all'}.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"{spec}: its rows are {path}")
    with _explained(spec), path.open("w", encoding="utf-8") as file:
        for part, rows in loaded.items() if split is None else [(None, loaded)]:
            kinds = getattr(rows, "features", None) or {}
            for row in rows:
                values = {column: _named(value, kinds.get(column)) for column, value in row.items()}
                values |= {} if part is None else {SPLIT: part}
                file.write(json.dumps(values, default=str, ensure_ascii=False) + "\n")
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where rows are kept until the process ends."""
    return tempfile.TemporaryDirectory(prefix="langwright-hub-")


def _named(value: Any, kind: Any) -> Any:
    """A value with names in place of the numbers of classes; null where one has no name."""
    if isinstance(value, list):
        inner = getattr(kind, "feature", None) or (kind[0] if isinstance(kind, list) else None)
        return [_named(item, inner) for item in value]
    names = getattr(kind, "names", None)
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


@contextmanager
def _explained(spec: str) -> Iterator[None]:
    """Around calls of the library: what goes wrong has no common base there."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{spec}: the data set cannot be loaded: {first_line(error)}") from None


def parse_hub_spec(spec: str) -> tuple[str, str | None, str]:
    """Name, config (or None) and split of a specification; see `open_hub`."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec}: no data set of the Hub; write hf:owner/name[:config][:split]")
    return match[1], match[2], match[3] or "train"
