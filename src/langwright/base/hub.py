"""Models of the Hugging Face Hub: `hf:owner/name[@revision]` stands for a folder in the Hub's own cache.

Only what a model folder is made of is fetched: configs, vocabularies and safetensors files. Never pickles, never code.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.console import progress, say, warn
from langwright.base.errors import UserError, first_line
from langwright.base.shards import INDEX, SINGLE, read_index

PREFIX = "hf:"
CONFIG = "config.json"
SMALL = (
    CONFIG,
    "generation_config.json",
    "langwright.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
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
        raise UserError(
            f"{text}: no name of a model on the Hub; write {PREFIX}owner/name or {PREFIX}owner/name@revision"
        )
    return HubName(match["repository"], match["revision"] or "main")


def model_folder(model: Path | str, weights: bool = True) -> Path:
    """The folder that a path or a Hub name means; what it lacks is fetched into the Hub's cache first.

    weights: whether they are needed as well. A name means the same commit as long as the process lives.
    Raises UserError in one line for a model that is not there, gated, without safetensors, or out of reach.
    """
    name = parse_hub_name(str(model))
    if name is None:
        return _existing(Path(model))
    contents = _look_up(name)
    folder = _cached(name, contents.commit)
    if contents.sizes is None:  # out of reach
        if folder is None or not _whole(folder, weights):
            raise UserError(f"{name}: {contents.trouble}, and no whole copy is in the cache; connect and try again")
        return folder
    return _fetch(name, contents.commit, contents.sizes, weights)


def commit_of(name: HubName) -> str:
    """The commit that a name means now, looked up once."""
    return _look_up(name).commit


@dataclass(frozen=True)
class _Contents:
    """A commit and the sizes of its files; None with the reason where only the cache could be asked."""

    commit: str
    sizes: dict[str, int] | None
    trouble: str = ""


def _existing(path: Path) -> Path:
    """A folder on this machine; UserError where there is none, with a hint where a Hub name may be meant."""
    if path.is_dir():
        return path
    meant = not path.is_absolute() and _NAME.fullmatch(str(path)) and str(path).count("/") == 1
    hint = f"; a model of the Hub is written {PREFIX}{path}" if meant else "; give the path of a model folder"
    raise UserError(f"{path}: there is no such folder{hint}")


@functools.cache
def _look_up(name: HubName) -> _Contents:
    """Ask the Hub, else the cache, which commit a name means, and tell the user."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(name.repository, revision=name.revision, files_metadata=True, timeout=_SECONDS)
    except HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise _refused(name, error) from None
        trouble = f"the Hub answered {error.response.status_code}"
    except ValueError as error:
        raise UserError(f"{name}: {first_line(error)}") from None
    except OfflineModeIsEnabled:
        trouble = "HF_HUB_OFFLINE keeps the network off"
    except Exception as error:  # each generation of the library has other errors of transport, without a common base
        trouble = f"the Hub is out of reach ({first_line(error)})"
    else:
        assert info.sha is not None
        if info.sha != name.revision:
            say(f"{PREFIX}{name.repository}: {name.revision} is revision {info.sha}")
        return _Contents(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})
    folder = _cached(name, name.revision)
    if folder is None:
        raise UserError(f"{name}: {trouble}, and the model is not in the cache; connect and try again")
    if folder.name != name.revision:
        warn(f"{name}: {trouble}; taken from the cache as it was last seen, revision {folder.name}")
    return _Contents(folder.name, None, trouble)


def _cached(name: HubName, revision: str) -> Path | None:
    """The folder of a revision in the cache, as far as it is there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name.repository, CONFIG, revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _whole(folder: Path, weights: bool) -> bool:
    """Whether all that the weights need is there; they are fetched last."""
    if not weights or (folder / SINGLE).exists():
        return True
    return (folder / INDEX).exists() and all((folder / f).exists() for f in read_index(folder / INDEX).values())


def _fetch(name: HubName, commit: str, sizes: dict[str, int], weights: bool) -> Path:
    """Fetch what is missing of a commit; the weights come last."""
    if CONFIG not in sizes:
        raise UserError(f"{name}: there is no {CONFIG} in this repository; is it a model?")
    if weights and SINGLE not in sizes and INDEX not in sizes:
        pickled = any(file.endswith((".bin", ".pt", ".pth")) for file in sizes)
        kind = "only pickles, which are never loaded" if pickled else f"neither {SINGLE} nor shards with an index"
        raise UserError(f"{name}: no weights in safetensors format: {kind}; choose another revision or repository")
    folder = _download(name, name.revision, [CONFIG], sizes)
    if folder.name != commit:  # the branch has moved since it was looked up
        folder = _download(name, commit, [CONFIG], sizes)
    _download(name, commit, [file for file in SMALL if file in sizes], sizes)
    if weights and SINGLE in sizes:
        _download(name, commit, [SINGLE], sizes)
    elif weights:
        _download(name, commit, [INDEX], sizes)
        shards = sorted(set(read_index(folder / INDEX).values()))
        for shard in shards:
            if shard not in sizes:
                raise UserError(f"{name}: {INDEX} names {shard}, which is not in the repository")
        _download(name, commit, shards, sizes)
    return folder


def _download(name: HubName, revision: str, files: list[str], sizes: dict[str, int]) -> Path:
    """Fetch files of a revision, unless the cache has them; the folder they lie in.

    A named revision is noted in the cache, so that it can be found without a network. A broken connection is taken up
    where it broke; files that are whole are not fetched again. The one under way when a process ended begins anew: the
    library keeps no part of it, since on some file systems two processes would write into it
    (huggingface_hub's pull request 4306).
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    missing = [f for f in files if not isinstance(try_to_load_from_cache(name.repository, f, revision=revision), str)]
    total = sum(sizes[file] for file in missing)
    with progress(f"fetching {PREFIX}{name.repository}", total, "bytes") as advance:
        for file in files:
            try:
                path = hf_hub_download(name.repository, file, revision=revision, tqdm_class=_bar(advance))
            except Exception as error:  # see _look_up
                answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
                if isinstance(answer, HfHubHTTPError):
                    raise _refused(name, answer, file) from None
                raise UserError(
                    f"{name}: {file} could not be fetched ({first_line(error)}); run the same command again to go on"
                ) from None
    return Path(path).parents[file.count("/")]


def _bar(advance: Callable[[int], None]) -> Any:
    """What the library takes for a progress bar: its bytes are added to ours."""

    class Bar:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            advance(initial)

        def update(self, count: int) -> None:
            advance(int(count))

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None: ...

        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_, **__: None

    return Bar


def _refused(name: HubName, error: Any, file: str = "") -> UserError:
    """What an answer of the Hub means to a user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/{name.repository}"
    if isinstance(error, GatedRepoError):
        why = f"the model is gated; agree to its terms at {page} and log in with `hf auth login` or HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        why = "there is no such model on the Hub, or it is private; check the name, or log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        why = f'there is no revision "{name.revision}"; {page}/commits lists them'
    else:
        why = f"the Hub refused {file or 'the model'}: {error.response.status_code} {error.response.reason_phrase}"
    return UserError(f"{name}: {why}")
