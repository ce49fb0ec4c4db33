"""Policy gradients: from the rewards of answers to advantages, and the losses by which a policy learns from them.

Columns are the tokens of answers, the first one at the left; `real` is 1 for a token and 0 for padding, which changes
nothing. Log-probabilities are those of the tokens that were written, of the distribution that they were drawn from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from langwright.objectives.batch import Models, TokenBatch
from langwright.objectives.losses import entropies, log_probabilities

Tokens = Float[Tensor, "answers tokens"]
Answers = Float[Tensor, " answers"]
Estimator = Literal["k1", "k2", "k3"]
Ratio = Literal["token", "mean", "sum", "none"]
Aggregation = Literal["grpo", "bnpo", "dapo", "dr_grpo", "sum"]
Scale = Literal["group", "batch", "none"]
EPSILON = 1e-8
"""Added to the variance of what is whitened."""
GROUP_EPSILON = 1e-4
"""Added to the standard deviation of the rewards of a group."""
LARGEST = 80.0
"""The largest logarithm of a ratio: of much more, float32 has no exponential, and 0 times infinity is not 0."""


def kl_estimates(log_ratios: Float[Tensor, "*tokens"], estimator: Estimator) -> Float[Tensor, "*tokens"]:
    """What each token, drawn from π, says of KL(π ‖ reference), in nats (Schulman, "Approximating KL", 2020).

    With r = reference / π: k1 = -log r has the right mean and a large variance, and may be negative. k2 = (log r)² / 2
    is never negative, and biased. k3 = r - 1 - log r has the right mean and is never negative.

    Args:
        log_ratios: log π - log reference of each token.
        estimator: which one.
    """
    if estimator == "k1":
        return log_ratios
    return log_ratios.square() / 2 if estimator == "k2" else (-log_ratios).clamp(max=LARGEST).exp() - 1 + log_ratios


def adapted_coefficient(coefficient: float, kl: float, target: float, answers: int, horizon: float) -> float:
    """The weight of the KL penalty after a rollout: larger where the KL is above its target (Ziegler et al., 2019).

    Args:
        coefficient: the weight so far.
        kl: of the rollout, nats an answer.
        target: what it should be.
        answers: of the rollout.
        horizon: so many answers change the weight by a factor of 1.2 at most, about.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * answers / horizon)


def whiten(values: Tokens, real: Tokens, keep_mean: bool = False) -> Tokens:
    """Mean 0 and standard deviation 1 over all real tokens; with `keep_mean` the mean stays as it was."""
    count = real.sum()
    mean = (values * real).sum() / count
    variance = ((values - mean).square() * real).sum() / count
    white = (values - mean) / (variance + EPSILON).sqrt()
    return (white + mean if keep_mean else white) * real


def token_rewards(scores: Answers, penalties: Tokens, real: Tokens) -> Tokens:
    """The reward of each token: minus its penalty, and at the last token of an answer plus the answer's score."""
    last = (real.cumsum(1) == real.sum(1, keepdim=True)) & (real > 0)
    return (last * scores[:, None] - penalties) * real


def generalised_advantages(rewards: Tokens, values: Tokens, real: Tokens, discount: float, smoothing: float) -> Tokens:
    """How much better than expected each token was: GAE (Schulman et al., 2015).

    δ_t = r_t + γ V_{t+1} - V_t, and A_t = δ_t + γ λ A_{t+1}; both V and A are 0 after the last token.

    Args:
        rewards, values: of each token; a value is the reward that is expected from this token on.
        real: what is no padding.
        discount: γ.
        smoothing: λ; 1 gives the sum of the rewards to come minus the value, 0 looks one token ahead.
    """
    advantages, value, advantage = (
        torch.zeros_like(values),
        torch.zeros_like(values[:, 0]),
        torch.zeros_like(values[:, 0]),
    )
    for t in reversed(range(values.shape[1])):
        surprise = rewards[:, t] + discount * value - values[:, t]
        advantage = (surprise + discount * smoothing * advantage) * real[:, t]
        value = values[:, t] * real[:, t]
        advantages[:, t] = advantage
    return advantages


def group_advantages(rewards: Answers, group: int, scale: Scale = "group") -> Answers:
    """Rewards minus the mean of their group: the answers to the same prompt (GRPO, Shao et al., 2024).

    Args:
        rewards: of answers, those of a group side by side.
        group: answers of a group.
        scale: what divides them: the standard deviation of the group, of the batch, or nothing (Dr. GRPO, 2025).
    """
    groups = rewards.view(-1, group)
    centred = _centred(groups)
    if scale != "none":
        centred = centred / ((groups.std(1, keepdim=True) if scale == "group" else rewards.std()) + GROUP_EPSILON)
    return centred.flatten()


def leave_one_out(rewards: Answers, group: int) -> Answers:
    """Rewards minus the mean of the other answers of their group (RLOO, Ahmadian et al., 2024)."""
    return (_centred(rewards.view(-1, group)) * (group / (group - 1))).flatten()


def _centred(groups: Float[Tensor, "groups answers"]) -> Float[Tensor, "groups answers"]:
    """Minus the mean of each group: exactly 0 where all are equal, whose mean may be rounded."""
    equal = groups.amax(1, keepdim=True) == groups.amin(1, keepdim=True)
    return (groups - groups.mean(1, keepdim=True)).masked_fill(equal, 0)


def aggregate(real: Tokens, how: Aggregation, longest: int) -> tuple[Answers, Answers]:
    """How the losses of tokens become one number: sum of scale * loss over tokens, over the sum of shares over answers.

    Called for a whole rollout, so that its mini-batches and micro-batches add up to the same.

    Args:
        real: what is no padding.
        how: "grpo", the mean over answers of the mean over their tokens; "bnpo", the mean over the tokens of a
            mini-batch; "dapo", the same with the mean number of tokens in the rollout (Yu et al., 2025); "dr_grpo", the
            sum over tokens divided by the most that an answer may have; "sum", the mean over answers of that sum.
        longest: the most tokens of an answer.

    Returns:
        Scale and share of each answer.
    """
    lengths = real.sum(1)
    ones = torch.ones_like(lengths)
    shares = {"bnpo": lengths, "dapo": ones * lengths.mean(), "dr_grpo": ones * longest}
    return (1 / lengths if how == "grpo" else ones), shares.get(how, ones)


def policy_losses(
    now: Tokens, old: Tokens, advantages: Tokens, real: Tokens, *, ratio: Ratio, low: float, high: float
) -> tuple[Tokens, Bool[Tensor, "answers tokens"]]:
    """max(-A ρ, -A clip(ρ, 1 - low, 1 + high)) of each token (PPO, Schulman et al., 2017).

    Args:
        now, old: log-probabilities, of the policy that learns and of the one that wrote the answers.
        advantages: A of each token.
        real: what is no padding.
        ratio: what ρ is: π / π_old of a token; of an answer, by the mean over its tokens of the logarithm (GSPO, 2025)
            or by the sum (RLOO); or none, for -A log π (REINFORCE, Williams, 1992).
        low, high: how far ρ may go.

    Returns:
        The loss of each token, and where the clipped one was the larger.
    """
    if ratio == "none":
        return -advantages * now, torch.zeros_like(real, dtype=torch.bool)
    logarithm = (now - old) * real
    if ratio != "token":
        logarithm = logarithm.sum(1, keepdim=True).expand_as(real)
    if ratio == "mean":
        logarithm = logarithm / real.sum(1, keepdim=True)
    free = logarithm.clamp(max=LARGEST).exp()
    # 7. of the details of PPO, as in value_losses; see alignment/ppo.py
    plain, clipped = -advantages * free, -advantages * free.clamp(1 - low, 1 + high)
    return torch.maximum(plain, clipped), clipped > plain


def value_losses(values: Tokens, old: Tokens, returns: Tokens, clip: float) -> Tokens:
    """Half the squared error of each value, or if larger of the nearest to it within `clip` of the old one."""
    near = old + (values - old).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2


@dataclass(frozen=True, kw_only=True)
class RolloutBatch(TokenBatch):
    """Prompts and answers that a policy wrote: `at` are the places before the tokens of answers, `weights` is `real`.

    Args:
        old: log-probabilities under the policy that wrote them.
        advantages: of each token.
        scale, share: of each answer; see `aggregate`.
        reference: log-probabilities under the reference, where the loss has a KL term.
        penalty: the weight of that term.
        values: expected when the answers were written, where values are learnt.
        returns: what the values should have been.
    """

    old: Tokens
    advantages: Tokens
    scale: Answers
    share: Answers
    reference: Tokens | None = None
    penalty: Answers | None = None
    values: Tokens | None = None
    returns: Tokens | None = None


@dataclass(frozen=True)
class PolicyOptimisation:
    """The loss of PPO, GRPO, RLOO and REINFORCE, which differ in the batch's advantages and in these settings.

    `models["value"](batch, hidden)`, where there are values, gives one for each target. Beside the loss it measures the
    share of tokens where the ratio was clipped, the KL of an update (half the mean square of the logarithm of the
    ratio) and the mean square error of the values.

    Args:
        ratio, low, high: see `policy_losses`.
        temperature: what logits are divided by, as when the answers were drawn.
        estimator: of the KL term.
        penalised: whether the loss has one.
        value: the weight of the loss of the values; 0 for no values.
        value_clip: see `value_losses`.
        entropy: what the entropy of the policy, nats a token, is worth.
    """

    ratio: Ratio = "token"
    low: float = 0.2
    high: float = 0.2
    temperature: float = 1.0
    estimator: Estimator = "k3"
    penalised: bool = False
    value: float = 0.0
    value_clip: float = 0.2
    entropy: float = 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the terms that the settings ask for."""
        optional = {"kl_loss": float(self.penalised), "value_loss": self.value, "entropy_bonus": -self.entropy}
        return {"policy_loss": 1.0} | {name: weight for name, weight in optional.items() if weight}

    def counts(self, batch: RolloutBatch) -> dict[str, Tensor]:
        """Shares of answers, or their tokens."""
        shares, tokens = batch.share.sum(), batch.weights.sum()
        measured = ["clip_share", "update_kl", *(["value_error"] if self.value else [])]
        return {name: shares if name in ("policy_loss", "kl_loss") else tokens for name in (*self.weights, *measured)}

    def __call__(self, models: Models, batch: RolloutBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        model, real = models["model"], batch.weights
        hidden = batch.hidden(model)[0]
        projection = model.head.projection(hidden)
        now = log_probabilities(projection, batch.targets, self.temperature)
        losses, clipped = policy_losses(
            now, batch.old, batch.advantages, real, ratio=self.ratio, low=self.low, high=self.high
        )
        scales = batch.scale[:, None] * real
        sums = {
            "policy_loss": (losses * scales).sum(),
            "clip_share": (clipped * real).sum(),
            "update_kl": ((now - batch.old).square() * real).sum() / 2,
        }
        if self.penalised:
            assert batch.reference is not None
            assert batch.penalty is not None
            kl = kl_estimates(now - batch.reference, self.estimator)
            sums["kl_loss"] = (kl * scales * batch.penalty[:, None]).sum()
        if self.value:
            assert batch.values is not None
            assert batch.returns is not None
            values = models["value"](batch, hidden)
            sums["value_loss"] = (value_losses(values, batch.values, batch.returns, self.value_clip) * real).sum()
            sums["value_error"] = ((values - batch.returns).square() * real).sum()
        if self.entropy:
            sums["entropy_bonus"] = (entropies(projection, batch.targets, self.temperature) * real).sum()
        return sums
