"""The runs in which a policy learns from rewards of its own answers: PPO, GRPO, RLOO, REINFORCE, expert iteration."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from langwright.alignment.groups import Experts, Grpo, Reinforce, Rloo
from langwright.alignment.keeping import Keeping
from langwright.alignment.ppo import Ppo, Values
from langwright.alignment.recipe import AlignRecipe
from langwright.alignment.rewards import open_reward
from langwright.alignment.rollouts import Method, Plan, Question, Rollouts
from langwright.alignment.setup import Setup
from langwright.base.console import say
from langwright.base.errors import UserError, check_flag
from langwright.corpora.preferences import Prompt, open_prompts
from langwright.data.preferences import Fitting, text_of
from langwright.data.supply import Supply
from langwright.objectives.batch import Models
from langwright.objectives.policy import Aggregation, PolicyOptimisation, Ratio
from langwright.training.trainer import Evaluation, Job

Row = dict[str, Any]
MEASURED = 128
"""Held-out prompts that are answered to measure a policy."""
SHOWN = 12
"""Held-out prompts whose answers before and after are shown."""
SLOWER = 0.2
"""What the usual learning rate of fine-tuning is multiplied by."""


@dataclass(frozen=True)
class Learning:
    """How one method learns.

    Args:
        credit: from scores to advantages.
        loss: what it lowers.
        aggregation: see `aggregate`.
        passes: see `Plan`; unless the recipe says.
        charged: whether leaving the reference costs anything.
    """

    credit: Method
    loss: PolicyOptimisation
    aggregation: Aggregation
    passes: int = 1
    charged: bool = True


def _ppo(recipe: AlignRecipe) -> Learning:
    credit = Ppo(recipe.discount, recipe.gae, recipe.estimator or "k1", recipe.whiten_rewards)
    loss = PolicyOptimisation(value=recipe.value_weight, value_clip=recipe.value_clip)
    return Learning(credit, loss, "bnpo", passes=4)


def _grpo(recipe: AlignRecipe) -> Learning:
    ratio: Ratio = "token" if recipe.ratio == "token" else "mean"
    loss = PolicyOptimisation(ratio, penalised=True, estimator=recipe.estimator or "k3")
    return Learning(Grpo(recipe.scale_rewards), loss, recipe.aggregation)


def _rloo(recipe: AlignRecipe) -> Learning:
    return Learning(Rloo(recipe.estimator or "k1"), PolicyOptimisation("sum"), "grpo")


def _reinforce(recipe: AlignRecipe) -> Learning:
    return Learning(Reinforce(recipe.estimator or "k1"), PolicyOptimisation("none"), "sum")


def _expert_iteration(recipe: AlignRecipe) -> Learning:
    experts = Experts(Keeping(recipe.share, recipe.threshold))
    return Learning(experts, PolicyOptimisation("none"), "bnpo", passes=4, charged=False)


LEARNING: Mapping[str, Callable[[AlignRecipe], Learning]] = {
    "ppo": _ppo,
    "grpo": _grpo,
    "rloo": _rloo,
    "reinforce": _reinforce,
    "expert-iteration": _expert_iteration,
}


def learning_of(recipe: AlignRecipe) -> Learning:
    """How the method of a recipe learns, with the settings that all methods have."""
    learning = LEARNING[recipe.method](recipe)
    low, high = recipe.ratio_clip, recipe.ratio_clip if recipe.ratio_clip_high is None else recipe.ratio_clip_high
    loss = replace(learning.loss, temperature=recipe.temperature, entropy=recipe.entropy, low=low, high=high)
    return replace(learning, loss=loss)


def policy_job(setup: Setup) -> Job:
    """A run in which a policy answers prompts, and learns from what its answers are worth."""
    recipe = setup.recipe
    if recipe.reward is None:
        raise UserError(f"--reward: --method {recipe.method} needs one: a folder, module:function, parses, regex:...")
    _check(recipe)
    setup.open_policy()
    training, held_out, record = setup.rows(open_prompts)
    fitting = setup.choose_format(training.items)
    asked, measured = (questions(side.items, fitting, recipe.max_new_tokens) for side in (training, held_out))
    fitting.tell(training.spec)
    if not asked or not measured:
        raise UserError(f"{training.spec}: no prompt is left that an answer fits behind; lower --max-new-tokens")
    say(f"{training.spec}: {len(asked):,} prompts to learn from, {len(measured):,} held out")
    learning = learning_of(recipe)
    loss = learning.loss
    plan = Plan(
        group=recipe.group,
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        passes=recipe.passes or learning.passes,
        mini_batches=recipe.mini_batches,
        micro_batch=recipe.micro_batch,
        missing_stop=recipe.missing_stop,
        kl=recipe.kl if learning.charged else 0.0,
        kl_target=recipe.kl_target,
        horizon=recipe.kl_horizon,
        aggregation=learning.aggregation,
    )
    rollouts = Rollouts(
        asked,
        setup.layout,
        tokenizer=setup.form.tokenizer,
        reward=open_reward(recipe.reward, setup.form.tokenizer),
        method=learning.credit,
        plan=plan,
        reference=setup.reference,
        held_out=measured,
        gold=None if recipe.gold is None else open_reward(recipe.gold, setup.form.tokenizer),
    )
    count = min(len(measured), MEASURED)

    def models() -> Models:
        found: dict[str, nn.Module] = dict(setup.policy(compared=True))
        if loss.value:
            own = setup.base() if recipe.value_model == "model" else None
            if own is not None:
                own.head = None  # its hidden states are all that is asked of it
                setup.trained(own)
            found["value"] = Values(setup.folder.config.width, own)
        return found

    def evaluate(models: Models, windows: int | None, stopped: Callable[[], bool]) -> Evaluation:
        found = rollouts.measure(models, min(count, windows or count)).numbers
        told: Row = {name: found[name] for name in ("reward", "gold", "kl", "entropy", "length") if name in found}
        return Evaluation({f"validation_{name}": value for name, value in told.items()}, {**told, "rows": count})

    def finish(models: Models) -> Row:
        return {"answers": before_and_after(rollouts, models, min(count, SHOWN))}

    def save(models: Models, masters: Mapping[str, Tensor], record: Row) -> None:
        policy = {name: master for name, master in masters.items() if not name.startswith("value.")}
        setup.save(models, policy, record)

    tokens = count * recipe.max_new_tokens
    return setup.job(
        supply=Supply(
            setup.form.tokenizer,
            rollouts,
            lambda limit: iter(()),
            tokens,
            None,
            {**record, "format": setup.form.name},
            prompt=None,
            drawn=lambda step: rollouts.numbers,
        ),
        models=models,
        objective=lambda ranks: loss,
        evaluate=evaluate,
        rate=SLOWER,
        on_finish=finish,
        save=save,
    )


def _check(recipe: AlignRecipe) -> None:
    """UserError where the settings of a recipe do not go together."""
    if recipe.group < 2 and recipe.method in ("grpo", "rloo"):
        raise UserError(f"--group {recipe.group}: {recipe.method} compares answers to one prompt; give 2 or more")
    if recipe.batch_size * recipe.group < 2:
        raise UserError(f"--batch-size {recipe.batch_size}: one answer a step is compared with nothing; give more")
    if recipe.method == "reinforce":
        updates = {"passes": recipe.passes or 1, "mini_batches": recipe.mini_batches}
        for name, value in updates.items():
            wanted = "1 for reinforce, whose loss is right for the first update with an answer alone; ppo has a ratio"
            check_flag(name, value, value == 1, wanted)
    if recipe.compile:
        raise UserError(f"--compile: no two rollouts of {recipe.method} have one shape; leave it out")


def before_and_after(rollouts: Rollouts, models: Models, count: int) -> list[Row]:
    """What the reference and the policy answer to some held-out prompts, and what that is worth."""
    asked, before, worth = rollouts.first(models, count)
    after = rollouts.measure(models, count)
    both = zip(asked, before, after.answers, worth.tolist(), after.worth.tolist(), strict=True)
    return [
        {
            "prompt": text_of(question.prompt.prompt),
            "before": old.text,
            "after": new.text,
            "reward before": was,
            "reward after": now,
        }
        for question, old, new, was, now in both
    ]


def questions(prompts: Sequence[Prompt], fitting: Fitting, room: int) -> list[Question]:
    """Prompts as the policy reads them.

    Args:
        prompts: of the rows.
        fitting: how they become tokens; one that is too long is left out where it says so.
        room: the tokens that an answer may have.

    Raises:
        UserError: Naming file and row of a prompt behind which an answer does not fit the context.
    """
    found = []
    for prompt in prompts:
        ids = fitting.prompt_ids(prompt.prompt, prompt.source)
        if ids is not None and len(ids) + room > fitting.context:
            if not fitting.skip:
                told = f"a prompt of {len(ids)} tokens and {room} of an answer do not fit {fitting.context}"
                raise UserError(f"{prompt.source}: {told}; lower --max-new-tokens, or --skip leaves such rows out")
            fitting.left += 1
            ids = None
        if ids is not None:
            found.append(Question(tuple(ids), prompt))
    return found
