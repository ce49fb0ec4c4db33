"""Features that meet: adapters, few bits, conversations, and pages about them."""

import shutil
from pathlib import Path

import pytest

from langwright.cli import main

TINY = ["--depth", "1", "--context", "48", "--batch-size", "4", "--vocabulary", "300", "--dtype", "float32"]
QUIET = ["--log-every", "1", "--evaluate-every", "100", "--sample-every", "0"]
TUNE = ["--steps", "3", "--batch-size", "4", "--dtype", "float32", *QUIET]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, conversations and a base model."""
    folder = tmp_path_factory.mktemp("interplay")
    (folder / "text.txt").write_text("".join(f"The cat saw {n} dogs.\n" for n in range(300)))
    chats = '{"prompt": "Who saw it?", "completion": "The cat."}\n' * 40
    (folder / "chats.jsonl").write_text(chats)
    assert (
        main(
            [
                "pretrain",
                str(folder / "text.txt"),
                str(folder / "base"),
                "--steps",
                "4",
                "--split",
                "0.9",
                *TINY,
                *QUIET,
            ]
        )
        == 0
    )
    return folder


def answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses a command."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_a_merged_adapter_still_talks(made: Path, tmp_path: Path) -> None:
    arguments = [str(made / "base"), str(made / "chats.jsonl"), str(tmp_path / "talks"), "--task", "chat"]
    assert main(["finetune", *arguments, "--method", "lora", *TUNE, "--split", "0.8"]) == 0
    assert main(["merge", str(made / "base"), str(tmp_path / "talks"), str(tmp_path / "merged")]) == 0
    for file in ("tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "merged" / file).exists()
    template = "chat_template"
    assert template in (tmp_path / "merged" / "tokenizer_config.json").read_text()


def test_what_does_not_go_together_is_answered_in_one_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, text = str(made / "base"), str(made / "text.txt")
    shutil.copytree(base, tmp_path / "other")
    told = answer(["compress", base, str(tmp_path / "other"), "--to", "int8"], capsys)
    assert "holds a model or an adapter already" in told
    told = answer(["finetune", base, text, str(tmp_path / "a"), "--method", "lora", "--optimizer", "muon"], capsys)
    assert "adapters take adamw" in told
    packed = ["--method", "lora", "--bits", "int8", "--target", "v_proj", "--whole", "q_proj"]
    told = answer(["finetune", base, text, str(tmp_path / "b"), *packed, *TUNE], capsys)
    assert "is in few bits and cannot train whole" in told
    virtual = [base, text, str(tmp_path / "virtual"), "--method", "prompt", "--virtual-tokens", "3", *TUNE]
    assert main(["finetune", *virtual]) == 0
    told = answer(["show", base, "--adapter", str(tmp_path / "virtual"), "--attention", "The cat"], capsys)
    assert "virtual tokens have no names to show" in told
    told = answer(["generate", base, "--adapter", str(tmp_path), "--prompt", "The"], capsys)
    assert "is this an adapter folder?" in told
