"""(IA)³ (Liu et al., 2022): keys, values and the inside of the feed-forward are rescaled by learned vectors."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from langwright.adaptation.live import live
from langwright.adaptation.method import Method, Stored, refuse_unknown
from langwright.adaptation.sides import Answer, Owner, Part, parts, stand_beside
from langwright.adaptation.targets import (
    ALL_LINEAR,
    PREFIX,
    Kind,
    Target,
    Targets,
    match,
    places,
    refuse_broken,
    rows_of,
)
from langwright.adaptation.whole import asked_modules, own_stored, saved_entries, saved_modules
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.model import Model


class Scale(Part):
    """One number for each output of a map, or with `inputs` for each input."""

    def __init__(self, length: nn.Parameter, inputs: bool):
        super().__init__()
        self.scale = length
        self.inputs = inputs

    def forward(self, x: Tensor, owner: Owner, answer: Answer) -> Tensor:
        if self.inputs:
            return answer((x * self.scale).to(x.dtype))
        y = answer(x)
        return (y * self.scale).to(y.dtype)

    def merged(
        self, owner: Owner, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> tuple[Float[Tensor, "outputs inputs"], Float[Tensor, " outputs"] | None]:
        scale = self.scale.float()
        if self.inputs:
            return weight * scale, bias
        return weight * scale[:, None], None if bias is None else bias * scale


@dataclass(frozen=True)
class IA3(Method):
    """A vector beside each targeted map multiplies what it gives, or what it is given; all begin as ones.

    target, exclude: what is rescaled, see `targets.match`; the family's usual unless given. feedforward: those of
    the targets that are rescaled at their input; the family's usual unless given.
    modules_to_save: see `LoRA`.
    """

    peft_type: ClassVar[str] = "IA3"

    target: Targets | None = None
    feedforward: Targets | None = None
    exclude: Targets = ()
    modules_to_save: tuple[str, ...] = ()

    def targets(self, model: Model) -> list[Target]:
        """What is rescaled of a model."""
        saved, kinds = saved_modules(model, self.modules_to_save), _KINDS
        if isinstance(self.feedforward, str):
            refuse_broken(self.feedforward)
        return match(places(model), self._wanted(model), self.exclude, kinds=kinds, saved=saved)

    def _wanted(self, model: Model) -> Targets:
        return usual(model)[0] if self.target is None else self.target

    def _at_input(self, model: Model, name: str) -> bool:
        wanted = usual(model)[1] if self.feedforward is None else self.feedforward
        return re.fullmatch(wanted, name) is not None if isinstance(wanted, str) else name.endswith(tuple(wanted))

    def rate(self, parameter: str) -> float:
        return 10.0  # as published: 5e-3 where LoRA takes 2e-4 to 5e-4

    def _add(self, model: Model, name: str) -> Iterable[nn.Parameter]:
        made: dict[nn.Parameter, None] = {}
        for target in self.targets(model):
            shared: nn.Parameter | None = None
            for path in target.ours:
                owner, inputs = model.get_submodule(path), self._at_input(model, target.place.name)
                assert isinstance(owner, Owner)
                weight = owner.full_weight()
                if shared is None or not inputs:  # a fused map has one input
                    shared = nn.Parameter(torch.ones(weight.shape[1 if inputs else 0], device=weight.device))
                stand_beside(owner, name, Scale(shared, inputs), live(model).choice)
                made[shared] = None
        entries = [entry for _, entry in saved_entries(model, self.modules_to_save)]
        own = live(model).keep_own(model, name, [ours for entry in entries for ours in entry.ours])
        return [*made, *own]

    def _stored(self, model: Model, name: str) -> list[Stored]:
        held = parts(model, name)
        stored = []
        for target in self.targets(model):
            key = f"{PREFIX}{target.place.name}.ia3_l"
            scales = [part.scale for path in target.ours if isinstance(part := held[path], Scale)]
            if self._at_input(model, target.place.name):
                stored.append(_row(key, scales[0]))
            else:
                stored.append(_column(key, target, rows_of(model, target), scales))
        own = saved_entries(model, self.modules_to_save)
        return stored + [own_stored(model, name, key, entry) for key, entry in own]

    def to_peft(self, model: Model) -> Fields:
        targets, wanted = self.targets(model), self._wanted(model)
        if wanted == ALL_LINEAR or any(target.parts is not None for target in targets):
            wanted = tuple(target.place.name for target in targets)
        at_input: Any = usual(model)[1] if self.feedforward is None else self.feedforward
        return {
            "exclude_modules": (self.exclude if isinstance(self.exclude, str) else list(self.exclude)) or None,
            "fan_in_fan_out": any(t.place.weight is not None and t.place.weight.transposed for t in targets),
            "feedforward_modules": at_input if isinstance(at_input, str) else list(at_input),
            "init_ia3_weights": True,
            "modules_to_save": list(saved_modules(model, self.modules_to_save)) or None,
            "target_modules": wanted if isinstance(wanted, str) else list(wanted),
        }

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "IA3":
        given = refuse_unknown(fields, HONOURED, {}, ("fan_in_fan_out", "init_ia3_weights"), where)
        return cls(
            target=_targets(given.get("target_modules") or None),
            feedforward=_targets(given.get("feedforward_modules")),
            exclude=_targets(given.get("exclude_modules")) or (),
            modules_to_save=asked_modules(model, given.get("modules_to_save")),
        )


def _row(key: str, scale: Tensor) -> Stored:
    """The scale of an input, [1, inputs] in the file."""
    return Stored(key, (1, *scale.shape), lambda: scale.detach()[None], lambda tensor: scale.data.copy_(tensor[0]))


def _column(key: str, target: Target, rows: list[int], scales: list[nn.Parameter]) -> Stored:
    """The scales of the outputs, [outputs, 1] in the file; slices that are not targeted have ones."""
    at = range(len(rows)) if target.parts is None else target.parts

    def read() -> Tensor:
        pieces = [torch.ones(count, 1) for count in rows]
        for number, scale in zip(at, scales, strict=True):
            pieces[number] = scale.detach()[:, None].to(pieces[number].dtype).cpu()
        return target.place.join(pieces)

    def write(tensor: Tensor) -> None:
        pieces = target.place.split(tensor, rows)
        for number, scale in zip(at, scales, strict=True):
            scale.data.copy_(pieces[number][:, 0])
        if any((piece != 1).any() for number, piece in enumerate(pieces) if number not in at):
            raise UserError(f'tensor "{key}" is not made of slices, as the record beside it says')

    return Stored(key, (sum(rows), 1), read, write)


def _targets(value: Any) -> Targets | None:
    return value if value is None or isinstance(value, str) else tuple(value)


def usual(model: Model) -> tuple[Targets, Targets]:
    """What is rescaled of a model, and which of it at the input; UserError for a family without a usual choice."""
    if model.family not in USUAL:
        raise UserError(f"{model.family} has no usual targets of IA3; name them with --target and --feedforward")
    targets, feedforward = USUAL[model.family]
    return (*targets, *feedforward), feedforward


USUAL: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bart": (("q_proj", "v_proj"), ("fc2",)),
    "bert": (("key", "value"), ("output.dense",)),
    "bloom": (("query_key_value",), ("mlp.dense_4h_to_h",)),
    "gemma": (("q_proj", "v_proj"), ("down_proj",)),
    "gemma2": (("q_proj", "v_proj"), ("down_proj",)),
    "gpt2": (("c_attn",), ("mlp.c_proj",)),
    "gpt_neo": (("q_proj", "v_proj"), ("c_proj",)),
    "gpt_neox": (("query_key_value",), ("dense_4h_to_h",)),
    "gptj": (("q_proj", "v_proj"), ("fc_out",)),
    "llama": (("k_proj", "v_proj"), ("down_proj",)),
    "marian": (("k_proj", "v_proj"), ("fc2",)),
    "mistral": (("k_proj", "v_proj"), ("down_proj",)),
    "mpt": (("Wqkv",), ("down_proj",)),
    "nanochat": (("k_proj", "v_proj"), ("fc2",)),
    "openai-gpt": (("c_attn",), ("mlp.c_proj",)),
    "phi": (("q_proj", "v_proj"), ("fc2",)),
    "qwen2": (("q_proj", "v_proj"), ("down_proj",)),
    "qwen3": (("q_proj", "v_proj"), ("down_proj",)),
    "roberta": (("key", "value"), ("output.dense",)),
    "switch_transformers": (("k", "v"), ("wo",)),
    "t5": (("k", "v"), ("wo",)),
}
"""As in PEFT, where it departs from the paper too (queries instead of keys, fused maps whole); the others (marian, mpt,
nanochat, openai-gpt) after their like."""

_KINDS: tuple[Kind, ...] = ("linear",)
HONOURED = ("exclude_modules", "feedforward_modules", "modules_to_save", "target_modules")
