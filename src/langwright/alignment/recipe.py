"""The settings of alignment: what all methods share, and what some of them use besides."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from langwright.adaptation.options import with_methods
from langwright.base.errors import UserError, check_flag
from langwright.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class RewardSettings:
    """How a reward model learns.

    Args:
        centring: weight of the square of the summed scores of a pair, which keeps scores near 0.
    """

    centring: float = 0.01


@dataclass(frozen=True)
class SharedSettings:
    """What every method of alignment uses.

    Args:
        method: reward (a model that scores answers), or how a policy learns: dpo.
        validation: a file of rows to measure on, in place of a share of the others.
        split: "10%" holds out the rows of 10 percent of the prompts; 0.9 trains on the first 90 percent.
        template: how conversations are written: chatml, zephyr, alpaca, llama2, llama3, or a file with a Jinja
            template; the model's own unless given. Prompts of text are then what a user says; without any template,
            answers go on with them.
        skip: leave out rows from which nothing can be learnt (equal answers, an empty one, a prompt longer than the
            context), and count them; without it they are errors.
        context: tokens of a prompt with an answer; the model's own context unless given.
        bits: quantise the linear layers of the model to int8, int4, int3, nf4 or fp4 on loading, to train an adapter
            over them (QLoRA).
    """

    method: Literal["reward"] = "reward"
    validation: str | None = None
    split: str | None = None
    template: str | None = None
    skip: bool = False
    context: int | None = None
    bits: Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4"] | None = None


@with_methods
@dataclass(frozen=True)
class AlignRecipe(RewardSettings, SharedSettings, TrainingRecipe):
    """How a model is aligned, and the options of all methods; for one epoch by default."""

    method_field: ClassVar[str] = "adapter"
    usual_steps: ClassVar[str] = "1 epochs"
    schedule: Literal["linear", "cosine", "trapezoid", "halving"] = "linear"
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("centring", self.centring, 0 <= self.centring < float("inf"), "0 or more, and finite")
        if self.z_loss:
            raise UserError(f"--z-loss {self.z_loss}: means nothing for the losses of alignment; leave it out")
        if self.optimizer == "muon" and getattr(self, "adapter", "full") != "full":
            raise UserError("--optimizer muon: is for the matrices of a whole model; adapters take adamw")


SETTINGS = (RewardSettings,)
"""The settings that some methods use and others do not."""


def check_used(recipe: AlignRecipe, used: dict[str, tuple[type, ...]]) -> None:
    """UserError for a setting that the method of a recipe does not use. used: the settings of each method."""
    for settings in SETTINGS:
        if settings in used[recipe.method]:
            continue
        for field in fields(settings):
            value: Any = getattr(recipe, field.name)
            if value != field.default:
                flag = f"--{field.name.replace('_', '-')} {value}"
                users = " or ".join(method for method, classes in used.items() if settings in classes)
                raise UserError(f"{flag}: goes with --method {users}, not with {recipe.method}")
