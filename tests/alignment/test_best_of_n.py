"""Best of n and its relatives: what is kept, what that is worth, and files that other commands take."""

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from langwright.alignment.best_of_n import best_of_n, expected_best, kl_bound
from langwright.alignment.keeping import Keeping
from langwright.alignment.rewards import Answered, Reward, answered
from langwright.corpora.conversations import open_chats
from langwright.corpora.preferences import open_preferences, open_prompts
from langwright.data.preferences import Continuing
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.text.training import raw_bytes
from oracles import perturb
from refusals import refused
from tiny import Killed

TOKENIZER = raw_bytes()
ASKED = Request("", Sampling(seed=3), max_new_tokens=6, n=4)
FILES = ("samples.jsonl", "best.jsonl", "pairs.jsonl", "best_of_n.json")


def vowels(answers: Sequence[Answered]) -> list[float]:
    return [float(sum(letter in "aeiou" for letter in one.answer)) + len(one.answer) / 100 for one in answers]


def sampled(folder: Path, out: Path, reward: Reward = vowels, asked: Request = ASKED, **more: Any) -> dict[str, Any]:
    model = new_model("llama", by_depth("llama", 1, TOKENIZER.vocab_size, 32, 0.0)).eval()
    perturb(model)
    prompts = folder / "prompts.jsonl"
    if not prompts.exists():
        prompts.write_text("".join(json.dumps({"prompt": f"{n} is"}) + "\n" for n in range(5)))
    more = {"keeping": Keeping(), **more}
    return best_of_n(model, Continuing(TOKENIZER), open_prompts(str(prompts)), out, reward, asked, **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_best_answer_to_each_prompt_is_kept(tmp_path: Path) -> None:
    asked: list[Answered] = []

    def reward(answers: Sequence[Answered]) -> list[float]:
        asked.extend(answers)
        return vowels(answers)

    told = sampled(tmp_path, tmp_path / "out", reward)
    samples, best, pairs = (lines(tmp_path / "out" / name) for name in FILES[:3])
    assert [len(row["samples"]) for row in samples] == [4] * 5
    assert sorted((one.answer, one.ended) for one in asked) == sorted(
        (text, ended) for row in samples for text, ended in zip(row["samples"], row["ended"], strict=True)
    )
    assert len({json.dumps(row["samples"]) for row in samples}) == 5  # each prompt draws otherwise
    for row, kept in zip(samples, best, strict=True):
        assert row["rewards"] == vowels([Answered("", text) for text in row["samples"]])
        assert kept["reward"] == max(row["rewards"])
        assert kept["completion"] == row["samples"][row["rewards"].index(kept["reward"])]
        assert kept["text"] == kept["prompt"] + kept["completion"]
    assert told["kept_reward"] == pytest.approx(sum(row["reward"] for row in best) / 5)
    assert told["curve"][0] == {"n": 1, "kl": 0, "reward": pytest.approx(told["reward"])}
    assert told["curve"][-1] == {"n": 4, "kl": math.log(4) - 3 / 4, "reward": pytest.approx(told["kept_reward"])}
    # The files are what other commands take.
    assert [chat.answer for chat in open_chats(str(tmp_path / "out/best.jsonl")).items] == [
        r["completion"] for r in best
    ]
    found = open_preferences(str(tmp_path / "out/pairs.jsonl")).pairs().items
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in found] == [tuple(pair.values()) for pair in pairs]


def test_what_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = sampled(tmp_path, tmp_path / "whole")
    seen: list[str] = []

    def dying(answers: Sequence[Answered]) -> list[float]:
        if len(seen) == 2:
            raise Killed
        seen.append(answers[0].prompt)
        return vowels(answers)

    with pytest.raises(Killed):
        sampled(tmp_path, tmp_path / "stopped", dying)
    seen[:] = []

    def counting(answers: Sequence[Answered]) -> list[float]:
        seen.append(answers[0].prompt)
        return vowels(answers)

    assert sampled(tmp_path, tmp_path / "stopped", counting) == whole
    assert len(seen) == 3
    for name in FILES:
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Another share of the same answers is chosen without writing them again; other answers need another folder.
    assert sampled(tmp_path, tmp_path / "whole", dying, keeping=Keeping(share=0.1))["kept"] == 2
    with refused(tmp_path / "whole", "max_new_tokens"):
        sampled(tmp_path, tmp_path / "whole", asked=Request("", Sampling(seed=3), max_new_tokens=7, n=4))
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "another"}\n')
    with refused(tmp_path / "prompts.jsonl"):
        sampled(tmp_path, tmp_path / "whole")


def test_choices() -> None:
    rewards = [[0.0, 2.0, 2.0], [5.0, 1.0, 4.0]]
    assert Keeping().choose(rewards) == [(0, 1), (1, 0)]
    assert Keeping(share=0.5).choose(rewards) == [(0, 1), (1, 0), (1, 2)]
    assert Keeping(threshold=2).choose(rewards) == [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert Keeping(threshold=9).choose(rewards) == []


def test_the_best_of_fewer_is_the_mean_over_all_choices() -> None:
    rewards = [0.3, -1.0, 2.0, 2.0, 0.7]
    for k in range(1, 6):
        bests = [max(chosen) for chosen in combinations(rewards, k)]
        assert expected_best(rewards, k) == pytest.approx(sum(bests) / len(bests))
        # Of equal ones each is chosen as often: 5 or 1, in the mean 3.
        worth = {0.3: 7.0, -1.0: 8.0, 2.0: 3.0, 0.7: -2.0}
        golds = [worth[best] for best in bests]
        assert expected_best(rewards, k, [7.0, 8.0, 5.0, 1.0, -2.0]) == pytest.approx(sum(golds) / len(golds))


def test_the_bound_is_the_kl_where_no_two_answers_are_equal() -> None:
    # The best of n of m equally likely answers: answer i of m is it with probability (i/m)^n - ((i-1)/m)^n.
    m, n = 20_000, 16
    chances = [(i / m) ** n - ((i - 1) / m) ** n for i in range(1, m + 1)]
    kl = sum(p * math.log(p * m) for p in chances if p)
    assert kl == pytest.approx(kl_bound(n), abs=1e-3)
    assert kl <= kl_bound(n)


def test_prompts_keep_the_fields_of_their_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "2+2=", "tests": ["assert x"], "level": 3}\n'
        '{"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "3+3"}], "completion": "6"}\n'
        '{"prompt": "2+2=", "level": 4}\n'
        '{"prompt": "so", "chosen": " good", "rejected": " bad"}\n'
    )
    first, second, third = (answered(item, "x") for item in open_prompts(str(tmp_path / "rows.jsonl")).items)
    assert (first.prompt, first.row["level"], first.row["tests"]) == ("2+2=", 3, ["assert x"])
    assert (second.prompt, second.row["answer"], second.where) == ("3+3", "6", f"{tmp_path / 'rows.jsonl'}:2")
    assert second.asked == ({"role": "system", "content": "Add."}, {"role": "user", "content": "3+3"})
    assert (third.prompt, third.row["chosen"]) == ("so", " good")
