"""LoRA (Hu et al., 2021), rsLoRA (Kalajdzievski, 2023), DoRA (Liu et al., 2024) and LoRA+ (Hayou et al., 2024)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, Answer
from langwright.adaptation.attachment_points import (
    ALL_LINEAR,
    PREFIX,
    Target,
    Targets,
    by_pattern,
    match,
    points,
    size,
    usual,
)
from langwright.adaptation.base_parameters import TABLES, BaseTensor, is_tied, saved_modules, saved_tensors
from langwright.adaptation.config_fields import INERT, TARGETS, Holds, Only, Table
from langwright.adaptation.method import Stored, TargetedMethod
from langwright.adaptation.settings import ABOVE_0, FINITE, SHARE, SIZE, SettingError, setting
from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.parts.heads import LanguageHead, Projection
from langwright.parts.stack import Embedding


class LowRank(AdapterModule):
    """y = W x + b + scaling * B A x. For a token table W is its transpose and x a one-hot vector.

    Args:
        down: A.
        up: B.
        scaling: multiplies B A.
        dropout: share of x that A does not see in training.
        magnitude: DoRA's length of each row of W + scaling * B A; None for LoRA. What its length was without is no
            part of the gradient (section 4.3 of the paper).
        table: whether the owner is a token table.
    """

    def __init__(
        self,
        down: Float[nn.Parameter, "rank inputs"],
        up: Float[nn.Parameter, "outputs rank"],
        scaling: float,
        dropout: float = 0.0,
        magnitude: Float[nn.Parameter, " outputs"] | None = None,
        table: bool = False,
    ):
        super().__init__()
        self.down, self.up, self.magnitude = down, up, magnitude
        self.scaling, self.dropout, self.table = scaling, dropout, table

    def forward(self, x: Tensor, owner: Any, answer: Answer) -> Float[Tensor, "*batch outputs"]:
        y = answer(x)
        down, up = self.down.to(y.dtype), self.up.to(y.dtype)
        drops = self.training and self.dropout > 0
        x = F.dropout(x, self.dropout) if drops else x
        inner = F.embedding(x, down.t()) if self.table else F.linear(x, down)
        change = F.linear(self.scaling * inner, up)  # scaled where it is narrow
        if self.magnitude is None:
            return y + change
        bias = None if self.table else owner.bias
        straight = (
            F.linear(x, owner.full_weight().to(y.dtype)) if drops else y if bias is None else y - bias.to(y.dtype)
        )
        scale = self._scale(owner).to(y.dtype)
        return y + (scale - 1) * straight + scale * change

    def merged(self, owner: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        changed = self._changed(weight)
        changed = changed if self.magnitude is None else self._scale(owner)[:, None] * changed
        return changed.t() if self.table else changed, bias

    def projection(self, plain: Projection, owner: Any) -> Projection:
        """One more column for each rank: [x, scaling * A x] and [W, B], which never forms W + scaling * B A."""
        hidden = plain.hidden
        inner = self.scaling * F.linear(F.dropout(hidden, self.dropout, self.training), self.down.to(hidden.dtype))
        weight = torch.cat((owner.full_weight().to(hidden.dtype), self.up.to(hidden.dtype)), 1)
        if self.magnitude is not None:
            weight = self._scale(owner).to(weight.dtype)[:, None] * weight
        return replace(plain, hidden=torch.cat((hidden, inner), -1), weight=weight)

    def _scale(self, owner: Any) -> Float[Tensor, " outputs"]:
        """The length that each row is to have over the length it has."""
        assert self.magnitude is not None
        with torch.no_grad():
            lengths = self._changed(owner.full_weight()).norm(dim=1)
        return self.magnitude.float() / lengths

    def _changed(self, weight: Tensor) -> Float[Tensor, "outputs inputs"]:
        """W + scaling * B A."""
        return (weight.t() if self.table else weight).float() + self.scaling * self.up.float() @ self.down.float()


class TiedLowRank(LowRank):
    """The adapter of a head that is the token table: the transpose of the table's adapter, whose numbers it shares."""

    def __init__(self, table: LowRank):
        nn.Module.__init__(self)
        self.magnitude, self.scaling, self.dropout, self.table = None, table.scaling, 0.0, False
        self._tied = (table,)  # a tuple, so that its parameters are not listed twice

    @property
    def down(self) -> Tensor:  # type: ignore[override]
        return self._tied[0].up.t()

    @property
    def up(self) -> Tensor:  # type: ignore[override]
        return self._tied[0].down.t()


BEGINNINGS = {**dict.fromkeys((True, False, "eva", "orthogonal"), "kaiming"), "gaussian": "gaussian"}
"""Ways to begin that leave the base as it is; what is loaded replaces them all."""
ABSENT = ("layer_replication", "megatron_config", "target_parameters", "trainable_token_indices")
IGNORED = (
    "corda_config", "eva_config", "fan_in_fan_out", "lora_ga_config", "megatron_core", "qalora_group_size",
)  # fmt: skip


@dataclass(frozen=True)
class LoRA(TargetedMethod):
    """To each targeted weight W is added scaling * B A, of a rank far below W's.

    Args:
        rank: width of the two matrices A and B; at most the smaller side of a weight that it is for.
        alpha: what they add is multiplied by alpha / rank; twice the rank unless given.
        dropout: share of the activations on their way to A that is dropped in training.
        target: what is adapted: names of modules or their endings between commas, a regular expression of whole names,
            or all-linear; the family's usual ones unless given.
        exclude: what is not adapted all the same.
        layers: the numbers of the layers that are adapted; all unless given.
        layers_pattern: names that the number of a layer follows; any unless given.
        rank_pattern: other ranks for modules whose names end so.
        alpha_pattern: other alphas for modules whose names end so.
        bias: which of the model's own biases train too.
        modules_to_save: names of modules that train whole, between commas.
        rslora: multiply by alpha / sqrt(rank) instead, for high ranks.
        dora: give each row of an adapted weight a trained length of its own.
        init: of A: uniform, as a linear layer's, or gaussian with deviation 1 / rank; B begins as zero.
        plus: how many times the learning rate of A that of B is (LoRA+).
        ensure_weight_tying: keep a token table that is also the head one table, adapted or saved as one.
    """

    peft_type: ClassVar[str] = "LORA"
    peft_fields: ClassVar[Table] = {
        "r": Holds("rank"),
        "lora_alpha": Holds("alpha", missing=8.0, write=lambda alpha: int(alpha) if alpha == int(alpha) else alpha),
        "lora_dropout": Holds("dropout"),
        **TARGETS,
        "layers_to_transform": Holds("layers", kind=int | tuple[int, ...]),
        "layers_pattern": Holds("layers_pattern", kind=Targets),
        "rank_pattern": Holds("rank_pattern"),
        "alpha_pattern": Holds("alpha_pattern"),
        "bias": Holds("bias"),
        "use_rslora": Holds("rslora"),
        "use_dora": Holds("dora"),
        "init_lora_weights": Holds("init", words=BEGINNINGS),
        "ensure_weight_tying": Holds("ensure_weight_tying"),
        "lora_bias": Only(False, written=True),
        "loftq_config": Only({}),
        "use_qalora": Only(False),
        **dict.fromkeys(ABSENT, Only(None)),
        **dict.fromkeys(IGNORED, INERT),
    }

    kinds: ClassVar[tuple[str, ...]] = ("linear", "embedding", "head")
    rank: int = setting(8, SIZE, "rank")
    alpha: float | None = setting(None, FINITE, "alpha")
    dropout: float = setting(0.0, SHARE, "dropout")
    target: Targets | None = setting(None, option="target")
    exclude: Targets = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = setting({}, SIZE)
    alpha_pattern: Mapping[str, float] = setting({}, FINITE)
    bias: Literal["none", "all", "lora_only"] = setting("none", option="bias")
    modules_to_save: tuple[str, ...] = setting((), option="whole")
    rslora: bool = setting(False, option="rslora")
    dora: bool = setting(False, option="dora")
    init: Literal["kaiming", "gaussian"] = "kaiming"
    plus: float = setting(1.0, ABOVE_0, "plus")
    ensure_weight_tying: bool = False

    def targets(self, model: Model) -> list[Target]:
        """What is adapted of a model."""
        found, saved = points(model), saved_modules(model, self.modules_to_save)
        targets = match(
            found, self.wanted(model), self.exclude, self.layers or None, self.layers_pattern, self.kinds, saved
        )
        heads = [Target(point) for point in found.values() if point.ours == ("head",)]
        return targets + [head for head in heads if self._ties(model) and head not in targets]

    def usual(self, model: Model) -> Targets:
        return usual(model).lora

    def _ties(self, model: Model) -> bool:
        """Whether the adapters of the token table and of the head are one."""
        wanted = self.wanted(model)
        named = not isinstance(wanted, str) and any(name.rpartition(".")[2] in TABLES for name in wanted)
        return self.ensure_weight_tying and named and is_tied(model)

    def rank_of(self, name: str) -> int:
        """The rank for a module."""
        return by_pattern(name, self.rank_pattern, self.rank)

    def scaling(self, name: str) -> float:
        """What multiplies B A for a module."""
        rank = self.rank_of(name)
        alpha = by_pattern(name, self.alpha_pattern, 2.0 * self.rank if self.alpha is None else self.alpha)
        return float(alpha / (rank**0.5 if self.rslora else rank))

    def rate(self, parameter: str) -> float:
        return self.plus if parameter.endswith((".up", ".magnitude")) else 1.0

    def check_new(self, model: Model) -> None:
        """A product of higher rank than the weight can do no more than one of the weight's; PEFT's files may have it.

        All linear layers together may hold some that are narrower, such as the router of a mixture of experts.
        """
        if self.alpha is not None and not self.alpha > 0:
            raise SettingError(self, "alpha", self.alpha, "above 0 and finite, for it multiplies all that LoRA adds")
        sizes = {target.point.name: _size(model, target) for target in self.targets(model)}
        narrow = [name for name, sides in sizes.items() if self.rank_of(name) > min(sides)]
        if narrow and (self.target != ALL_LINEAR or len(narrow) == len(sizes)):
            name, (rows, columns) = narrow[0], sizes[narrow[0]]
            wanted = f"at most {min(rows, columns)}, the smaller side of {name}, which is {rows} x {columns}"
            raise SettingError(self, "rank", self.rank_of(name), wanted)

    def modules(self, model: Model) -> dict[str, LowRank]:
        made: dict[str, LowRank] = {}
        for target in self.targets(model):
            rank, scaling = self.rank_of(target.point.name), self.scaling(target.point.name)
            down: nn.Parameter | None = None  # a fused module taken whole has one A for all its parts
            for path in target.ours:
                owner: Any = model.get_submodule(path)
                if self._ties(model) and path == "head":
                    made[path] = TiedLowRank(made["body.embed"])
                    continue
                table = isinstance(owner, Embedding)
                weight = owner.full_weight().t() if table else owner.full_weight()
                if self.dora and self.dropout and isinstance(owner, LanguageHead):
                    raise UserError("dropout does not go with DoRA at the head over the vocabulary; leave one out")
                if down is None or target.parts is not None:
                    down = _new(weight, rank, weight.shape[1], fill=torch.zero_ if table else self._begin)
                up = _new(weight, weight.shape[0], rank, fill=nn.init.normal_ if table else torch.zero_)
                length = nn.Parameter(weight.detach().float().norm(dim=1)) if self.dora else None
                made[path] = LowRank(down, up, scaling, 0.0 if table else self.dropout, length, table)
        return made

    def _begin(self, down: Tensor) -> Tensor:
        if self.init == "gaussian":
            return nn.init.normal_(down, std=1 / down.shape[0])
        bound = down.shape[1] ** -0.5
        return nn.init.uniform_(down, -bound, bound)

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        found = saved_tensors(model, self.modules_to_save, self.ensure_weight_tying)
        saved = {tensor.entry.disk for tensor in found}
        targeted = {target.point.name for target in self.targets(model)}
        for name, point in points(model).items() if self.bias != "none" else ():
            if point.bias is not None and point.bias.disk not in saved and (self.bias == "all" or name in targeted):
                found.append(BaseTensor(f"{PREFIX}{name}{'.base_layer' * (name in targeted)}.bias", point.bias))
        return found

    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        found: list[Stored] = []
        for target in self.targets(model):
            key, parts = f"{PREFIX}{target.point.name}", {i: modules[path] for path, i in target.ours.items()}
            first = next(iter(parts.values()))
            if first.table:
                names = {"lora_embedding_A": first.down, "lora_embedding_B": first.up}
                names |= {} if first.magnitude is None else {"lora_magnitude_vector": first.magnitude}
                found += [Stored.of(f"{key}.{name}", parameter) for name, parameter in names.items()]
                continue
            # PEFT knows no slices: of a fused module it has their A one above the other, and their B in blocks.
            downs = [part.down for part in parts.values()][: 1 if target.parts is None else None]
            ranks = [len(down) for down in downs]
            starts = accumulate(ranks, initial=0) if target.parts is not None else [0] * len(parts)
            blocks = {
                i: (part.up, partial(torch.narrow, dim=1, start=start, length=part.up.shape[1]))
                for (i, part), start in zip(parts.items(), starts, strict=False)
            }
            rows = [size(model, path)[0] for path in target.point.ours]
            empty = [torch.zeros(count, sum(ranks)) for count in rows]
            found.append(Stored.of(f"{key}.lora_A.weight", *downs))
            found.append(Stored.fused(f"{key}.lora_B.weight", target.point, empty, blocks))
            if first.magnitude is not None:
                weights: list[Any] = [model.get_submodule(path) for path in target.point.ours]
                lengths = [owner.full_weight().detach().float().norm(dim=1).cpu() for owner in weights]
                own = {i: (part.magnitude, lambda piece: piece) for i, part in parts.items()}
                found.append(Stored.fused(f"{key}.lora_magnitude_vector", target.point, lengths, own))
        return found

    def in_peft(self, model: Model) -> "LoRA":
        targets = self.targets(model)
        ranks = {t.point.name: self.rank_of(t.point.name) * len(t.ours) for t in targets if t.parts is not None}
        alphas = {name: self.scaling(name) * (rank**0.5 if self.rslora else rank) for name, rank in ranks.items()}
        return replace(
            super().in_peft(model),
            alpha=2.0 * self.rank if self.alpha is None else self.alpha,
            rank_pattern=ranks | {**self.rank_pattern},
            alpha_pattern=alphas | {**self.alpha_pattern},
        )


def _size(model: Model, target: Target) -> tuple[int, int]:
    """Rows and columns of a target's weight; of slices, those of the one with the smallest side."""
    sizes = [size(model, path) for path in target.ours]
    return min(sizes, key=min) if target.parts is not None else (sum(rows for rows, _ in sizes), sizes[0][1])


def _new(like: Tensor, *shape: int, fill: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """A parameter in float32 where `like` is, whose numbers are the same on every device."""
    made = torch.empty(shape, device="meta" if like.is_meta else "cpu")
    return nn.Parameter(made if like.is_meta else fill(made).to(like.device))
