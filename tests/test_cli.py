"""The command line, with commands of the tests' own."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from langwright import cli
from langwright.base.errors import UserError
from refusals import Fails


@dataclass(frozen=True)
class FakeRecipe:
    """How to train.

    Args:
        depth: number of layers,
            the one dial.
        save_every: how often.
    """

    depth: int = 4
    width: int | None = None
    rate: float = 0.5
    family: Literal["gpt2", "llama"] = "gpt2"
    compile: bool = False
    save_every: str = "500 steps"
    parts: tuple[str, ...] = ("a", "b")
    layers: tuple[int, ...] = ()
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.depth == 13:
            raise UserError("depth: thirteen is bad luck")


seen: dict[str, Any] = {}


def train(corpus: Path, out: Path, recipe: FakeRecipe = FakeRecipe(), json: bool = False, fresh: bool = True) -> None:
    """Train a model.

    More words that help does not show.

    Args:
        corpus: what to read, 100% of it.
        json: machine-readable results.
    """
    seen.update(corpus=corpus, out=out, recipe=recipe, json=json, fresh=fresh)


def pair(first: Path, second: Path | None = None, /, *, json: bool = False) -> None:
    """Take one or two files."""
    seen.update(first=first, second=second, json=json)


def write(
    model: Path, text: str, *, max_new_tokens: int = 3, stop: tuple[str, ...] = (), name: str | None = None
) -> int:
    """Write a text."""
    seen.update(model=model, text=text, max_new_tokens=max_new_tokens, stop=stop, name=name)
    return 7


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Commands `train`, `write` and `fail`; `fail` does what the test sets."""
    module = ModuleType("fake_commands")
    module.__dict__.update(train=train, write=write, pair=pair, fail=lambda: None)
    monkeypatch.setitem(sys.modules, "fake_commands", module)
    table = {verb: (f"fake_commands:{verb}", f"to {verb}") for verb in ("train", "write", "pair", "fail")}
    monkeypatch.setattr(cli, "VERBS", table)
    seen.clear()
    return module


def test_positionals_are_converted_and_defaults_kept() -> None:
    assert cli.main(["train", "c", "o"]) == 0
    assert seen == {"corpus": Path("c"), "out": Path("o"), "recipe": FakeRecipe(), "json": False, "fresh": True}


def test_what_stands_before_a_slash_is_positional_also_with_a_default() -> None:
    for words, second in ((["a"], None), (["a", "b"], Path("b"))):
        assert cli.main(["pair", *words, "--json"]) == 0
        assert seen == {"first": Path("a"), "second": second, "json": True}


def test_recipe_fields_are_options() -> None:
    line = "train c --depth 6 --width 32 --rate 1e-3 --family llama --compile o --parts x --parts y --layers 1 --json"
    cli.main([*line.split(), "--layers", "2", "--cache=d/e", "--no-fresh", "--save-every", "2 epochs"])
    assert seen["recipe"] == FakeRecipe(6, 32, 0.001, "llama", True, "2 epochs", ("x", "y"), (1, 2), Path("d/e"))
    assert seen["out"] == Path("o")
    assert seen["json"] is True
    assert seen["fresh"] is False


def test_the_exit_code_is_the_commands_own() -> None:
    assert cli.main(["write", "m", "hello", "--max-new-tokens", "5"]) == 7
    assert seen["max_new_tokens"] == 5


@pytest.mark.parametrize("text", ["null", "1", "true", "[a]", "{a: 1}", "", "a b", "~", "é\n"])
def test_text_is_taken_as_written(text: str) -> None:
    cli.main(["write", "m", text, f"--name={text}", "--stop", text, "--stop", ","])
    assert (seen["text"], seen["name"], seen["stop"]) == (text, text, (text, ","))


def test_text_that_begins_with_a_dash() -> None:
    cli.main(["write", "--name=-n", "m", "--", "--text"])
    assert (seen["text"], seen["name"]) == ("--text", "-n")
    cli.main(["write", "m", "- a text", "--name", "-- b", "--stop", "-\n", "--stop", "-"])
    assert (seen["text"], seen["name"], seen["stop"]) == ("- a text", "-- b", ("-\n", "-"))


RECIPE = "depth: 8\nsave-every: 1m tokens\nrate: 1e-3\nlayers: [1, 2]\nparts: []\ncompile: true\nwidth: null\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_file_sets_fields(recipe: Path) -> None:
    cli.main(["train", "c", "o", "--recipe", str(recipe)])
    assert seen["recipe"] == FakeRecipe(8, None, 0.001, "gpt2", True, "1m tokens", (), (1, 2))


FLAGS = [["--depth", "2"], ["--no-compile"], ["--layers", "9"]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_flags_override_the_file_wherever_they_stand(recipe: Path, order: tuple[int, ...]) -> None:
    groups = [["--recipe", str(recipe)], *FLAGS]
    cli.main(["train", "c", *(word for index in order for word in groups[index]), "o"])
    assert seen["recipe"] == FakeRecipe(2, None, 0.001, "gpt2", False, "1m tokens", (), (9,))


def test_the_last_of_a_repeated_flag_holds_even_where_it_is_the_default(recipe: Path) -> None:
    cli.main(["train", "c", "o", "--recipe", str(recipe), "--depth", "2", "--depth", "4"])
    assert seen["recipe"].depth == 4


def test_an_empty_recipe_is_the_defaults(recipe: Path) -> None:
    recipe.write_text("# nothing yet\n")
    cli.main(["train", "c", "o", "--recipe", str(recipe), "--width", "null"])
    assert seen["recipe"] == FakeRecipe()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("lerning_rate: 1", ("lerning_rate",)),
        ("save_evry: 1", ("save_evry", '"save_every"')),
        ("1: 2", ('"1"',)),
        ("save-every: 1 step\nsave_every: 2 steps", ("save_every",)),
        ("depth: x", ("depth", '"x"')),
        ("depth: 1.5", ("depth", "1.5")),
        ('depth: "1.5"', ("depth", "1.5")),
        ("compile: 3", ("compile", "3")),
        ("family: bert", ("family", "bert", "gpt2")),
        ("save-every: true", ("save-every", "true")),
        ("parts: a", ("parts", '"a"')),
        ("cache: 3", ("cache", "3")),
        ('cache: ""', ("cache",)),
        ("rate: {a: 1}", ("rate", '{"a": 1}')),
        ("depth: 3\nrate: [1", ("r.yaml:2",)),
        ("depth: 3\n- 1", ("r.yaml:2",)),
        ("- depth", ("r.yaml:1",)),
        ("depth: !!python/object:os.system 1", ("r.yaml:1",)),
        ("depth: \x07", ("r.yaml",)),
        (b"depth: \xff", ("offset 7",)),
        (None, ("r.yaml",)),
        ("depth: 13", ("depth", "thirteen")),
    ],
)
def test_a_bad_recipe_is_one_line(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails, content: str | bytes | None, names: tuple[str, ...]
) -> None:
    monkeypatch.chdir(recipe.parent)
    if content is not None:
        Path("r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    fails("train", "c", "o", "--recipe", "r.yaml", names=names)
    assert not seen


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("trian", ("trian", '"train"')),
        ("zzz", ("zzz", "--help")),
        ("--verison", ("--verison",)),
        ("train", ("CORPUS",)),
        ("train c", ("OUT",)),
        ("train c o p", ("p",)),
        ("train c o --dept 3", ("--dept", "--depth")),
        ("train --dept=3", ("--dept", "--depth")),
        ("train c o --depth x", ("--depth", "x")),
        ("train c o --depth 1.5", ("--depth", "1.5")),
        ("train c o --rate fast", ("--rate", "fast")),
        ("train c o --family lama", ("--family", "lama", '"llama"?')),
        ("train c o --layers 1 --layers 2.5", ("--layers", "2.5")),
        ("train c o --json=3", ("--json", "3")),
        ("train c o --cache=", ("--cache",)),
        ("train c o --recipe no.yaml", ("no.yaml",)),
        ("train c o --depth", ("--depth",)),
        ("write m t -x", ("-x",)),
    ],
)
def test_a_bad_line_is_answered_with_one(fails: Fails, line: str, names: tuple[str, ...]) -> None:
    fails(*line.split(), names=names)
    assert not seen


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("the file a:\nis bad"), 2, "langwright fail: the file a: is bad\n"),
        (KeyboardInterrupt(), 130, "langwright fail: interrupted\n"),
        (OSError(28, "No space left on device"), 2, "langwright fail: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "langwright fail: /root/x: Permission denied\n"),
    ],
)
def test_what_a_command_raises(
    fakes: ModuleType, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    fakes.__dict__["fail"] = raising(error)
    assert cli.main(["fail"]) == code
    assert capsys.readouterr().err == line


def test_a_bug_keeps_its_traceback(fakes: ModuleType) -> None:
    fakes.__dict__["fail"] = raising(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail"])


def test_help_of_a_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["train", "--help-all"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "langwright train" in text
    assert "Train a model." in text
    assert "More words" not in text
    for words in (
        "CORPUS", "what to read, 100% of it.", "--json", "machine-readable results.", "--depth",
        "number of layers, the one dial.", "[default: 4]", "--save-every", "how often.", "[default: 500 steps]",
        "[default: a, b]", "[default: yes]",
        "--no-compile", "gpt2, llama", "--layers", "--recipe", "--cache",
    ):  # fmt: skip
        assert words in text
    assert not any(words in text for words in ("save_every", "()", "True", "None"))
    monkeypatch.setattr(cli, "USUAL", {"train": "json rate"})
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("--json") < text.index("--rate")
    assert "--depth" not in text
    assert "--help-all" in text


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert cli.main(argv) == 0
    assert "  train  to train\n" in capsys.readouterr().out


def python(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], []])
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys; from langwright.cli import main; code = main(sys.argv[1:]);"
        "print(*sorted({'torch', 'numpy', 'cyclopts', 'rich', 'yaml', 'langwright.commands'} & set(sys.modules)));"
        "sys.exit(code)"
    )
    done = python("-c", code, *argv)
    assert done.returncode == 0
    assert "langwright" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_the_package_imports_nothing_heavy_but_gives_its_names() -> None:
    code = (
        "import sys, langwright; assert 'torch' not in sys.modules; assert len(sys.modules) < 120, len(sys.modules);"
        "print(langwright.__version__, *(name for name in dir(langwright) if name.startswith(('load', 'save'))));"
        "langwright.nothing"
    )
    done = python("-c", code)
    assert done.stdout == "0.1.0 load_model load_tokenizer save_model\n"
    assert "module 'langwright' has no attribute 'nothing'" in done.stderr


def test_python_dash_m_is_the_command() -> None:
    done = python("-m", "langwright", "--version")
    assert (done.returncode, done.stdout) == (0, "langwright 0.1.0\n")
    done = python("-m", "langwright", "pretrian")
    assert (done.returncode, done.stderr) == (2, 'langwright: unknown command "pretrian"; did you mean "pretrain"?\n')


TALKER = """
import sys, types
from langwright import cli

def talk():
    print("first", flush=True)
    sys.stdin.readline()
    print("second")

sys.modules["fake"] = types.SimpleNamespace(talk=talk)
cli.VERBS["talk"] = ("fake:talk", "")
sys.exit(cli.main(["talk"]))
"""


def test_a_reader_that_leaves_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the trouble is what still waits in the buffer
    pipe = subprocess.PIPE
    talker = subprocess.Popen([sys.executable, "-c", TALKER], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    with talker:
        assert talker.stdout is not None
        assert talker.stdout.readline() == "first\n"
        talker.stdout.close()
        _, errors = talker.communicate("go on\n", timeout=60)
    assert errors == ""
    assert talker.returncode == 128 + signal.SIGPIPE


def test_closed_streams_lead_nowhere_and_a_narrow_one_gets_escapes() -> None:
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&- >&-', sys.executable, TALKER], stderr=subprocess.PIPE, timeout=60
    )
    assert (closed.returncode, closed.stderr) == (0, b"")
    narrow = subprocess.run(
        [sys.executable, "-c", TALKER.replace("first", "\u21b5")], input=b"", capture_output=True, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (narrow.returncode, narrow.stdout, narrow.stderr) == (0, b"\\u21b5\nsecond\n", b"")
