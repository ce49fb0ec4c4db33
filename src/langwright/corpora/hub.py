"""Data sets of the Hugging Face Hub as a corpus."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from langwright.base.errors import UserError, first_line
from langwright.base.extras import need
from langwright.corpora.document import Corpus, Document
from langwright.corpora.reading import Row, document_of, name_list

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
