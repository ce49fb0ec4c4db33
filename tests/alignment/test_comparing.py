"""Two models compared: intervals beside scipy's, KL beside the whole distribution, and the command."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from langwright.alignment.comparing import compared, kl_of, scored, write_answers
from langwright.alignment.rewards import Answered
from langwright.corpora.preferences import Prompt
from langwright.data.preferences import Continuing
from langwright.inference.request import Request
from langwright.models.folder import new_model, save_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.text.training import raw_bytes
from oracles import perturb
from refusals import Fails, Prints

TOKENIZER = raw_bytes()


def model(seed: int) -> Model:
    made = new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0)).eval()
    perturb(made, seed=seed)
    return made


def test_win_rates_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.integers(0, 4, 150).astype(float), rng.integers(0, 3, 150).astype(float)
    found = compared(ours.tolist(), theirs.tolist())
    wins = np.where(ours > theirs, 1, np.where(ours < theirs, 0, 0.5))
    for values, mean, ends in (
        (wins, "win_rate", "win_interval"),
        (ours - theirs, "difference", "difference_interval"),
    ):
        assert found[mean] == pytest.approx(values.mean())
        told = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=rng).confidence_interval
        np.testing.assert_allclose(found[ends], [told.low, told.high], atol=0.02)
    same = compared([1.0, 2.0], [1.0, 2.0])
    assert (same["win_rate"], same["win_interval"], same["ties"]) == (0.5, [0.5, 0.5], 1)


def test_kl_is_that_of_the_whole_distribution() -> None:
    ours, base, form = model(1), model(2), Continuing(TOKENIZER)
    prompts = [Prompt(text) for text in ("a", "bc")] * 1500
    answers = write_answers(ours, form, prompts, Request("", max_new_tokens=1, logprobs=0))
    exact = 0.0
    for text in ("a", "bc"):
        ids = torch.tensor([form.prompt_ids(text)])
        p, q = (each(ids)[0, -1].detach().log_softmax(-1) for each in (ours, base))
        exact += float((p.exp() * (p - q)).sum()) / 2
    found = kl_of(base, form, prompts, answers)
    assert exact > 0.05
    assert found == pytest.approx(exact, rel=0.15)
    longer = write_answers(ours, form, prompts[:8], Request("", max_new_tokens=5, logprobs=0))
    assert kl_of(ours, form, prompts[:8], longer) == pytest.approx(0, abs=1e-4)


def test_rewards_know_which_answers_ended() -> None:
    told: list[bool] = []

    def reward(answers: Sequence[Answered]) -> list[float]:
        told.extend(one.ended for one in answers)
        return [0.0] * len(answers)

    prompts = [Prompt(f"{n} is") for n in range(24)]
    answers = write_answers(model(1), Continuing(TOKENIZER), prompts, Request("", max_new_tokens=20))
    scored(reward, prompts, answers)
    assert told == [answer.reason == "end" for answer in answers]
    assert set(told) == {True, False}


def test_the_command(tmp_path: Path, prints: Prints, fails: Fails) -> None:
    for name, seed in (("new", 1), ("old", 2)):
        save_model(model(seed), TOKENIZER, tmp_path / name)
    new, old, prompts = tmp_path / "new", tmp_path / "old", tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{n} is"}) + "\n" for n in range(6)))
    asked = ["compare", new, old, prompts, "--max-new-tokens", "5", "--reward", "length", "--reward", "regex:[a-z]"]
    told = json.loads(prints(*asked, "--out", tmp_path / "out", "--json"))
    assert told == json.loads((tmp_path / "out/comparison.json").read_text())
    rows = [
        [json.loads(line) for line in (tmp_path / f"out/{name}.jsonl").read_text().splitlines()]
        for name in ("model", "base")
    ]
    assert told["rewards"]["length"]["means"] == [np.mean([row["rewards"]["length"] for row in side]) for side in rows]
    assert told["kl"] > 0
    assert "6 prompts" in prints(*asked)
    assert json.loads(prints("compare", new, new, prompts, "--reward", "length", "--json"))["kl"] == pytest.approx(
        0, abs=1e-3
    )
    assert json.loads(prints(*asked, "--temperature", "0.5", "--json"))["kl"] is None
    fails("compare", new, old, prompts, names="--reward")
    fails("compare", new, old, tmp_path / "none.jsonl", "--reward", "length", names="none.jsonl")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "so " * 40}) + "\n")
    fails("compare", new, old, tmp_path / "long.jsonl", "--reward", "length", names=("long.jsonl", "1"))
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": [{"role": "user", "content": "so"}]}) + "\n")
    fails("compare", new, old, tmp_path / "chat.jsonl", "--reward", "length", names=str(new))
    for folder in (new, old):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        refusing = {**settings, "chat_template": "{{ raise_exception('no') }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(refusing))
    fails("compare", new, old, prompts, "--reward", "length", names="prompts.jsonl:1")
