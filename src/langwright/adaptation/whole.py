"""Parameters of the model itself that an adapter trains: whole modules, such as a fresh head, and biases."""

from collections.abc import Iterable

from torch import Tensor

from langwright.adaptation.live import live
from langwright.adaptation.method import Stored
from langwright.adaptation.targets import PREFIX, bare_entries
from langwright.base.errors import UserError
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.parts.quantised import QuantisedLinear

_HEADS = {"sequence": ("classifier", "score"), "token": ("classifier", "score"), "span": ("qa_outputs",)}
"""What PEFT trains whole with a head for labels, whether asked to or not."""


def saved_modules(model: Model, wanted: Iterable[str]) -> tuple[str, ...]:
    """The modules that train whole: those that are asked for, and the head where it tells labels apart."""
    return tuple(dict.fromkeys((*wanted, *_HEADS.get(model.task, ()))))


def saved_entries(model: Model, wanted: Iterable[str]) -> list[tuple[str, Entry]]:
    """The tensors of the modules that train whole, with their names in an adapter's file.

    A name matches every module that ends with it, as in PEFT. UserError for one that matches nothing, or whose tensor
    the model uses elsewhere as well.
    """
    wanted = tuple(wanted)
    found: dict[str, Entry] = {}
    names = {entry.disk: prefixes(entry.disk) for entry in bare_entries(model)}
    for name in saved_modules(model, wanted):
        matched = [e for e in bare_entries(model) if any(module.endswith(name) for module in names[e.disk])]
        if name in wanted and not matched:
            raise UserError(f'no module of this model ends with "{name}", which was to be trained whole')
        packed = [e.disk for e in matched if any(_is_packed(model, ours) for ours in e.ours)]
        if packed:
            raise UserError(f"{packed[0]} is quantised and cannot train whole; leave it out, or take the full model")
        found |= {f"{PREFIX}{entry.disk}": entry for entry in matched}
    tied = [entry.disk for entry in found.values() if entry.ours[0].endswith(".embed.tokens") and _is_tied(model)]
    if tied:
        raise UserError(f"{tied[0]} is also the head of this model: it cannot train whole beside it")
    return list(found.items())


def own_stored(model: Model, name: str, key: str, entry: Entry) -> Stored:
    """A tensor of the model itself, with the values that the adapter `name` has for it."""
    carried, rows = live(model), [model.get_parameter(ours).shape[0] for ours in entry.ours]

    def read() -> Tensor:
        return entry.join([carried.value(model, name, ours) for ours in entry.ours])

    def write(tensor: Tensor) -> None:
        for ours, piece in zip(entry.ours, entry.split(tensor, rows), strict=True):
            carried.value(model, name, ours).copy_(piece)

    return Stored(key, tuple(entry.shape([model.get_parameter(ours).shape for ours in entry.ours])), read, write)


def prefixes(disk: str) -> list[str]:
    """The modules that a tensor is in, from the outermost."""
    segments = disk.split(".")[:-1]
    return [".".join(segments[:end]) for end in range(1, len(segments) + 1)]


def _is_packed(model: Model, ours: str) -> bool:
    module, _, kind = ours.rpartition(".")
    return kind == "weight" and isinstance(model.get_submodule(module), QuantisedLinear)


def _is_tied(model: Model) -> bool:
    return getattr(model.head, "weight", None) is model.body.embed.tokens


def asked_modules(model: Model, named: Iterable[str] | None) -> tuple[str, ...]:
    """The modules that an adapter_config.json names, without those that PEFT adds for a head for labels."""
    implied = _HEADS.get(model.task, ())
    return tuple(dict.fromkeys(name for name in named or () if name not in implied))
