"""From what the user writes to a corpus."""

import difflib
import glob
import os
import re
from pathlib import Path

from langwright.base.errors import UserError
from langwright.corpora.document import Corpus
from langwright.corpora.downloads import DOWNLOADS, open_download
from langwright.corpora.files import CORPUS, open_files
from langwright.corpora.hub import PREFIX, open_hub
from langwright.corpora.reading import ending_of
from langwright.corpora.stdlib import NAME, open_python_stdlib

NAMES = (NAME, *DOWNLOADS)
"""The corpora that have a name; `./name` means a file or folder that is called the same."""


def open_corpus(spec: str, *, field: str = "text") -> Corpus:
    """The corpus that `spec` means: a name, a file, a folder, a glob, or a data set of the Hub (`hf:owner/name`).

    field: which field or column holds the text, where documents have several.
    Raises UserError for anything else, with the nearest name.
    """
    if spec == NAME:
        return open_python_stdlib()
    if spec in DOWNLOADS:
        return open_download(spec)
    if spec.startswith(PREFIX):
        return open_hub(spec, field)
    if not glob.has_magic(spec) and not os.path.exists(os.path.expanduser(spec)):
        raise UserError(_unknown(spec))
    return open_files(spec, field)


def _unknown(spec: str) -> str:
    """What to tell of a text that is no path on this machine: was it meant as a path, a Hub name, or a name?"""
    if re.fullmatch(r"[\w-]+/[\w.-]+", spec) and ending_of(Path(spec)) not in CORPUS:
        return f"{spec}: no such file or folder; a data set of the Hub is written {PREFIX}{spec}"
    if os.sep in spec or "." in spec:
        return f"{spec}: no such file or folder"
    near = difflib.get_close_matches(spec, NAMES, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ";"
    possible = f"{', '.join(NAMES)}, a path, a glob, or {PREFIX}owner/name"
    return f'"{spec}": no such corpus, file or folder{hint} a corpus is one of {possible}'
