"""Models of the Hugging Face Hub: `hf:owner/name[@revision]` stands for a folder in the Hub's own cache.

Only what a model folder is made of is fetched: configs, vocabularies and safetensors files. Never pickles, never code.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.console import progress, say, warn
from langwright.base.errors import UserError, first_line
from langwright.base.gguf import SUFFIX
from langwright.base.shards import INDEX, SINGLE, read_index

PREFIX = "hf:"
CONFIG = "config.json"
SMALL = (
    CONFIG, "generation_config.json", "langwright.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt", "vocab.txt",
    "tokenizer.model", "spiece.model", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
)  # fmt: skip
"""The files of a model folder besides its weights."""
_NAME = re.compile(r"(?P<repository>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?", re.ASCII)
_SECONDS = 10.0  # to wait for the Hub's answer before a copy in the cache is taken


@dataclass(frozen=True)
class HubName:
    """A model on the Hub. revision: a branch, a tag or a commit."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}@{self.revision}"


def parse_hub_name(text: str) -> HubName | None:
    """The model that `hf:owner/name[@revision]` names; None for a text without the prefix, which is a path."""
    if not text.startswith(PREFIX):
        return None
    match = _NAME.fullmatch(text.removeprefix(PREFIX))
    if match is None or ".." in text:
        raise UserError(f"{text}: no name of a model on the Hub; write {PREFIX}owner/name[@revision]")
    return HubName(match["repository"], match["revision"] or "main")


def model_folder(model: Path | str, weights: bool = True) -> Path:
    """The folder that a path or a Hub name means; what it lacks is fetched into the Hub's cache first.

    A GGUF file stands for a folder, and so does a folder that holds one and no config.json: the file is given back.

    A name means the same commit as long as the process lives; the folder of a commit has its name.

    Args:
        model: The path or the name.
        weights: Whether the weights are needed as well. They are fetched last.

    Raises:
        UserError: The model is not there, gated, without safetensors, or out of reach.
    """
    name = parse_hub_name(str(model))
    if name is None:
        return _existing(Path(model))
    found = _look_up(name)
    folder = _download(name, found.commit, [file for file in SMALL if file in found.sizes], found.sizes)
    if weights and SINGLE in found.sizes:
        _download(name, found.commit, [SINGLE], found.sizes)
    elif weights:
        if INDEX not in found.sizes:
            raise found.lacks(name, f"{SINGLE} (weights in pickles are never loaded)")
        _download(name, found.commit, [INDEX], found.sizes)
        shards = sorted(set(read_index(folder / INDEX).values()))
        for shard in shards:
            if shard not in found.sizes:
                raise found.lacks(name, f"{shard}, which {INDEX} names,")
        _download(name, found.commit, shards, found.sizes)
    return folder


@dataclass(frozen=True)
class _Contents:
    """A commit, the sizes of its files, and why only the cache could be asked, if that is so."""

    commit: str
    sizes: Mapping[str, int]
    trouble: str = ""

    def lacks(self, name: HubName, what: str) -> UserError:
        if self.trouble:
            return UserError(f"{name}: {what} is not in the cache, and {self.trouble}; connect and try again")
        return UserError(f"{name}: {what} is not in the repository; choose another or another revision")


def _existing(path: Path) -> Path:
    """A folder on this machine; UserError where there is none, with a hint where a Hub name may be meant."""
    if path.is_dir():
        files = [] if (path / CONFIG).exists() else sorted(path.glob(f"*{SUFFIX}"))
        if len(files) > 1:
            raise UserError(f"{path}: holds {len(files)} GGUF files; name one of them, such as {files[0]}")
        return files[0] if files else path
    if path.is_file():
        if path.suffix == SUFFIX:
            return path
        raise UserError(f"{path}: is a file; a model is a folder or a {SUFFIX} file")
    meant = not path.is_absolute() and _NAME.fullmatch(str(path)) and str(path).count("/") == 1
    hint = f"; a model of the Hub is written {PREFIX}{path}" if meant else "; give the path of a model folder"
    raise UserError(f"{path}: there is no such folder{hint}")


@functools.cache
def _look_up(name: HubName) -> _Contents:
    """Ask the Hub, else the cache, which commit a name means, and tell the user."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = HfApi().model_info(name.repository, revision=name.revision, files_metadata=True, timeout=_SECONDS)
    except Exception as error:  # each generation of the library has other errors of transport, without a common base
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status is not None and status < 500:
            raise _refused(name, error) from None
        trouble = f"the Hub answered {status}" if status else f"the Hub is out of reach ({first_line(error)})"
    else:
        assert info.sha is not None
        if info.sha != name.revision:
            say(f"{PREFIX}{name.repository}: {name.revision} is revision {info.sha}")
        found = _Contents(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})
        if CONFIG not in found.sizes:
            raise found.lacks(name, CONFIG)
        _download(name, name.revision, [CONFIG], found.sizes)  # notes in the cache which commit the name means
        return found
    config = try_to_load_from_cache(name.repository, CONFIG, revision=name.revision)
    if not isinstance(config, str):
        raise _Contents("", {}, trouble).lacks(name, "the model")
    folder = Path(config).parent
    if folder.name != name.revision:
        warn(f"{name}: {trouble}; taken from the cache as it was last seen, revision {folder.name}")
    sizes = {path.relative_to(folder).as_posix(): 0 for path in folder.rglob("*")}
    return _Contents(folder.name, sizes, trouble)


def _download(name: HubName, revision: str, files: Collection[str], sizes: Mapping[str, int]) -> Path:
    """Fetch files of a revision, unless the cache has them; the folder they lie in.

    A broken connection is taken up where it broke; files that are whole are not fetched again. The one under way when
    a process ended begins anew: the library keeps no part of it, since on some file systems two processes would write
    into it (huggingface_hub's pull request 4306).
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    missing = [f for f in files if not isinstance(try_to_load_from_cache(name.repository, f, revision=revision), str)]
    with progress(f"fetching {PREFIX}{name.repository}", sum(sizes[f] for f in missing), "bytes") as advance:
        for file in files:
            try:
                path = hf_hub_download(name.repository, file, revision=revision, tqdm_class=_bar(advance))
            except Exception as error:  # see _look_up
                raise _refused(name, error, file) from None
    return Path(path).parents[file.count("/")]


def _bar(advance: Callable[[int], None]) -> Any:
    """What the library takes for a progress bar: its bytes are added to ours."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **{**named, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            advance(int(n or 0))

    return Bar


def _refused(name: HubName, error: Exception, file: str = "the model") -> UserError:
    """What an error of the library means to a user."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/{name.repository}"
    match error if isinstance(error, HfHubHTTPError) else error.__cause__:
        case GatedRepoError():
            why = f"the model is gated; agree to its terms at {page} and log in with `hf auth login` or HF_TOKEN"
        case RepositoryNotFoundError():
            why = "there is no such model on the Hub, or it is private; check the name, or log in with `hf auth login`"
        case RevisionNotFoundError():
            why = f'there is no revision "{name.revision}"; {page}/commits lists them'
        case HfHubHTTPError(response=answer):
            why = f"the Hub refused {file}: {answer.status_code} {answer.reason_phrase}"
        case _:
            why = f"{file} could not be fetched ({first_line(error)}); run the same command again to go on"
    return UserError(f"{name}: {why}")
