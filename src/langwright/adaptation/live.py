"""The adapters that a model carries, and the choice among them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from langwright.adaptation.sides import BASE, Choice, parts
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.moe import MoE

if TYPE_CHECKING:
    from langwright.adaptation.method import Method


class Live:
    """What a model carries beside its own.

    methods: each adapter's settings, by its name. trained: what of it trains. choice: which answer.
    own: values that an adapter has for parameters of the model (biases, heads). merged: the adapters that are merged
    into the weights, and the weights as they were. untied: the config of a head that merging took from its table.
    """

    def __init__(self, model: Model):
        self.methods: dict[str, Method] = {}
        self.trained: dict[str, list[nn.Parameter]] = {}
        self.choice = Choice()
        self.own: dict[str, dict[str, Tensor]] = {}
        self.untied: Any = None
        self.merged: tuple[tuple[str, ...], dict[str, Tensor]] | None = None
        self._base: dict[str, Tensor] = {}
        self._placed: dict[str, str] = {}
        self._asked = [p for p in model.parameters() if p.requires_grad]

    def thaw(self) -> None:
        """Let the model's own parameters ask for gradients as they did before the first adapter came."""
        for parameter in self._asked:
            parameter.requires_grad_(True)

    def keep_own(self, model: Model, name: str, parameters: Iterable[str]) -> list[nn.Parameter]:
        """Let an adapter have values of its own for parameters of the model, from now on copies of the model's."""
        self.place_own(model, ())
        ours = {p: model.get_parameter(p) for p in parameters}
        self.own[name] = {p: parameter.detach().clone() for p, parameter in ours.items()}
        self._base |= {p: parameter.data for p, parameter in ours.items()}
        return list(ours.values())

    def place_own(self, model: Model, names: Sequence[str]) -> None:
        """Put into the model's parameters the values that these adapters have for them, else the base's own."""
        wanted: dict[str, str] = {}
        for name in names:
            for parameter in self.own.get(name, {}):
                if parameter in wanted:
                    raise UserError(
                        f'the adapters "{wanted[parameter]}" and "{name}" both have values of their own for '
                        f"{parameter}; choose one of them"
                    )
                wanted[parameter] = name
        for parameter in self._base:
            ours, before, now = model.get_parameter(parameter), self._placed.get(parameter), wanted.get(parameter)
            (self._base if before is None else self.own[before])[parameter] = ours.data
            ours.data = (self._base if now is None else self.own[now])[parameter]
            if now is None:
                self._placed.pop(parameter, None)
            else:
                self._placed[parameter] = now

    def value(self, model: Model, name: str, parameter: str) -> Tensor:
        """The value that an adapter has for a parameter of the model."""
        placed = self._placed.get(parameter) == name
        return model.get_parameter(parameter).data if placed else self.own[name][parameter]

    def forget_own(self, model: Model, name: str) -> None:
        """Drop an adapter's own values."""
        self.place_own(model, [n for n in self.choice.names if n != name])
        self.own.pop(name, None)
        kept = {parameter for values in self.own.values() for parameter in values}
        self._base = {parameter: value for parameter, value in self._base.items() if parameter in kept}


def live(model: Model) -> Live:
    """What a model carries."""
    found = vars(model).get("adapters")
    if found is None:
        found = vars(model)["adapters"] = Live(model)
    assert isinstance(found, Live)
    return found


def adapters(model: Model) -> dict[str, "Method"]:
    """The adapters of a model: the settings of each, by its name."""
    return dict(live(model).methods)


def choose(model: Model, *names: str) -> None:
    """Let these adapters answer, each around those before it; none, or "base", is the model as it was."""
    carried = live(model)
    if carried.merged is not None:
        raise UserError(f'the adapter "{carried.merged[0][0]}" is merged into the weights; unmerge it first')
    names = () if names == (BASE,) else names
    _check(carried, names)
    carried.place_own(model, names)
    carried.choice.names = names


@contextmanager
def mixed(model: Model, names: Sequence[str]) -> Iterator[None]:
    """While the block runs, row i of every batch is answered by the adapter `names[i]`; "base" is none.

    UserError for adapters that cannot be mixed: those with values of their own for the model's parameters, and those
    beside experts, which see tokens of all rows.
    """
    carried = live(model)
    _check(carried, [name for name in names if name != BASE])
    for name in dict.fromkeys(names):
        if carried.own.get(name):
            raise UserError(f'the adapter "{name}" changes the model\'s own {next(iter(carried.own[name]))}: not mixed')
        if name != BASE and not carried.methods[name].mixes:
            raise UserError(f'the adapter "{name}" cannot be one of several in a batch')
        experts = [path for path, module in model.named_modules() if isinstance(module, MoE)]
        for path in parts(model, name):
            if any(path.startswith(f"{moe}.experts.") for moe in experts):
                raise UserError(f'the adapter "{name}" stands beside experts, which see tokens of all rows: not mixed')
    carried.place_own(model, ())
    carried.choice.mix(names)
    try:
        yield
    finally:
        carried.choice.rows = None
        carried.place_own(model, carried.choice.names)


def _check(carried: Live, names: Sequence[str]) -> None:
    for name in names:
        if name not in carried.methods:
            known = ", ".join(carried.methods) or "none"
            raise UserError(f'there is no adapter "{name}" on this model, only {known}')
