"""Methods that add nothing: a few of the model's own parameters train, the rest stays as it is.

BitFit (Ben Zaken et al., 2021), tuning of the norms (Zhao et al., 2023), and feature extraction, where all but the
head is a fixed machine that makes features.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from langwright.adaptation.live import live
from langwright.adaptation.method import Method, Stored, refuse_unknown
from langwright.adaptation.targets import PREFIX, Kind, Targets, bare_entries, match, places
from langwright.adaptation.whole import asked_modules, own_stored, saved_entries, saved_modules
from langwright.base.errors import UserError
from langwright.models.family import Fields
from langwright.models.keymap import Entry
from langwright.models.model import Model


class Own(Method):
    """What these methods share: the adapter is other values for parameters that the model has."""

    @abstractmethod
    def _entries(self, model: Model) -> list[tuple[str, Entry]]:
        """The tensors that train, with their names in the adapter's file."""

    def _add(self, model: Model, name: str) -> Iterable[nn.Parameter]:
        return live(model).keep_own(model, name, [ours for _, entry in self._entries(model) for ours in entry.ours])

    def _stored(self, model: Model, name: str) -> list[Stored]:
        return [own_stored(model, name, key, entry) for key, entry in self._entries(model)]


@dataclass(frozen=True)
class BitFit(Own):
    """All biases of the model train, those of its norms included. PEFT has no word for it: the folder is ours alone."""

    peft_type: ClassVar[str] = "BITFIT"

    def _entries(self, model: Model) -> list[tuple[str, Entry]]:
        biases = [p for p in places(model).values() if p.bias is not None]
        found = {f"{PREFIX}{place.name}.bias": place.bias for place in biases if place.bias is not None}
        if not found:
            raise UserError(f"this {model.family} model has no biases that BitFit could train; take another method")
        return list((found | dict(saved_entries(model, ()))).items())

    def to_peft(self, model: Model) -> Fields:
        return {}

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "BitFit":
        refuse_unknown(fields, (), {}, (), where)
        return cls()


@dataclass(frozen=True)
class LayerNorm(Own):
    """Scales and shifts of the norms train. target: their names or endings; the family's usual unless given."""

    peft_type: ClassVar[str] = "LN_TUNING"

    target: Targets | None = None
    exclude: Targets = ()
    modules_to_save: tuple[str, ...] = ()

    def _wanted(self, model: Model) -> Targets:
        if self.target is not None:
            return self.target
        norms = (place.name.rpartition(".")[2] for place in places(model).values() if place.kind == "norm")
        return USUAL_NORMS.get(model.family) or tuple(dict.fromkeys(norms))

    def _entries(self, model: Model) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        norms: tuple[Kind, ...] = ("norm",)
        for target in match(places(model), self._wanted(model), self.exclude, kinds=norms):
            place = target.place
            for kind, entry in (("weight", place.weight), ("bias", place.bias)):
                if entry is not None:
                    found.append((f"{PREFIX}{place.name}.ln_tuning_layers.{kind}", entry))
        return found + saved_entries(model, self.modules_to_save)

    def to_peft(self, model: Model) -> Fields:
        wanted = self._wanted(model)
        return {
            "exclude_modules": (self.exclude if isinstance(self.exclude, str) else list(self.exclude)) or None,
            "modules_to_save": list(saved_modules(model, self.modules_to_save)) or None,
            "target_modules": wanted if isinstance(wanted, str) else list(wanted),
        }

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "LayerNorm":
        given = refuse_unknown(fields, ("exclude_modules", "modules_to_save", "target_modules"), {}, (), where)
        target, exclude = given.get("target_modules"), given.get("exclude_modules") or ()
        return cls(
            target=target if target is None or isinstance(target, str) else tuple(target),
            exclude=exclude if isinstance(exclude, str) else tuple(exclude),
            modules_to_save=asked_modules(model, given.get("modules_to_save")),
        )


@dataclass(frozen=True)
class HeadOnly(Own):
    """Feature extraction: the head trains on what the fixed model makes of a text. The folder is ours alone."""

    peft_type: ClassVar[str] = "HEAD"

    def _entries(self, model: Model) -> list[tuple[str, Entry]]:
        found = [(f"{PREFIX}{e.disk}", e) for e in bare_entries(model) if e.ours[0].startswith("head.")]
        if not found or not any(model.get_parameter(e.ours[0]).ndim > 1 for _, e in found):
            raise UserError(
                "the head of this model is its token table, or it has none: there is nothing of its own to train"
            )
        return found

    def to_peft(self, model: Model) -> Fields:
        return {}

    @classmethod
    def from_peft(cls, fields: Fields, model: Model, where: str) -> "HeadOnly":
        refuse_unknown(fields, (), {}, (), where)
        return cls()


USUAL_NORMS: Mapping[str, tuple[str, ...]] = {
    "bart": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "bloom": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "gemma": ("input_layernorm", "post_attention_layernorm", "norm"),
    "gemma2": (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
        "norm",
    ),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gptj": ("ln_1", "ln_f"),
    "llama": ("input_layernorm", "post_attention_layernorm", "norm"),
    "mistral": ("input_layernorm", "post_attention_layernorm", "norm"),
    "phi": ("input_layernorm", "final_layernorm"),
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
    "t5": ("layer_norm", "final_layer_norm"),
}
"""As in PEFT; all norms for the families it does not list."""
