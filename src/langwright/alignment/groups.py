"""GRPO, RLOO, REINFORCE, expert iteration: an answer is compared with others, so that no values need be learnt."""

from dataclasses import dataclass

import torch

from langwright.alignment.keeping import Keeping
from langwright.alignment.rollouts import Credit, Rollout
from langwright.objectives.policy import Answers, Estimator, Scale, group_advantages, kl_estimates, leave_one_out


@dataclass(frozen=True)
class Grpo:
    """Scores against those of the group; the KL is a term of the loss (Shao et al., 2024).

    Args:
        scale: see `group_advantages`.
    """

    scale: Scale = "group"

    def __call__(self, rollout: Rollout) -> Credit:
        """Every token of an answer has the answer's advantage."""
        advantages = group_advantages(rollout.scores, rollout.group, self.scale)
        return Credit(advantages[:, None] * rollout.real, in_loss=True)


@dataclass(frozen=True)
class Rloo:
    """Scores minus the KL of the answer, against the mean of the others of the group (Ahmadian et al., 2024).

    Args:
        estimator: of the KL.
    """

    estimator: Estimator = "k1"

    def __call__(self, rollout: Rollout) -> Credit:
        """Every token of an answer has the answer's advantage."""
        advantages = leave_one_out(_charged(rollout, self.estimator), rollout.group)
        return Credit(advantages[:, None] * rollout.real)


@dataclass(frozen=True)
class Reinforce:
    """Scores minus the KL of the answer, against the mean of all others of the rollout (Williams, 1992).

    Args:
        estimator: of the KL.
    """

    estimator: Estimator = "k1"

    def __call__(self, rollout: Rollout) -> Credit:
        """Every token of an answer has the answer's advantage."""
        advantages = leave_one_out(_charged(rollout, self.estimator), len(rollout.scores))
        return Credit(advantages[:, None] * rollout.real)


@dataclass(frozen=True)
class Experts:
    """Expert iteration: the policy learns its best answers as if they were demonstrations (Anthony et al., 2017).

    Args:
        keeping: which answers of a rollout these are.
    """

    keeping: Keeping

    def __call__(self, rollout: Rollout) -> Credit:
        """The same for all tokens of kept answers, so that the loss is the mean over these, and 0 for others."""
        rows = self.keeping.choose(rollout.scores.view(-1, rollout.group).tolist())
        kept = torch.zeros_like(rollout.real)
        for row, number in rows:
            kept[row * rollout.group + number] = 1
        kept = kept * rollout.real
        share = len(rows) / len(rollout.scores)
        return Credit(kept * rollout.real.sum() / kept.sum().clamp(min=1), kept=share)


def _charged(rollout: Rollout, estimator: Estimator) -> Answers:
    """Scores less what the KL of each answer costs."""
    kl = kl_estimates(rollout.policy - rollout.reference, estimator)
    return rollout.scores - rollout.kl * (kl * rollout.real).sum(1)
