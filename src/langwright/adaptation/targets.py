"""Which parts of a model an adapter is for: the names of Hugging Face's modules, and where they live in ours."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from langwright.base.errors import UserError
from langwright.models import tasks
from langwright.models.families import FAMILIES
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
class Place:
    """A module of Hugging Face's layout. ours: the modules of ours that it holds, several where it is fused.

    kind: what ours are: linear maps, the token table, the head over the vocabulary, a norm, or something else.
    weight, bias: how its tensors lie on disk, names as in the family's key map; None where it has none of its own.
    """

    name: str
    kind: Kind
    ours: tuple[str, ...]
    weight: Entry | None
    bias: Entry | None

    @property
    def slices(self) -> tuple[str, ...]:
        """The names of the parts of a fused module: "attn.c_attn" holds "attn.c_attn.q", ".k" and ".v"."""
        return tuple(f"{self.name}.{ours.rpartition('.')[2]}" for ours in self.ours) if len(self.ours) > 1 else ()

    def split(self, joined: Tensor, rows: Sequence[int]) -> list[Tensor]:
        """Pieces for ours out of a tensor with a row for each output, laid out as the fused module's."""
        return _upright(self.weight).split(joined, rows) if len(self.ours) > 1 else [joined]

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The reverse of `split`."""
        return _upright(self.weight).join(list(pieces)) if len(self.ours) > 1 else pieces[0]


@dataclass(frozen=True)
class Target:
    """A place that an adapter is for. parts: which of its slices, by number; None where it is taken as a whole."""

    place: Place
    parts: tuple[int, ...] | None = None

    @property
    def ours(self) -> tuple[str, ...]:
        """The modules of ours that are meant."""
        return self.place.ours if self.parts is None else tuple(self.place.ours[i] for i in self.parts)


def places(model: Model) -> dict[str, Place]:
    """All modules with parameters, as Hugging Face names them, in the order of the family's key map."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found: dict[str, Place] = {}
    for entry in bare_entries(model):
        disk, _, kind = entry.disk.rpartition(".")
        ours = tuple(name.rpartition(".")[0] for name in entry.ours)
        if kind == "weight":
            found[disk] = Place(disk, _kind(model, entry), ours, entry, None)
        elif kind == "bias" and disk in found:
            found[disk] = Place(disk, found[disk].kind, found[disk].ours, found[disk].weight, entry)
        else:
            found[entry.disk] = Place(entry.disk, "other", ours, entry, None)
    if isinstance(model.head, LanguageHead) and "head.weight" in parameters:
        _add_tied(model, found)
    return found


def bare_entries(model: Model) -> list[Entry]:
    """The key map of a model, with the names that its modules have in `transformers`."""
    family, task = FAMILIES[model.family], model.task
    entries = tasks.entries(family, model.config, task)
    if family.task != "hidden" or task not in ("hidden", tasks.EMBEDDING):
        return entries
    return [replace(entry, disk=entry.disk.removeprefix(family.prefix)) for entry in entries]


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


def _add_tied(model: Model, found: dict[str, Place]) -> None:
    """The modules that share the token table have no tensor of their own, and yet a name."""
    if model.head.weight is model.body.embed.tokens:
        name = "embed_out" if model.family == "gpt_neox" else tasks.TIED_COPY.removesuffix(".weight")
        found[name] = Place(name, "head", ("head",), None, None)
    if model.encoders:
        shared = next(name for name, place in found.items() if place.kind == "embedding")
        prefix = shared.removesuffix("shared")
        entry = found.pop(shared).weight
        for side, ours in (("encoder", "encoder.embed"), ("decoder", "body.embed")):
            name = f"{prefix}{side}.embed_tokens"
            found[name] = Place(name, "embedding", (ours,), entry, None)


def _upright(entry: Entry | None) -> Entry:
    assert entry is not None
    return Entry(entry.disk, entry.ours, heads=entry.heads)


def row_slices(place: Place, rows: Sequence[int]) -> list[Tensor]:
    """Which rows of a fused module each of ours has, by their numbers."""
    return place.split(torch.arange(sum(rows)), rows)


def match(
    found: Mapping[str, Place],
    targets: Targets,
    exclude: Targets = (),
    layers: Collection[int] | None = None,
    layers_pattern: Sequence[str] = (),
    kinds: Collection[Kind] = ("linear", "embedding", "head"),
    saved: Iterable[str] = (),
) -> list[Target]:
    """The places that `targets` name, as PEFT matches them (`check_target_module_exists` there).

    targets: whole names or endings of them ("q_proj"), a regular expression of whole names, or "all-linear": every
    linear map but the head over the vocabulary. The slices of a fused module are named by its name and ours:
    "c_attn.q". exclude: names, endings or an expression to leave out. layers, layers_pattern: only in these layers,
    whose number follows one of these names (any, unless given). saved: modules that are trained whole, left out too.
    Raises UserError naming a target that matches nothing, with what is near.
    """
    saved = tuple(saved)
    for expression in (*(t for t in (targets, exclude) if isinstance(t, str)), *saved, *layers_pattern):
        refuse_broken(expression)
    if targets == ALL_LINEAR:
        return [Target(p) for p in found.values() if p.kind == "linear" and not _excluded(p.name, exclude, saved)]
    chosen = [target for place in found.values() if (target := _target(place, targets, exclude, saved, kinds))]
    names = [name for p in found.values() for name in (p.name, *p.slices)]
    for wanted in (targets,) if isinstance(targets, str) else targets:
        if not any(_named(name, wanted if isinstance(targets, str) else (wanted,)) for name in names):
            raise UserError(_unknown(wanted, found, kinds))
    if layers is not None and not isinstance(targets, str):
        chosen = [t for t in chosen if _layer(t.place.name, layers_pattern) in layers]
    if not chosen:
        raise UserError(f"the targets {_spelt(targets)} with these exclusions and layers leave nothing to adapt")
    return chosen


def refuse_broken(expression: str) -> None:
    """UserError for what is no regular expression."""
    try:
        re.compile(expression)
    except re.error as error:
        raise UserError(f'the name "{expression}" is no regular expression: {error}') from None


def _target(
    place: Place, targets: Targets, exclude: Targets, saved: Iterable[str], kinds: Collection[Kind]
) -> Target | None:
    """A place as it is meant: whole, some of its slices, or not at all."""
    if _excluded(place.name, exclude, saved):
        return None
    if _named(place.name, targets):
        if place.kind not in kinds:
            raise UserError(f'the target "{place.name}" is a {place.kind}, and only {", ".join(kinds)} can be adapted')
        return Target(place)
    parts = tuple(
        i for i, name in enumerate(place.slices) if _named(name, targets) and not _excluded(name, exclude, ())
    )
    return Target(place, parts) if parts else None


def _named(name: str, targets: Targets) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return name in targets or name.endswith(tuple(f".{target}" for target in targets))


def _excluded(name: str, exclude: Targets, saved: Iterable[str]) -> bool:
    return bool(exclude and _named(name, exclude)) or any(re.match(rf"(^|.*\.){m}($|\..*)", name) for m in saved)


def _layer(name: str, patterns: Sequence[str]) -> int | None:
    """The number of the layer that a module is in: the first numbered segment."""
    for pattern in patterns or (r"[^.]*",):
        prefix = r"(?:^|.*?\.)" if patterns else r".*?\."
        if found := re.match(rf"{prefix}{pattern}\.(\d+)\.", name):
            return int(found[1])
    return None


def _unknown(wanted: str, found: Mapping[str, Place], kinds: Collection[Kind]) -> str:
    """That nothing has this name, and what is near it."""
    endings = [name.rpartition(".")[2] for name, place in found.items() if place.kind in kinds]
    slices = [".".join(name.split(".")[-2:]) for place in found.values() for name in place.slices]
    known = list(dict.fromkeys([*endings, *slices]))
    near = get_close_matches(wanted, known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"
    return f'no part of this model is named "{wanted}"; {hint}'


def _spelt(targets: Targets) -> str:
    return targets if isinstance(targets, str) else ",".join(targets)


def by_pattern(name: str, patterns: Mapping[str, Value], default: Value) -> Value:
    """The value of the first pattern that is the end of a module's name (`get_pattern_key` of PEFT)."""
    for pattern, value in patterns.items():
        refuse_broken(pattern)
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def rows_of(model: Model, target: Target) -> list[int]:
    """The outputs of each of ours in a target's place."""
    return [_size(model.get_submodule(name))[0] for name in target.place.ours]


def narrowest(model: Model, target: Target) -> tuple[int, int]:
    """Rows and columns of a target's weight; of slices, those of the one with the smallest side."""
    sizes = [_size(model.get_submodule(name)) for name in target.ours]
    return min(sizes, key=min) if target.parts is not None else (sum(rows for rows, _ in sizes), sizes[0][1])


def _size(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Linear):
        return module.outputs, module.inputs
    assert isinstance(module, Embedding | LanguageHead)
    rows, columns = module.full_weight().shape
    return rows, columns


DEFAULTS: dict[str, tuple[str, ...]] = {
    "bart": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "bloom": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "marian": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "nanochat": ("q_proj", "v_proj"),
    "openai-gpt": ("c_attn",),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "switch_transformers": ("q", "v"),
    "t5": ("q", "v"),
}
"""What LoRA is for unless told, as in PEFT; those it does not list (marian, nanochat, openai-gpt, switch_transformers)
after their like."""
