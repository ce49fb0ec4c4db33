"""A model, its masters and its optimizer: what one step of training changes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from langwright.objectives.batch import Batch
from langwright.training.optimizers import Rates, make_optimizers, scale_learning_rates
from langwright.training.precision import Masters

MARK = "part: "


def part(name: str) -> record_function:
    """Mark what follows as a part of the step, for `training/profile.py`; without a profiler it costs microseconds."""
    return record_function(MARK + name)


Loss = Callable[[Any, Batch], Tensor]
"""(model, batch) -> the sum of the weighted losses of the batch's targets."""


class Learner:
    """Turns batches into changed weights.

    loss: a sum over targets; it is divided by the weight of all targets of the step, so that k micro-batches equal
    one batch. rates: of the optimizers. clip: largest gradient norm, 0 for none. factor: see `make_optimizers`.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        dtype: torch.dtype,
        rates: Rates,
        clip: float = 1.0,
        micro_batch: int | None = None,
        factor: Callable[[str], float] = lambda name: 1.0,
    ):
        self.model, self.loss, self.clip_norm, self.micro_batch = model, loss, clip, micro_batch
        self.learning_rate = rates.muon if rates.kind == "muon" else rates.adamw
        self.masters = Masters(model, dtype)
        self.optimizers = make_optimizers(self.masters.named, rates, factor)

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.masters.parameters)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.masters.working[0].device

    def backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forward, loss and backward of one step, in micro-batches: (mean loss in nats, weight of the targets)."""
        self.model.train()
        self.masters.zero_gradients()
        targets = batch.weights.sum().clamp(min=1)
        total = torch.zeros((), device=self.device)
        for rows in self._micro_batches(batch):
            loss = self.loss(self.model, replace(rows, weights=rows.weights / targets))
            loss.backward()
            with part("optimizer"):
                self.masters.gather()
            total += loss.detach()
        return total, targets

    def clip(self) -> Tensor:
        """Scale the gradient down to the largest allowed norm; returns its norm before."""
        moved = [p for p in self.masters.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in moved if p.grad is not None])
        # On a GPU the question would wait for all that is under way; scaling by 1 costs less.
        if self.clip_norm and (norm.is_cuda or norm > self.clip_norm):
            torch.nn.utils.clip_grads_with_norm_(moved, self.clip_norm, norm)
        return norm

    def step(self, factor: float) -> None:
        """Change the weights with `factor` times the peak learning rates."""
        scale_learning_rates(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
        self.masters.publish()

    @torch.no_grad()
    def culprits(self, batch: Batch) -> list[int]:
        """The sample numbers whose own loss is not finite; all of the batch's when only the gradient is not."""
        numbers = list(range(batch.ids.shape[0])) if batch.samples is None else batch.samples.tolist()
        here = batch.to(self.device)
        bad = [n for i, n in enumerate(numbers) if not self.loss(self.model, here.rows(i, i + 1)).isfinite()]
        return bad or numbers

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
        """Take up weights and optimizer memory saved from a learner of the same model."""
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

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        rows = batch.ids.shape[0]
        size = self.micro_batch or rows
        for start in range(0, rows, size):
            yield batch.rows(start, min(start + size, rows)).to(self.device)
