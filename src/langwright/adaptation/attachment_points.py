"""Where adapters attach: modules by their names in `transformers` and the modules of ours that they stand for, and
parameters of the model itself that an adapter has values for (modules that train whole, biases, token tables).
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langwright.base.errors import UserError, suggest
from langwright.models import tasks
from langwright.models.families import ROWS
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.parts.heads import LanguageHead
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.parts.quantised import QuantisedLinear
from langwright.parts.stack import Embedding

Kind = Literal["linear", "embedding", "head", "norm", "other"]
Targets = tuple[str, ...] | str
PREFIX = "base_model.model."
"""What PEFT puts before the name of every module."""
ALL_LINEAR = "all-linear"
SHARED = "shared.weight"
"""The table of both stacks of an encoder-decoder."""
HEADS = {"sequence": ("classifier", "score"), "token": ("classifier", "score"), "span": ("qa_outputs",)}
"""What PEFT trains whole with a head for labels, whether asked to or not."""
TABLES = ("embed_tokens", "lm_head")
"""Modules whose weights PEFT keeps tied in an adapter where `ensure_weight_tying` is set."""
BY_TOKEN = ("embed.tokens", "head.weight", "head.bias")
"""Parameters with a row for each token."""


@dataclass(frozen=True)
class AttachmentPoint:
    """A module as `transformers` names it, or slices of a fused one.

    Args:
        name: its name.
        kind: a linear layer, the token table, the head over the vocabulary, a norm, or something else.
        modules: the modules of ours that it holds, several where it is fused.
        weight: how its weight lies on disk, with names as in the family's key map.
        bias: the same for its bias, if it has one.
        parts: the numbers of the slices that are meant; None for all of it as one module.
    """

    name: str
    kind: Kind
    modules: tuple[str, ...]
    weight: Entry
    bias: Entry | None = None
    parts: tuple[int, ...] | None = None

    @property
    def key(self) -> str:
        """Its name in the files of PEFT."""
        return PREFIX + self.name

    @property
    def slices(self) -> tuple[str, ...]:
        """The names of the parts of a fused module: "attn.c_attn" holds "attn.c_attn.q", ".k" and ".v"."""
        names = (f"{self.name}.{path.rpartition('.')[2]}" for path in self.modules)
        return tuple(names) if len(self.modules) > 1 else ()

    @property
    def chosen(self) -> list[str]:
        """The modules of ours that are meant."""
        return [path for i, path in enumerate(self.modules) if self.parts is None or i in self.parts]

    def sizes(self, model: Model) -> list[tuple[int, int]]:
        """Outputs and inputs of each module of ours; the inputs of a token table are the vocabulary."""
        modules: list[Any] = [model.get_submodule(path) for path in self.modules]
        return [
            (m.outputs, m.inputs) if isinstance(m, Linear) else (len(matrix(m)), matrix(m).shape[1]) for m in modules
        ]

    def shapes(self, model: Model) -> list[tuple[int, int]]:
        """Outputs and inputs of each slice that is meant, or of all of it as one module."""
        sizes = self.sizes(model)
        whole = sum(outputs for outputs, _ in sizes), sizes[0][1]
        return [whole] if self.parts is None else [sizes[i] for i in self.parts]

    def rows(self, model: Model) -> list[Tensor]:
        """The rows of each module that is meant in a tensor with a row for each output of the whole point."""
        places = row_numbers(self.weight, [outputs for outputs, _ in self.sizes(model)])
        return [rows for i, rows in enumerate(places) if self.parts is None or i in self.parts]


def matrix(owner: Any) -> Tensor:
    """The weight of a module, [outputs, inputs]: the transpose of a token table, which multiplies one-hot vectors."""
    weight: Tensor = owner.full_weight()
    return weight.t() if isinstance(owner, Embedding) else weight


def row_numbers(entry: Entry, counts: Sequence[int]) -> list[Tensor]:
    """The rows of an entry's upright tensor that each of our parameters is, given how many each has."""
    return replace(entry, transposed=False).split(torch.arange(sum(counts)), counts)


def tensors_of(model: Model) -> list[Entry]:
    """The key map of a model, with the names that its modules have in `transformers`.

    A head that is the token table has a name too, and so has the table in each stack of an encoder-decoder.
    """
    family, task = ROWS[model.family], model.task
    entries = list(tasks.entries(family, model.config, task))
    if family.task == "hidden" and task in ("hidden", tasks.EMBEDDING):
        entries = [replace(entry, disk=entry.disk.removeprefix(family.prefix)) for entry in entries]
    if isinstance(model.head, LanguageHead) and not any(entry.ours == ("head.weight",) for entry in entries):
        entries.append(Entry(f"{family.tied_head}.weight", ("head.weight",)))
    if model.encoders:
        prefix = next(e.disk for e in entries if e.ours == ("encoder.embed.tokens",)).removesuffix(SHARED)
        for stack, ours in (("encoder", "encoder"), ("decoder", "body")):
            entries.append(Entry(f"{prefix}{stack}.embed_tokens.weight", (f"{ours}.embed.tokens",)))
    return entries


def points(model: Model) -> dict[str, AttachmentPoint]:
    """All modules with parameters by their names in `transformers`, in the order of the family's key map."""
    found: dict[str, AttachmentPoint] = {}
    for entry in tensors_of(model):
        module, _, tensor = entry.disk.rpartition(".")
        paths = tuple(path.rpartition(".")[0] for path in entry.ours)
        if entry.disk.endswith(SHARED):
            continue
        if tensor == "weight":
            found[module] = AttachmentPoint(module, _kind(model, entry), paths, entry)
        elif tensor == "bias" and module in found:
            found[module] = replace(found[module], bias=entry)
        else:
            found[entry.disk] = AttachmentPoint(entry.disk, "other", paths, entry)
    return found


def _kind(model: Model, entry: Entry) -> Kind:
    path, _, attribute = entry.ours[0].rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, Embedding):
        return "embedding" if attribute == "tokens" else "other"
    kinds: dict[type, Kind] = {Linear: "linear", LanguageHead: "head", Norm: "norm"}
    return next((kind for cls, kind in kinds.items() if isinstance(module, cls)), "other")


def match(
    model: Model, targets: Targets, exclude: Targets = (), kinds: Collection[str] = (), saved: Sequence[str] = ()
) -> list[AttachmentPoint]:
    """The points that `targets` name, as PEFT matches them (`check_target_module_exists` there).

    Args:
        model: the model.
        targets: whole names or endings of them ("q_proj"), a regular expression of whole names, or "all-linear": every
            linear layer but the head over the vocabulary. The slices of a fused module are named by its name and
            ours: "c_attn.q".
        exclude: names, endings or an expression to leave out.
        kinds: what may be adapted.
        saved: modules that are trained whole, left out too.

    Raises:
        UserError: naming a target that matches nothing, with what is near.
    """
    found = [point for point in points(model).values() if point.kind in kinds]
    names = [name for point in found for name in (point.name, *point.slices)]
    for target in [targets] if isinstance(targets, str) else [(name,) for name in targets]:
        if target != ALL_LINEAR and not any(is_named(name, target) for name in names):
            wanted, known = "".join(target), dict.fromkeys(name.rpartition(".")[2] for name in names)
            what = " or ".join(kinds)
            raise UserError(f'no {what} here is named "{wanted}", only {", ".join(known)}{suggest(wanted, known)}')
    chosen = []
    for point in found:
        if is_named(point.name, exclude) or any(matches(rf"(.*\.)?{name}(\..*)?", point.name) for name in saved):
            continue
        if is_named(point.name, targets) or (targets == ALL_LINEAR and point.kind == "linear"):
            chosen.append(point)
        elif parts := [i for i, n in enumerate(point.slices) if is_named(n, targets) and not is_named(n, exclude)]:
            chosen.append(replace(point, parts=tuple(parts)))
    return chosen


def is_named(name: str, targets: Targets) -> bool:
    """Whether targets name a module: by an expression of its whole name, or by its name or an ending after a dot."""
    if isinstance(targets, str):
        return matches(targets, name) is not None
    return name in targets or name.endswith(tuple(f".{target}" for target in targets))


def matches(expression: str, name: str) -> re.Match[str] | None:
    """What a regular expression finds in a whole name; UserError where it is none."""
    try:
        return re.fullmatch(expression, name)
    except re.error as error:
        raise UserError(f'"{expression}" is no regular expression: {error}') from None


def read_targets(words: str) -> Targets:
    """Targets as the command line has them: names between commas, "all-linear", or a regular expression.

    An expression has letters that no name has.
    """
    return words if words == ALL_LINEAR or set(words) & set("*+?|()[]\\^$") else read_names(words)


def read_names(words: str) -> tuple[str, ...]:
    """Names between commas."""
    names = tuple(word.strip() for word in words.split(",") if word.strip())
    if not names:
        raise UserError(f'"{words}": no name is in it; such as q_proj,v_proj')
    return names


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
    """The modules that train whole: those that are asked for, a head for labels, and what the base lacks of a head."""
    new = (name.rpartition(".")[0] for name in model.new)
    return tuple(dict.fromkeys((*wanted, *HEADS.get(model.task, ()), *new)))


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
