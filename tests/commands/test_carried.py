"""Runs with a carried memory: killed between any two steps they end bit for bit as undisturbed ones."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from langwright.commands import pretrain as verb
from langwright.data.streams import Streams
from langwright.models.weights import read_tensors
from langwright.training.recipe import PretrainRecipe

TEXT = "the cat sat on the mat\nthe dog ate the cat\na mat is on the cat\n" * 8


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def run(corpus: Path, out: Path, family: str, **changes: object) -> dict[str, torch.Tensor]:
    recipe = {
        "family": family, "depth": 1, "tokenizer": "words", "vocabulary": 60, "context": 5, "batch_size": 3,
        "micro_batch": 2, "steps": "18 steps", "save_every": "4 steps", "evaluate_every": "5 steps",
        "sample_every": "6 steps", "split": "0.8", "dropout": 0.1, "dtype": "float32", "optimizer": "sgd",
        "schedule": "halving",
    }  # fmt: skip
    verb.run(str(corpus), out, PretrainRecipe(**{**recipe, **changes}))  # type: ignore[arg-type]
    return read_tensors(out / "model.safetensors")


@pytest.mark.parametrize("family", ["lstm", "gru", "rnn", "cnn"])
def test_a_killed_run_goes_on(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of an epoch, and in the second one."""
    (tmp_path / "text.txt").write_text(TEXT)
    options = {} if family == "cnn" else {"weight_dropout": 0.2}
    wanted = run(tmp_path / "text.txt", tmp_path / "whole", family, **options)
    draw = Streams.next
    for fatal in (6, 15):

        def fail(self: Streams, models: object, fatal: int = fatal) -> object:
            if self._step == fatal:
                raise Killed
            return draw(self, models)

        monkeypatch.setattr(Streams, "next", fail)
        with suppress(Killed):
            run(tmp_path / "text.txt", tmp_path / "killed", family, **options)
    monkeypatch.setattr(Streams, "next", draw)
    found = run(tmp_path / "text.txt", tmp_path / "killed", family, **options)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    rows = [
        [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in (folder / "metrics.jsonl").open()]
        for folder in (tmp_path / "whole", tmp_path / "killed")
    ]
    assert rows[0] == rows[1]
    assert any("validation_loss" in row for row in rows[0])
