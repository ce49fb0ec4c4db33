"""langwright distill: students that learn, go on after a stop, and keep their zeros."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from langwright import load_model
from langwright.cli import main
from refusals import Fails

EVERY = ["--batch-size", "4", "--log-every", "1", "--sample-every", "0", "--dtype", "float32", "--save-every", "2"]


def run(*words: object) -> int:
    return main(["distill", *map(str, words), *EVERY])


def losses(out: Path) -> list[float]:
    rows: list[dict[str, Any]] = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_new_student_learns(model: Path, corpus: Path, tmp_path: Path) -> None:
    words = [model, "new:llama", corpus, tmp_path / "whole", "--depth", "1", "--hidden", "0.5"]
    assert run(*words, "--steps", "8", "--learning-rate", "0.01") == 0
    assert losses(tmp_path / "whole")[-1] < 0.9 * losses(tmp_path / "whole")[0]
    assert (tmp_path / "whole" / "tokenizer.json").exists()


def test_a_pruned_student_recovers_and_keeps_its_zeros(model: Path, corpus: Path, tmp_path: Path) -> None:
    assert main(["prune", str(model), str(tmp_path / "sparse"), "--method", "magnitude", "--sparsity", "0.6"]) == 0
    assert run(model, tmp_path / "sparse", corpus, tmp_path / "out", "--steps", "6", "--learning-rate", "0.01") == 0
    before, after = (load_model(tmp_path / name) for name in ("sparse", "out"))
    for name, parameter in before.named_parameters():
        if "blocks" in name and parameter.ndim == 2:
            zeros, now = parameter == 0, after.get_parameter(name)
            assert torch.equal(now == 0, zeros)
            assert not torch.equal(now, parameter)
    assert json.loads((tmp_path / "out" / "langwright.json").read_text())["pruned"]["sparsity"] == 0.6


def test_a_killed_run_ends_as_an_undisturbed_one(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langwright.training import learner

    words = ["new:llama", corpus]
    rest = ["--depth", "1", "--hidden", "0.5", "--steps", "5"]
    assert run(model, *words, tmp_path / "whole", *rest) == 0
    step, seen = learner.Learner.step, []

    def killed(self: Any, factor: float) -> None:
        seen.append(factor)
        if len(seen) == 4:
            raise KeyboardInterrupt
        step(self, factor)

    monkeypatch.setattr(learner.Learner, "step", killed)
    assert run(model, *words, tmp_path / "parts", *rest) == 130
    monkeypatch.undo()
    assert run(model, *words, tmp_path / "parts", *rest) == 0
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--soft", "2"], "--soft 2"),
        (["--temperature", "0"], "--temperature"),
        (["--hidden", "-1"], "--hidden"),
        (["--context", "999"], "--context 999"),
    ],
)
def test_bad_input_ends_in_one_line(
    more: list[str], names: str, model: Path, corpus: Path, tmp_path: Path, fails: Fails
) -> None:
    fails("distill", model, model, corpus, tmp_path / "out", *more, names=names)


def test_other_tokenizers_are_refused(model: Path, untrained: Path, corpus: Path, tmp_path: Path, fails: Fails) -> None:
    fails("distill", model, untrained, corpus, tmp_path / "out", names=str(untrained))
