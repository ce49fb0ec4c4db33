"""LoRA (Hu et al., 2021), rsLoRA (Kalajdzievski, 2023), DoRA (Liu et al., 2024) and LoRA+ (Hayou et al., 2024)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, Answer
from langwright.adaptation.attachment_points import (
    ALL_LINEAR,
    AttachmentPoint,
    BaseTensor,
    Targets,
    matches,
    matrix,
    names_tied_table,
    points,
    saved_tensors,
)
from langwright.adaptation.method import Stored, TargetedMethod
from langwright.adaptation.settings import Holds, SettingError, Table, holds, setting
from langwright.base.errors import UserError
from langwright.models.family import AdapterTargets, Fields
from langwright.models.model import Model
from langwright.parts.heads import Projection
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
        table: whether A and B are for a token table. A head that is the table may share its adapter.
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

    def factors(self, owner: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """A, B and the lengths for an owner: for a head that shares the table's adapter, those of its transpose."""
        if self.table and not isinstance(owner, Embedding):
            return self.up.t(), self.down.t(), None
        return self.down, self.up, self.magnitude

    def forward(self, x: Tensor, owner: Any, answer: Answer) -> Float[Tensor, "*batch outputs"]:
        y, table = answer(x), isinstance(owner, Embedding)
        down, up, magnitude = self.factors(owner)
        down, up = down.to(y.dtype), up.to(y.dtype)
        drops = self.training and self.dropout > 0
        x = F.dropout(x, self.dropout) if drops else x
        inner = F.embedding(x, down.t()) if table else F.linear(x, down)
        change = F.linear(self.scaling * inner, up)  # scaled where it is narrow
        if magnitude is None:
            return y + change
        bias = None if table else owner.bias
        straight = F.linear(x, matrix(owner).to(y.dtype)) if drops else y if bias is None else y - bias.to(y.dtype)
        scale = self._scale(owner).to(y.dtype)
        return y + (scale - 1) * straight + scale * change

    @classmethod
    def by_row(cls, modules: Sequence[Any], owner: Any) -> "LowRankRows | None":
        there = [module for module in modules if module is not None]
        if isinstance(owner, Embedding) or any(module.factors(owner)[2] is not None for module in there):
            return None
        return LowRankRows([None if module is None else module.scaled(owner) for module in modules])

    def scaled(self, owner: Any) -> tuple[Tensor, Tensor]:
        """A, and scaling * B."""
        down, up, _ = self.factors(owner)
        return down.detach(), self.scaling * up.detach()

    def merged(self, owner: Any, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        table = isinstance(owner, Embedding)
        changed = self._changed(owner, weight.t() if table else weight)
        changed = changed if self.factors(owner)[2] is None else self._scale(owner)[:, None] * changed
        return changed.t() if table else changed, bias

    def projection(self, plain: Projection, owner: Any) -> Projection:
        """One more column for each rank: [x, scaling * A x] and [W, B], which never forms W + scaling * B A."""
        hidden, (down, up, magnitude) = plain.hidden, self.factors(owner)
        x = F.dropout(hidden[..., : down.shape[1]], self.dropout, self.training)
        inner = self.scaling * F.linear(x, down.to(hidden.dtype))
        weight = torch.cat((plain.weight.to(hidden.dtype), up.to(hidden.dtype)), 1)
        if magnitude is not None:
            weight = self._scale(owner).to(weight.dtype)[:, None] * weight
        return replace(plain, hidden=torch.cat((hidden, inner), -1), weight=weight)

    def _scale(self, owner: Any) -> Float[Tensor, " outputs"]:
        """The length that each row is to have over the length it has."""
        assert self.magnitude is not None
        with torch.no_grad():
            lengths = self._changed(owner, matrix(owner)).norm(dim=1)
        return self.magnitude.float() / lengths

    def _changed(self, owner: Any, weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        """W + scaling * B A."""
        down, up, _ = self.factors(owner)
        return weight.float() + self.scaling * up.float() @ down.float()


class LowRankRows(AdapterModule):
    """y = W x + b + B A x with another A and B for each row of a batch, [rows, rank, inputs] and [rows, rank, outputs].

    Both are kept and multiplied in float32: products of a few rows take a fifth of their time in bfloat16 so.

    Args:
        factors: A and B of each row, whose ranks may differ; None for a row without.
    """

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor] | None]):
        super().__init__()
        there = [pair for pair in factors if pair is not None]
        rank, (down, up) = max(len(pair[0]) for pair in there), there[0]
        self.down = torch.zeros(len(factors), rank, down.shape[1], device=down.device)
        self.up = torch.zeros(len(factors), rank, len(up), device=up.device)
        for row, pair in enumerate(factors):
            if pair is not None:
                self.down[row, : len(pair[0])], self.up[row, : len(pair[0])] = pair[0], pair[1].t()

    def forward(self, x: Tensor, owner: Any, answer: Answer) -> Float[Tensor, "rows *time outputs"]:
        y = answer(x)
        change = (x.reshape(len(x), -1, x.shape[-1]).float() @ self.down.mT) @ self.up
        return y + change.view(y.shape).to(y.dtype)


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
        **TargetedMethod.peft_fields,
        **holds("bias", "layers_pattern", "rank_pattern", "alpha_pattern", "ensure_weight_tying", r="rank"),
        **holds(lora_dropout="dropout", use_rslora="rslora", use_dora="dora", layers_to_transform="layers"),
        "lora_alpha": Holds("alpha", missing=8.0),
        # Ways to begin that leave the base as it is; what is loaded replaces them all.
        "init_lora_weights": Holds("init", words={**dict.fromkeys((True, False, "eva", "orthogonal"), "kaiming")}),
        **dict.fromkeys((
            "corda_config", "eva_config", "fan_in_fan_out", "lora_ga_config", "megatron_core", "qalora_group_size"
        )),
    }  # fmt: skip

    kinds: ClassVar[tuple[str, ...]] = ("linear", "embedding", "head")
    rank: int = setting(8, "size", "rank")
    alpha: float | None = setting(None, "positive", "alpha")
    dropout: float = setting(0.0, "share", "dropout")
    layers: int | tuple[int, ...] | None = None
    layers_pattern: Targets = ()
    rank_pattern: Mapping[str, int] = setting({}, "size")
    alpha_pattern: Mapping[str, float] = setting({}, "finite")
    bias: Literal["none", "all", "lora_only"] = setting("none", option="bias")
    rslora: bool = setting(False, option="rslora")
    dora: bool = setting(False, option="dora")
    init: Literal["kaiming", "gaussian"] = "kaiming"
    plus: float = setting(1.0, "positive", "plus")
    ensure_weight_tying: bool = False

    def usual(self, model: Model, row: AdapterTargets) -> Targets:
        return row.lora

    def targets(self, model: Model) -> list[AttachmentPoint]:
        found = [point for point in super().targets(model) if self._is_in_layers(point.name)]
        heads = (point for point in points(model).values() if point.modules == ("head",))
        return found + [head for head in heads if self._ties(model) and head not in found]

    def _is_in_layers(self, name: str) -> bool:
        """Whether a module is in a wanted layer, whose number is the first in its name, or follows a pattern."""
        if isinstance(self.target, str) or self.layers in (None, ()):
            return True
        patterns = self.layers_pattern
        patterns = (patterns,) if isinstance(patterns, str) and patterns else patterns
        found = (matches(rf"(?:.*?\.)?{pattern}\.(\d+)\..*", name) for pattern in patterns or (r".*?\.[^.]*",))
        layers = (self.layers,) if isinstance(self.layers, int) else self.layers or ()
        return int(next((match[1] for match in found if match), -1)) in layers

    def _ties(self, model: Model) -> bool:
        """Whether the adapters of the token table and of the head are one."""
        return self.ensure_weight_tying and names_tied_table(model, self.wanted(model))

    def rank_of(self, name: str) -> int:
        """The rank for a module."""
        return int(_by_pattern(name, self.rank_pattern, self.rank))

    def scaling(self, name: str) -> float:
        """What multiplies B A for a module."""
        rank = self.rank_of(name)
        alpha = _by_pattern(name, self.alpha_pattern, 2.0 * self.rank if self.alpha is None else self.alpha)
        return float(alpha / (rank**0.5 if self.rslora else rank))

    def rate(self, parameter: str) -> float:
        return self.plus if parameter.endswith((".up", ".magnitude")) else 1.0

    def check_new(self, model: Model) -> None:
        """A product of higher rank than the weight can do no more than one of the weight's; PEFT's files may have it.

        All linear layers together may hold some that are narrower, such as the router of a mixture of experts.
        """
        sides = [(min(shape), point.name, shape) for point in self.targets(model) for shape in point.shapes(model)]
        narrowest = (max if self.target == ALL_LINEAR else min)(sides, default=None)
        if narrowest is not None and self.rank > narrowest[0]:
            limit, name, (rows, columns) = narrowest
            wanted = f"at most {limit}, the smaller side of {name}, which is {rows} x {columns}"
            raise SettingError(self, "rank", self.rank, wanted)

    def modules(self, model: Model) -> dict[str, LowRank]:
        made: dict[str, LowRank] = {}
        for point in self.targets(model):
            if point.kind == "head" and self._ties(model):
                made["head"] = made["body.embed"]
                continue
            if point.kind == "head" and self.dora and self.dropout:
                raise UserError("dropout does not go with DoRA at the head over the vocabulary; leave one out")
            rank, scaling, table = self.rank_of(point.name), self.scaling(point.name), point.kind == "embedding"
            sizes = dict(zip(point.modules, point.sizes(model), strict=True))
            down: nn.Parameter | None = None
            for path in point.chosen:
                outputs, inputs = sizes[path]
                up = nn.Parameter(torch.zeros(outputs, rank))
                if down is None or point.parts is not None:  # a fused module taken whole has one A for all its parts
                    down = nn.Parameter(torch.zeros(rank, inputs))
                    if table:
                        nn.init.normal_(up)
                    elif self.init == "gaussian":
                        nn.init.normal_(down, std=1 / rank)
                    else:
                        nn.init.uniform_(down, -(inputs**-0.5), inputs**-0.5)
                length = None
                if self.dora:
                    length = nn.Parameter(matrix(model.get_submodule(path)).detach().float().norm(dim=1))
                made[path] = LowRank(down, up, scaling, 0.0 if table else self.dropout, length, table)
        return made

    def base_tensors(self, model: Model) -> list[BaseTensor]:
        found = saved_tensors(model, self.modules_to_save, self.ensure_weight_tying)
        saved = {tensor.entry.disk for tensor in found}
        targeted = {point.name for point in self.targets(model)}
        for name, point in points(model).items() if self.bias != "none" else ():
            if point.bias is not None and point.bias.disk not in saved and (self.bias == "all" or name in targeted):
                found.append(BaseTensor(f"{point.key}{'.base_layer' * (name in targeted)}.bias", point.bias))
        return found

    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        found: list[Stored] = []
        for point in self.targets(model):
            factors = [modules[path].factors(model.get_submodule(path)) for path in point.chosen]
            downs, ups, lengths = ([part[i] for part in factors] for i in range(3))
            rows, outputs = point.rows(model), sum(outputs for outputs, _ in point.sizes(model))
            a, b = ("embedding_A", "embedding_B") if point.kind == "embedding" else ("A.weight", "B.weight")
            # PEFT knows no slices: of a fused module it has their A one above the other, and their B in blocks.
            stacked = Stored.of(f"{point.key}.lora_{a}", *(downs[:1] if point.parts is None else downs))
            columns = stacked.places * (len(ups) // len(stacked.places))
            rest = torch.zeros(outputs, len(stacked.rest))
            found += [stacked, Stored(f"{point.key}.lora_{b}", ups, list(zip(rows, columns, strict=True)), rest)]
            if lengths[0] is not None:
                plain = [matrix(model.get_submodule(path)).detach().float().norm(dim=1).cpu() for path in point.modules]
                rest = replace(point.weight, transposed=False).join(plain)
                found.append(Stored(f"{point.key}.lora_magnitude_vector", lengths, rows, rest))
        return found

    def facts(self, model: Model) -> Fields:
        targets, alpha = self.targets(model), 2.0 * self.rank if self.alpha is None else self.alpha
        ranks = {p.name: self.rank_of(p.name) * len(p.chosen) for p in targets if p.parts is not None}
        alphas = {name: self.scaling(name) * (rank**0.5 if self.rslora else rank) for name, rank in ranks.items()}
        return super().facts(model) | {
            "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
            "rank_pattern": ranks | {**self.rank_pattern},
            "alpha_pattern": alphas | {**self.alpha_pattern},
            "fan_in_fan_out": any(point.weight.transposed for point in targets),
        }


def _by_pattern(name: str, patterns: Mapping[str, float], default: float) -> float:
    """The value of the first pattern that is the end of a module's name (`get_pattern_key` of PEFT)."""
    return next((value for end, value in patterns.items() if matches(rf"(.*\.)?({end})", name)), default)
