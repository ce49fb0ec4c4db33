"""langwright generate --prompts: a file of prompts, stopped anywhere and gone on with."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from langwright import Engine, Request, load_model
from langwright.cli import main
from langwright.inference.prompts import given_ids
from langwright.inference.sampling import Sampling
from langwright.models.folder import new_model, save_model
from langwright.models.shapes import by_depth
from langwright.pipelines import prompt_file
from langwright.pipelines.prompt_file import complete_file
from langwright.text.training import raw_bytes
from oracles import perturb
from refusals import Fails, Prints, refused

BYTES = raw_bytes()
TEXTS = ["a cat", "", "naïve", "the end of a long road", "a cat", "☃"]
FLAGS = ["--temperature", "0.7", "--seed", "4", "--max-new-tokens", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    model = new_model("llama", by_depth("llama", 1, BYTES.vocab_size, 48, 0.0, width=64))
    perturb(model)
    save_model(model, BYTES, path)
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "id": i}) + "\n" for i, text in enumerate(TEXTS)))
    return path


def test_rows_in_order_equal_to_single_prompts(folder: Path, prompts: Path, prints: Prints) -> None:
    out = prompts.parent / "made" / "out.jsonl"
    prints("generate", folder, "--prompts", prompts, "--out", out, "--batch", "2", *FLAGS)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == TEXTS
    alone = [json.loads(prints("generate", folder, "--prompt", text, *FLAGS, "--json")) for text in TEXTS[:3]]
    assert rows[:3] == alone
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_it_goes_on_where_it_was_killed(folder: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the middle of writing the third row: the two before it are not written again, and none is lost."""
    out, asked, settings = prompts.parent / "out.jsonl", Request("", Sampling(seed=4), 8), {"seed": 4}
    whole = prompts.parent / "whole.jsonl"
    model = load_model(folder)
    complete_file(model, BYTES, prompts, whole, asked, settings, batch=4)
    append, written = prompt_file._append, []

    def dying(file: Any, value: Any) -> None:
        written.append(value)
        if len(written) == 4:
            file.write(json.dumps(value).encode()[:9])
            file.flush()
            raise KeyboardInterrupt
        append(file, value)

    monkeypatch.setattr(prompt_file, "_append", dying)
    with pytest.raises(KeyboardInterrupt):
        complete_file(model, BYTES, prompts, out, asked, settings, batch=1)
    monkeypatch.setattr(prompt_file, "_append", append)
    assert not out.exists()
    added: list[Any] = []
    add = Engine.add
    monkeypatch.setattr(Engine, "add", lambda self, request: added.append(request.prompt) or add(self, request))
    complete_file(model, BYTES, prompts, out, asked, settings, batch=4)
    assert added == [given_ids(model, BYTES, text) for text in TEXTS[2:]]
    assert out.read_bytes() == whole.read_bytes()


def test_a_second_run_is_refused(folder: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins while another writes, before its first row and after it; the first ends as if alone."""
    model, out, asked = load_model(folder), prompts.parent / "out.jsonl", Request("", Sampling(), 4)
    step, tried = Engine.step, []

    def meddled(engine: Engine) -> Any:
        if len(tried) < 8:
            tried.append(engine)
            with refused("out.jsonl.part"):
                complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=1)
        return step(engine)

    monkeypatch.setattr(Engine, "step", meddled)
    assert complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=2) == 0
    assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == TEXTS


def test_what_went_wrong_is_told(folder: Path, prompts: Path, prints: Prints, capsys: Any) -> None:
    """Logits that overflow, as text, as JSON and in a file."""
    model, broken = load_model(folder), prompts.parent / "broken"
    with torch.no_grad():
        model.body.final_norm.weight.fill_(3e38)
    save_model(model, BYTES, broken)
    assert main(["generate", str(broken), "--prompt", "a"]) == 0
    assert "finite" in capsys.readouterr().err
    row = json.loads(prints("generate", broken, "--prompt", "a", "--json"))
    assert row["reason"] == "error"
    assert "finite" in row["error"]
    out = prompts.parent / "out.jsonl"
    prints("generate", broken, "--prompts", prompts, "--out", out)
    assert json.loads(out.read_text().splitlines()[4]) == {**row, "prompt": "a cat", "error": mock.ANY}


def test_memory_is_made_for_the_prompts(folder: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two texts of 24 bytes and 4 new tokens take two blocks of 16 each, not the three of the whole context."""
    made: list[int] = []
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda self: made.append(self._memory.blocks.count) or step(self))
    out = prompts.parent / "out.jsonl"
    assert complete_file(load_model(folder), BYTES, prompts, out, Request("", max_new_tokens=4), {}, batch=2) == 0
    assert set(made) == {4}


def test_what_changed_is_refused(folder: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out, asked = load_model(folder), prompts.parent / "out.jsonl", Request("", Sampling(), 4)
    begun = prompts.parent / "out.jsonl.part"
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=4)
    with refused(str(begun), "seed", "4", "5"):
        complete_file(model, BYTES, prompts, out, asked, {"seed": 5}, batch=4)
    before = prompts.read_text()
    prompts.write_text(before.replace("a cat", "a dog"))
    with refused(str(prompts), str(begun)):
        complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=4)
    prompts.write_text(before)
    begun.write_text("[1]\n")
    with refused(str(begun)):
        complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=4)
    begun.unlink()
    assert complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=4) == 0
    stamp = out.stat().st_mtime_ns
    assert complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=4) == 0
    assert out.stat().st_mtime_ns == stamp
    prompts.write_text(before.replace("a cat", "a dog"))
    with refused(str(prompts), str(out)):
        complete_file(model, BYTES, prompts, out, asked, {"seed": 4}, batch=4)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('{"text": "a"}\n', ("prompts.jsonl:1", '"prompt"')),
        ('{"prompt": "a"}\n{"prompt": 3}\n', ("prompts.jsonl:2", '"prompt"')),
        ('{"prompt": "a"}\n' + json.dumps({"prompt": "b" * 60}) + "\n", ("prompts.jsonl:2", "61", "48")),
        ("", "prompts.jsonl"),
    ],
)
def test_bad_prompts(folder: Path, tmp_path: Path, content: str, names: Any, fails: Fails) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    fails("generate", folder, "--prompts", tmp_path / "prompts.jsonl", "--out", tmp_path / "out.jsonl", names=names)
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]
