"""From what the user writes to a corpus."""

import glob
import os
import re

from langwright.base.errors import UserError, suggest
from langwright.corpora.document import Corpus
from langwright.corpora.downloads import DOWNLOADS, open_download
from langwright.corpora.files import CORPUS, IN_FOLDERS, STDLIB, corpus_of_files, find_files, open_python_stdlib
from langwright.corpora.hub import PREFIX, open_hub

NAMES = (STDLIB, *DOWNLOADS)
"""The corpora that have a name; `./name` means a file or folder that is called the same."""

_NAMED = re.compile(r"\s*(\w[\w.-]*)=(.*\S)\s*", re.DOTALL)


def named_corpora(spec: str) -> dict[str, str]:
    """The corpora of a mixture, such as "web=crawl/,code=python-stdlib", by name; none where it is a single corpus.

    Raises UserError where two have one name.
    """
    parts = [_NAMED.fullmatch(part) for part in spec.split(",")]
    if not all(parts) or os.path.exists(os.path.expanduser(spec)):
        return {}
    named = [(part[1], part[2]) for part in parts if part]
    if twice := [name for i, (name, _) in enumerate(named) if name in dict(named[:i])]:
        raise UserError(f"{spec}: two corpora are called {twice[0]}")
    return dict(named)


def open_corpus(spec: str, *, field: str = "text") -> Corpus:
    """The corpus that `spec` means: a name, a file, a folder, a glob, or a data set of the Hub (`hf:owner/name`).

    field: which field or column holds the text, where documents have several.
    Raises UserError for anything else, with the nearest name.
    """
    if spec == STDLIB:
        return open_python_stdlib()
    if spec in DOWNLOADS:
        return open_download(spec)
    if spec.startswith(PREFIX):
        return open_hub(spec, field)
    if not glob.has_magic(spec) and not os.path.exists(os.path.expanduser(spec)):
        known = f"known are {', '.join(NAMES)}, a path, a glob, and {PREFIX}owner/name for a data set of the Hub"
        raise UserError(f"{spec}: no such corpus, file or folder; {known}{suggest(spec, NAMES)}")
    return corpus_of_files(spec, "files", find_files(spec, CORPUS, IN_FOLDERS), field)
