"""The settings of alignment: what all methods share, and what some of them use besides."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from langwright.adaptation.options import with_methods
from langwright.alignment.keeping import Keeping
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
class AnswerSettings:
    """How a policy answers, and what its answers are worth.

    Args:
        reward: what an answer is worth: the folder of a reward model or a classifier, MODULE:FUNCTION, parses, tests,
            answer, regex:PATTERN, format:FORM, length, or a weighted sum such as "0.7 * FOLDER + 0.3 * parses".
        gold: a second reward, that is measured and neither learnt from nor chosen by. Where it falls while the reward
            goes on rising, the reward is exploited (over-optimisation).
        group: answers to each prompt.
        max_new_tokens: the most tokens of an answer.
        temperature: what logits are divided by when answers are drawn and compared; there is no other cut.
    """

    reward: str | None = None
    gold: str | None = None
    group: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0


@dataclass(frozen=True)
class RolloutSettings:
    """How a policy learns from its answers. A step is one rollout: the answers to --batch-size prompts.

    Args:
        missing_stop: what an answer loses of its reward if it does not end within --max-new-tokens.
        passes: how often a step learns from each answer; 4 for ppo and expert-iteration, and 1 for the others, unless
            given.
        mini_batches: the parts of a rollout, each of which is an update of the weights in each pass.
    """

    missing_stop: float = 0.0
    passes: int | None = None
    mini_batches: int = 1


@dataclass(frozen=True)
class PolicySettings:
    """How far a policy goes.

    Args:
        kl: the weight of the KL to the model that the run began with, against the reward.
        kl_target: the KL in nats an answer that the weight is adapted to, such as 6; the weight stays unless given.
        kl_horizon: so many answers change the weight by a fifth at most.
        estimator: of the KL: k1, k2 or k3; k3 for grpo, whose loss has a KL term, and k1 for the others, whose reward
            has one, unless given.
        entropy: what a nat of the policy's entropy is worth.
    """

    kl: float = 0.05
    kl_target: float | None = None
    kl_horizon: float = 10_000.0
    estimator: Literal["k1", "k2", "k3"] | None = None
    entropy: float = 0.0


@dataclass(frozen=True)
class ClipSettings:
    """How far a policy goes in a step, where its loss has a ratio to the policy that wrote the answers.

    Args:
        ratio_clip: how far the probability of a token may move in a step, as a share, before nothing is gained.
        ratio_clip_high: the same upwards, where it is another (DAPO).
    """

    ratio_clip: float = 0.2
    ratio_clip_high: float | None = None


@dataclass(frozen=True)
class ValueSettings:
    """How ppo tells what each token is worth.

    Args:
        value_model: head (a linear function of the policy's hidden states) or model (a second model, trained too).
        value_weight: weight of the loss of the values.
        value_clip: how far a value may move in a step before nothing is gained.
        discount: gamma: what a reward is worth a token earlier.
        gae: lambda: 1 takes advantages from the rewards that came, 0 from the values alone.
        whiten_rewards: divide rewards by their standard deviation.
    """

    value_model: Literal["head", "model"] = "head"
    value_weight: float = 0.1
    value_clip: float = 0.2
    discount: float = 1.0
    gae: float = 0.95
    whiten_rewards: bool = False


@dataclass(frozen=True)
class GroupSettings:
    """How grpo compares the answers to a prompt.

    Args:
        scale_rewards: what advantages are divided by: the standard deviation of the group, of the batch, or none.
        aggregation: the mean of the losses of tokens: over all tokens of a rollout (dapo) or of a mini-batch (bnpo),
            first over those of an answer (grpo), or their sum over the longest answer possible (dr_grpo).
        ratio: what is clipped: the ratio of a token, or of a whole answer (sequence: GSPO).
    """

    scale_rewards: Literal["group", "batch", "none"] = "group"
    aggregation: Literal["grpo", "bnpo", "dapo", "dr_grpo"] = "dapo"
    ratio: Literal["token", "sequence"] = "token"


@dataclass(frozen=True)
class SharedSettings:
    """What every method of alignment uses.

    Args:
        method: reward (a model that scores answers), or how a policy learns: dpo, ipo or simpo (from pairs), kto (from
            answers that are good or bad), orpo (from pairs, the chosen answers besides), ppo, grpo, rloo or reinforce
            (from rewards of its own answers), expert-iteration (from the best of them, as from demonstrations). Nothing
            is trained by best-of-n, which leaves the best of many answers to each prompt in OUT/best.jsonl, for
            finetune, and best and worst in OUT/pairs.jsonl, for dpo.
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

    method: Literal[
        "reward", "dpo", "ipo", "simpo", "kto", "orpo", "ppo", "grpo", "rloo", "reinforce", "expert-iteration",
        "best-of-n",
    ] = "dpo"  # fmt: skip
    validation: str | None = None
    split: str | None = None
    template: str | None = None
    skip: bool = False
    context: int | None = None
    bits: Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4"] | None = None


@with_methods
@dataclass(frozen=True)
class AlignRecipe(
    RewardSettings,
    StrengthSettings,
    LossSettings,
    MarginSettings,
    JudgementSettings,
    AnswerSettings,
    Keeping,
    RolloutSettings,
    PolicySettings,
    ClipSettings,
    ValueSettings,
    GroupSettings,
    SharedSettings,
    TrainingRecipe,
):
    """How a model is aligned, and the options of all methods; for one epoch by default."""

    method_field: ClassVar[str] = "adapter"
    usual_steps: ClassVar[str] = "1 epochs"
    schedule: Literal["linear", "cosine", "trapezoid", "halving"] = "linear"
    batch_size: int = 8
    log_every: str = "1 steps"

    def __post_init__(self) -> None:
        super().__post_init__()
        for names, holds, wanted in _LIMITS:
            for name in names.split():
                value = getattr(self, name)
                check_flag(name, value, value is None or holds(value), wanted)
        if self.share is not None and self.threshold is not None:
            raise UserError(f"--threshold {self.threshold}: has no place beside --share {self.share}; leave one out")
        if self.kl_target is not None:
            answers = self.batch_size * self.group
            wanted = f"at least {answers}, the answers of a step, for the weight to stay above 0"
            check_flag("kl_horizon", self.kl_horizon, self.kl_horizon >= answers, wanted)
            check_flag("kl", self.kl, self.kl > 0, "above 0 where a --kl-target is to adapt it")
        elif self.kl_horizon != PolicySettings.kl_horizon:
            raise UserError(f"--kl-horizon {self.kl_horizon}: is how fast a --kl-target is followed; give one")
        if self.z_loss:
            raise UserError(f"--z-loss {self.z_loss}: means nothing for the losses of alignment; leave it out")
        if self.optimizer == "muon" and getattr(self, "adapter", "full") != "full":
            raise UserError("--optimizer muon: is for the matrices of a whole model; adapters take adamw")


_LIMITS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("group max_new_tokens passes mini_batches", lambda n: n >= 1, "at least 1"),
    (
        "kl entropy missing_stop centring target_margin desirable undesirable",
        lambda weight: 0 <= weight < math.inf,
        "0 or more, and finite",
    ),
    (
        "beta kl_target kl_horizon ratio_clip_high value_weight value_clip",
        lambda n: 0 < n < math.inf,
        "above 0 and finite",
    ),
    ("share", lambda share: 0 < share <= 1, "above 0 and at most 1"),
    ("ratio_clip", lambda share: 0 < share < 1, "above 0 and below 1"),
    ("smoothing", lambda share: 0 <= share < 0.5, "at least 0 and below 0.5"),
    ("discount gae", lambda share: 0 <= share <= 1, "between 0 and 1"),
)
"""Settings, what holds for their values, and the same in words."""


def check_used(recipe: AlignRecipe, used: dict[str, tuple[type, ...]]) -> None:
    """UserError for a setting that the method of a recipe does not use. used: the settings of each method."""
    for settings in dict.fromkeys(each for classes in used.values() for each in classes):
        if settings in used[recipe.method]:
            continue
        for field in fields(settings):
            value: Any = getattr(recipe, field.name)
            if value != field.default:
                flag = f"--{field.name.replace('_', '-')} {value}"
                users = " or ".join(method for method, classes in used.items() if settings in classes)
                raise UserError(f"{flag}: goes with --method {users}, not with {recipe.method}")
