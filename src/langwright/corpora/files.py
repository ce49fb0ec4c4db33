"""Files, folders and globs as a corpus."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.reading import is_supported, possible_endings, read_documents


def open_files(spec: str, field: str = "text") -> Corpus:
    """The corpus of a file, of a folder (with all below it), or of a glob such as `notes/**/*.md`.

    Files come sorted by their path. In a folder, hidden names and unknown endings are passed over; a file that is
    named, or matched by a glob, must have a known ending.
    Raises UserError when there is no such file, or no file that can be read.
    """
    return corpus_of_files(spec, "files", find_files(spec), field)


def corpus_of_files(name: str, kind: str, paths: Sequence[Path], field: str = "text") -> Corpus:
    """The documents of these files, in this order."""

    def read() -> Iterator[Document]:
        for path in paths:
            yield from read_documents(path, field)

    return Corpus(name, kind, read, files=len(paths))


def find_files(spec: str) -> list[Path]:
    """The files that a path or glob means, sorted; see `open_files`."""
    path = Path(spec).expanduser()
    if path.is_dir():
        found = [file for file in _visible_files(path) if is_supported(file)]
        if not found:
            raise UserError(f"{spec}: no file in this folder ends in {possible_endings()}")
        return found
    if path.exists():
        return [_supported(path)]
    matches = (Path(match) for match in glob.glob(str(path), recursive=True))  # Path.glob takes no absolute pattern
    found = sorted(match for match in matches if match.is_file())
    if not found:
        raise UserError(f"{spec}: no such file or folder, and no file matches it as a pattern")
    return [_supported(file) for file in found]


def _supported(path: Path) -> Path:
    if not is_supported(path):
        raise UserError(f"{path}: unknown ending {path.suffix!r}; a corpus file ends in {possible_endings()}")
    return path


def _visible_files(folder: Path) -> list[Path]:
    found = folder.rglob("*")
    return sorted(
        path
        for path in found
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
