"""Bottleneck adapters: a narrow feed-forward after a branch of each layer (Houlsby et al., 2019; Pfeiffer et al., 2021)
or beside it (He et al., 2022), as the library `adapters` of AdapterHub builds, names and stores them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.attached import AdapterModule, Answer
from langwright.adaptation.attachment_points import tensors_of
from langwright.adaptation.method import DEFAULT, Method, Stored
from langwright.adaptation.settings import Holds, SettingError, Table, one_of, read_fields, setting, write_fields
from langwright.base.errors import UserError
from langwright.models.families import ROWS
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.feedforward import ACTIVATIONS
from langwright.parts.stack import Block

Reads = Literal["branch", "stream", "input"]
Init = Literal["bert", "houlsby", "mam_adapter"]


USUAL_SHAPE: Fields = {
    "is_parallel": False,
    "mh_adapter": False,
    "original_ln_after": True,
    "original_ln_before": False,
    "output_adapter": True,
    "residual_before_ln": True,
}
SHAPES: Mapping[str, Fields] = {
    "pfeiffer": {**USUAL_SHAPE, "original_ln_before": True},
    "houlsby": {**USUAL_SHAPE, "mh_adapter": True},
    "parallel": {**USUAL_SHAPE, "is_parallel": True},
}
"""How AdapterHub spells each kind (`SeqBn`, `DoubleSeqBn` and `ParBn` there)."""
USUAL: Fields = {"reduction": 16.0, "activation": "relu", "scaling": 1.0, "init": "bert"}
UNLESS_GIVEN: Mapping[str, Fields] = {
    "pfeiffer": USUAL,
    "houlsby": {**USUAL, "activation": "silu"},
    "parallel": {**USUAL, "reduction": 2.0, "scaling": 4.0, "init": "mam_adapter"},
}
"""The settings of each kind."""
FIELDS: Table = {
    "reduction_factor": Holds("reduction", missing=16.0),
    "non_linearity": Holds("activation", missing="relu", words={"swish": "silu", "gelu_new": "gelu_tanh"}),
    "scaling": Holds("scaling", missing=1.0),
    "init_weights": Holds("init", missing="bert"),
    "leave_out": Holds("leave_out", write=list),
    **dict.fromkeys(
        (*USUAL_SHAPE, "adapter_residual_before_ln", "architecture", "factorized_phm_W", "factorized_phm_rule",
         "hypercomplex_nonlinearity", "inv_adapter_reduction_factor", "learn_phm", "phm_bias", "phm_c_init", "phm_dim",
         "phm_init_range", "phm_rank", "shared_W_phm", "shared_phm_rule"),
    ),
}  # fmt: skip
"""The fields of a bottleneck in AdapterHub's config."""


class BottleneckModule(AdapterModule):
    """scaling * up(activation(down(z))), added to a branch y of the residual stream x.

    Args:
        dim: width of the stream.
        width: of the narrow layer.
        reads: what z is: the branch; the stream with the branch, under the norm that follows where there is one; or the
            branch's input.
        activation: of the narrow layer.
        scaling: multiplies what is added.
    """

    of_weights: ClassVar[bool] = False

    def __init__(self, dim: int, width: int, reads: Reads, activation: str, scaling: float):
        super().__init__()
        self.down, self.up = nn.Linear(dim, width), nn.Linear(width, dim)
        self.reads, self.scaling = reads, scaling
        self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Float[Tensor, "batch time dim"], owner: Any, answer: Answer
    ) -> Float[Tensor, "batch time dim"]:
        y = answer(x)
        if self.reads == "stream":
            z = x + y if owner.out_norm is None else owner.out_norm(x + y)
        else:
            z = y if self.reads == "branch" else x
        narrow = self.activation(F.linear(z, self.down.weight.to(x.dtype), self.down.bias.to(x.dtype)))
        return y + self.scaling * F.linear(narrow, self.up.weight.to(x.dtype), self.up.bias.to(x.dtype))

    def fill(self, init: Init) -> None:
        """Give new weights their numbers."""
        for linear in (self.down, self.up):
            nn.init.zeros_(linear.bias)
            if init == "bert":
                nn.init.normal_(linear.weight, std=0.02)
            elif init == "houlsby":
                nn.init.trunc_normal_(linear.weight, std=0.01, a=-0.02, b=0.02)
        if init == "mam_adapter":
            bound = self.down.in_features**-0.5
            nn.init.uniform_(self.down.weight, -bound, bound)
            nn.init.zeros_(self.up.weight)


@dataclass(frozen=True)
class Bottleneck(Method):
    """A bottleneck in every layer; everything else stays as it is.

    Args:
        kind: after the feed-forward (pfeiffer), after attention too (houlsby), or beside the feed-forward (parallel).
        reduction: how many times narrower than the model a bottleneck is; 16, or 2 in parallel, unless given.
        activation: of the narrow layer; relu, or silu for houlsby, unless given.
        scaling: multiplies what the bottleneck adds; 1, or 4 in parallel, unless given.
        init: of new weights: bert N(0, 0.02); houlsby N(0, 0.01), cut at two deviations; mam_adapter, which alone
            begins as the model without it; that one in parallel, bert otherwise, unless given.
        leave_out: the numbers of layers without a bottleneck.
    """

    peft_type: ClassVar[str] = "BOTTLENECK"
    weights: ClassVar[str] = "adapter.safetensors"
    peft_fields: ClassVar[Table] = FIELDS

    kind: Literal["pfeiffer", "houlsby", "parallel"] = setting("pfeiffer", option="bottleneck")
    reduction: float = setting(None, ("at least 0.001", lambda value: value >= 0.001), "reduction")
    activation: str = setting(None, one_of(*ACTIVATIONS))
    scaling: float = setting(None, "finite")
    init: Init = setting(None)
    leave_out: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in UNLESS_GIVEN[self.kind].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        super().__post_init__()

    def _sites(self, model: Model) -> Iterator[tuple[str, str, Reads]]:
        """The residuals that have one: (the residual's name in ours, its name in AdapterHub's files, what is read)."""
        disk = {ours: entry.disk for entry in tensors_of(model) for ours in entry.ours}
        branches: dict[str, Reads] = {"feedforward": "input" if self.kind == "parallel" else "stream"}
        if self.kind == "houlsby":
            branches = {"attention": "branch", "feedforward": "branch"}
        paths = [f"{name}.blocks.{i}" for name, stack in model.stacks.items() for i in range(len(stack.blocks))]
        for path in (path for layer, path in enumerate(paths) if layer not in self.leave_out):
            for branch, reads in branches.items():
                # the name of the last linear layer of the branch shows how the family names its layers
                last = disk[f"{path}.{branch}.fn.output.weight"]
                yield f"{path}.{branch}", _site(model, branch, last), reads

    def modules(self, model: Model) -> dict[str, BottleneckModule]:
        if any(not isinstance(block, Block) for block in model.body.blocks):
            raise UserError(
                f"{model.family}: bottleneck adapters have a settled place only where a feed-forward follows attention"
            )
        dim = model.body.embed.tokens.shape[1]
        if self.reduction > dim:
            raise SettingError(self, "reduction", self.reduction, f"at most the width of the model, which is {dim}")
        made: dict[str, BottleneckModule] = {}
        for path, _, reads in self._sites(model):
            made[path] = BottleneckModule(dim, int(dim // self.reduction), reads, self.activation, float(self.scaling))
            made[path].fill(self.init)
        return made

    def stored(self, model: Model, modules: Mapping[str, Any]) -> list[Stored]:
        return [
            Stored.of(f"{site}.adapters.{DEFAULT}.{name}.{kind}", getattr(linear, kind))
            for path, site, _ in self._sites(model)
            for name, linear in (("adapter_down.0", modules[path].down), ("adapter_up", modules[path].up))
            for kind in ("weight", "bias")
        ]

    def load(self, model: Model, name: str, tensors: Mapping[str, Tensor], extra: Mapping[str, Tensor] = {}) -> None:
        """As of any method; AdapterHub puts the adapter's name into each key, whatever it is."""
        renamed = {}
        for key, tensor in tensors.items():
            site, found, rest = key.partition(".adapters.")
            renamed[f"{site}{found}{DEFAULT}.{rest.partition('.')[2]}" if found else key] = tensor
        super().load(model, name, renamed)

    def to_peft(self, model: Model) -> Fields:
        """`adapter_config.json` as AdapterHub has it."""
        config = {"architecture": None, **write_fields(self, FIELDS), **SHAPES[self.kind]}
        width = model.body.embed.tokens.shape[1]
        return {"config": config, "hidden_size": width, "model_type": model.family, "name": DEFAULT}

    @classmethod
    def from_peft(cls, given: Fields, model: Model) -> "Bottleneck":
        config = given.get("config")
        if not isinstance(config, dict):
            raise UserError("config = a JSON object is missing, the config of a bottleneck adapter")
        shape = {name: config.get(name, value) for name, value in USUAL_SHAPE.items()}
        kind = next((kind for kind, own in SHAPES.items() if own == shape), None)
        if kind is None:
            raise UserError("the adapter is none of pfeiffer, houlsby and parallel, which are supported")
        return cls(**{"kind": kind, **read_fields(config, FIELDS, cls)})


def _site(model: Model, branch: str, last: str) -> str:
    """Where AdapterHub hangs the adapters of a branch, from the name of the branch's last linear layer.

    In the module of that layer (BERT), in the numbered layer above it (T5), or in a module of their own in the block.
    """
    segments = last.removesuffix(".weight").split(".")
    where = ROWS[model.family].adapterhub
    if where != "block":
        return ".".join(segments[: -1 if where == "module" else -2])
    block = next(i for i, segment in enumerate(segments) if segment.isdigit())
    return ".".join([*segments[: block + 1], "attention_adapters" if branch == "attention" else "output_adapters"])
