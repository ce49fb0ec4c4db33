"""Killed by SIGKILL and run again, every method of fine-tuning ends with the bytes of a run that nothing disturbed."""

import random
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from langwright.adaptation.options import OPTIONS
from langwright.commands.finetune import TuningRecipe
from langwright.models.families.gpt_neox import GPTNeoXConfig
from langwright.models.folder import new_model, save_model
from langwright.text.training import raw_bytes
from processes import survives_kills

STEPS, SAVED_EVERY = 20, 3
RUN = ["--steps", f"{STEPS}", "--save-every", f"{SAVED_EVERY}", "--log-every", "1", "--sample-every", "0"]
TINY = ["--context", "16", "--batch-size", "2", "--dtype", "float32", "--learning-rate", "0.01", "--split", "0.9"]
METHODS = {
    "full": ["full"],
    "gradual unfreezing": ["full", "--unfreeze-every", "4 steps"],
    "lora": ["lora", "--dropout", "0.1", "--bias", "all", "--plus", "4"],
    "rslora": ["lora", "--rslora", "--target", "query_key_value.q,dense", "--whole", "embed_out"],
    "dora": ["lora", "--dora", "--dropout", "0.1", "--target", "all-linear"],
    "qlora nf4": ["lora", "--bits", "nf4", "--checkpoint"],
    "qlora int8": ["lora", "--bits", "int8", "--optimizer-bits", "8"],
    "ia3": ["ia3"],
    "prompt": ["prompt", "--virtual-tokens", "3"],
    "p-tuning mlp": ["p-tuning", "--virtual-tokens", "3", "--encoder-width", "8"],
    "p-tuning lstm": ["p-tuning", "--virtual-tokens", "3", "--encoder-width", "8", "--prompt-encoder", "lstm"],
    "prefix": ["prefix", "--virtual-tokens", "3"],
    "prefix projected": ["prefix", "--virtual-tokens", "3", "--projection", "--encoder-width", "8"],
    "bottleneck pfeiffer": ["bottleneck", "--reduction", "8"],
    "bottleneck houlsby": ["bottleneck", "--bottleneck", "houlsby", "--reduction", "8"],
    "bottleneck parallel": ["bottleneck", "--bottleneck", "parallel", "--reduction", "8"],
    "bitfit": ["bitfit"],
    "layernorm": ["layernorm"],
    "head": ["head"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a base with biases, a head of its own, and dropout."""
    folder, tokenizer = tmp_path_factory.mktemp("made"), raw_bytes()
    (folder / "cats.txt").write_text("One cat ate a tuna, one cat ate a chicken, one weird cat ate a human.\n" * 12)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    rest = {"max_position_embeddings": 32, "use_parallel_residual": False, "hidden_dropout": 0.1}
    config = GPTNeoXConfig(vocab_size=tokenizer.vocab_size, **shape, **rest)
    save_model(new_model("gpt_neox", config), tokenizer, folder / "model")
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_killed_and_run_again_it_ends_with_the_same_bytes(name: str, made: Path, tmp_path: Path) -> None:
    def command(out: str) -> list[str]:
        paths = [str(made / "model"), str(made / "cats.txt"), str(tmp_path / out)]
        return ["finetune", *paths, "--method", *METHODS[name], *RUN, *TINY]

    # Anywhere from the first checkpoint to the middle, in the midst of whatever the process is doing.
    step = random.Random(name).randrange(SAVED_EVERY + 1, STEPS // 2)
    events = survives_kills(command, tmp_path, [step])["events"]
    assert [event["step"] % SAVED_EVERY for event in events if event["event"] == "resumed"] == [0]


def test_no_method_is_left_out() -> None:
    killed = {words[0] for words in METHODS.values()}
    assert (
        killed
        == set(get_args(get_type_hints(TuningRecipe)["method"]))
        >= {name for users in OPTIONS.values() for name in users}
    )
