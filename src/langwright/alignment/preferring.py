"""The runs by which a policy learns from preferences themselves, without a reward model."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from langwright.alignment.recipe import AlignRecipe
from langwright.alignment.setup import Setup, held_out_terms
from langwright.base.console import warn
from langwright.base.errors import UserError
from langwright.data.preferences import judged_examples, judged_rows, ranked_examples, ranked_rows, tell_rows
from langwright.data.supply import Batches
from langwright.objectives.batch import Models
from langwright.objectives.preferences import (
    DPO,
    IPO,
    ORPO,
    JudgedBatch,
    JudgementOptimisation,
    PairLoss,
    PairOptimisation,
    SimPO,
)
from langwright.training.ranks import Ranks
from langwright.training.trainer import Job

RATE = 0.1
"""Of the usual learning rate of fine-tuning: a policy that goes too far forgets more than it learns."""
BALANCED = (1.0, 4 / 3)
"""What weight * number of good answers over that of bad ones should be between (KTO, Ethayarajh et al., 2024)."""


def pair_loss(recipe: AlignRecipe) -> PairLoss:
    """The loss that a recipe asks for; UserError where its settings do not go together."""
    strength: dict[str, Any] = {} if recipe.beta is None else {"beta": recipe.beta}
    forms = {"dpo": ("sigmoid", "robust", "hinge"), "ipo": ("mean", "sum")}.get(recipe.method, ())
    form: Any = recipe.loss or next(iter(forms), None)
    if recipe.loss is not None and recipe.loss not in forms:
        raise UserError(f"--loss {recipe.loss}: --method {recipe.method} has {' or '.join(forms)}")
    if recipe.smoothing and form not in ("sigmoid", "robust"):
        raise UserError(f"--smoothing {recipe.smoothing}: goes with --loss sigmoid or robust, not with {form}")
    match recipe.method:
        case "dpo":
            return DPO(**strength, form=form, smoothing=recipe.smoothing)
        case "ipo":
            return IPO(**strength, form=form)
        case "simpo":
            return SimPO(**strength, target_margin=recipe.target_margin)
    return ORPO(**strength)


def pair_job(setup: Setup) -> Job:
    """A run that teaches a policy to prefer the better of two answers."""
    loss = pair_loss(setup.recipe)
    setup.open_policy()
    training, held_out, record = setup.rows()
    fitting = setup.choose_format(training.items)
    seen, measured = (ranked_examples(side.pairs().items, fitting, side.spec) for side in (training, held_out))
    fitting.tell(training.spec)
    rows, others = ranked_rows(seen, setup.context), ranked_rows(measured, setup.context)
    tell_rows(training.spec, len(seen), len(measured), rows.inputs)
    objective = PairOptimisation(loss, setup.reference)
    supply = setup.supply(rows, others, record, sampled=held_out.items[0])
    return setup.job(
        supply=supply,
        models=lambda: setup.policy(compared=loss.compares),
        objective=lambda ranks: objective,
        evaluate=held_out_terms(objective, supply, len(measured)),
        rate=RATE,
    )


def judged_job(setup: Setup) -> Job:
    """A run that teaches a policy from answers that are good or bad."""
    recipe = setup.recipe
    setup.open_policy()
    training, held_out, record = setup.rows()
    fitting = setup.choose_format(training.items)
    seen, measured = (judged_examples(side.judged().items, fitting, side.spec) for side in (training, held_out))
    fitting.tell(training.spec)
    rows, others = judged_rows(seen, setup.context), judged_rows(measured, setup.context)
    tell_rows(training.spec, len(seen), len(measured), rows.inputs)
    good = sum(example.good for example in seen)
    _tell_balance(good, len(seen) - good, recipe)
    beta = 0.1 if recipe.beta is None else recipe.beta
    objective = JudgementOptimisation(setup.reference, beta, recipe.desirable, recipe.undesirable)
    supply = setup.supply(rows, others, record, sampled=held_out.items[0])
    batches = JudgedBatches(Batches(rows, setup.layout), objective, recipe.micro_batch or recipe.batch_size)

    def of_ranks(ranks: Ranks) -> JudgementOptimisation:
        batches.ranks = ranks
        return objective

    return setup.job(
        supply=replace(supply, batches=batches),
        models=lambda: setup.policy(compared=True),
        objective=of_ranks,
        evaluate=held_out_terms(objective, supply, len(measured)),
        rate=RATE,
    )


def _tell_balance(good: int, bad: int, recipe: AlignRecipe) -> None:
    """A warning where good and bad answers count unequally."""
    low, high = BALANCED
    better, worse = good * recipe.desirable, bad * recipe.undesirable
    if not better or not worse:
        warn(f"all answers that count are {'good' if better else 'bad'}; nothing says what the others are like")
    elif not low <= (ratio := better / worse) <= high:
        best = ratio * recipe.undesirable
        told = f"--undesirable {best / high:.2f} to {best / low:.2f} would balance them"
        warn(f"{good:,} good answers and {bad:,} bad ones count as {ratio:.2f} to 1; {told}")


class JudgedBatches:
    """Judged answers with the KL that the whole step is compared with, which the policy as it is then decides.

    So micro-batches and ranks see one number, and add up to the step.

    Args:
        batches: each step's answers.
        objective: what computes log-ratios.
        size: rows in a forward pass.

    Attributes:
        ranks: the processes that share a step.
    """

    updates = 1

    def __init__(self, batches: Batches, objective: JudgementOptimisation, size: int) -> None:
        self._batches, self._objective, self._size, self._step = batches, objective, size, 0
        self.windows, self.tokens_per_step = batches.windows, batches.tokens_per_step
        self.ranks = Ranks()

    @torch.no_grad()
    def next(self, models: Models) -> JudgedBatch:
        """The batch of the next step."""
        batch: Any = self._batches.batch(self._step)
        self._step += 1
        device = models["model"].device
        total = torch.zeros(2, device=device)
        for start in range(0, len(batch), self._size):
            part = batch.rows(start, start + self._size).to(device)
            ratios = self._objective.log_ratios(models, part, 1)
            total += torch.stack([ratios.sum(), torch.full_like(ratios[0], len(part))])
        ratio, rows = self.ranks.sum(total)
        return replace(batch, kl=(ratio / rows).clamp(min=0).cpu().expand(len(batch)))

    def state(self) -> dict[str, Tensor]:
        """How many steps there were."""
        return {"step": torch.tensor(self._step)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self._step = int(state["step"])

    def record(self) -> dict[str, Any]:
        """See `Batches.record`."""
        return self._batches.record()
