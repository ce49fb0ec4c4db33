"""Rollouts, and bandits and a word with a known optimum that PPO, GRPO, RLOO and REINFORCE find."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

import bandits
from bandits import METHODS, Policy, worth
from langwright.alignment.groups import Experts
from langwright.alignment.keeping import Keeping
from langwright.alignment.ppo import Values
from langwright.alignment.rollouts import Question
from langwright.data.order import Layout
from langwright.models.folder import new_model
from refusals import refused


@pytest.fixture(scope="module")
def solved() -> dict[str, Any]:
    """What became of the tasks in a process without type checks."""
    done = subprocess.run([sys.executable, bandits.__file__], capture_output=True, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_bandits_find_the_best_arm(name: str, solved: dict[str, Any]) -> None:
    found = solved["bandit"][name]
    before, after = found["chances"]
    assert before < 0.2 < 0.95 < after
    assert found["first"]["reward"] < 0.3 < 0.95 < found["last"]["reward"]
    assert found["first"]["kl"] == 0 < 1.5 < found["last"]["kl"]
    assert found["first"]["entropy"] > 2 > 0.5 > found["last"]["entropy"]


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_a_word_of_five_tokens_is_spelt(name: str, solved: dict[str, Any]) -> None:
    rewards = solved["word"][name]
    assert rewards[0] < 0.2
    assert rewards[-1] > 0.9


@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_a_kl_penalty_leads_to_the_optimum_that_is_known(name: str, solved: dict[str, Any]) -> None:
    """The policy with the most reward - β KL is the reference times exp(reward / β), normalised."""
    chances, best = solved["optimum"][name]
    assert chances == pytest.approx(best, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_the_first_ratio_is_exactly_1(name: str, dtype: torch.dtype) -> None:
    """In each micro-batch of the first update the log-probabilities are bit for bit those of the rollout."""
    policy = Policy(
        name, worth, dtype=dtype, prompts=["a", "b c"], max_new_tokens=4, mini_batches=2, micro_batch=5, temperature=0.7
    )
    batch = policy.supply.next(policy.learner.models)
    assert len(batch) == 16
    found = policy.learner.backward(batch)
    assert float(found.measured["update_kl"]) == 0
    assert float(found.measured["clip_share"]) == 0
    assert policy.supply.numbers["kl"] == 0
    assert policy.supply.numbers["mismatch"] < (1e-5 if dtype == torch.float32 else 0.1)
    policy.learner.clip()
    policy.learner.step(1.0)
    later = policy.learner.backward(policy.supply.next(policy.learner.models))
    assert float(later.measured["update_kl"]) > 0


def test_a_rollout_by_hand() -> None:
    """Rows are prompt and answer; what predicts an answer's tokens, its end included, weighs 1."""
    policy = Policy("grpo", worth, prompts=["a", "b c d"], max_new_tokens=6, batch=2, group=4)
    batch = policy.supply.next(policy.learner.models)
    lengths = batch.weights.sum(1).long().tolist()
    assert {row[length - 1] for row, length in zip(batch.targets.tolist(), lengths, strict=True) if length < 6} == {
        policy.tokenizer.eos_id
    }
    prompts = {policy.question(text).ids for text in ("a", "b c d")}
    for row, length in enumerate(lengths):
        real = batch.ids[row, batch.mask[row]].tolist()  # type: ignore[index]
        ids = [*real, int(batch.targets[row, length - 1])]
        assert tuple(ids[:-length]) in prompts
        assert batch.targets[row, :length].tolist() == ids[-length:]
        assert batch.advantages[row, length:].tolist() == [0] * (len(batch.advantages[row]) - length)
    assert {one.prompt for one in policy.asked} == {"a", "b c d"}
    assert policy.supply.numbers["length"] == pytest.approx(sum(lengths) / 8)
    ended = sum(
        int(row[length - 1]) == policy.tokenizer.eos_id for row, length in zip(batch.targets, lengths, strict=True)
    )
    assert policy.supply.numbers["ended"] == ended / 8
    assert torch.isfinite(batch.old).all()


def test_an_answer_without_an_end_loses_of_its_score() -> None:
    def advantages(missing_stop: float) -> torch.Tensor:
        policy = Policy("reinforce", lambda answer: 1.0, max_new_tokens=6, missing_stop=missing_stop)
        batch = policy.supply.next(policy.learner.models)
        ended = (batch.targets == policy.tokenizer.eos_id) & (batch.weights > 0)
        assert sum(one.ended for one in policy.asked) == ended.any(1).sum()  # a reward model knows it too
        return torch.stack([batch.advantages[:, 0], ended.any(1).float()])

    assert not advantages(0.0)[0].any()
    values, ended = advantages(2.0)
    assert 0 < ended.sum() < len(ended)
    assert (values[ended > 0] > 0).all()
    assert (values[ended == 0] < 0).all()


def test_every_pass_sees_every_answer_once_in_another_order() -> None:
    policy = Policy("ppo", worth, max_new_tokens=3, passes=3, mini_batches=4)
    orders = [
        torch.cat([policy.supply.next(policy.learner.models).old for _ in range(4)]) for _ in range(policy.plan.passes)
    ]
    assert len({tuple(order.flatten().tolist()) for order in orders}) == 3
    assert len({tuple(sorted(map(tuple, order.tolist()))) for order in orders}) == 1


def test_draws_depend_on_step_and_seed_alone() -> None:
    """Two supplies draw the same; one that goes on from a state draws what comes next; held-out draws never change."""
    one, other = (Policy("rloo", worth, prompts=["a", "b"], held_out=["c", "d"], max_new_tokens=4) for _ in range(2))
    models = one.learner.models
    first, second = one.supply.next(models), one.supply.next(models)
    assert torch.equal(other.supply.next(models).targets, first.targets)
    resumed = Policy("rloo", worth, prompts=["a", "b"], max_new_tokens=4).supply
    resumed.load(other.supply.state())
    assert torch.equal(resumed.next(models).targets, second.targets)
    assert not torch.equal(first.targets[:, 0], second.targets[:, 0])
    texts = [[answer.text for answer in supply.measure(models, 2).answers] for supply in (one.supply, other.supply)]
    assert texts[0] == texts[1] == [answer.text for answer in one.supply.first(models, 2)[1]]


def test_the_weight_of_the_kl_is_adapted_and_saved() -> None:
    policy = Policy("rloo", worth, kl=0.2, kl_target=0.5, horizon=32 * 2)
    rows = policy.train(3)
    assert rows[0]["kl_weight"] == 0.2
    assert rows[1]["kl_weight"] == pytest.approx(0.2 * 0.9)  # a KL of 0 is 100 percent too low, which counts 20
    resumed = Policy("rloo", worth, kl=0.2, kl_target=0.5).supply
    resumed.load(policy.supply.state())
    assert resumed.state() == policy.supply.state()


def test_weights_that_changed_since_generation_are_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    def meddle(answer: str) -> float:
        with torch.no_grad():
            policy.learner.model.body.embed.tokens.mul_(1.01)
        return 0.0

    policy = Policy("grpo", meddle)
    policy.train(2)
    assert policy.supply.numbers["mismatch"] > 1e-3
    assert capsys.readouterr().err.count("generation") == 1


def test_log_probabilities_that_are_no_number_are_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    policy = Policy("grpo", worth, dtype=torch.bfloat16, held_out=["a", "b"])
    written = policy.supply.measure(policy.learner.models, 2)
    plain = written.said["policy"].clone()
    plain[0, 0] = math.nan
    assert math.isnan(policy.supply._compare(written.answers, plain, policy.learner.model))
    assert "nan" in capsys.readouterr().err


def test_a_threshold_above_all_rewards_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    policy = Policy("reinforce", worth)
    policy.supply._method = Experts(Keeping(threshold=2.0))
    rows = policy.train(2)
    assert [row["kept"] for row in rows] == [0, 0]
    assert capsys.readouterr().err.count("kept") == 1
    policy.supply._method = Experts(Keeping(threshold=0.0))
    assert policy.train(1)[0]["kept"] == 1


def test_a_gradient_that_ppo_of_trl_does_not_clip_is_clipped_here() -> None:
    """TRL's `PPOTrainer` had a loop of its own, in which nothing read `max_grad_norm`."""
    policy = Policy("rloo", lambda answer: 1e6 * worth(answer))
    policy.learner.backward(policy.supply.next(policy.learner.models))
    assert float(policy.learner.clip()) > 1e4
    slopes = [p.grad for p in policy.learner.masters.named.values() if p.grad is not None]
    assert float(torch.nn.utils.get_total_norm(slopes)) == pytest.approx(policy.learner.recipe.clip)


def test_values_are_computed_in_float32() -> None:
    policy = Policy("ppo", worth, dtype=torch.bfloat16)
    batch = policy.supply.next(policy.learner.models)
    values, hidden = Values(16), torch.full((*batch.old.shape, 16), 1 + 2**-7, dtype=torch.bfloat16)
    torch.nn.init.ones_(values.output.weight)
    torch.nn.init.constant_(values.output.bias, 2**-7)
    assert (values(batch, hidden) == 16 + 16 * 2**-7 + 2**-7).all()  # which takes more than the 8 bits of bfloat16


def test_the_end_is_learnt_where_it_is_the_padding_too() -> None:
    policy = Policy("grpo", worth, max_new_tokens=6)
    plain = policy.supply.next(policy.learner.models)
    other = Policy("grpo", worth, max_new_tokens=6)
    other.tokenizer.special_tokens = replace(other.tokenizer.special_tokens, pad=other.tokenizer.special_tokens.eos)
    assert torch.equal(other.supply.next(other.learner.models).weights, plain.weights)


def test_values_of_the_policy_or_of_a_model_of_their_own() -> None:
    policy = Policy("ppo", worth)
    batch, model = policy.supply.next(policy.learner.models), policy.learner.model
    hidden = batch.hidden(model)[0]
    own = Values(16, new_model("gpt2", model.config, seed=2))
    for values in (Values(16), own):
        assert not values(batch, hidden).any()
        torch.nn.init.ones_(values.output.weight)
    assert torch.allclose(Values.forward(policy.learner.models["value"], batch, hidden), torch.zeros(batch.old.shape))
    assert torch.allclose(own(batch, hidden), batch.hidden(own.model)[0].sum(-1), atol=1e-5)


def test_what_is_refused() -> None:
    with refused("--mini-batches 5", 32):
        Policy("ppo", worth, mini_batches=5)
    policy = Policy("ppo", worth)
    with refused("--parallel"):
        type(policy.supply)(
            [Question((0,), policy.question("a").prompt)], Layout(4, 0, world=2), tokenizer=policy.tokenizer,
            reward=lambda answers: [], method=METHODS["ppo"][0], plan=policy.plan, reference=lambda models: models,
        )  # fmt: skip
