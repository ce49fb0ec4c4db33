"""The built-in corpus: the library sources of the running Python interpreter."""

import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.reading import read_documents

NAME = "python-stdlib"

_OMITTED_FOLDERS = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib-dynload"}
_OMITTED = ("config-", "_sysconfigdata")  # how this interpreter was built, not the library


def open_python_stdlib() -> Corpus:
    """About 12 MB of Python with English docstrings, on every machine: one document a file, sorted by path.

    Tests, installed packages and the build's configuration are left out. The record names the interpreter's version,
    on which the content depends.
    Raises UserError when the interpreter came without its sources.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    paths = list(_sources(folder))
    if not paths:
        raise UserError(f"{folder}: this Python came without its library's sources; name another corpus")

    def read() -> Iterator[Document]:
        for path in paths:
            for document in read_documents(path):
                yield Document(document.text, path.relative_to(folder).as_posix())

    return Corpus(NAME, NAME, read, files=len(paths), facts={"python": platform.python_version()})


def _sources(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _OMITTED_FOLDERS and not name.startswith(_OMITTED))
        yield from (Path(root) / f for f in sorted(files) if f.endswith(".py") and not f.startswith(_OMITTED))
