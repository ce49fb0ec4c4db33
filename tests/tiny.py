"""A tiny model, its data and a run over them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from langwright.models.families import FAMILIES
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.surgery.quantise import is_chosen, place, scheme_of
from langwright.models.tasks import entries
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.training.checkpoints import Checkpoints
from langwright.training.learner import Learner
from langwright.training.loop import Hooks, Run
from langwright.training.recipe import TrainingRecipe

CONFIG = GPT2Config(
    vocab_size=29, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1
)


def tiny_model(dropout: float = 0.0) -> Model:
    config = GPT2Config(**{**vars(CONFIG), "resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout})
    return new_model("gpt2", config, seed=1)


@torch.no_grad()
def quantise_model(model: Model, bits: int | str) -> None:
    """Quantise in memory what `load_model(..., bits=bits)` quantises."""
    for entry in entries(FAMILIES[model.family], model.config, model.task):
        if is_chosen(model, entry):
            upright = replace(entry, transposed=False).join([model.get_parameter(name) for name in entry.ours])
            place(model, entry, scheme_of(bits).quantise(upright), upright.device)


def batch_of(step: int, rows: int = 8, time: int = 16) -> TokenBatch:
    ids = torch.randint(0, 29, (rows, time + 1), generator=torch.Generator().manual_seed(step))
    weights = torch.ones(rows, time)
    weights[0, step % time :] = 0
    samples = torch.arange(step * rows, (step + 1) * rows)
    return TokenBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights, samples=samples)


@dataclass
class TinyBatches:
    """Each step its own batch, made by a function."""

    batch: Callable[[int], Any] = batch_of
    windows: int = 8
    tokens_per_step: int = 128
    name: str = "tiny"

    def record(self) -> dict[str, Any]:
        return {"data": self.name}


RECIPE = TrainingRecipe(
    learning_rate=1e-2, warmup=0.1, decay=0.5, log_every="1", save_every="4", evaluate_every="5", sample_every="0"
)


def tiny_learner(dropout: float = 0.0, dtype: torch.dtype = torch.float32, **changes: Any) -> Learner:
    """changes: of `RECIPE`."""
    return Learner({"model": tiny_model(dropout)}, TokenPrediction(), dtype, replace(RECIPE, **changes))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def killed_at(step: int) -> Hooks:
    """Lose the process at the end of a step."""

    def die(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Killed

    return Hooks(on_row=die)


def tiny_run(
    folder: Path,
    learner: Learner,
    steps: int = 12,
    identity: dict[str, Any] | None = None,
    hooks: Hooks = Hooks(),
    batches: Any = TinyBatches(),
) -> Run:
    return Run(learner, batches, Checkpoints(folder / "checkpoints", identity or {"seed": 1}, keep=2), steps, hooks)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
