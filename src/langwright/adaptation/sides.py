"""What stands beside a model's own maps: the parts of adapters, and which of them answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from langwright.base.errors import UserError
from langwright.parts.heads import LanguageHead, Projection
from langwright.parts.linear import Linear
from langwright.parts.stack import Embedding

Owner = Linear | Embedding | LanguageHead
"""What an adapter can stand beside: a linear map, a token table, or the head over the vocabulary."""
Answer = Callable[[Tensor], Tensor]
BASE = "base"
"""The name of no adapter: the model as it was."""


class Part(nn.Module, ABC):
    """What one adapter has beside one map."""

    @abstractmethod
    def forward(self, x: Tensor, owner: Owner, answer: Answer) -> Tensor:
        """What the map gives for x with this part; `answer` gives it without (or with the parts chosen before it)."""

    @abstractmethod
    def merged(
        self, owner: Owner, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"] | None]:
        """Weight and bias of the plain map, in float32, that gives the same as the map with this part."""

    def projection(self, plain: Projection, owner: Owner) -> Projection:
        """What the head's logits are made of with this part; `plain` is without, or with the parts chosen before it."""
        bias = None if plain.bias is None else plain.bias.float()
        weight, bias = self.merged(owner, plain.weight.float(), bias)
        return replace(plain, weight=weight, bias=bias)


class Choice:
    """Which adapters of a model answer: `names`, one around the other; or, in a mixed batch, one for each row.

    rows: the rows of each name, where a batch is mixed. count: how many rows there are.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.rows: dict[str, Tensor] | None = None
        self.count = 0

    def mix(self, names: Sequence[str]) -> None:
        """Row i of every batch is answered by `names[i]`."""
        self.rows = {name: torch.tensor([i for i, n in enumerate(names) if n == name]) for name in dict.fromkeys(names)}
        self.count = len(names)


class Sides(nn.Module):
    """The parts beside one map, by the name of their adapter; those that are chosen answer."""

    def __init__(self, choice: Choice):
        super().__init__()
        self.held = nn.ModuleDict()
        self.choice = choice

    def forward(self, x: Tensor, owner: Owner) -> Tensor:
        if self.choice.rows is not None:
            return self._by_rows(x, owner, self.choice.rows)
        answer: Answer = owner.plain
        for name in self.choice.names:
            if name in self.held:
                answer = partial(self.held[name], owner=owner, answer=answer)
        return answer(x)

    def projection(self, plain: Projection, owner: Owner) -> Projection:
        """What the head's logits are made of with the parts that are chosen."""
        if self.choice.rows is not None:
            raise ValueError("one product cannot serve rows with different heads: a mixed batch gives logits only")
        chosen = [self.held[name] for name in self.choice.names if name in self.held]
        if len(chosen) == 1:
            return chosen[0].projection(plain, owner)  # type: ignore[operator]
        for part in chosen:
            plain = Part.projection(part, plain, owner)  # type: ignore[arg-type]
        return plain

    def _by_rows(self, x: Tensor, owner: Owner, rows: dict[str, Tensor]) -> Tensor:
        if x.shape[0] != self.choice.count:
            raise ValueError(f"{self.choice.count} adapters were chosen for the rows of a batch of {x.shape[0]}")
        places, answers = [], []
        for name, numbers in rows.items():
            at = numbers.to(x.device)
            mine = x[at]
            answers.append(self.held[name](mine, owner, owner.plain) if name in self.held else owner.plain(mine))
            places.append(at)
        return torch.cat(answers)[torch.cat(places).argsort()]


def stand_beside(owner: Owner, name: str, part: Part, choice: Choice) -> None:
    """Put an adapter's part beside a map."""
    if owner.adapter is None:
        owner.adapter = Sides(choice)
    if not isinstance(owner.adapter, Sides) or name in owner.adapter.held:
        raise UserError(f'something else stands where a part of the adapter "{name}" is to stand')
    owner.adapter.held[name] = part


def step_aside(model: nn.Module, name: str) -> None:
    """Take all parts of an adapter away."""
    for module in model.modules():
        if isinstance(module, Linear | Embedding | LanguageHead) and isinstance(module.adapter, Sides):
            if name in module.adapter.held:
                del module.adapter.held[name]
            if not module.adapter.held:
                module.adapter = None


def parts(model: nn.Module, name: str) -> dict[str, Part]:
    """The parts of an adapter, by the name of the map that each stands beside."""
    found: dict[str, Part] = {}
    for path, module in model.named_modules():
        if isinstance(module, Sides) and name in module.held:
            part = module.held[name]
            assert isinstance(part, Part)
            found[path.removesuffix(".adapter")] = part
    return found
