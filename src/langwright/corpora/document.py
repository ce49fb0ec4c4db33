"""What a corpus is: documents that can be read again and again, and a record of what was read."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

from langwright.base.console import progress
from langwright.base.errors import UserError


class Document(NamedTuple):
    """One text with a beginning and an end.

    text: exactly as it stands in its source.
    source: where it comes from, for people: a file, or a file and a line.
    """

    text: str
    source: str


@final
@dataclass(eq=False)
class Corpus:
    """A source of documents, or one side of its split, read as a stream: only the document at hand is in memory.

    name: what the user calls it.
    kind: "python-stdlib", "files", "download", "hub" or "split".
    read: starts a fresh pass over all documents, always in the same order.
    files: how many files it is made of.
    facts: further entries of the record, such as the interpreter's version.
    """

    name: str
    kind: str
    read: Callable[[], Iterator[Document]]
    files: int = 0
    facts: Mapping[str, str] | None = None

    def __iter__(self) -> Iterator[Document]:
        """A fresh pass over the documents that have any text. Raises UserError at its end when there was none."""
        empty = True
        for document in self.read():
            if document.text:
                empty = False
                yield document
        if empty:
            raise UserError(f"{self.name}: no document has any text; more is needed")

    def record(self) -> dict[str, Any]:
        """What identifies the corpus; see docs/formats.md. The first call reads it through once."""
        return dict(self._record)

    @cached_property
    def _record(self) -> dict[str, Any]:
        documents = characters = size = 0
        content = hashlib.sha256()
        with progress(f"reading {self.name}", None, "bytes") as advance:
            for document in self:
                data = document.text.encode()
                content.update(len(data).to_bytes(8, "little") + data)
                documents += 1
                characters += len(document.text)
                size += len(data)
                advance(len(data))
        counts = {"files": self.files, "documents": documents, "characters": characters, "bytes": size}
        return {"name": self.name, "kind": self.kind, **counts, "hash": content.hexdigest(), **(self.facts or {})}
