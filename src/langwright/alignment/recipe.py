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
class StrengthSettings:
    """How strongly a policy follows preferences.

    Args:
        beta: how much a difference of log-probabilities counts (the weight of the KL to the reference in dpo, ipo and
            kto, the scale of rewards in simpo), or the weight of the odds ratio in orpo; 0.1 and, for simpo, 2 unless
            given.
    """

    beta: float | None = None


@dataclass(frozen=True)
class LossSettings:
    """The form of a loss of pairs.

    Args:
        loss: for dpo sigmoid, robust or hinge, for ipo mean or sum over an answer's tokens; the first unless given.
        smoothing: the share of the preferences that are taken to be the wrong way round, for dpo with sigmoid (cDPO) or
            robust.
    """

    loss: Literal["sigmoid", "robust", "hinge", "mean", "sum"] | None = None
    smoothing: float = 0.0


@dataclass(frozen=True)
class MarginSettings:
    """What simpo asks for.

    Args:
        target_margin: by how much the reward of the chosen answer should be the higher one.
    """

    target_margin: float = 1.0


@dataclass(frozen=True)
class JudgementSettings:
    """How judged answers count.

    Args:
        desirable: weight of good answers.
        undesirable: weight of bad ones.
    """

    desirable: float = 1.0
    undesirable: float = 1.0


@dataclass(frozen=True)
class SharedSettings:
    """What every method of alignment uses.

    Args:
        method: reward (a model that scores answers), or how a policy learns: dpo, ipo or simpo (from pairs), kto (from
            answers that are good or bad), orpo (from pairs, the chosen answers besides).
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

    method: Literal["reward", "dpo", "ipo", "simpo", "kto", "orpo"] = "dpo"
    validation: str | None = None
    split: str | None = None
    template: str | None = None
    skip: bool = False
    context: int | None = None
    bits: Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4"] | None = None


@with_methods
@dataclass(frozen=True)
class AlignRecipe(
    RewardSettings, StrengthSettings, LossSettings, MarginSettings, JudgementSettings, SharedSettings, TrainingRecipe
):
    """How a model is aligned, and the options of all methods; for one epoch by default."""

    method_field: ClassVar[str] = "adapter"
    usual_steps: ClassVar[str] = "1 epochs"
    schedule: Literal["linear", "cosine", "trapezoid", "halving"] = "linear"
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("centring", "target_margin", "desirable", "undesirable"):
            value = getattr(self, name)
            check_flag(name, value, 0 <= value < float("inf"), "0 or more, and finite")
        check_flag("beta", self.beta, self.beta is None or 0 < self.beta < float("inf"), "above 0 and finite")
        check_flag("smoothing", self.smoothing, 0 <= self.smoothing < 0.5, "at least 0 and below 0.5")
        if self.z_loss:
            raise UserError(f"--z-loss {self.z_loss}: means nothing for the losses of alignment; leave it out")
        if self.optimizer == "muon" and getattr(self, "adapter", "full") != "full":
            raise UserError("--optimizer muon: is for the matrices of a whole model; adapters take adamw")


SETTINGS = (RewardSettings, StrengthSettings, LossSettings, MarginSettings, JudgementSettings)
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
