"""Models of the Hub: what a name means, what is fetched and what never, faults in one line; on a Hub of our own."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import huggingface_hub.constants
import pytest

from hub_server import Hub, connect, serve, use
from langwright.base import hub as hub_module
from langwright.base.errors import UserError
from langwright.base.hub import HubName, model_folder, parse_hub_name
from refusals import refused

NAME = "owner/model"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": bytes(range(256)) * 400,
    "pytorch_model.bin": b"pickle",
    "modeling_owner.py": b"raise SystemExit",
    "consolidated.safetensors": b"a copy in another layout",
    "README.md": b"words",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one model, an empty cache, and a process that has asked nothing yet."""
    with serve(Hub()) as hub:
        use(hub, tmp_path / "cache", monkeypatch)
        hub.push(NAME, FILES)
        yield hub


def forget() -> None:
    """As in a new process."""
    hub_module._look_up.cache_clear()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:gpt2", HubName("gpt2")),
        ("hf:owner/model-1.5_b", HubName("owner/model-1.5_b")),
        ("hf:owner/model@v1.0", HubName("owner/model", "v1.0")),
        ("hf:owner/model@refs/pr/3", HubName("owner/model", "refs/pr/3")),
        ("owner/model", None),
        ("models/hf:x", None),
    ],
)
def test_names(text: str, name: HubName | None) -> None:
    assert parse_hub_name(text) == name
    assert parse_hub_name(str(Path(text))) == name


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a/b/c", "hf:owner/", "hf:a/b@", "hf:../x", "hf:a/..", "hf:a/b@../../x", "hf:a b"]
)
def test_no_names(text: str) -> None:
    with refused(text):
        parse_hub_name(text)


def test_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused("owner/model: ", "hf:owner/model"):
        model_folder("owner/model")
    with refused(tmp_path / "model"):
        model_folder(tmp_path / "model")
    (tmp_path / "owner/model").mkdir(parents=True)
    assert model_folder("owner/model") == Path("owner/model")


def test_what_is_fetched(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    commit = hub.branches[NAME]["main"]
    folder = model_folder(f"hf:{NAME}")
    wanted = ["config.json", "tokenizer.json", "model.safetensors"]
    assert hub.fetched() == wanted  # the weights last, so that a folder with weights is whole
    assert sorted(path.name for path in folder.iterdir()) == sorted(wanted)
    assert all((folder / name).read_bytes() == FILES[name] for name in wanted)
    assert folder.name == commit
    told = capsys.readouterr()
    assert told.out == ""
    assert f"hf:{NAME}: main is revision {commit}" in " ".join(told.err.split())


def test_a_tokenizer_needs_no_weights(hub: Hub) -> None:
    folder = model_folder(f"hf:{NAME}", weights=False)
    assert hub.fetched() == ["config.json", "tokenizer.json"]
    assert model_folder(f"hf:{NAME}") == folder
    assert hub.fetched()[2:] == ["model.safetensors"]


def test_a_name_means_one_commit_as_long_as_the_process_lives(hub: Hub) -> None:
    first = model_folder(f"hf:{NAME}")
    moved = hub.push(NAME, {**FILES, "model.safetensors": b"other"})
    assert model_folder(f"hf:{NAME}") == first
    forget()
    assert model_folder(f"hf:{NAME}").name == moved
    forget()
    assert model_folder(f"hf:{NAME}@{first.name}") == first
    assert (first / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_branch_that_moves_while_it_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = hub.branches[NAME]["main"]
    assert model_folder(f"hf:{NAME}", weights=False).name == looked_up
    hub.push(NAME, {**FILES, "config.json": b'{"moved": 1}'})
    folder = model_folder(f"hf:{NAME}")
    assert folder.name == looked_up
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_branch_and_a_tag(hub: Hub) -> None:
    other = hub.push(NAME, {**FILES, "model.safetensors": b"other"}, "refs/pr/3")
    assert model_folder(f"hf:{NAME}@refs/pr/3").name == other
    assert model_folder(f"hf:{NAME}").name != other


def test_what_is_there_is_not_fetched_again(hub: Hub) -> None:
    folder = model_folder(f"hf:{NAME}")
    before = len(hub.fetched())
    forget()
    assert model_folder(f"hf:{NAME}") == folder
    assert len(hub.fetched()) == before


def sharded(**changes: str) -> dict[str, bytes]:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", **changes}
    index = json.dumps({"weight_map": shards}).encode()
    files = {name: FILES[name] for name in ("config.json", "tokenizer.json", "consolidated.safetensors")}
    files |= {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 100_000 for i in (1, 2)}
    return {**files, "model.safetensors.index.json": index}


def test_shards(hub: Hub) -> None:
    hub.push("owner/large", sharded())
    folder = model_folder("hf:owner/large")
    assert "consolidated.safetensors" not in hub.fetched()
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == bytes([2]) * 100_000


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    size = len(FILES["model.safetensors"])
    hub.cut["model.safetensors"] = 40_000
    folder = model_folder(f"hf:{NAME}")
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [part for method, path, part in hub.seen if method == "GET" and path.endswith("model.safetensors")]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert 0 < int(ranges[1].removeprefix("bytes=").removesuffix("-")) <= 40_000 < size


def test_an_interrupted_download_goes_on(hub: Hub) -> None:
    """What is whole is not fetched again."""
    hub.push("owner/large", sharded())
    hub.refused = {"model-00002-of-00002.safetensors"}
    with refused("model-00002-of-00002.safetensors", 403):
        model_folder("hf:owner/large")
    before, hub.refused = len(hub.fetched()), set()
    folder = model_folder("hf:owner/large")
    assert hub.fetched()[before:] == ["model-00002-of-00002.safetensors"]
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == bytes([2]) * 100_000


@pytest.mark.parametrize("revision", ["", "@main", "@COMMIT"])
def test_without_a_network(
    hub: Hub, revision: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(f"hf:{NAME}")
    connect(False, monkeypatch)
    capsys.readouterr()
    seen = len(hub.seen)
    assert model_folder(f"hf:{NAME}{revision.replace('COMMIT', folder.name)}") == folder
    assert len(hub.seen) == seen
    warned = "as it was last seen, revision" in " ".join(capsys.readouterr().err.split())
    assert warned == (revision != "@COMMIT")  # a commit is what it is


def test_a_hub_that_is_down(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model_folder(f"hf:{NAME}")
    forget()
    hub.down = 503
    assert model_folder(f"hf:{NAME}") == folder
    assert "the Hub answered 503; taken from the cache" in " ".join(capsys.readouterr().err.split())


def test_half_a_copy_does_not_stand_for_the_whole(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push("owner/large", sharded())
    hub.refused = {"model-00002-of-00002.safetensors"}
    for name in (NAME, "owner/large"):
        with suppress(UserError):
            model_folder(f"hf:{name}", weights=name == "owner/large")
    connect(False, monkeypatch)
    for name in (NAME, "owner/large"):
        with refused("HF_HUB_OFFLINE"):
            model_folder(f"hf:{name}")


def out_of_reach(hub: Hub) -> None:
    huggingface_hub.constants.ENDPOINT = "http://127.0.0.1:9"  # nobody listens there


def push(hub: Hub, name: str, file: str) -> None:
    hub.push(f"owner/{name}", {"config.json": b"{}", file: b""})


def large(hub: Hub, c: str) -> None:
    hub.push("owner/large", sharded(c=c))


BAD: dict[str, tuple[str, Callable[[Hub], object], str]] = {
    "no such model": ("hf:owner/nothing", lambda h: 0, "hf:owner/nothing"),
    "no such revision": (f"hf:{NAME}@v9", lambda h: 0, '"v9"'),
    "gated": (f"hf:{NAME}", lambda h: h.gated.add(NAME), "gated"),
    "only a pickle": ("hf:owner/old", lambda h: push(h, "old", "pytorch_model.bin"), "pickle"),
    "no weights": ("hf:owner/old", lambda h: push(h, "old", "consolidated.safetensors"), "model.safetensors"),
    "no model": ("hf:owner/code", lambda h: h.push("owner/code", {"README.md": b""}), "config.json"),
    "missing shard": ("hf:owner/large", lambda h: large(h, c="model-00003-of-00002.safetensors"), "model-00003-of"),
    "shard outside": ("hf:owner/large", lambda h: large(h, c="../../config.safetensors"), "../../config.safetensors"),
    "shard that is code": ("hf:owner/large", lambda h: large(h, c="a.py"), "a.py"),
    "down": (f"hf:{NAME}", lambda h: setattr(h, "down", 503), "503"),
    "out of reach": (f"hf:{NAME}", out_of_reach, f"hf:{NAME}"),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_are_told_in_one_line(hub: Hub, name: str) -> None:
    model, spoil, named = BAD[name]
    spoil(hub)
    with refused(named):
        model_folder(model)
