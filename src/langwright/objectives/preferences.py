"""What people prefer, as batches of answers and losses of their scores or log-probabilities.

All losses are in float32 and by row. log σ is the logarithm of the logistic function.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from langwright.objectives.batch import Batch, Models, real_tokens
from langwright.objectives.distillation import linear_divergence
from langwright.objectives.losses import log_probabilities
from langwright.parts.heads import Projection

Rows = Float[Tensor, " rows"]
Scores = Float[Tensor, "rows answers"]
Pairs = Float[Tensor, "rows 2"]
PerToken = Float[Tensor, "rows some_answers time"]
Reference = Callable[[Models], AbstractContextManager[Any]]
"""The model that a policy is compared with, for as long as a block runs, given all models of a run."""


@dataclass(frozen=True)
class AnswerBatch(Batch):
    """Prompts with answers, each of which stands behind its prompt.

    Args:
        ids: token ids; rows have as many answers as the row with most, padded with zeros.
        mask: true where there is a real token. An answer that is not there is one token.
        written: the positions whose token belongs to an answer.
    """

    ids: Int[Tensor, "rows answers time"]
    mask: Bool[Tensor, "rows answers time"]
    written: Bool[Tensor, "rows answers time"]

    def inputs(self, counted: Tensor) -> Tensor:
        """All that is read."""
        return real_tokens(self.ids, self.mask)

    def projection(self, model: Any, answer: int | None = None) -> Projection:
        """What a model's logits at the tokens of the answers are made of, row after row. answer: of one of them."""
        which = slice(None) if answer is None else slice(answer, answer + 1)
        ids, mask, written = self.ids[:, which], self.mask[:, which], self.written[:, which, 1:]
        hidden = model.body(ids.flatten(0, 1), mask.flatten(0, 1))[:, :-1].unflatten(0, ids.shape[:2])
        found: Projection = model.head.projection(hidden[written])
        return found

    def log_probabilities(self, projection: Projection, answer: int | None = None) -> PerToken:
        """log p of each token of the answers in nats, in float32; 0 for all other tokens. See `projection`."""
        which = slice(None) if answer is None else slice(answer, answer + 1)
        written = self.written[:, which, 1:]
        found = log_probabilities(projection, self.ids[:, which, 1:][written])
        return torch.zeros(written.shape, device=found.device).masked_scatter(written, found)

    def lengths(self) -> Scores:
        """Tokens of each answer, its end included."""
        return self.written[..., 1:].sum(-1).float()


@dataclass(frozen=True)
class PreferenceBatch(AnswerBatch):
    """Prompts with answers in order, the best one first; see `AnswerBatch`.

    Args:
        there: which answers there are.
        margins: how much better the first of two answers is, in units of the reward; 0 where there are more.
        types: the type of each token, where the model tells texts of a pair apart.
        samples: the sample number of each row.
    """

    there: Bool[Tensor, "rows answers"]
    margins: Float[Tensor, " rows"]
    types: Int[Tensor, "rows answers time"] | None = None
    samples: Int[Tensor, " rows"] | None = None

    def scores(self, model: Any) -> Scores:
        """What a head of one output makes of each answer behind its prompt.

        The head computes in float32: in bfloat16 a score has three digits, and near ones would be the same.
        """
        ids, mask = self.ids.flatten(0, 1), self.mask.flatten(0, 1)
        if model.encoders:
            return model(ids, mask)[:, 0].float().view(self.there.shape)
        types = self.types.flatten(0, 1) if self.types is not None and model.typed else None
        return model.head(model.body(ids, mask, types=types).float(), mask)[:, 0].view(self.there.shape)


@dataclass(frozen=True)
class JudgedBatch(AnswerBatch):
    """Prompts with one answer, good or bad, and beside it an answer to another prompt; see `AnswerBatch`.

    Args:
        good: whether the first answer is.
        kl: how far the policy is from the reference, in nats, on the second answers of the whole step; None where it
            is not known yet.
        samples: the sample number of each row.
    """

    good: Bool[Tensor, " rows"]
    kl: Float[Tensor, " rows"] | None = None
    samples: Int[Tensor, " rows"] | None = None


def compared(reference: Reference, models: Models, batch: AnswerBatch, answer: int | None = None) -> Projection:
    """What the logits of a reference are made of; see `AnswerBatch.projection`.

    Nothing of a reference asks for gradients, so that none are kept. Inside `torch.no_grad` a CPU has other kernels,
    and a policy that has not moved would differ from its reference by their rounding.
    """
    with reference(models) as model:
        return batch.projection(model, answer)


def bradley_terry_losses(chosen: Rows, rejected: Rows, margins: Rows) -> Rows:
    """-log σ(chosen - rejected - margin) (Bradley and Terry, 1952; the margin of Touvron et al., 2023)."""
    return -F.logsigmoid(chosen - rejected - margins)


def ranking_losses(scores: Scores, there: Bool[Tensor, "rows answers"]) -> Rows:
    """-log of the probability that a softmax draws the answers in their order, without putting any back.

    Of two answers it is that of Bradley and Terry (Plackett, 1975; k-wise comparisons: Zhu et al., 2023).

    Args:
        scores: of the answers, the best one first.
        there: which of them there are.
    """
    kept = scores.masked_fill(~there, torch.finfo(scores.dtype).min / 2)  # infinity would make gradients NaN
    rest = kept.flip(1).logcumsumexp(1).flip(1)  # of an answer and all after it
    return ((rest - kept) * there).sum(1)


def in_order(scores: Scores, there: Bool[Tensor, "rows answers"]) -> tuple[Rows, Rows]:
    """The share of the pairs of a row whose better answer has the higher score, a tie counting half; and the mean of
    the differences.
    """
    differences = scores[:, :, None] - scores[:, None]
    pairs = (there[:, :, None] & there[:, None]).triu(1)
    count = pairs.sum((1, 2))
    right = (differences > 0).float() + (differences == 0).float() / 2
    return (right * pairs).sum((1, 2)) / count, (differences * pairs).sum((1, 2)) / count


@dataclass(frozen=True)
class RewardModelling:
    """Scores that put answers in their order; `models["model"]` has a head of one output.

    Beside the loss it measures how often a pair is in order (`accuracy`), by how much (`margin`), and the mean score
    (`reward`).

    Args:
        centring: weight of the square of the mean score of a row, times 4: of (r_1 + r_2)² for a pair. It keeps scores
            near 0, which only differences decide otherwise (Eisenstein et al., 2023).
    """

    centring: float = 0.0

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the terms that are lowered."""
        return {"order": 1.0} | ({"centring": self.centring} if self.centring else {})

    def counts(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """How many rows there are; answers, for the mean score."""
        counts = dict.fromkeys((*self.weights, "accuracy", "margin"), torch.tensor(float(len(batch))))
        return counts | {"reward": batch.there.sum().float()}

    def __call__(self, models: Models, batch: PreferenceBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        scores, there = batch.scores(models["model"]), batch.there
        if scores.shape[1] == 2:
            losses = bradley_terry_losses(scores[:, 0], scores[:, 1], batch.margins)
        else:  # there may be pairs among rankings, whose margins are 0
            losses = ranking_losses(torch.cat([scores[:, :1] - batch.margins[:, None], scores[:, 1:]], 1), there)
        real = scores * there
        sums = {"order": losses.sum()}
        if self.centring:
            sums["centring"] = (2 * real.sum(1) / there.sum(1)).square().sum()
        right, margin = in_order(scores.detach(), there)
        return sums | {"accuracy": right.sum(), "margin": margin.sum(), "reward": real.detach().sum()}


def preference_losses(margins: Rows, smoothing: float = 0.0, robust: bool = False) -> Rows:
    """-log σ(margin), where a share of the preferences may be the wrong way round.

    With smoothing ε it is (1 - ε) * -log σ(margin) + ε * -log σ(-margin) (cDPO, Mitchell, 2023); robust divides the
    difference of the same two terms by 1 - 2ε, which makes it unbiased (Chowdhury et al., 2024).
    """
    as_told, flipped = (1 - smoothing) * -F.logsigmoid(margins), smoothing * -F.logsigmoid(-margins)
    return (as_told - flipped) / (1 - 2 * smoothing) if robust else as_told + flipped


def hinge_losses(margins: Rows) -> Rows:
    """max(0, 1 - margin) (SLiC, Zhao et al., 2023)."""
    return (1 - margins).relu()


def identity_losses(differences: Rows, beta: float) -> Rows:
    """(difference - 1 / (2 β))² (IPO, Azar et al., 2023).

    differences: of the log-ratio of policy and reference of the chosen answer and that of the rejected one.
    """
    return (differences - 1 / (2 * beta)).square()


def log_odds(means: Float[Tensor, "*answers"]) -> Float[Tensor, "*answers"]:
    """log(p / (1 - p)), where log p is the mean log-probability of an answer's tokens."""
    below = means.clamp(max=-1e-6)  # 1 - p must be above 0
    return below - torch.where(below > -0.693, (-below.expm1()).log(), (-below.exp()).log1p())


def kto_losses(
    log_ratios: Rows, good: Bool[Tensor, " rows"], kl: Rows, beta: float, desirable: float, undesirable: float
) -> Rows:
    """λ (1 - σ(±β (log-ratio - KL))), + for good answers and - for bad ones (KTO, Ethayarajh et al., 2024).

    Args:
        log_ratios: log π - log reference of each answer.
        good: which answers are.
        kl: what they are compared with; it has no gradient.
        beta: how much a difference counts.
        desirable, undesirable: λ of good and of bad answers.
    """
    sign, weight = torch.where(good, 1.0, -1.0), torch.where(good, desirable, undesirable)
    return weight * (1 - (sign * beta * (log_ratios - kl)).sigmoid())


@dataclass(frozen=True)
class PairLoss:
    """How the log-probabilities of two answers, the better one first, become a loss: settings of a method.

    Attributes:
        compares: whether the policy is compared with a reference.
        imitates: whether the chosen answers are learnt token by token besides.

    Args:
        beta: how much a difference of log-probabilities counts.
    """

    compares: ClassVar[bool] = True
    imitates: ClassVar[bool] = False
    beta: float = 0.1

    @property
    def weight(self) -> float:
        """Of the loss of a pair."""
        return 1.0

    @abstractmethod
    def __call__(self, differences: Pairs, lengths: Pairs) -> tuple[Rows, Pairs]:
        """The loss of each pair, and what the policy takes each answer to be worth: its implicit reward.

        Args:
            differences: summed over the tokens of an answer, log π - log reference; log π where nothing is compared.
            lengths: tokens of each answer.
        """


@dataclass(frozen=True)
class DPO(PairLoss):
    """Direct preference optimisation (Rafailov et al., 2023); the reward of an answer is β (log π - log reference).

    Args:
        form: of the loss of a margin: sigmoid, robust or hinge.
        smoothing: see `preference_losses`.
    """

    form: Literal["sigmoid", "robust", "hinge"] = "sigmoid"
    smoothing: float = 0.0

    def __call__(self, differences: Pairs, lengths: Pairs) -> tuple[Rows, Pairs]:
        """See `PairLoss`."""
        rewards = self.beta * differences
        margins = rewards[:, 0] - rewards[:, 1]
        if self.form == "hinge":
            return hinge_losses(margins), rewards
        return preference_losses(margins, self.smoothing, self.form == "robust"), rewards


@dataclass(frozen=True)
class IPO(PairLoss):
    """Identity preference optimisation (Azar et al., 2023).

    Args:
        form: whether log-ratios are the sum over an answer's tokens, as in the paper, or their mean, with which its
            authors say that its results were made.
    """

    form: Literal["sum", "mean"] = "mean"

    def __call__(self, differences: Pairs, lengths: Pairs) -> tuple[Rows, Pairs]:
        """See `PairLoss`."""
        ratios = differences / lengths if self.form == "mean" else differences
        return identity_losses(ratios[:, 0] - ratios[:, 1], self.beta), self.beta * ratios


@dataclass(frozen=True)
class SimPO(PairLoss):
    """-log σ(β (mean log π of chosen - of rejected) - γ), without a reference (Meng et al., 2024).

    Args:
        target_margin: γ.
    """

    compares: ClassVar[bool] = False
    beta: float = 2.0
    target_margin: float = 1.0

    def __call__(self, differences: Pairs, lengths: Pairs) -> tuple[Rows, Pairs]:
        """See `PairLoss`."""
        rewards = self.beta * differences / lengths
        return preference_losses(rewards[:, 0] - rewards[:, 1] - self.target_margin), rewards


@dataclass(frozen=True)
class ORPO(PairLoss):
    """The chosen answers learnt, and β * -log σ of the log of an odds ratio; no reference (Hong et al., 2024)."""

    compares: ClassVar[bool] = False
    imitates: ClassVar[bool] = True

    @property
    def weight(self) -> float:
        """The paper's λ."""
        return self.beta

    def __call__(self, differences: Pairs, lengths: Pairs) -> tuple[Rows, Pairs]:
        """See `PairLoss`."""
        means = differences / lengths
        odds = log_odds(means)
        return preference_losses(odds[:, 0] - odds[:, 1]), self.beta * means


@dataclass(frozen=True)
class PairOptimisation:
    """A policy, `models["model"]`, that learns to prefer the first of two answers.

    Beside the loss it measures how often its implicit rewards are in order (`accuracy`), by how much (`margin`), those
    of both answers (`reward`, `rejected_reward`), and how far it has gone from its reference: `kl`, the sum over the
    tokens of an answer of KL(π ‖ reference) for what follows the tokens before.

    Args:
        loss: of a pair.
        reference: gives what the policy is compared with.
    """

    loss: PairLoss
    reference: Reference

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the terms that are lowered."""
        return {"pairs": self.loss.weight} | ({"answers": 1.0} if self.loss.imitates else {})

    def counts(self, batch: PreferenceBatch) -> dict[str, Tensor]:
        """How many pairs there are; tokens of chosen answers, where they are learnt."""
        measured = ["accuracy", "margin", "reward", "rejected_reward", *(["kl"] if self.loss.compares else [])]
        counts = dict.fromkeys((*self.weights, *measured), torch.tensor(float(len(batch))))
        return counts | ({"answers": batch.lengths()[:, 0].sum()} if self.loss.imitates else {})

    def __call__(self, models: Models, batch: PreferenceBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        sums: dict[str, Tensor] = {}
        writes = batch.projection(models["model"])
        policy = differences = batch.log_probabilities(writes)
        if self.loss.compares:
            before = compared(self.reference, models, batch)
            differences = policy - batch.log_probabilities(before).detach()
            with torch.no_grad():
                each = torch.ones(len(before.hidden), device=policy.device)
                sums["kl"] = linear_divergence(before, writes, each, temperature=1.0) / batch.ids.shape[1]
        losses, rewards = self.loss(differences.sum(-1), batch.lengths())
        if self.loss.imitates:
            sums["answers"] = -policy[:, 0].sum()
        rewards = rewards.detach()
        right, margin = in_order(rewards, batch.there)
        return {
            "pairs": losses.sum(),
            **sums,
            "accuracy": right.sum(),
            "margin": margin.sum(),
            "reward": rewards[:, 0].sum(),
            "rejected_reward": rewards[:, 1].sum(),
        }


@dataclass(frozen=True)
class JudgementOptimisation:
    """A policy, `models["model"]`, that learns from answers that are good or bad (KTO).

    Beside the loss it measures the implicit rewards of good and bad answers (`reward`, `rejected_reward`), how often
    they are above and below what both are compared with (`accuracy`), and that (`kl`).

    Args:
        reference: gives what the policy is compared with.
        beta, desirable, undesirable: see `kto_losses`.
    """

    reference: Reference
    beta: float = 0.1
    desirable: float = 1.0
    undesirable: float = 1.0
    weights: ClassVar[Mapping[str, float]] = {"judgements": 1.0}

    def counts(self, batch: JudgedBatch) -> dict[str, Tensor]:
        """How many answers there are, good and bad ones."""
        rows, good = torch.tensor(float(len(batch))), batch.good.sum().float()
        return {"judgements": rows, "accuracy": rows, "reward": good, "rejected_reward": rows - good, "kl": rows}

    def __call__(self, models: Models, batch: JudgedBatch) -> dict[str, Tensor]:
        """The sums over a batch."""
        ratios = self.log_ratios(models, batch, 0)
        kl = batch.kl
        if kl is None:  # the batch is a whole one
            with torch.no_grad():
                kl = self.log_ratios(models, batch, 1).mean().clamp(min=0).expand(len(batch))
        losses = kto_losses(ratios, batch.good, kl, self.beta, self.desirable, self.undesirable)
        rewards = self.beta * ratios.detach()
        above = torch.where(batch.good, rewards > self.beta * kl, rewards < self.beta * kl)
        return {
            "judgements": losses.sum(),
            "accuracy": above.sum().float(),
            "reward": (rewards * batch.good).sum(),
            "rejected_reward": (rewards * ~batch.good).sum(),
            "kl": kl.sum(),
        }

    def log_ratios(self, models: Models, batch: JudgedBatch, answer: int) -> Rows:
        """log π - log reference of the answers to their prompts (0), or of those to others (1)."""
        policy = batch.log_probabilities(batch.projection(models["model"], answer), answer)
        before = batch.log_probabilities(compared(self.reference, models, batch, answer), answer)
        return (policy - before.detach()).sum((1, 2))
