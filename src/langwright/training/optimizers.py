"""Which optimizer moves which parameter, and how fast."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from langwright.training.adamw import LeanAdamW
from langwright.training.muon import Muon


@dataclass(frozen=True)
class Rates:
    """Peak learning rates and the settings of the optimizers.

    kind: "adamw" for all parameters; "muon" for the matrices of the body, with AdamW for the rest.
    adamw, muon: their peaks. embedding, head: peaks of the token table and of an untied head, `adamw` unless given.
    bits, host: how AdamW's averages are kept, see `LeanAdamW`.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    adamw: float = 1e-3
    muon: float = 0.02
    embedding: float | None = None
    head: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    bits: int = 32
    host: bool = False


def make_optimizers(
    named: Mapping[str, nn.Parameter], rates: Rates, factor: Callable[[str], float] = lambda name: 1.0
) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's parameters, each in exactly one of them; "peak" in a group is its learning rate.

    Matrices decay, vectors (norms, biases) do not; with Muon the embedding and the head do not either.
    factor: what a parameter's peak under AdamW is multiplied by, given its name.
    """
    muon: list[nn.Parameter] = []
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        embedding, head = name.startswith("body.embed."), name.startswith("head.")
        if rates.kind == "muon" and parameter.ndim == 2 and not embedding and not head:
            muon.append(parameter)
            continue
        peak = (rates.embedding if embedding else rates.head if head else None) or rates.adamw
        peak *= factor(name)
        decays = parameter.ndim > 1 and rates.kind == "adamw"
        groups.setdefault((peak, rates.weight_decay if decays else 0.0), []).append(parameter)
    adamw_groups = [
        {"params": ps, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), ps in groups.items()
    ]
    made: list[torch.optim.Optimizer] = []
    if rates.bits == 32 and not rates.host:
        made.append(torch.optim.AdamW(adamw_groups, betas=rates.betas, fused=True))
    else:
        made.append(LeanAdamW(adamw_groups, betas=rates.betas, bits=rates.bits, host=rates.host))
    if muon:
        made.append(Muon(muon, rates.muon, rates.weight_decay))
        made[-1].param_groups[0]["peak"] = rates.muon
    return made


def scale_learning_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
