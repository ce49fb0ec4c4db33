"""What is attached to a model: adapters, each with its modules and its values for the model's own parameters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from langwright.adaptation.attachment_points import BaseTensor
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.heads import Projection
from langwright.parts.moe import MoE
from langwright.parts.virtual_tokens import VirtualTokens

Answer = Callable[[Tensor], Tensor]
BASE = "base"
"""The name of no adapter: the model as it was."""


class AdapterModule(nn.Module):
    """What one adapter has at one module of a model, its owner.

    Owners are linear layers, token tables, heads and residuals, whose answer it changes, and stacks, to which it gives
    virtual tokens.

    Attributes:
        of_weights: whether it is a change of weights, which can be merged into them, and answers for rows of a batch.
    """

    of_weights: ClassVar[bool] = True

    def forward(self, x: Tensor, owner: Any, answer: Answer) -> Tensor:
        """What the owner gives for x with this adapter.

        Args:
            x: the owner's input.
            owner: the module that this one is attached to.
            answer: gives what the owner gives without this adapter, or with those chosen before it.
        """
        raise NotImplementedError

    @classmethod
    def by_row(cls, modules: Sequence["AdapterModule | None"], owner: Any) -> "AdapterModule | None":
        """One module that answers for each row of a batch as the module of that row does, None being no adapter.

        None where rows can only be answered one adapter after the other.
        """
        return None

    def virtual_tokens(self) -> VirtualTokens:
        """What comes before the tokens of every text, for an adapter of a stack."""
        raise NotImplementedError

    def merged(self, owner: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight [outputs, inputs] and bias [outputs], in float32, with which the owner alone gives the same."""
        raise NotImplementedError

    def projection(self, plain: Projection, owner: Any) -> Projection:
        """What the logits of a head are made of with this adapter; `plain` is without, or with those before it."""
        raise NotImplementedError


class AdapterSlot(nn.Module):
    """The adapter modules of one owner by the name of their adapter; those of the chosen adapters answer."""

    def __init__(self, attached: "AttachedAdapters"):
        super().__init__()
        self.held = nn.ModuleDict()
        self.attached = attached
        self._together: tuple[object, list[AdapterModule | None]] = (None, [])  # for the rows of which batch, and it

    def chosen(self) -> list[AdapterModule]:
        """The modules that answer, in the order in which they were chosen."""
        names = () if self.attached.rows is not None else self.attached.chosen
        return [self.held[name] for name in names if name in self.held]  # type: ignore[misc]

    def forward(self, x: Tensor, owner: Any, *context: Any) -> Tensor:
        rows = self.attached.rows

        answer: Answer = lambda x: owner.plain(x, *context)  # noqa: E731
        if rows is not None and not rows.keys().isdisjoint(self.held.keys()):
            return self._by_rows(x, owner, answer, rows)
        for module in self.chosen():
            answer = partial(module, owner=owner, answer=answer)
        return answer(x)

    def virtual_tokens(self) -> VirtualTokens | None:
        """What comes before the tokens of every text; None where no chosen adapter has virtual tokens."""
        rows = self.attached.rows
        chosen: list[Any] = self.chosen() if rows is None else [self.held[n] for n in rows if n in self.held]
        if len(chosen) > 1 or (chosen and rows is not None and len(rows) > 1):
            raise UserError("only one adapter can put virtual tokens before the texts of a batch; choose one")
        return chosen[0].virtual_tokens() if chosen else None

    def projection(self, plain: Projection, owner: Any) -> Projection:
        """What the logits of a head are made of with the adapters that are chosen."""
        if self.attached.rows is not None:
            raise ValueError("one product cannot serve rows with different heads: a mixed batch gives logits only")
        for module in self.chosen():
            plain = module.projection(plain, owner)
        return plain

    def _by_rows(self, x: Tensor, owner: Any, answer: Answer, rows: Mapping[str, Tensor]) -> Tensor:
        order = torch.cat(list(rows.values())).to(x.device)
        if len(x) != len(order):
            raise ValueError(f"{len(order)} adapters were chosen for the rows of a batch of {len(x)}")
        if (together := self._one_for_all(owner, rows)) is not None:
            return together(x, owner, answer)
        parts = zip(rows, x[order].split([len(numbers) for numbers in rows.values()]), strict=True)
        answers = [self.held[name](part, owner, answer) if name in self.held else answer(part) for name, part in parts]
        return torch.cat(answers)[order.argsort()]

    def forget(self) -> None:
        """Keep nothing of earlier batches."""
        self._together = (None, [])

    def _one_for_all(self, owner: Any, rows: Mapping[str, Tensor]) -> AdapterModule | None:
        """One module for all rows, kept for the next batch with the same adapters; None where there is none."""
        if torch.is_grad_enabled():
            return None
        if self._together[0] != self.attached.batch:
            names = {int(row): name for name, numbers in rows.items() for row in numbers}
            each: list[Any] = [dict(self.held).get(names[row]) for row in range(len(names))]
            kinds = {type(module) for module in each if module is not None}
            one = kinds.pop().by_row(each, owner) if len(kinds) == 1 else None
            self._together = (self.attached.batch, [one])  # in a list: it is no part of the model
        return self._together[1][0]


@dataclass
class Adapter:
    """One adapter of a model.

    Args:
        settings: the `Method` that it was made by.
        entries: the tensors of the model that it has values for.
        values: these values, by the names of the model's parameters.
        modules: its modules, by the names of their owners.
        own: those of the values that its training changes.

    Attributes:
        mixes: see `AttachedAdapters.mixes`; None until it is asked for.
    """

    settings: Any
    entries: Sequence[BaseTensor]
    values: Mapping[str, nn.Parameter]
    modules: Mapping[str, AdapterModule]
    own: Sequence[nn.Parameter]
    mixes: bool | None = None

    @cached_property
    def factors(self) -> list[Tensor]:
        """The numbers of the modules that change weights."""
        modules = [module for module in self.modules.values() if module.of_weights]
        return [one for module in modules for one in module.parameters() if not one.is_inference()]

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that its training changes."""
        inside = (parameter for module in self.modules.values() for parameter in module.parameters())
        return list(dict.fromkeys((*inside, *self.own)))


class AttachedAdapters:
    """The adapters of a model, and the choice among them.

    Args:
        model: the model that carries them.
    """

    def __init__(self, model: Model):
        self.adapters: dict[str, Adapter] = {}
        self.chosen: tuple[str, ...] = ()
        self.rows: dict[str, Tensor] | None = None  # in a mixed batch, the rows of each adapter
        self.batch: object = None  # the adapters of its rows, and how often they have changed
        self.merged: tuple[tuple[str, ...], Any] | None = None  # those in the weights, and the config before
        self._model = model
        self._replaced: dict[str, nn.Parameter] = {}
        everything = model.named_parameters(remove_duplicate=False)
        self._trainable = [path for path, parameter in everything if parameter.requires_grad]

    def add(self, name: str, adapter: Adapter) -> None:
        """Freeze the model and everything attached to it, attach an adapter, choose it and let it train."""
        if not name.isidentifier() or name == BASE or name in self.adapters:
            raise UserError(f'"{name}" cannot be the name of an adapter here: taken, reserved, or not a plain word')
        if not adapter.trained:
            raise UserError(f'the adapter "{name}" has nothing to train: its settings match no part of the model')
        self.place(())
        others = (parameter for other in self.adapters.values() for parameter in other.trained)
        for parameter in (*self._model.parameters(), *adapter.values.values(), *others):
            parameter.requires_grad_(False)
        for parameter in adapter.trained:
            parameter.requires_grad_(True)
        for path, module in adapter.modules.items():
            owner: Any = self._model.get_submodule(path)
            if owner.adapter is None:
                owner.adapter = AdapterSlot(self)
            owner.adapter.held[name] = module
        self.adapters[name] = adapter
        self._forget()
        self._give_room(-adapter.settings.tokens)
        self.choose((name,))

    def remove(self, name: str) -> None:
        """Detach an adapter; after the last one the model is what it was."""
        self.choose([other for other in self.chosen if other != name])
        self._drop(name)
        if not self.adapters:
            self.end()

    def end(self) -> None:
        """Leave the model as it is now, without adapters; what trained before the first adapter trains again."""
        for name in list(self.adapters):
            self._drop(name)
        for path in self._trainable:
            self._model.get_parameter(path).requires_grad_(True)
        del vars(self._model)["adapters"]

    def _drop(self, name: str) -> None:
        adapter = self.adapter(name)
        self._forget()
        del self.adapters[name]
        for path in adapter.modules:
            owner: Any = self._model.get_submodule(path)
            del owner.adapter.held[name]
            if not owner.adapter.held:
                owner.adapter = None
        for parameter in adapter.trained:
            parameter.requires_grad_(False)
        self._give_room(adapter.settings.tokens)

    def _forget(self) -> None:
        """Let no owner keep what answered a batch with other adapters: an identity may come again."""
        for module in self._model.modules():
            if isinstance(module, AdapterSlot):
                module.forget()

    def choose(self, names: Sequence[str]) -> None:
        """Let these adapters answer, each around those before it."""
        self.place(names)
        self.chosen = tuple(names)

    @property
    def tokens(self) -> int:
        """How many virtual tokens the chosen adapters put before every text."""
        return sum(self.adapters[name].settings.tokens for name in self.chosen)

    def adapter(self, name: str) -> Adapter:
        """An adapter; UserError where there is none of this name."""
        if name not in self.adapters:
            raise UserError(f'no adapter "{name}" is on this model, only {", ".join(self.adapters) or "none"}')
        return self.adapters[name]

    def mixes(self, name: str) -> bool:
        """Whether an adapter may be one of several in a batch.

        Not where it has values for the model's own parameters, bottlenecks, or acts on experts, which see tokens of all
        rows. Virtual tokens stand before all texts of a batch or none, and are no matter once they were read.
        """
        adapter = self.adapter(name)
        if adapter.mixes is None:
            adapter.mixes = self._mixes(adapter)
        return adapter.mixes

    def _mixes(self, adapter: Adapter) -> bool:
        tokens = adapter.settings.tokens
        experts = tuple(f"{path}.experts." for path, part in self._model.named_modules() if isinstance(part, MoE))
        odd = (path.startswith(experts) or not (one.of_weights or tokens) for path, one in adapter.modules.items())
        return not adapter.values and not any(odd)

    def place(self, names: Sequence[str], more: Mapping[str, nn.Parameter] = {}) -> None:
        """Give the model the values that these adapters have for its parameters, else its own.

        Args:
            names: the adapters.
            more: further values, by the names of the model's parameters.
        """
        if self.merged is not None:
            raise UserError(f'the adapter "{self.merged[0][0]}" is merged into the weights; unmerge it first')
        values: dict[str, nn.Parameter] = {}
        for name in names:
            own = self.adapter(name).values
            if both := values.keys() & own.keys():
                raise UserError(f"several of {', '.join(names)} have values of their own for {min(both)}; choose one")
            values |= own
        values |= more
        before = self._replaced
        self._replaced = {path: before.get(path, self._model.get_parameter(path)) for path in values}
        changed = {**before, **values}
        for path, parameter in changed.items():
            owner, _, attribute = path.rpartition(".")
            setattr(self._model.get_submodule(owner), attribute, parameter)
        if "body.embed.tokens" in changed:
            self._model.config = replace(self._model.config, vocab_size=len(self._model.body.embed.tokens))

    @contextmanager
    def placed(self, values: Mapping[str, nn.Parameter] = {}) -> Iterator[None]:
        """While the block runs, the model has its own parameters, or these in their place."""
        self.place((), values)
        try:
            yield
        finally:
            self.place(self.chosen)

    def _give_room(self, tokens: int) -> None:
        if self._model.context is not None:
            self._model.context += tokens


def attached(model: Model) -> AttachedAdapters:
    """What is attached to a model."""
    if "adapters" not in vars(model):
        vars(model)["adapters"] = AttachedAdapters(model)
    found: AttachedAdapters = vars(model)["adapters"]
    return found


def choose(model: Model, *names: str) -> None:
    """Let these adapters answer, each around those before it; none, or "base", is the model as it was."""
    attached(model).choose(() if names == (BASE,) else names)


@contextmanager
def mixed(model: Model, names: Sequence[str]) -> Iterator[None]:
    """While the block runs, row i of every batch is answered by the adapter `names[i]`; "base" is none.

    Raises:
        UserError: for adapters that cannot be mixed; see `AttachedAdapters.mixes`.
    """
    on = attached(model)
    for name in set(names) - {BASE}:
        if not on.mixes(name):
            raise UserError(
                f'the adapter "{name}" cannot be one of several in a batch: it has values for the model\'s own '
                "parameters or bottlenecks, or acts on experts"
            )
    on.rows = {name: torch.tensor([i for i, n in enumerate(names) if n == name]) for name in dict.fromkeys(names)}
    factors = [one for name in on.rows if name != BASE for one in on.adapters[name].factors]
    on.batch = (tuple(names), [*map(id, factors)], sum(one._version for one in factors))
    try:
        with on.placed():
            yield
    finally:
        on.rows = None


@contextmanager
def answering(model: Model, rows: Sequence[tuple[str, ...]]) -> Iterator[None]:
    """While the block runs, row i of every batch is answered by the adapters `rows[i]`: see `choose` and `mixed`."""
    on = attached(model)
    outer, before = on.rows, on.chosen
    if len(set(rows)) > 1:
        with mixed(model, [row[0] if row else BASE for row in rows]):
            yield
    elif outer is None and rows[0] == before:
        yield
    else:
        on.rows = None
        on.choose(rows[0])
        try:
            yield
        finally:
            on.choose(before)
            on.rows = outer
            if outer is not None:  # inside a mixed batch, where the model has its own values
                on.place(())
