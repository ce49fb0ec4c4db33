"""Corpora with a name that are fetched once: where they come from, and how they are checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import cache_folder, data_folder, folder_lock, sha256_file, write_atomic
from langwright.corpora.document import Corpus
from langwright.corpora.fetching import fetch
from langwright.corpora.files import corpus_of_files


@dataclass(frozen=True)
class Download:
    """A file on the web that is a corpus.

    url: where it is fetched from.
    sha256: of the file, checked after each download. None where no published checksum could be verified: then the
        first download's is written beside the file and holds from there on.
    local: the files below $LANGWRIGHT_DATA that take its place.
    """

    url: str
    sha256: str | None
    local: tuple[str, ...]


DOWNLOADS = {
    "tinyshakespeare": Download(
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        local=("text/tinyshakespeare.txt",),
    ),
    "tinystories": Download(
        url="https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt",
        sha256=None,
        local=("text/tinystories_a.txt", "text/tinystories_b.txt"),
    ),
}


def open_download(name: str) -> Corpus:
    """The named corpus: from $LANGWRIGHT_DATA when it is there, else from the cache, else fetched into the cache.

    Raises UserError when the network or the checksum fails.
    """
    download = DOWNLOADS[name]
    paths = _local_files(download) or [fetch_download(name, download, cache_folder() / "downloads")]
    return corpus_of_files(name, "download", paths)


def fetch_download(name: str, download: Download, folder: Path) -> Path:
    """The file of a download in `folder`, fetched unless it is there, and checked in either case."""
    path = folder / f"{name}.txt"
    note = path.with_suffix(".sha256")
    expected = download.sha256 or (note.read_text().strip() if note.exists() else None)
    if not path.exists():
        with folder_lock(folder, "a download"):
            fetch(download.url, path, expected)
    found = sha256_file(path)
    if expected is None:
        write_atomic(note, f"{found}\n")
        say(f"{name}: no published checksum is known; that of this download is kept in {note}")
    elif found != expected:
        raise UserError(f"{path}: the file was changed or damaged (its SHA-256 is not {expected}); delete it")
    return path


def _local_files(download: Download) -> Sequence[Path]:
    folder = data_folder()
    paths = [folder / name for name in download.local] if folder else []
    return paths if all(path.exists() for path in paths) else []
