"""LoRA (Hu et al., 2021), rsLoRA (Kalajdzievski, 2023), DoRA (Liu et al., 2024) and LoRA+ (Hayou et al., 2024)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from langwright.adaptation.live import live
from langwright.adaptation.lowrank import LowRank, LowRankTable
from langwright.adaptation.method import (
    LARGEST,
    Method,
    SettingError,
    Stored,
    check_size,
    finite,
    joined,
    refuse_unknown,
)
from langwright.adaptation.sides import Owner, Part, parts, stand_beside
from langwright.adaptation.targets import (
    ALL_LINEAR,
    DEFAULTS,
    PREFIX,
    Target,
    Targets,
    by_pattern,
    match,
    narrowest,
    places,
    rows_of,
)
from langwright.adaptation.whole import asked_modules, own_stored, saved_entries, saved_modules
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.parts.heads import LanguageHead
from langwright.parts.linear import Linear
from langwright.parts.stack import Embedding

Init = Literal["kaiming", "gaussian"]


@dataclass(frozen=True)
class LoRA(Method):
    """Beside each targeted weight W stands scaling * B A, of a rank far below W's.

    rank: of B A. alpha: scaling = alpha / rank; 2 * rank unless given. dropout: on x on its way to A.
    target, exclude, layers, layers_pattern: what is adapted, see `targets.match`; the family's usual unless given.
    rank_pattern, alpha_pattern: other values for modules whose names end so.
    bias: which biases of the model train too. modules_to_save: modules that train whole, such as a fresh head; a
    classifying head always does. rslora: scaling = alpha / sqrt(rank). dora: a length of its own for each row.
    init: of A: uniform, as a linear layer's, or gaussian with deviation 1 / rank; B is zero.
    plus: LoRA+: how many times the learning rate of A that of B is.
    """

    peft_type: ClassVar[str] = "LORA"
    in_peft: ClassVar[Mapping[str, str]] = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    target: Targets | None = None
    exclude: Targets = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: tuple[str, ...] = ()
    rslora: bool = False
    dora: bool = False
    init: Init = "kaiming"
    plus: float = 1.0

    def __post_init__(self) -> None:
        check_size("rank", self.rank)
        for module, rank in self.rank_pattern.items():
            if not 1 <= rank <= LARGEST:
                wanted = f"ranks of at least 1 and at most {LARGEST}"
                raise SettingError("rank_pattern", {module: rank}, wanted, "rank_pattern")
        if self.alpha is not None and not finite(self.alpha):
            raise SettingError("alpha", self.alpha, "a finite number")
        for module, alpha in self.alpha_pattern.items():
            if not finite(alpha):
                raise SettingError("alpha_pattern", {module: alpha}, "finite numbers", "alpha_pattern")
        if not 0 <= self.dropout < 1:
            raise SettingError("dropout", self.dropout, "at least 0 and below 1")
        if not 0 < self.plus < math.inf:
            raise SettingError("plus", self.plus, "above 0 and finite")

    def targets(self, model: Model) -> list[Target]:
        """What is adapted of a model."""
        wanted = DEFAULTS[model.family] if self.target is None else self.target
        saved = saved_modules(model, self.modules_to_save)
        return match(places(model), wanted, self.exclude, self.layers, self.layers_pattern, saved=saved)

    def rank_of(self, name: str) -> int:
        """The rank for a module."""
        return by_pattern(name, self.rank_pattern, self.rank)

    def scaling(self, name: str) -> float:
        """What multiplies B A for a module."""
        rank = self.rank_of(name)
        alpha = by_pattern(name, self.alpha_pattern, 2.0 * self.rank if self.alpha is None else self.alpha)
        return float(alpha / (rank**0.5 if self.rslora else rank))

    def check_new(self, model: Model) -> None:
        """A product of higher rank than the weight can do no more than one of the weight's; PEFT's files may have it.

        All linear maps together may hold some that are narrower, such as the router of a mixture of experts.
        """
        sizes = {target.place.name: narrowest(model, target) for target in self.targets(model)}
        narrow = [name for name, size in sizes.items() if self.rank_of(name) > min(size)]
        if narrow and (self.target != ALL_LINEAR or len(narrow) == len(sizes)):
            name, (rows, columns) = narrow[0], sizes[narrow[0]]
            wanted = f"at most {min(rows, columns)}, the smaller side of {name}, which is {rows} x {columns}"
            raise SettingError("rank", self.rank_of(name), wanted)

    def rate(self, parameter: str) -> float:
        return self.plus if parameter.endswith((".up", ".magnitude")) else 1.0

    def to_peft(self, model: Model) -> Fields:
        targets = self.targets(model)
        sliced = {t.place.name: self.rank_of(t.place.name) * len(t.ours) for t in targets if t.parts is not None}
        power = 0.5 if self.rslora else 1.0  # a wider A and B keep their scaling
        alphas = {name: _whole(self.scaling(name) * rank**power) for name, rank in sliced.items()}
        wanted = DEFAULTS[model.family] if self.target is None else self.target
        if sliced or wanted == "all-linear":
            wanted = tuple(target.place.name for target in targets)
        saved = saved_modules(model, self.modules_to_save)
        return {
            "alpha_pattern": {**alphas, **self.alpha_pattern},
            "bias": self.bias,
            "exclude_modules": (self.exclude if isinstance(self.exclude, str) else list(self.exclude)) or None,
            "fan_in_fan_out": any(t.place.weight is not None and t.place.weight.transposed for t in targets),
            "init_lora_weights": "gaussian" if self.init == "gaussian" else True,
            "layers_pattern": list(self.layers_pattern) or None,
            "layers_to_transform": None if self.layers is None else list(self.layers),
            "lora_alpha": _whole(2.0 * self.rank if self.alpha is None else self.alpha),
            "lora_bias": False,
            "lora_dropout": self.dropout,
            "modules_to_save": list(saved) or None,
            "r": self.rank,
            "rank_pattern": {**sliced, **self.rank_pattern},
            "target_modules": wanted if isinstance(wanted, str) else list(wanted),
            "use_dora": self.dora,
            "use_rslora": self.rslora,
        }

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "LoRA":
        given = refuse_unknown(fields, HONOURED, DEFAULT_ONLY, INERT, where)
        init = given.get("init_lora_weights", True)
        if init not in INITS:
            raise UserError(f"{where}: init_lora_weights = {init!r} is not supported: it changes the base itself")
        target = given.get("target_modules")
        if not target:
            raise UserError(f"{where}: target_modules is empty, and nothing else is supported")
        layers, pattern = given.get("layers_to_transform"), given.get("layers_pattern") or ()
        return cls(
            rank=given.get("r", 8),
            alpha=given.get("lora_alpha", 8.0),
            dropout=given.get("lora_dropout", 0.0),
            target=_targets(target),
            exclude=_targets(given.get("exclude_modules") or ()),
            layers=None if layers is None else (layers,) if isinstance(layers, int) else tuple(layers) or None,
            layers_pattern=(pattern,) if isinstance(pattern, str) else tuple(pattern),
            rank_pattern=given.get("rank_pattern") or {},
            alpha_pattern=given.get("alpha_pattern") or {},
            bias=given.get("bias", "none"),
            modules_to_save=asked_modules(model, given.get("modules_to_save")),
            rslora=given.get("use_rslora", False),
            dora=given.get("use_dora", False),
            init="gaussian" if init == "gaussian" else "kaiming",
        )

    def _add(self, model: Model, name: str) -> Iterator[nn.Parameter]:
        carried, targets = live(model), self.targets(model)
        for target in targets:
            for path, part in self._parts(model, target).items():
                owner = model.get_submodule(path)
                assert isinstance(owner, Owner)
                stand_beside(owner, name, part, carried.choice)
        yield from (p for part in parts(model, name).values() for p in part.parameters())
        entries = [e for _, e in self._own(model, targets)]
        yield from carried.keep_own(model, name, [ours for entry in entries for ours in entry.ours])

    def _parts(self, model: Model, target: Target) -> dict[str, Part]:
        """New parts for a target, by the maps of ours; a fused module taken whole has one A for all its parts."""
        rank, scaling = self.rank_of(target.place.name), self.scaling(target.place.name)
        made: dict[str, Part] = {}
        down: nn.Parameter | None = None
        for path in target.ours:
            owner = model.get_submodule(path)
            assert isinstance(owner, Owner)
            weight = owner.full_weight()
            if isinstance(owner, Embedding):
                down = _new(weight, rank, weight.shape[0], fill=torch.zero_)
                up = _new(weight, weight.shape[1], rank, fill=nn.init.normal_)
                length = nn.Parameter(weight.detach().float().norm(dim=0)) if self.dora else None
                made[path] = LowRankTable(down, up, scaling, length)
                continue
            if self.dora and self.dropout and isinstance(owner, LanguageHead):
                raise UserError("dropout does not go with DoRA beside the head over the vocabulary; leave one out")
            if down is None or target.parts is not None:
                down = self._new_down(rank, weight)
            up = _new(weight, weight.shape[0], rank, fill=torch.zero_)
            length = nn.Parameter(weight.detach().float().norm(dim=1)) if self.dora else None
            made[path] = LowRank(down, up, scaling, self.dropout, length)
        return made

    def _new_down(self, rank: int, weight: Tensor) -> nn.Parameter:
        if self.init == "gaussian":
            return _new(weight, rank, weight.shape[1], fill=partial(nn.init.normal_, std=1 / rank))
        bound = weight.shape[1] ** -0.5
        return _new(weight, rank, weight.shape[1], fill=partial(nn.init.uniform_, a=-bound, b=bound))

    def _own(self, model: Model, targets: list[Target]) -> list[tuple[str, Entry]]:
        """The model's own tensors that train, and their names in the adapter's file."""
        found = saved_entries(model, self.modules_to_save)
        saved = {name for name, _ in found}
        targeted = {target.place.name for target in targets}
        for place in places(model).values() if self.bias != "none" else ():
            key = f"{PREFIX}{place.name}.bias"
            if place.bias is not None and key not in saved and (self.bias == "all" or place.name in targeted):
                found.append((f"{PREFIX}{place.name}{'.base_layer' * (place.name in targeted)}.bias", place.bias))
        return found

    def _is_of_base(self, model: Model, key: str, tensor: Tensor) -> bool:
        """PEFT keeps the base's own token table and head beside adapters of them."""
        place = places(model).get(key.removeprefix(PREFIX).removesuffix(".base_layer.weight"))
        if place is None or not key.endswith(".base_layer.weight") or place.kind not in ("embedding", "head"):
            return False
        owner = model.get_submodule(place.ours[0])
        assert isinstance(owner, Owner)
        own = owner.full_weight()
        return tensor.shape == own.shape and torch.equal(tensor.to(own), own)

    def _stored(self, model: Model, name: str) -> list[Stored]:
        targets, held = self.targets(model), parts(model, name)
        stored: list[Stored] = []
        for target in targets:
            stored += _stored_of(model, target, [held[path] for path in target.ours])
        return stored + [own_stored(model, name, key, entry) for key, entry in self._own(model, targets)]


def _stored_of(model: Model, target: Target, held: Sequence[Part]) -> list[Stored]:
    """The tensors of one target in an adapter's file, where a fused module has one A and one B."""
    key, first = f"{PREFIX}{target.place.name}", held[0]
    if isinstance(first, LowRankTable):
        stored = [
            Stored.of(f"{key}.lora_embedding_A", first.down),
            Stored.of(f"{key}.lora_embedding_B", first.up),
        ]
        return stored + [Stored.of(f"{key}.lora_magnitude_vector", p) for p in (first.magnitude,) if p is not None]
    low = [part for part in held if isinstance(part, LowRank)]
    rows = rows_of(model, target)
    if target.parts is None:
        up = joined(f"{key}.lora_B.weight", target.place, rows, [part.up for part in low])
        stored = [Stored.of(f"{key}.lora_A.weight", low[0].down), up]
    else:
        stored = _stacked(key, target, rows, low)
    lengths = _lengths(model, target, low)
    return stored + ([joined(f"{key}.lora_magnitude_vector", target.place, rows, lengths)] if lengths else [])


def _lengths(model: Model, target: Target, low: Sequence[LowRank]) -> list[Tensor]:
    """DoRA's lengths for each part of a place; those that are not adapted keep the length of their rows."""
    adapted = dict(zip(target.ours, low, strict=True))
    lengths: list[Tensor] = []
    for path in target.place.ours:
        magnitude = adapted[path].magnitude if path in adapted else None
        if low[0].magnitude is None:
            return []
        owner = model.get_submodule(path)
        assert isinstance(owner, Linear | LanguageHead)
        lengths.append(owner.full_weight().detach().float().norm(dim=1) if magnitude is None else magnitude)
    return lengths


def _stacked(key: str, target: Target, rows: Sequence[int], low: Sequence[LowRank]) -> list[Stored]:
    """Slices of a fused module: their A one above the other, their B in blocks, zero elsewhere."""
    assert target.parts is not None
    ranks = [part.down.shape[0] for part in low]
    starts = list(accumulate(ranks, initial=0))
    at = dict(zip(target.parts, range(len(low)), strict=True))

    def read() -> Tensor:
        pieces = [torch.zeros(count, sum(ranks)) for count in rows]
        for number, i in at.items():
            pieces[number][:, starts[i] : starts[i + 1]] = low[i].up.detach()
        return target.place.join(pieces)

    def write(tensor: Tensor) -> None:
        pieces = target.place.split(tensor.clone(), rows)
        for number, i in at.items():
            block = pieces[number][:, starts[i] : starts[i + 1]]
            low[i].up.data.copy_(block)
            block.zero_()
        if any(piece.any() for piece in pieces):
            raise UserError(f'tensor "{key}.lora_B.weight" is not made of slices, as the record beside it says')

    def write_down(tensor: Tensor) -> None:
        for part, piece in zip(low, tensor.split(ranks), strict=True):
            part.down.data.copy_(piece)

    width = low[0].down.shape[1]
    return [
        Stored(
            f"{key}.lora_A.weight",
            (sum(ranks), width),
            lambda: torch.cat([part.down.detach() for part in low]),
            write_down,
        ),
        Stored(f"{key}.lora_B.weight", (sum(rows), sum(ranks)), read, write),
    ]


def _targets(value: Any) -> Targets:
    return value if isinstance(value, str) else tuple(value)


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def _new(like: Tensor, *shape: int, fill: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """A parameter in float32 where `like` is, whose numbers are the same on every device."""
    if like.is_meta:
        return nn.Parameter(torch.empty(shape, device="meta"))
    return nn.Parameter(fill(torch.empty(shape)).to(like.device))


INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base as it is; what is loaded replaces them all."""

HONOURED = (
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
)
INERT = ("corda_config", "eva_config", "fan_in_fan_out", "lora_ga_config", "megatron_core", "qalora_group_size")
DEFAULT_ONLY: Mapping[str, Any] = {
    "ensure_weight_tying": False,
    "layer_replication": None,
    "loftq_config": {},
    "lora_bias": False,
    "megatron_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_qalora": False,
}
