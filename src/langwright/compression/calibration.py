"""One block after another: what each linear layer of a model reads in a text, and the layer changed by that.

All methods that look at a text are visitors of this driver. In memory are the weights, or those of one block
(`Deferred`), the hidden states before it, and the statistics that a visitor asks for; a block reads what the blocks
before it, already changed, give.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from langwright.base.errors import UserError
from langwright.models import tasks
from langwright.models.families import ROWS
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.models.surgery import quantise
from langwright.parts.attention import Context
from langwright.parts.linear import Linear
from langwright.parts.moe import MoE
from langwright.parts.norms import Norm
from langwright.parts.quantised import Packed
from langwright.parts.stack import ParallelBlock, Residual

Windows = Sequence[Int[Tensor, "batch time"]]
"""Token ids of a text, batch by batch."""


@dataclass
class Moments:
    """What a linear layer read: x over all tokens.

    Args:
        second: Σ x xᵀ.
        absolute: Σ |x|.
        largest: max |x|.
        tokens: how many there were.
    """

    second: Float[Tensor, "inputs inputs"]
    absolute: Float[Tensor, " inputs"]
    largest: Float[Tensor, " inputs"]
    tokens: int = 0

    @classmethod
    def zeros(cls, inputs: int) -> "Moments":
        """Of no tokens."""
        return cls(torch.zeros(inputs, inputs), torch.zeros(inputs), torch.zeros(inputs))

    def add(self, x: Float[Tensor, "*batch inputs"]) -> None:
        """Count more tokens."""
        rows = x.flatten(0, -2).float()
        self.second.addmm_(rows.t(), rows)
        self.absolute += rows.abs().sum(0)
        self.largest = self.largest.maximum(rows.abs().amax(0)) if len(rows) else self.largest
        self.tokens += len(rows)


class Weight:
    """A matrix as it lies on disk, [outputs, inputs], and the linear layers of the model that hold its rows.

    Layers that a family stores as one, such as the queries, keys and values of GPT-2, are rounded as one.
    """

    def __init__(self, model: Model, entry: Entry):
        self.model, self.entry = model, replace(entry, transposed=False)  # here it is upright
        self.name, self.modules = entry.disk, [name.rpartition(".")[0] for name in entry.ours]

    @property
    def layers(self) -> list[Linear]:
        """Its linear layers."""
        return [self.model.get_submodule(name) for name in self.modules]  # type: ignore[misc]

    @property
    def matrix(self) -> Float[Tensor, "outputs inputs"]:
        """Its numbers, in a copy of their own."""
        return self.entry.join([layer.full_weight().detach() for layer in self.layers]).clone()

    def set(self, matrix: Float[Tensor, "outputs inputs"]) -> None:
        """Give it other numbers."""
        layers = self.layers
        for layer, piece in zip(layers, self.entry.split(matrix, [one.outputs for one in layers]), strict=True):
            layer.weight.data.copy_(piece)

    def pack(self, packed: Packed) -> None:
        """Put a quantised matrix in its place."""
        quantise.place(self.model, self.entry, packed)


@dataclass
class Group:
    """Weights that read the same input.

    norm: what gives that input, where it is a norm that no other linear layer reads.
    """

    weights: list[Weight]
    norm: Norm | None = None

    @property
    def inputs(self) -> int:
        """The width of that input."""
        return self.weights[0].layers[0].inputs


class _EnoughError(Exception):
    """Raised by a hook when nothing further of a pass is wanted."""


class CalibratedBlock:
    """A block of a stack, its weights, and the passes over the text that a visitor asks for.

    Attributes:
        module: the block. layer: its number.
        groups: its weights in the order in which they are used, those that read the same input together.
    """

    def __init__(
        self, module: nn.Module, layer: int, hidden: list[Tensor], contexts: list[Context], weights: list[Weight]
    ):
        self.module, self.layer = module, layer
        self._hidden, self._contexts = hidden, contexts
        self.groups = self._grouped(weights)

    def moments(self, *groups: Group) -> list[Moments]:
        """What each of some groups reads, in one pass that ends with the last of them."""
        found = [Moments.zeros(group.inputs) for group in groups]
        missing = set[int]()

        def see(which: int) -> Callable[..., None]:
            def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
                found[which].add(given[0])
                missing.discard(which)
                if not missing:
                    raise _EnoughError

            return hook

        with _hooks((group.weights[0].layers[0], see(i)) for i, group in enumerate(groups)):
            for number in range(len(self._hidden)):
                missing.update(range(len(groups)))
                self._run(number)
        return found

    def arguments(self, module: nn.Module) -> tuple[Any, ...] | None:
        """What a module inside the block is called with, in the first batch."""
        found: list[tuple[Any, ...]] = []

        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            found.append(given)
            raise _EnoughError

        with _hooks([(module, hook)]):
            self._run(0)
        return found[0] if found else None

    def influence(self) -> float:
        """1 less the mean cosine of the hidden states before and after the block."""
        turned = [
            torch.cosine_similarity(x.float(), self.module(x, context).float(), -1)
            for x, context in zip(self._hidden, self._contexts, strict=True)
        ]
        return 1 - float(torch.cat([one.flatten() for one in turned]).mean())

    def advance(self) -> None:
        """Replace the hidden states before the block by those after it."""
        for number, (x, context) in enumerate(zip(self._hidden, self._contexts, strict=True)):
            self._hidden[number] = self.module(x, context)

    def _run(self, number: int) -> None:
        try:
            self.module(self._hidden[number], self._contexts[number])
        except _EnoughError:
            return

    def _grouped(self, weights: list[Weight]) -> list[Group]:
        """By the input that they are called with; layers that are not called in the first batch, as experts that no
        token is sent to, come last and alone.
        """
        norms: dict[int, Norm] = {}
        readers: dict[int, list[nn.Module]] = {}
        held: list[Tensor] = []  # so that no other tensor gets its id

        def read(module: nn.Module, given: tuple[Any, ...]) -> None:
            held.append(given[0])
            readers.setdefault(id(given[0]), []).append(module)

        def give(module: Any, given: tuple[Any, ...], result: Tensor) -> None:
            held.append(result)
            norms[id(result)] = module

        inside = list(self.module.modules())
        first = [m.in_norm for m in inside if isinstance(m, Residual | ParallelBlock) and m.in_norm is not None]
        with _hooks((m, read) for m in inside if isinstance(m, Linear)), _hooks(((m, give) for m in first), after=True):
            if self._hidden:
                self._run(0)
        left, groups = dict.fromkeys(weights), []
        for key, modules in readers.items():
            own = [weight for weight in left if weight.layers[0] in modules]
            if own:
                alone = {layer for weight in own for layer in weight.layers} >= set(modules)
                groups.append(Group(own, norms.get(key) if alone else None))
            left = {weight: None for weight in left if weight not in own}
        if left and self._hidden and not any(isinstance(m, MoE) for m in inside):
            name = next(iter(left)).name
            raise UserError(f'tensor "{name}": is multiplied inside a kernel, where nothing sees what it reads')
        return groups + [Group([weight]) for weight in left]


@contextmanager
def _hooks(hooks: Iterable[tuple[nn.Module, Callable[..., None]]], after: bool = False) -> Iterator[None]:
    """Hooks that see what modules are called with, and `after` what they give."""
    with ExitStack() as stack:
        for module, hook in hooks:
            handle = module.register_forward_hook(hook) if after else module.register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        yield


Visitor = Callable[[CalibratedBlock], None]
"""Changes the weights of a block, in place, by what they read."""


@torch.no_grad()
def visit_blocks(
    model: Model,
    windows: Windows,
    visitor: Visitor,
    held: Callable[[int], AbstractContextManager[None]] = lambda layer: nullcontext(),
) -> None:
    """Show a visitor all blocks of a model of one stack, from the first to the last.

    held: has a block in memory while it is entered (`Deferred.block`).
    """
    stack = model.body
    entries = [e for e in tasks.entries(ROWS[model.family], model.config, model.task) if quantise.is_chosen(model, e)]
    hidden, contexts = [], dict[torch.Size, list[Context]]()  # which say nothing of the tokens themselves
    for ids in windows:
        x, beside, _ = stack.enter(ids)
        hidden.append(x)
        contexts.setdefault(ids.shape, beside)
    for layer in range(len(stack.blocks)):
        with held(layer):
            inside = [e for e in entries if e.ours[0].startswith(f"body.blocks.{layer}.")]
            beside = [contexts[ids.shape][layer] for ids in windows]
            block = CalibratedBlock(stack.blocks[layer], layer, hidden, beside, [Weight(model, e) for e in inside])
            visitor(block)
            block.advance()
            del block
