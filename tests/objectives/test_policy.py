"""Policy gradients against tables worked by hand, exact expectations, TRL, and rows with more padding."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from langwright.objectives.losses import log_probabilities
from langwright.objectives.policy import (
    Aggregation,
    Estimator,
    PolicyOptimisation,
    Ratio,
    RolloutBatch,
    adapted_coefficient,
    aggregate,
    generalised_advantages,
    group_advantages,
    kl_estimates,
    leave_one_out,
    policy_losses,
    token_rewards,
    value_losses,
    whiten,
)
from tiny import tiny_model

REAL = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_kl_estimates_have_the_mean_and_the_gradient_of_the_exact_kl() -> None:
    """Over a vocabulary of four: the mean of k1 and k3 is the KL; the gradient of k2 is that of the KL, too."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.5, 0.2, 0.2], dtype=torch.float64).log()
    said = logits.log_softmax(0)
    exact = (said.exp() * (said - reference)).sum()
    chances, means = said.exp().detach(), {}
    for name in ("k1", "k2", "k3"):
        means[name] = (chances * kl_estimates(said - reference, name)).sum()
    assert means["k1"].item() == pytest.approx(exact.item())
    assert means["k3"].item() == pytest.approx(exact.item())
    near = 1e-3 * torch.tensor([1.0, -2.0, 1.0, 0.5], dtype=torch.float64)  # k2 is right where both are close
    close = (said.detach() + near).log_softmax(0)
    small = (chances * (said.detach() - close)).sum()
    assert (chances * kl_estimates(said.detach() - close, "k2")).sum().item() == pytest.approx(small.item(), rel=1e-2)
    slope = torch.autograd.grad(exact, logits, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(means["k2"], logits, retain_graph=True)[0], slope)
    reverse = (reference.exp() * (reference - said)).sum()  # what k3 lowers, as a loss, is the other KL
    expected = torch.autograd.grad(reverse, logits, retain_graph=True)[0]
    assert torch.allclose(torch.autograd.grad(means["k3"], logits)[0], expected)


def test_advantages_by_hand() -> None:
    """γ = λ = 1/2: δ = 1 + 1/2 - 1/2, 2 + 1 - 1, 3 - 2 = 1, 2, 1; A = 1 + 2.25 / 4, 2 + 1 / 4, 1."""
    rewards, values, real = row(1, 2, 3), row(0.5, 1, 2), row(1, 1, 1)
    assert generalised_advantages(rewards, values, real, 0.5, 0.5).tolist() == [[1.5625, 2.25, 1.0]]
    assert generalised_advantages(rewards, values, real, 1.0, 1.0).tolist() == [[5.5, 4.0, 1.0]]
    assert generalised_advantages(rewards, values, real, 1.0, 0.0).tolist() == [[1.5, 3.0, 1.0]]


def test_the_score_is_added_to_the_last_real_token() -> None:
    penalties = torch.tensor([[0.5, 9.0, 9.0], [0.25, 0.0, 1.0]])
    assert token_rewards(torch.tensor([2.0, 3.0]), penalties, REAL).tolist() == [[1.5, 0.0, 0.0], [-0.25, 0.0, 2.0]]


def test_whitening_is_over_real_tokens() -> None:
    values = torch.tensor([[1.0, 99.0, 99.0], [3.0, 5.0, 7.0]])
    white, kept = whiten(values, REAL), whiten(values, REAL, keep_mean=True)
    assert torch.allclose(white, torch.tensor([[-3.0, 0.0, 0.0], [-1.0, 1.0, 3.0]]) / math.sqrt(5))
    assert torch.allclose(kept, (white + 4) * REAL)
    count = REAL.sum()
    assert (white.sum() / count).item() == pytest.approx(0, abs=1e-6)
    assert (white.square().sum() / count).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [(1.5, 1, -1.2, True), (1.5, -1, 1.5, False), (0.5, 1, -0.5, False), (0.5, -1, 0.8, True), (1, 2, -2, False)],
)
def test_policy_losses_by_hand(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    old = row(-1.0)
    found, cut = policy_losses(old + math.log(ratio), old, row(advantage), row(1), ratio="token", low=0.2, high=0.2)
    assert found.item() == pytest.approx(loss)
    assert cut.item() is clipped


def test_ratios_of_whole_answers() -> None:
    """Log-ratios 0.1 and 0.3: their sum is 0.4, their mean 0.2; padding has no part in them."""
    now, old, real = row(0.1, 0.3, 7), row(0, 0, 0), row(1, 1, 0)
    for ratio, expected in (("sum", 0.4), ("mean", 0.2)):
        found, _ = policy_losses(now, old, row(-1, -1, -1), real, ratio=ratio, low=0.2, high=0.2)
        assert found[0, :2].tolist() == pytest.approx([math.exp(expected)] * 2)
    found, _ = policy_losses(now, old, row(2, 2, 2), real, ratio="none", low=0.2, high=0.2)
    assert found[0, :2].tolist() == pytest.approx([-0.2, -0.6])


def test_value_losses_by_hand() -> None:
    """The value went from 1 to 2, at most by 0.5 as far as the clip goes: max((2 - 3)², (1.5 - 3)²) / 2."""
    assert value_losses(row(2), row(1), row(3), 0.5).item() == 1.125
    assert value_losses(row(2), row(1), row(1.5), 0.5).item() == 0.125


def test_advantages_of_groups_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])
    centred = torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    assert torch.allclose(group_advantages(rewards, 3), centred / 1.0001)
    assert torch.allclose(group_advantages(rewards, 3, "batch"), centred / (rewards.std() + 1e-4))
    assert torch.equal(group_advantages(rewards, 3, "none"), centred)
    assert leave_one_out(rewards, 3).tolist() == [-1.5, 0.0, 1.5, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("reward", [0.1, 1e6 / 3])
def test_equal_rewards_are_worth_nothing(reward: float) -> None:
    """Exactly: the mean of eight times 0.1 is not 0.1 in float32."""
    rewards = torch.full((14,), reward)
    for group in (7, 14):
        for scale in ("group", "batch", "none"):
            assert not group_advantages(rewards, group, scale).any()
        assert not leave_one_out(rewards, group).any()


def test_ratios_that_float32_cannot_hold() -> None:
    """Where an advantage or a penalty is 0, they change nothing."""
    now = row(100, 0).requires_grad_()
    for ratio in ("token", "mean", "sum"):
        losses, _ = policy_losses(now, row(-100, 0), row(0, 1), row(1, 0), ratio=ratio, low=0.2, high=0.2)
        (slope,) = torch.autograd.grad(losses[0, 0] + 0 * kl_estimates(-now, "k3").sum(), now)
        assert losses[0, 0] == 0
        assert not slope.any()


@pytest.mark.parametrize(
    ("how", "expected"), [("grpo", 2.5), ("bnpo", 2.75), ("dapo", 2.75), ("dr_grpo", 11 / 8), ("sum", 5.5)]
)
def test_aggregates_by_hand(how: Aggregation, expected: float) -> None:
    losses = torch.tensor([[2.0, 9.0, 9.0], [1.0, 2.0, 6.0]])
    scale, share = aggregate(REAL, how, longest=4)
    assert ((losses * REAL * scale[:, None]).sum() / share.sum()).item() == pytest.approx(expected)


def test_the_coefficient_follows_the_kl() -> None:
    assert adapted_coefficient(0.2, 12.0, 6.0, 64, 10_000) == pytest.approx(0.2 * (1 + 0.2 * 0.0064))
    assert adapted_coefficient(0.2, 5.4, 6.0, 64, 10_000) == pytest.approx(0.2 * (1 - 0.1 * 0.0064))
    assert adapted_coefficient(0.2, 6.0, 6.0, 64, 10_000) == 0.2


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rollout(how: Aggregation = "grpo", padding: int = 0) -> RolloutBatch:
    """Two prompts of 3 and 5 tokens, answers of 2 and 4; `padding` more columns of anything."""
    ids = torch.randint(29, (2, 9), generator=torch.Generator().manual_seed(3))
    ids = torch.cat((ids, torch.full((2, padding), 28)), 1)
    lengths, prompts = torch.tensor([[2], [4]]), torch.tensor([[3], [5]])
    columns = torch.arange(4 + padding)
    real = (columns < lengths).float()
    at = (prompts - 1 + columns).clamp(max=7 + padding)

    def junk(seed: int) -> Tensor:
        return torch.cat((numbers(2, 4, seed=seed), 50 * numbers(2, padding, seed=9)), 1)

    scale, share = aggregate(real, how, longest=6)
    mask = torch.arange(8 + padding) < prompts + lengths - 1
    old = junk(0) / 10 - 3
    return RolloutBatch(
        ids=ids[:, :-1], targets=ids[:, 1:].gather(1, at), weights=real, mask=mask, at=at, old=old,
        advantages=junk(1), scale=scale, share=share, reference=old + junk(2) / 10, penalty=torch.full((2,), 0.1),
        values=junk(4), returns=junk(5),
    )  # fmt: skip


class Values(nn.Module):
    def forward(self, batch: Any, hidden: Tensor) -> Tensor:
        return hidden.mean(-1)


FULL = PolicyOptimisation(penalised=True, value=0.1, entropy=0.01, temperature=0.7)


def loss_of(objective: PolicyOptimisation, parts: list[RolloutBatch]) -> tuple[float, dict[str, float], Tensor]:
    """Loss, means of all terms and the gradient of one batch that is seen in parts."""
    model = tiny_model()
    counts = [objective.counts(part) for part in parts]
    total = {name: sum(float(count[name]) for count in counts) for name in counts[0]}
    means = dict.fromkeys(total, 0.0)
    for part in parts:
        sums = objective({"model": model, "value": Values()}, part)
        assert sums.keys() == total.keys()
        weighted = [
            objective.weights[name] * value / total[name] for name, value in sums.items() if name in objective.weights
        ]
        torch.stack(weighted).sum().backward()
        for name, value in sums.items():
            means[name] += float(value.detach()) / total[name]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return sum(weight * means[name] for name, weight in objective.weights.items()), means, gradient


@pytest.mark.parametrize("how", ["grpo", "bnpo", "dapo", "dr_grpo", "sum"])
@pytest.mark.parametrize("ratio", ["token", "mean", "sum", "none"])
def test_padding_and_micro_batches_change_nothing(ratio: Ratio, how: Aggregation) -> None:
    objective, batch = replace(FULL, ratio=ratio), rollout(how)
    plain, padded = loss_of(objective, [batch]), loss_of(objective, [rollout(how, padding=3)])
    split = loss_of(objective, [batch.rows(0, 1), batch.rows(1, 2)])
    for other in (padded, split):
        assert other[1] == pytest.approx(plain[1], rel=1e-4, abs=1e-6)
        assert torch.allclose(other[2], plain[2], rtol=1e-4, atol=1e-6)


def test_nothing_mixes_devices() -> None:
    """On "meta" any tensor left on the CPU is an error."""
    meta = torch.device("meta")
    sums = FULL({"model": tiny_model().to(meta), "value": Values()}, rollout().to(meta))
    assert {value.device for value in sums.values()} == {meta}


def test_padding_changes_no_advantage() -> None:
    plain, padded = rollout(), rollout(padding=3)
    rewards = [token_rewards(torch.tensor([1.0, -2.0]), b.old, b.weights) for b in (plain, padded)]
    for discount, smoothing in ((1.0, 0.95), (0.5, 1.0)):
        one, other = (
            whiten(generalised_advantages(r, b.values, b.weights, discount, smoothing), b.weights)
            for r, b in zip(rewards, (plain, padded), strict=True)
            if b.values is not None
        )
        assert torch.allclose(one, other[:, :4], atol=1e-6)
        assert not other[:, 4:].any()


def oracle(**settings: Any) -> Any:
    """Stands for a trainer of TRL, whose loss asks it for settings, and for log-probabilities that are given."""
    found = MagicMock(
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, current_gradient_accumulation_steps=1,
        epsilon_low=0.2, epsilon_high=0.28, _entropy_bonus_enabled=False, aux_loss_enabled=False,
        max_completion_length=6,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        **settings,
    )  # fmt: skip
    found.accelerator.num_processes = 1
    found.accelerator.gather = lambda x: x
    found.accelerator.reduce = lambda x, reduction: x
    return found


@pytest.mark.parametrize("how", ["grpo", "bnpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("ratio", ["token", "mean"])
def test_grpo_is_that_of_trl(how: Aggregation, ratio: Ratio) -> None:
    trainer = pytest.importorskip("trl").GRPOTrainer
    level = "token" if ratio == "token" else "sequence"
    theirs = oracle(loss_type=how, importance_sampling_level=level, beta=0.1)
    assert_equal_to(trainer, theirs, how, ratio, estimator="k3")


def test_rloo_is_that_of_trl() -> None:
    assert_equal_to(pytest.importorskip("trl").RLOOTrainer, oracle(beta=0.1), "grpo", "sum", estimator=None)


def assert_equal_to(trainer: Any, theirs: Any, how: Aggregation, ratio: Ratio, estimator: Estimator | None) -> None:
    batch = rollout(how)
    now = (batch.old + numbers(2, 4, seed=7) / 3).requires_grad_()
    losses = our_losses(batch, now, ratio, estimator)
    ours = (losses * batch.weights * batch.scale[:, None]).sum() / batch.share.sum()
    slope = torch.autograd.grad(ours, now)[0]
    expected = their_loss(trainer, theirs, batch, now)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(slope, torch.autograd.grad(expected, now)[0], atol=1e-6)


ADVANTAGES = torch.tensor([1.5, -0.5])


def our_losses(batch: RolloutBatch, now: Tensor, ratio: Ratio, estimator: Estimator | None) -> Tensor:
    advantages = ADVANTAGES[:, None].expand(-1, 4)
    losses, _ = policy_losses(now, batch.old, advantages, batch.weights, ratio=ratio, low=0.2, high=0.28)
    assert batch.reference is not None
    return losses if estimator is None else losses + 0.1 * kl_estimates(now - batch.reference, estimator)


def their_loss(trainer: Any, theirs: Any, batch: RolloutBatch, now: Tensor, rows: slice = slice(None)) -> Tensor:
    """Of some rows of a rollout."""
    real = batch.weights.long()
    assert batch.reference is not None
    theirs._get_per_token_logps_and_entropies.return_value = now[rows], torch.zeros(2, 4)[rows], None
    inputs = {
        "prompt_ids": real, "prompt_mask": real, "completion_ids": real, "completion_mask": real,
        "advantages": ADVANTAGES, "old_per_token_logps": batch.old, "old_logps": (batch.old * real).sum(1),
        "ref_per_token_logps": batch.reference,
    }  # fmt: skip
    found: Tensor = trainer._compute_loss(
        theirs, None, {name: value[rows] for name, value in inputs.items()} | {"num_items_in_batch": real.sum()}
    )
    return found


@pytest.mark.parametrize("how", ["bnpo", "dapo"])
def test_a_loss_that_depends_on_micro_batches_in_trl_does_not_here(how: Aggregation) -> None:
    """Answers of 2 and 4 tokens, each a micro-batch of one update, or an update of its own.

    TRL's "bnpo" takes the mean of the means of micro-batches, so that a token of the short answer weighs twice one of
    the long. Its "dapo" divided by the tokens of all updates with a rollout, until its issue 6024.
    """
    trainer = pytest.importorskip("trl").GRPOTrainer
    batch = rollout(how)
    now = batch.old + numbers(2, 4, seed=7) / 3
    sums = (our_losses(batch, now, "token", "k3") * batch.weights).sum(1)
    halves, lengths = (slice(0, 1), slice(1, 2)), batch.weights.sum(1)
    settings = {"loss_type": how, "importance_sampling_level": "token", "beta": 0.1}

    theirs = oracle(**settings)
    theirs.current_gradient_accumulation_steps = theirs.args.steps_per_generation = 2
    parts = float(sum(their_loss(trainer, theirs, batch, now, half) for half in halves))
    whole = float(sums.sum() / batch.share.sum())  # ours, whatever the micro-batches are: they share one divisor
    if how == "bnpo":
        assert parts == pytest.approx(float((sums / lengths).mean()))
        assert parts != pytest.approx(whole, rel=0.05)
        return
    assert parts == pytest.approx(whole)
    theirs.current_gradient_accumulation_steps = 1  # and so two updates
    for row, half in enumerate(halves):
        ours, before = float(sums[row] / batch.share[row]), float(sums[row] / lengths.sum())
        assert float(their_loss(trainer, theirs, batch, now, half)) == pytest.approx(ours)
        assert before == pytest.approx(ours / 2)


def test_advantages_that_are_not_centred_in_torchtune_are_here() -> None:
    """`torchtune.rlhf.whiten` adds the mean back with `shift_mean=True`, its default, and PPO there whitens with it."""
    values = torch.tensor([[1.0, 99.0, 99.0], [3.0, 5.0, 7.0]])
    chosen = values[REAL > 0]
    theirs = (chosen - chosen.mean()) * torch.rsqrt(chosen.var() + 1e-8) + chosen.mean()
    assert theirs.mean().item() == pytest.approx(4)
    assert whiten(values, REAL)[REAL > 0].mean().item() == pytest.approx(0, abs=1e-6)


def test_statistics_that_count_padding_in_trl_do_not_here() -> None:
    """`PPOTrainer`, while TRL had one, took the mean over all columns, with log-probabilities of 1 in padding."""
    model = tiny_model()
    theirs, ours = [], []
    for padding in (0, 3):
        batch = rollout(padding=padding)
        now = log_probabilities(model.head.projection(batch.hidden(model)[0]), batch.targets, 1.0)
        apart = (now.masked_fill(batch.weights == 0, 1.0) - batch.old.masked_fill(batch.weights == 0, 1.0)).detach()
        theirs.append(float(0.5 * apart.square().mean()))
        ours.append(loss_of(PolicyOptimisation(), [batch])[1]["update_kl"])
        assert ours[-1] == pytest.approx(float(apart.square().sum() / batch.weights.sum() / 2))
    assert theirs[1] == pytest.approx(theirs[0] * 4 / 7)
    assert ours[1] == pytest.approx(ours[0])
