"""The one table of the methods of alignment: what each of them is a run of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from langwright.alignment.recipe import RewardSettings
from langwright.alignment.rewarding import reward_job
from langwright.alignment.setup import Setup
from langwright.training.trainer import Job


@dataclass(frozen=True)
class Method:
    """A method of alignment.

    Args:
        job: the run, given the model, its data and how; UserError where they do not go together.
        settings: those that it uses besides what all methods share; a flag of others is refused.
        use: the verb for what it makes.
    """

    job: Callable[[Setup], Job]
    settings: tuple[type, ...] = ()
    use: str = "generate {}"


METHODS: Mapping[str, Method] = {
    "reward": Method(reward_job, (RewardSettings,), "predict {} FILE"),
}
