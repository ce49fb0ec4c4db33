"""Models, their masters and their optimizers: what one step of training changes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from langwright.objectives.batch import Batch, Objective
from langwright.training.optimizers import make_optimizers, scale_factors
from langwright.training.precision import Masters
from langwright.training.ranks import Ranks
from langwright.training.recipe import TrainingRecipe

MARK = "part: "


def part(name: str) -> record_function:
    """Mark what follows as a part of the step, for `training/profile.py`; without a profiler it costs microseconds."""
    return record_function(MARK + name)


class Step(nn.Module):
    """An objective as the forward pass of a module, which is what PyTorch's data parallelism wraps."""

    def __init__(self, models: nn.ModuleDict, objective: Objective):
        super().__init__()
        self.models, self.objective = models, objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of each term."""
        return self.objective(self.models, batch)


@dataclass(frozen=True)
class Backward:
    """What a batch came to, over all ranks.

    Args:
        loss: the loss.
        tokens: what a run counts as its tokens (`Batch.inputs`).
        measured: the mean of each term that has no weight, by its name.
    """

    loss: Tensor
    tokens: Tensor
    measured: Mapping[str, Tensor] = field(default_factory=dict)


class Learner:
    """Turns batches into changed weights.

    Args:
        models: by name, on their device; the parameters that ask for gradients are trained.
        objective: what is lowered.
        dtype: what the models compute in; masters are in float32.
        recipe: optimizers and their settings, clipping, micro-batches; its learning rate is given.
        factor: see `make_optimizers`.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        objective: Objective,
        dtype: torch.dtype,
        recipe: TrainingRecipe,
        factor: Callable[[str], float] = lambda name: 1.0,
        ranks: Ranks = Ranks(),
    ):
        self.models = nn.ModuleDict(models)
        self.objective, self.recipe, self.ranks = objective, recipe, ranks
        self.learning_rate = (recipe.muon_learning_rate if recipe.optimizer == "muon" else recipe.learning_rate) or 0.0
        self.masters = Masters(self.models, dtype)
        scaled = scale_factors(self.model)
        self.optimizers = make_optimizers(self.masters.named, recipe, lambda n: factor(n) * scaled.get(n, 1.0))
        self.step_module = ranks.shard(Step(self.models, objective))

    @property
    def model(self) -> Any:
        """The one that a run is about; others (a reference, a critic) stand beside it."""
        return self.models["model"]

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.masters.named.values())

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.masters.working[0].device

    def backward(self, batch: Batch) -> Backward:
        """Forward, loss and backward of one update, in micro-batches."""
        self.models.train()
        self.masters.zero_gradients()
        terms, weights = self.objective.counts(batch), self.objective.weights
        counted = batch.inputs(next(iter(terms.values())))
        *sums, tokens = self.ranks.sum(torch.stack([*terms.values(), counted]))
        counts = dict(zip(terms, torch.stack(sums).clamp(min=1).to(self.device), strict=True))
        scales = {name: weights[name] / count for name, count in counts.items() if name in weights}
        only = [name for name in counts if name not in weights]
        zero = torch.zeros((), device=self.device)
        totals = zero.repeat(1 + len(only))  # of the loss, and of the terms that are only measured
        size = self.recipe.micro_batch or len(batch)
        for start in range(0, len(batch), size):
            rows = batch.rows(start, start + size).to(self.device)
            last = start + size >= len(batch)
            # Masters of their own take up the gradients of each micro-batch, which must be those of all ranks by then.
            with nullcontext() if last or not self.masters.shared else self.ranks.apart(self.step_module):
                found = self.step_module(rows)
                weighted = [scales[name] * value for name, value in found.items() if name in scales]
                loss = torch.stack(weighted).sum() if weighted else zero
                if loss.requires_grad:
                    (loss * self.ranks.world).backward()  # data parallelism takes the mean over ranks
            with part("optimizer"):
                self.masters.gather()
            totals += torch.stack([loss.detach(), *(found.get(name, zero).detach().float() for name in only)])
        loss, *means = self.ranks.sum(totals)
        return Backward(loss, tokens, {name: mean / counts[name] for name, mean in zip(only, means, strict=True)})

    def clip(self) -> Tensor:
        """Scale the gradient down to the largest allowed norm; returns its norm before."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.masters.named.values() if p.grad is not None])
        # On a GPU the question would wait for all that is under way; scaling by 1 costs less.
        if self.recipe.clip and (norm.is_cuda or norm > self.recipe.clip):
            torch.nn.utils.clip_grads_with_norm_(self.masters.named.values(), self.recipe.clip, norm)
        return norm

    def step(self, factor: float) -> None:
        """Change the weights with `factor` times the peak learning rates."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        self.masters.publish()

    @torch.no_grad()
    def culprits(self, batch: Batch) -> list[int]:
        """The sample numbers whose own loss is not finite; all of the batch's when only the gradient is not."""
        numbers = list(range(len(batch))) if batch.samples is None else batch.samples.tolist()
        here = batch.to(self.device)
        losses = (self.objective(self.models, here.rows(i, i + 1)).values() for i in range(len(batch)))
        bad = [n for n, terms in zip(numbers, losses, strict=True) if not all(term.isfinite() for term in terms)]
        found = self.ranks.collect((bad, numbers))
        return [n for bad, _ in found for n in bad] or [n for _, numbers in found for n in numbers]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """While the block runs, models are in eval mode, without gradients.

        Compiled blocks go uncompiled: they are for training's one shape.
        """
        self.models.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield

    def tensors(self) -> dict[str, Tensor]:
        """The optimizers' memory, by parameter and name."""
        names: dict[Tensor, str] = {master: name for name, master in self.masters.named.items()}
        return {
            f"{names[master]}/{key}": value
            for optimizer in self.optimizers
            for master, memory in optimizer.state.items()
            for key, value in memory.items()
        }

    def load(self, masters: dict[str, Tensor], memory: dict[str, Tensor]) -> None:
        """Take up weights and optimizer memory saved from a learner of the same models."""
        self.masters.load(masters)
        self.forget()
        for key, value in memory.items():
            name, _, kind = key.rpartition("/")
            master = self.masters.named[name]
            owner = next(o for o in self.optimizers if any(p is master for g in o.param_groups for p in g["params"]))
            owner.state[master][kind] = value.to(master.device)

    def forget(self) -> None:
        """Empty the optimizers' memory."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
