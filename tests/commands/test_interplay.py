"""Features that meet: adapters, quantisation, conversations, and pages about them."""

import shutil
from pathlib import Path

import pytest

from langwright.cli import main
from refusals import Fails

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
    options = ["--steps", "4", "--split", "0.9", *TINY, *QUIET]
    assert main(["pretrain", str(folder / "text.txt"), str(folder / "base"), *options]) == 0
    return folder


def test_a_merged_adapter_still_talks(made: Path, tmp_path: Path) -> None:
    arguments = [str(made / "base"), str(made / "chats.jsonl"), str(tmp_path / "talks"), "--task", "chat"]
    assert main(["finetune", *arguments, "--method", "lora", *TUNE, "--split", "0.8"]) == 0
    assert main(["merge", str(made / "base"), str(tmp_path / "talks"), str(tmp_path / "merged")]) == 0
    for file in ("tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "merged" / file).exists()
    template = "chat_template"
    assert template in (tmp_path / "merged" / "tokenizer_config.json").read_text()


def test_what_does_not_go_together_is_answered_in_one_line(made: Path, tmp_path: Path, fails: Fails) -> None:
    base, text = str(made / "base"), str(made / "text.txt")
    other, virtual = tmp_path / "other", str(tmp_path / "virtual")
    shutil.copytree(base, other)
    fails("compress", base, other, "--to", "int8", names=str(other))
    fails("finetune", base, text, tmp_path / "a", "--method", "lora", "--optimizer", "muon", names="adamw")
    packed = ["--method", "lora", "--bits", "int8", "--target", "v_proj", "--whole", "q_proj"]
    fails("finetune", base, text, tmp_path / "b", *packed, *TUNE, names="q_proj")
    assert main(["finetune", base, text, virtual, "--method", "prompt", "--virtual-tokens", "3", *TUNE]) == 0
    fails("show", base, "--adapter", virtual, "--attention", "The cat", names="virtual tokens")
    fails("generate", base, "--adapter", tmp_path, "--prompt", "The", names=str(tmp_path))
