"""Bottleneck adapters: a narrow feed-forward after a branch of each layer (Houlsby et al., 2019; Pfeiffer et al., 2021)
or beside it (He et al., 2022), as the library `adapters` of AdapterHub builds, names and stores them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.live import live
from langwright.adaptation.method import LARGEST, Method, SettingError, Stored, finite, refuse_unknown
from langwright.adaptation.sides import Choice
from langwright.adaptation.targets import bare_entries
from langwright.adaptation.whole import own_stored, saved_entries
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.feedforward import ACTIVATIONS
from langwright.parts.stack import Block, Residual

Where = Literal["after", "normed", "beside"]
Kind = Literal["pfeiffer", "houlsby", "parallel"]
Init = Literal["bert", "houlsby", "mam_adapter"]


class Bottleneck(nn.Module):
    """scaling * up(activation(down(x))), beside or after a branch y of the residual stream x.

    where: what it reads: "after" the branch itself; "normed" the stream with the branch, under the norm that follows
    where there is one; "beside" what the branch reads. Its answer is added to the branch.
    """

    def __init__(self, dim: int, width: int, where: Where, activation: str, scaling: float):
        super().__init__()
        self.down, self.up = nn.Linear(dim, width), nn.Linear(width, dim)
        self.where, self.scaling = where, scaling
        self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Float[Tensor, "batch time dim"], y: Float[Tensor, "batch time dim"], residual: Residual
    ) -> Float[Tensor, "batch time dim"]:
        if self.where == "normed":
            read = x + y if residual.out_norm is None else residual.out_norm(x + y)
        else:
            read = y if self.where == "after" else x
        narrow = self.activation(F.linear(read, self.down.weight.to(x.dtype), self.down.bias.to(x.dtype)))
        return y + self.scaling * F.linear(narrow, self.up.weight.to(x.dtype), self.up.bias.to(x.dtype))


class Branches(nn.Module):
    """The bottlenecks at one branch, by the name of their adapter; those chosen answer, one after the other."""

    def __init__(self, choice: Choice):
        super().__init__()
        self.held = nn.ModuleDict()
        self.choice = choice

    def forward(self, x: Tensor, y: Tensor, residual: Residual) -> Tensor:
        for name in self.choice.names if self.choice.rows is None else ():
            if name in self.held:
                y = self.held[name](x, y, residual)
        return y


@dataclass(frozen=True)
class Adapters(Method):
    """A bottleneck in every layer; everything else stays as it is.

    kind: "pfeiffer" after the feed-forward only, "houlsby" after attention and feed-forward, "parallel" beside the
    feed-forward. reduction: the bottleneck is 1 / reduction as wide as the model; 16, or 2 in parallel, unless given.
    activation: of the narrow layer. scaling: 1, or 4 in parallel, unless given.
    init: of new weights: "bert" N(0, 0.02); "houlsby" the same with 0.01, cut at two deviations; "mam_adapter", which
    alone begins as the model without it; that one in parallel, "bert" otherwise, unless given. leave_out: layers
    without.
    """

    peft_type: ClassVar[str] = "BOTTLENECK"
    mixes: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    weights: ClassVar[str] = "adapter.safetensors"
    in_peft: ClassVar[Mapping[str, str]] = {"reduction": "reduction_factor", "activation": "non_linearity"}

    kind: Kind = "pfeiffer"
    reduction: float | None = None
    activation: str | None = None
    scaling: float | None = None
    init: Init | None = None
    leave_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.reduction is not None and not self.reduction > 0:
            raise SettingError("reduction", self.reduction, "above 0")
        if self._activation not in ACTIVATIONS:
            raise SettingError("activation", self._activation, f"one of {', '.join(ACTIVATIONS)}")
        if self.scaling is not None and not finite(self.scaling):
            raise SettingError("scaling", self.scaling, "a finite number")

    @property
    def _parallel(self) -> bool:
        return self.kind == "parallel"

    @property
    def _activation(self) -> str:
        return ("silu" if self.kind == "houlsby" else "relu") if self.activation is None else self.activation

    @property
    def _init(self) -> Init:
        return self.init or ("mam_adapter" if self._parallel else "bert")

    def width(self, dim: int) -> int:
        """Of the bottleneck in a model of this width; UserError where nothing would be left of it."""
        reduction = self.reduction or (2 if self._parallel else 16)
        if reduction > dim:
            raise SettingError("reduction", reduction, f"at most the width of the model, which is {dim}")
        if reduction * LARGEST < dim:
            raise SettingError(
                "reduction", reduction, f"such that the width, which is {dim} / it, is at most {LARGEST}"
            )
        return int(dim // reduction)

    def _where(self) -> dict[str, Where]:
        """At which branches of a block, and what is read there."""
        if self.kind == "houlsby":
            return {"attention": "after", "feedforward": "after"}
        return {"feedforward": "beside" if self._parallel else "normed"}

    def _residuals(self, model: Model) -> Iterator[tuple[str, Residual, Where]]:
        """The branches that have one: (its name in AdapterHub's files, the branch, what is read)."""
        disk = {ours: entry.disk for entry in bare_entries(model) for ours in entry.ours}
        layer = 0
        for stack, module in model.stacks.items():
            for number, block in enumerate(module.blocks):
                for branch, where in self._where().items() if layer not in self.leave_out else ():
                    # the name of the last map of the branch tells how the family calls its layers
                    last = disk[f"{stack}.blocks.{number}.{branch}.fn.output.weight"]
                    assert isinstance(block, Block)
                    yield _site(model.family, branch, last), getattr(block, branch), where
                layer += 1

    def _add(self, model: Model, name: str) -> Iterable[nn.Parameter]:
        if any(not isinstance(block, Block) for block in model.body.blocks):
            raise UserError(f"{model.family} has parallel blocks, in which bottleneck adapters have no settled place")
        like = model.body.embed.tokens
        dim = like.shape[1]
        trained: list[nn.Parameter] = []
        for _, residual, where in self._residuals(model):
            scaling = self.scaling if self.scaling is not None else 4.0 if self._parallel else 1.0
            with torch.device("meta" if like.is_meta else "cpu"):
                made = Bottleneck(dim, self.width(dim), where, self._activation, float(scaling))
            _fill(made, self._init)
            if residual.adapter is None:
                residual.adapter = Branches(live(model).choice)
            assert isinstance(residual.adapter, Branches)
            residual.adapter.held[name] = made.to(like.device)
            trained += made.parameters()
        head = [ours for _, entry in saved_entries(model, ()) for ours in entry.ours]
        return [*trained, *live(model).keep_own(model, name, head)]

    def _remove(self, model: Model, name: str) -> None:
        for residual in model.modules():
            if (
                isinstance(residual, Residual)
                and isinstance(residual.adapter, Branches)
                and name in residual.adapter.held
            ):
                del residual.adapter.held[name]
                if not residual.adapter.held:
                    residual.adapter = None

    def _stored(self, model: Model, name: str) -> list[Stored]:
        stored = []
        for site, residual, _ in self._residuals(model):
            assert isinstance(residual.adapter, Branches)
            made = residual.adapter.held[name]
            assert isinstance(made, Bottleneck)
            for part, linear in (("adapter_down.0", made.down), ("adapter_up", made.up)):
                key = f"{site}.adapters.{name}.{part}"
                stored += [Stored.of(f"{key}.weight", linear.weight), Stored.of(f"{key}.bias", linear.bias)]
        return stored + [own_stored(model, name, key, entry) for key, entry in saved_entries(model, ())]

    def load(self, model: Model, name: str, tensors: Mapping[str, Tensor], where: str) -> None:
        """As of any method; AdapterHub puts the adapter's name into each key, whatever it is called here."""
        super().load(model, name, {_renamed(key, name): tensor for key, tensor in tensors.items()}, where)

    def to_peft(self, model: Model) -> Fields:
        """`adapter_config.json` as AdapterHub has it; the fields that PEFT would want are none of its business."""
        spelt = {"silu": "swish", "gelu_tanh": "gelu_new"}.get(self._activation, self._activation)
        settings = {
            **_SHAPES[self.kind],
            "init_weights": self._init,
            "leave_out": list(self.leave_out),
            "non_linearity": spelt,
            "reduction_factor": float(self.reduction or (2 if self._parallel else 16)),
            "scaling": float(self.scaling if self.scaling is not None else 4.0 if self._parallel else 1.0),
        }
        return {
            "config": {"architecture": None, **settings},
            "hidden_size": model.body.embed.tokens.shape[1],
            "model_type": model.family,
            "name": "default",
        }

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "Adapters":
        config = fields.get("config")
        if not isinstance(config, dict):
            raise UserError(f"{where}: there is no config of a bottleneck adapter")
        only = dict.fromkeys(_ABSENT, False) | {"dropout": 0.0, "stochastic_depth": 0.0}
        given = refuse_unknown(config, HONOURED, only, INERT, where)
        kinds = [kind for kind, shape in _SHAPES.items() if all(given.get(k, _DEFAULTS[k]) == shape[k] for k in shape)]
        if not kinds:
            raise UserError(f"{where}: the adapter is none of pfeiffer, houlsby and parallel, which are supported")
        spelt, init = given.get("non_linearity", "relu"), given.get("init_weights", "bert")
        if init not in ("bert", "houlsby", "mam_adapter"):
            raise UserError(f"{where}: init_weights = {init!r} is none of bert, houlsby and mam_adapter")
        return cls(
            kind=kinds[0],
            reduction=given.get("reduction_factor", 16.0),
            activation={"swish": "silu", "gelu_new": "gelu_tanh"}.get(spelt, spelt),
            scaling=given.get("scaling", 1.0),
            init=init,
            leave_out=tuple(given.get("leave_out", ())),
        )


def _site(family: str, branch: str, last: str) -> str:
    """Where AdapterHub hangs the adapters of a branch, from the name of the branch's last map.

    In the module of that map (BERT), in the numbered layer above it (T5), or in a module of their own in the block.
    """
    segments = last.removesuffix(".weight").split(".")
    if family in ("bert", "roberta"):
        return ".".join(segments[:-1])
    if family == "t5":
        return ".".join(segments[:-2])
    block = next(i for i, segment in enumerate(segments) if segment.isdigit())
    return ".".join([*segments[: block + 1], "attention_adapters" if branch == "attention" else "output_adapters"])


def _renamed(key: str, name: str) -> str:
    site, found, rest = key.partition(".adapters.")
    return f"{site}{found}{name}.{rest.partition('.')[2]}" if found else key


def _fill(made: Bottleneck, init: Init) -> None:
    cut = partial(nn.init.trunc_normal_, std=0.01, a=-0.02, b=0.02)
    for linear in (made.down, made.up):
        nn.init.zeros_(linear.bias)
        if init == "bert":
            nn.init.normal_(linear.weight, std=0.02)
        elif init == "houlsby":
            cut(linear.weight)
    if init == "mam_adapter":
        nn.init.uniform_(made.down.weight, -(made.down.in_features**-0.5), made.down.in_features**-0.5)
        nn.init.zeros_(made.up.weight)


_DEFAULTS: Fields = {
    "is_parallel": False,
    "mh_adapter": False,
    "original_ln_after": True,
    "original_ln_before": False,
    "output_adapter": True,
    "residual_before_ln": True,
}
_SHAPES: dict[Kind, Fields] = {
    "pfeiffer": {**_DEFAULTS, "original_ln_before": True},
    "houlsby": {**_DEFAULTS, "mh_adapter": True},
    "parallel": {**_DEFAULTS, "is_parallel": True},
}
"""How AdapterHub spells each kind (`SeqBn`, `DoubleSeqBn` and `ParBn` there)."""

HONOURED = (*_DEFAULTS, "init_weights", "leave_out", "non_linearity", "reduction_factor", "scaling")
_ABSENT = ("cross_adapter", "inv_adapter", "ln_after", "ln_before", "phm_layer", "use_gating")
INERT = (
    "adapter_residual_before_ln",
    "architecture",
    "factorized_phm_W",
    "factorized_phm_rule",
    "hypercomplex_nonlinearity",
    "inv_adapter_reduction_factor",
    "learn_phm",
    "phm_bias",
    "phm_c_init",
    "phm_dim",
    "phm_init_range",
    "phm_rank",
    "shared_W_phm",
    "shared_phm_rule",
)
