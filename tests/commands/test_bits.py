"""--bits: a model quantised while it is opened is the one that compress writes, in every verb that opens one."""

import io
import json
import sys
from pathlib import Path

import pytest

from langwright.cli import main
from refusals import Fails, Prints

KINDS = ("int8", "int4", "nf4", "fp4")
QUICK = ["--steps", "6", "--context", "32", "--batch-size", "4", "--sample-every", "0", "--dtype", "float32"]


@pytest.fixture(scope="module")
def made(untrained: Path, cats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, a model, the same compressed to every kind, and an adapter over the model in nf4."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "cats.txt").symlink_to(cats)
    (folder / "model").symlink_to(untrained)
    for kind in KINDS:
        assert main(["compress", str(folder / "model"), str(folder / kind), "--to", kind]) == 0
    wishes = ["--method", "lora", "--bits", "nf4", "--target", "all-linear", "--learning-rate", "0.01"]
    paths = [str(folder / name) for name in ("model", "cats.txt", "adapter")]
    assert main(["finetune", *paths, *wishes, *QUICK]) == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_opens_what_compress_writes(
    kind: str, made: Path, prints: Prints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(folder: str, *more: str) -> list[str]:
        model, text = str(made / folder), str(made / "cats.txt")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who ate?\n")))
        return [
            prints(*arguments, *more, "--json")
            for arguments in (
                ["evaluate", model, "--text", text, "--dtype", "float32"],
                ["generate", model, "--prompt", "One cat", "--max-new-tokens", "12"],
                ["next", model, "One cat ate a"],
                ["chat", model, "--template", "alpaca", "--max-new-tokens", "4"],
            )
        ]

    rounded = told("model", "--bits", kind)
    assert rounded == told(kind) == told(kind, "--bits", kind)
    plain = told("model")
    assert rounded[0] != plain[0]
    assert rounded[2] != plain[2]


def test_an_adapter_over_quantised_layers_is_measured_as_it_was_trained(made: Path, prints: Prints) -> None:
    record = json.loads((made / "adapter" / "langwright.json").read_text())
    measure = ["evaluate", str(made / "model"), "--text", str(made / "cats.txt"), "--split", "0.9", "--context", "32"]
    more = ["--adapter", str(made / "adapter"), "--dtype", "float32", "--json"]
    with_bits, without = (json.loads(prints(*measure, *more, *bits)) for bits in (["--bits", "nf4"], []))
    wanted = record["held_out"]["loss_nats_per_token"]
    assert with_bits["loss_nats_per_token"] == pytest.approx(wanted, rel=1e-6)
    assert without["loss_nats_per_token"] != pytest.approx(wanted, rel=1e-6)


def test_what_is_rounded_already_is_refused_in_one_line(made: Path, fails: Fails) -> None:
    fails("generate", made / "nf4", "--bits", "int8", names="nf4")
    fails("generate", made / "model", "--bits", "int5", names="int5")
