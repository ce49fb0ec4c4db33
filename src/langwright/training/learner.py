"""A model, its masters and its optimizer: what one step of training changes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from langwright.objectives.batch import Batch
from langwright.training.precision import Masters

Loss = Callable[[Any, Batch], Tensor]
"""(model, batch) -> the sum of the weighted losses of the batch's targets."""


class Learner:
    """Turns batches into changed weights.

    loss: a sum over targets; it is divided by the weight of all targets of the step, so that k micro-batches equal
    one batch. clip: largest gradient norm, 0 for none. Matrices decay, vectors (norms, biases) do not.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        dtype: torch.dtype,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        clip: float = 1.0,
        micro_batch: int | None = None,
    ):
        self.model, self.loss, self.clip_norm, self.micro_batch = model, loss, clip, micro_batch
        self.learning_rate = learning_rate
        self.masters = Masters(model, dtype)
        matrices = [p for p in self.masters.parameters if p.ndim > 1]
        vectors = [p for p in self.masters.parameters if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True
        )

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
        for part in self._micro_batches(batch):
            loss = self.loss(self.model, part) / targets
            loss.backward()
            self.masters.gather()
            total += loss.detach()
        return total, targets

    def clip(self) -> Tensor:
        """Scale the gradient down to the largest allowed norm; returns its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.masters.parameters, self.clip_norm or float("inf"), foreach=True)

    def step(self, factor: float) -> None:
        """Change the weights with `factor` times the peak learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        self.optimizer.step()
        self.masters.publish()

    @torch.no_grad()
    def culprits(self, batch: Batch) -> list[int]:
        """The sample numbers whose own loss is not finite; all of the batch's when only the gradient is not."""
        numbers = list(range(batch.ids.shape[0])) if batch.samples is None else batch.samples.tolist()
        bad = [n for i, n in enumerate(numbers) if not self.loss(self.model, batch.rows(i, i + 1)).isfinite()]
        return bad or numbers

    def tensors(self) -> dict[str, Tensor]:
        """The optimizer's memory, by parameter and name."""
        return {
            f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
            for name, master in self.masters.named.items()
            for key, value in self.optimizer.state[master].items()
        }

    def load(self, masters: dict[str, Tensor], memory: dict[str, Tensor]) -> None:
        """Take up weights and optimizer memory saved from a learner of the same model."""
        self.masters.load(masters)
        self.optimizer.state.clear()
        for name, master in self.masters.named.items():
            kept = {key: value for key, value in memory.items() if key.rpartition("/")[0] == name}
            if kept:
                self.optimizer.state[master] = {
                    key.rpartition("/")[2]: value.to(master.device) for key, value in kept.items()
                }

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        rows = batch.ids.shape[0]
        size = self.micro_batch or rows
        for start in range(0, rows, size):
            yield batch.rows(start, min(start + size, rows)).to(self.device)
