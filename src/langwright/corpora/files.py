"""Files, folders and globs as a corpus, and the built-in one: the library sources of the running Python interpreter."""

import glob
import os
import platform
import sysconfig
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path

from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.hub import PREFIX, hub_file
from langwright.corpora.reading import (
    MARK,
    PARTS,
    ROWS,
    TEXTS,
    ending_of,
    file_and_part,
    name_list,
    read_documents,
    spelt,
)

CORPUS = (*TEXTS, *ROWS)
"""The endings of files of a corpus."""

STDLIB = "python-stdlib"
_OMITTED_FOLDERS = {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages", "lib-dynload"}
_OMITTED = ("config-", "_sysconfigdata")  # how this interpreter was built, not the library
IN_FOLDERS = tuple(ending for ending in CORPUS if ending not in (".json", ".tsv"))
"""Those looked for in a folder of texts, where the others are more often settings and tables."""


def corpus_of_files(name: str, kind: str, paths: Sequence[Path], field: str = "text") -> Corpus:
    """The documents of these files, in this order."""
    return Corpus(name, kind, lambda: chain.from_iterable(read_documents(path, field) for path in paths), len(paths))


def find_files(spec: str, endings: Collection[str], in_folders: Collection[str] | None = None) -> list[Path]:
    """The files that a path or a glob means, sorted by path.

    Args:
        spec: A file, a folder with all below it, or a glob; a part of one, such as rows.jsonl#dev; or a data set of the
            Hub, such as hf:owner/name.
        endings: What a file that is named or matched may end in.
        in_folders: What is taken from a folder, where hidden names are passed over; without it `endings`.

    Raises:
        UserError: There is no such file, none that can be read, or one with another ending.
    """
    path, part = file_and_part(Path(spec).expanduser())
    if spec.startswith(PREFIX):
        wanted, found = endings, [hub_file(spec.removesuffix(f"{MARK}{spec.rpartition(MARK)[2]}") if part else spec)]
    elif spec and os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        wanted, found = in_folders or endings, []
        for root, folders, names in os.walk(path, onerror=_unreadable):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [Path(root, name) for name in names if not name.startswith(".")]
        found = [file for file in found if file.is_file() and ending_of(file) in wanted]
    else:
        matches = [path] if os.path.exists(path) else [Path(match) for match in glob.glob(str(path), recursive=True)]
        wanted, found = endings, [match for match in matches if not match.is_dir()]
    if not found:
        if MARK in path.name and path.with_name(path.name.partition(MARK)[0]).exists():
            named = path.name.partition(MARK)[2]
            raise UserError(f'{spec}: "{named}" is no part of a file; write one of {name_list(PARTS)}')
        raise UserError(f"{spec}: no such file, or none here or of this pattern that ends in {spelt(wanted)}")
    for file in found:
        if ending_of(file) not in endings:
            raise UserError(f"{file}: unknown ending {file.suffix!r}; known are {spelt(endings)}")
    return sorted(file if part is None else file.with_name(f"{file.name}{MARK}{part}") for file in found)


def _unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}")


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
                yield document._replace(source=path.relative_to(folder).as_posix())

    return Corpus(STDLIB, STDLIB, read, files=len(paths), facts={"python": platform.python_version()})


def _sources(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _OMITTED_FOLDERS and not name.startswith(_OMITTED))
        yield from (Path(root) / f for f in sorted(files) if f.endswith(".py") and not f.startswith(_OMITTED))
