"""Where adapters attach: modules by their names in `transformers`, and the modules of ours that they stand for."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, TypeVar

from torch import Tensor

from langwright.base.errors import UserError
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.family import AdapterTargets
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.parts.heads import LanguageHead
from langwright.parts.linear import Linear
from langwright.parts.norms import Norm
from langwright.parts.stack import Embedding

Value = TypeVar("Value")
Kind = Literal["linear", "embedding", "head", "norm", "other"]
Targets = tuple[str, ...] | str
PREFIX = "base_model.model."
"""What PEFT puts before the name of every module."""
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class AttachmentPoint:
    """A module as `transformers` names it.

    Args:
        name: its name.
        kind: a linear layer, the token table, the head over the vocabulary, a norm, or something else.
        ours: the modules of ours that it holds, several where it is fused.
        weight: how its weight lies on disk, with names as in the family's key map.
        bias: the same for its bias, if it has one.
    """

    name: str
    kind: Kind
    ours: tuple[str, ...]
    weight: Entry
    bias: Entry | None = None

    @property
    def slices(self) -> tuple[str, ...]:
        """The names of the parts of a fused module: "attn.c_attn" holds "attn.c_attn.q", ".k" and ".v"."""
        return tuple(f"{self.name}.{ours.rpartition('.')[2]}" for ours in self.ours) if len(self.ours) > 1 else ()

    def split(self, joined: Tensor, rows: Sequence[int]) -> list[Tensor]:
        """Pieces for ours out of a tensor with a row for each output, laid out as the module's."""
        return replace(self.weight, transposed=False).split(joined, rows)

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The reverse of `split`."""
        return replace(self.weight, transposed=False).join(list(pieces))


@dataclass(frozen=True)
class Target:
    """A point that an adapter acts on. parts: which of its slices, by number; None for all of it as one module."""

    point: AttachmentPoint
    parts: tuple[int, ...] | None = None

    @property
    def ours(self) -> dict[str, int]:
        """The modules of ours that are meant, and their numbers in the point."""
        numbers = range(len(self.point.ours)) if self.parts is None else self.parts
        return {self.point.ours[i]: i for i in numbers}


def tensors_of(model: Model) -> list[Entry]:
    """The key map of a model, with the names that its modules have in `transformers`.

    A head that is the token table has a name too, and so has the table in each stack of an encoder-decoder.
    """
    family, task = FAMILIES[model.family], model.task
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


SHARED = "shared.weight"
"""The table of both stacks of an encoder-decoder."""


def points(model: Model) -> dict[str, AttachmentPoint]:
    """All modules with parameters by their names in `transformers`, in the order of the family's key map."""
    found: dict[str, AttachmentPoint] = {}
    for entry in tensors_of(model):
        module, _, kind = entry.disk.rpartition(".")
        ours = tuple(path.rpartition(".")[0] for path in entry.ours)
        if kind == "weight" and not entry.disk.endswith(SHARED):
            found[module] = AttachmentPoint(module, _kind(model, entry), ours, entry)
        elif kind == "bias" and module in found:
            found[module] = replace(found[module], bias=entry)
        elif not entry.disk.endswith(SHARED):
            found[entry.disk] = AttachmentPoint(entry.disk, "other", ours, entry)
    return found


def _kind(model: Model, entry: Entry) -> Kind:
    path, _, attribute = entry.ours[0].rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, Linear):
        return "linear"
    if isinstance(module, Embedding) and attribute == "tokens":
        return "embedding"
    if isinstance(module, LanguageHead):
        return "head"
    return "norm" if isinstance(module, Norm) else "other"


def match(
    found: Mapping[str, AttachmentPoint],
    targets: Targets,
    exclude: Targets = (),
    layers: Collection[int] | None = None,
    layers_pattern: Sequence[str] = (),
    kinds: Collection[str] = ("linear", "embedding", "head"),
    saved: Sequence[str] = (),
) -> list[Target]:
    """The points that `targets` name, as PEFT matches them (`check_target_module_exists` there).

    Args:
        found: the points of the model.
        targets: whole names or endings of them ("q_proj"), a regular expression of whole names, or "all-linear": every
            linear layer but the head over the vocabulary. The slices of a fused module are named by its name and
            ours: "c_attn.q".
        exclude: names, endings or an expression to leave out.
        layers: only in these layers.
        layers_pattern: names that the number of a layer follows; any unless given.
        kinds: what may be adapted.
        saved: modules that are trained whole, left out too.

    Raises:
        UserError: naming a target that matches nothing, with what is near.
    """
    for expression in (*(t for t in (targets, exclude) if isinstance(t, str)), *saved, *layers_pattern):
        check_expression(expression)
    if targets == ALL_LINEAR:
        return [Target(p) for p in found.values() if p.kind == "linear" and not _excluded(p.name, exclude, saved)]
    names = [name for point in found.values() for name in (point.name, *point.slices)]
    for wanted in (targets,) if isinstance(targets, str) else targets:
        if not any(is_named(name, wanted if isinstance(targets, str) else (wanted,)) for name in names):
            raise UserError(_unknown(wanted, found, kinds))
    chosen = [target for point in found.values() if (target := _target(point, targets, exclude, saved, kinds))]
    if layers is not None and not isinstance(targets, str):
        chosen = [target for target in chosen if _layer(target.point.name, layers_pattern) in layers]
    if not chosen:
        words = targets if isinstance(targets, str) else ",".join(targets)
        raise UserError(f"the targets {words} with these exclusions and layers leave nothing to adapt")
    return chosen


def check_expression(expression: str) -> None:
    """UserError for what is no regular expression."""
    try:
        re.compile(expression)
    except re.error as error:
        raise UserError(f'the name "{expression}" is no regular expression: {error}') from None


def _target(
    point: AttachmentPoint, targets: Targets, exclude: Targets, saved: Iterable[str], kinds: Collection[str]
) -> Target | None:
    """A point as it is meant: whole, some of its slices, or not at all."""
    if _excluded(point.name, exclude, saved):
        return None
    if is_named(point.name, targets):
        if point.kind not in kinds:
            raise UserError(f'the target "{point.name}" is a {point.kind}, and only {", ".join(kinds)} can be adapted')
        return Target(point)
    named = (i for i, n in enumerate(point.slices) if is_named(n, targets) and not _excluded(n, exclude, ()))
    return Target(point, parts) if (parts := tuple(named)) else None


def is_named(name: str, targets: Targets) -> bool:
    """Whether targets name a module: by an expression of its whole name, or by its name or an ending after a dot."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return name in targets or name.endswith(tuple(f".{target}" for target in targets))


def _excluded(name: str, exclude: Targets, saved: Iterable[str]) -> bool:
    return bool(exclude and is_named(name, exclude)) or any(re.match(rf"(^|.*\.){m}($|\..*)", name) for m in saved)


def _layer(name: str, patterns: Sequence[str]) -> int | None:
    """The number of the layer that a module is in: the first numbered segment."""
    for pattern in patterns or (r"[^.]*",):
        prefix = r"(?:^|.*?\.)" if patterns else r".*?\."
        if found := re.match(rf"{prefix}{pattern}\.(\d+)\.", name):
            return int(found[1])
    return None


def _unknown(wanted: str, found: Mapping[str, AttachmentPoint], kinds: Collection[str]) -> str:
    """That nothing has this name, and what is near it."""
    endings = [name.rpartition(".")[2] for name, point in found.items() if point.kind in kinds]
    slices = [".".join(name.split(".")[-2:]) for point in found.values() for name in point.slices]
    known = list(dict.fromkeys([*endings, *slices]))
    near = get_close_matches(wanted, known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
    return f'no part of this model is named "{wanted}"; {hint}'


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


def by_pattern(name: str, patterns: Mapping[str, Value], default: Value) -> Value:
    """The value of the first pattern that is the end of a module's name (`get_pattern_key` of PEFT)."""
    for pattern, value in patterns.items():
        check_expression(pattern)
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def usual(model: Model) -> AdapterTargets:
    """What adapters of the model's family usually act on."""
    return FAMILIES[model.family].adapters


def size(model: Model, path: str) -> tuple[int, int]:
    """Rows and columns of the weight of a module of ours."""
    module = model.get_submodule(path)
    if isinstance(module, Linear):
        return module.outputs, module.inputs
    assert isinstance(module, Embedding | LanguageHead)
    rows, columns = module.full_weight().shape
    return rows, columns
