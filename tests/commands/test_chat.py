"""finetune --task chat and chat, as a user runs them."""

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from langwright.cli import main
from processes import survives_kills
from refusals import Fails

BASE = ["--depth", "1", "--context", "96", "--batch-size", "4", "--vocabulary", "300", "--dtype", "float32"]
QUIET = ["--log-every", "1", "--save-every", "3", "--evaluate-every", "5", "--sample-every", "0"]
PAIR = '{"prompt": "a", "completion": "b"}'
TUNE = ["--task", "chat", "--batch-size", "4", "--dtype", "float32", *QUIET]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that read sentences, and conversations about them."""
    folder = tmp_path_factory.mktemp("chat")
    rng = random.Random(0)
    nouns, verbs = ["cat", "dog", "tuna", "human"], ["ate", "saw"]
    with open(folder / "text.jsonl", "w") as texts, open(folder / "chats.jsonl", "w") as chats:
        for _ in range(120):
            a, v, b = rng.choice(nouns), rng.choice(verbs), rng.choice(nouns)
            texts.write(json.dumps({"text": f"One {a} {v} a {b}."}) + "\n")
            asked = {"role": "user", "content": f"Who {v} a {b}?"}
            chats.write(json.dumps({"messages": [asked, {"role": "assistant", "content": f"The {a}."}]}) + "\n")
    assert main(["pretrain", str(folder / "text.jsonl"), str(folder / "base"), "--steps", "10", *BASE, *QUIET]) == 0
    return folder


def tune(folder: Path, out: Path, *more: str) -> list[str]:
    return ["finetune", str(folder / "base"), str(folder / "chats.jsonl"), str(out), *TUNE, *more]


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Path:
    out = folder / "tuned"
    more = ["--template", "chatml", "--packing", "--steps", "30", "--learning-rate", "0.01"]
    assert main(tune(folder, out, *more)) == 0
    return out


def test_the_folder_chats_in_transformers_too(tuned: Path, folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(tuned), AutoModelForCausalLM.from_pretrained(tuned)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id == [end, tokenizer.convert_tokens_to_ids("<|eos|>")]
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer)
    asked = [{"role": "user", "content": "Who ate a tuna?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    written = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
    lines = talk(tuned, ["Who ate a tuna?"], "--temperature", "0", "--json", "--max-new-tokens", "12")
    assert json.loads(lines[0])["tokens"] == written
    assert written[-1] == end


def talk(model: Path, lines: list[str], *more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "langwright", "chat", str(model), *more],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_record_and_the_report_tell_what_was_learnt(tuned: Path) -> None:
    record = json.loads((tuned / "langwright.json").read_text())
    corpus = record["corpus"]
    assert corpus["kind"] == "chats"
    assert corpus["template"] == "chatml"
    assert corpus["added_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert corpus["split"] == "5%"
    assert corpus["training"]["examples"] + corpus["held_out"]["examples"] == 120
    assert record["held_out"]["tokens"] == corpus["held_out"]["assistant_tokens"]
    change = record["forgetting"]["new"]
    assert change["after"] < change["before"] / 2
    assert set(record["forgetting"]) == {"new", "old"}
    assert "120 conversations" in (tuned / "report.html").read_text()


@pytest.mark.parametrize("packing", [[], ["--packing"]])
def test_killed_a_run_ends_bit_for_bit_the_same(folder: Path, tmp_path: Path, packing: list[str]) -> None:
    more = ["--template", "chatml", "--steps", "14", *packing]
    survives_kills(lambda name: tune(folder, tmp_path / name, *more), tmp_path, [7])


def test_without_a_template_the_marks_are_plain_text(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tune(folder, tmp_path / "out", "--steps", "2")) == 0
    assert "template zephyr;" in capsys.readouterr().err
    base, out = (load_file(path / "model.safetensors") for path in (folder / "base", tmp_path / "out"))
    assert {n: t.shape for n, t in base.items()} == {n: t.shape for n, t in out.items()}
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|eos|>"


def test_what_does_not_fit_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tune(folder, tmp_path / "out", "--steps", "1", "--context", "35", "--split", "0.9")) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "conversations lost their ends to the context" in told


@pytest.mark.parametrize(
    ("rows", "more", "names"),
    [
        (['{"messages": [{"role": "user", "content": "a"}]}'], [], "bad.jsonl:1"),
        ([PAIR] * 8 + ['{"prompt": "a", "completion": " "}'], ["--split", "0.5"], "bad.jsonl:9"),
        ([PAIR], ["--template", "chatlm"], "--template chatlm"),
        ([PAIR] * 9, ["--split", "0.5", "--crossing"], "--crossing"),
    ],
)
def test_bad_conversations_are_answered_in_one_line(
    rows: list[str], more: list[str], names: str | tuple[str, ...], folder: Path, tmp_path: Path, fails: Fails
) -> None:
    (tmp_path / "bad.jsonl").write_text("\n".join(rows))
    fails("finetune", folder / "base", tmp_path / "bad.jsonl", tmp_path / "out", *TUNE, *more, names=names)
    assert not (tmp_path / "out").exists()


def test_chat_settings_without_the_task_are_refused(folder: Path, tmp_path: Path, fails: Fails) -> None:
    words = ["finetune", folder / "base", folder / "text.jsonl", tmp_path / "out", "--packing"]
    fails(*words, names=("--packing", "--task chat"))


def test_commands_in_a_conversation(tuned: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["Who saw a cat?", "", "/reset", "/system Be brief.", "/cat", "Who ate a dog?", "/exit", "Who?"]

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert main(["chat", str(tuned), "--temperature", "0", "--max-new-tokens", "9", "--json"]) == 0
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert [a["prompt"] for a in answers] == ["Who saw a cat?", "Who ate a dog?"]
    assert [a["forgotten"] for a in answers] == [0, 0]
    for words in ("forgotten", "system message", "/cat is no command"):
        assert words in told.err


def test_a_model_that_was_not_taught_to_talk(folder: Path, fails: Fails) -> None:
    fails("chat", folder / "base", names=(str(folder / "base"), "chat template"))


def test_an_adapter_learns_to_talk_and_survives_a_kill(folder: Path, tmp_path: Path) -> None:
    more = ["--method", "lora", "--steps", "14", "--learning-rate", "0.01", "--packing"]
    record = survives_kills(lambda name: tune(folder, tmp_path / name, *more), tmp_path, [7])
    assert AutoTokenizer.from_pretrained(tmp_path / "whole").chat_template.startswith("{%- if tools %}")
    lines = talk(folder / "base", ["Who ate a tuna?"], "--adapter", str(tmp_path / "whole"), "--json")
    assert json.loads(lines[0])["prompt"] == "Who ate a tuna?"
    change = record["forgetting"]["new"]
    assert change["after"] < change["before"]
    merged = tmp_path / "merged"
    assert main(["merge", str(folder / "base"), str(tmp_path / "whole"), str(merged)]) == 0
    assert json.loads(talk(merged, ["Who ate a tuna?"], "--json")[0])["prompt"] == "Who ate a tuna?"


def test_an_adapter_cannot_learn_new_tokens(folder: Path, tmp_path: Path, fails: Fails) -> None:
    fails(*tune(folder, tmp_path / "out", "--method", "lora", "--template", "chatml"), names="--method full")
