"""The one table of the methods of alignment: what each of them is a run of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langwright.alignment.best_of_n import write_best
from langwright.alignment.keeping import Keeping
from langwright.alignment.optimising import policy_job
from langwright.alignment.preferring import judged_job, pair_job
from langwright.alignment.recipe import (
    AnswerSettings,
    ClipSettings,
    GroupSettings,
    JudgementSettings,
    LossSettings,
    MarginSettings,
    PolicySettings,
    RewardSettings,
    RolloutSettings,
    StrengthSettings,
    ValueSettings,
)
from langwright.alignment.rewarding import reward_job
from langwright.alignment.setup import Setup
from langwright.training.trainer import Job


@dataclass(frozen=True)
class Method:
    """A method of alignment.

    Args:
        job: the run, given the model, its data and how; UserError where they do not go together.
        settings: those that it uses besides what all methods share; a flag of others is refused.
        use: the verb for what it makes; for a policy, generate or chat.
        writes: what is done in place of a run, where nothing is trained; its result is printed.
    """

    job: Callable[[Setup], Job] | None
    settings: tuple[type, ...] = ()
    use: str | None = None
    writes: Callable[[Setup], dict[str, Any]] | None = None


POLICY = (AnswerSettings, RolloutSettings, PolicySettings)
"""What all policies use that learn from rewards of their answers."""
METHODS: Mapping[str, Method] = {
    "reward": Method(reward_job, (RewardSettings,), "predict {} FILE"),
    "dpo": Method(pair_job, (StrengthSettings, LossSettings)),
    "ipo": Method(pair_job, (StrengthSettings, LossSettings)),
    "simpo": Method(pair_job, (StrengthSettings, MarginSettings)),
    "kto": Method(judged_job, (StrengthSettings, JudgementSettings)),
    "orpo": Method(pair_job, (StrengthSettings,)),
    "ppo": Method(policy_job, (*POLICY, ClipSettings, ValueSettings)),
    "grpo": Method(policy_job, (*POLICY, ClipSettings, GroupSettings)),
    "rloo": Method(policy_job, (*POLICY, ClipSettings)),
    "reinforce": Method(policy_job, POLICY),
    "expert-iteration": Method(policy_job, (AnswerSettings, RolloutSettings, Keeping)),
    "best-of-n": Method(None, (AnswerSettings, Keeping), writes=write_best),
}
