"""Parameters of the model itself that an adapter has values for: modules that train whole, biases, token tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langwright.adaptation.attachment_points import PREFIX, SHARED, tensors_of
from langwright.base.errors import UserError
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.parts.quantised import QuantisedLinear

HEADS = {"sequence": ("classifier", "score"), "token": ("classifier", "score"), "span": ("qa_outputs",)}
"""What PEFT trains whole with a head for labels, whether asked to or not."""
TABLES = ("embed_tokens", "lm_head")
"""Modules whose weights PEFT keeps tied in an adapter where `ensure_weight_tying` is set."""
BY_TOKEN = ("embed.tokens", "head.weight", "head.bias")
"""Parameters with a row for each token."""


@dataclass(frozen=True)
class BaseTensor:
    """A tensor of the model that an adapter has a value for.

    Args:
        key: its name in the adapter's file.
        entry: where it lies in the model.
        aliases: further parameters of the model that take the same value.
    """

    key: str
    entry: Entry
    aliases: tuple[str, ...] = ()


def saved_modules(model: Model, wanted: Iterable[str]) -> tuple[str, ...]:
    """The modules that train whole: those that are asked for, and a head for labels."""
    return tuple(dict.fromkeys((*wanted, *HEADS.get(model.task, ()))))


def saved_tensors(model: Model, wanted: Sequence[str], tie: bool = False) -> list[BaseTensor]:
    """The tensors of the modules that train whole.

    Args:
        model: the model.
        wanted: names of modules; a name matches every module that ends with it, as in PEFT.
        tie: whether a token table that is also the head stays so.

    Raises:
        UserError: for a name that matches nothing, or a quantised layer.
    """
    entries = tensors_of(model)
    found: dict[str, BaseTensor] = {}
    for name in saved_modules(model, wanted):
        matched = [entry for entry in entries if f"{name}." in entry.disk]
        if not matched and name not in HEADS.get(model.task, ()):
            raise UserError(f'no module of this model ends with "{name}", which was to be trained whole')
        for entry in matched:
            owner: nn.Module = model.get_submodule(entry.ours[0].rpartition(".")[0])
            if isinstance(owner, QuantisedLinear) and entry.disk.endswith(".weight"):
                raise UserError(f"{entry.disk} is quantised and cannot train whole; leave it out, or do not quantise")
            embeds = (path for path in aliases(model, entry) if path.endswith(".embed.tokens"))
            shared = tuple(embeds) if entry.disk.endswith(SHARED) else ()
            found[entry.disk] = BaseTensor(f"{PREFIX}{entry.disk}", entry, shared)
    tied = tie and names_tied_table(model, wanted)
    for entry in (e for e in entries if tied and e.ours[0] in ("body.embed.tokens", "head.weight")):
        found[entry.disk] = BaseTensor(f"{PREFIX}{entry.disk}", entry, aliases(model, entry))
    return list(found.values())


def saved_tables(model: Model, trained: Sequence[BaseTensor], tensors: Mapping[str, Tensor]) -> list[BaseTensor]:
    """Tensors of the base that an adapter's file holds beside what was trained, where they are not those of the model.

    PEFT saves the token table and the head with an adapter of them, and with any adapter over a vocabulary that was
    resized (`save_embedding_layers`). They replace those of the model.
    """
    keys = {tensor.key for tensor in trained}
    taken = {path for tensor in trained for path in (*tensor.entry.ours, *tensor.aliases)}
    found = []
    for entry in tensors_of(model):
        module, _, kind = entry.disk.rpartition(".")
        for key in {f"{PREFIX}{entry.disk}", f"{PREFIX}{module}.base_layer.{kind}"} & tensors.keys() - keys:
            free = [path for path in (*entry.ours, *aliases(model, entry)) if path not in taken]
            if free and not repeats(model, entry, tensors[key]):
                ours = entry.ours if entry.ours[0] in free else tuple(free[:1])
                found.append(BaseTensor(key, replace(entry, ours=ours), tuple(free)))
    return found


def repeats(model: Model, entry: Entry, tensor: Tensor) -> bool:
    """Whether a tensor equals the model's own."""
    own = entry.join([model.get_parameter(path).detach() for path in entry.ours])
    return own.shape == tensor.shape and torch.equal(tensor.to(own), own)


def own_values(model: Model, entries: Sequence[BaseTensor], tensors: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """New parameters in place of the model's, by their names there: copies, or of the length that a file asks for.

    Args:
        model: the model.
        entries: the tensors that get values.
        tensors: those of the file, if there is one: token tables and heads may have another number of rows there.
    """
    values: dict[str, nn.Parameter] = {}
    for tensor in entries:
        for path in tensor.entry.ours:
            own = model.get_parameter(path).detach()
            rows = len(tensors[tensor.key]) if path.endswith(BY_TOKEN) and tensor.key in tensors else len(own)
            new = own.clone() if rows == len(own) else own.new_zeros(rows, *own.shape[1:])
            values.setdefault(path, nn.Parameter(new))
            for alias in tensor.aliases:
                values.setdefault(alias, values[path])
    for path in ("head.bias", "head.offset") if "head.weight" in values else ():
        more, vector = len(values["head.weight"]) - len(model.head.weight), getattr(model.head, path[5:], None)
        if vector is not None and more:
            values.setdefault(path, nn.Parameter(F.pad(vector.detach(), (0, more))))
    return values


def is_tied(model: Model) -> bool:
    """Whether the head is the token table."""
    return getattr(model.head, "weight", None) is model.body.embed.tokens


def names_tied_table(model: Model, names: Sequence[str]) -> bool:
    """Whether names of modules hold a token table that is the head, or that head."""
    return is_tied(model) and any(name.rpartition(".")[2] in TABLES for name in names if not isinstance(names, str))


def aliases(model: Model, entry: Entry) -> tuple[str, ...]:
    """The other names of a parameter that is used in several places."""
    own = model.get_parameter(entry.ours[0])
    everything = model.named_parameters(remove_duplicate=False)
    return tuple(path for path, parameter in everything if parameter is own and path != entry.ours[0])
