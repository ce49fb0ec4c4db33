"""From the fields of a recipe to a method of adaptation."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from langwright.adaptation.bottleneck import Adapters
from langwright.adaptation.ia3 import IA3
from langwright.adaptation.lora import LoRA
from langwright.adaptation.method import Method
from langwright.adaptation.own import BitFit, HeadOnly, LayerNorm
from langwright.adaptation.prefix import PrefixTuning
from langwright.adaptation.prompt import PromptTuning, PTuning
from langwright.adaptation.targets import ALL_LINEAR, Targets
from langwright.base.errors import UserError


def method_of(recipe: Any) -> Method | None:
    """The method that a recipe asks for; None for full tuning. UserError for a field that another method has."""
    own = SETTINGS.get(recipe.method, ())
    for field in fields(recipe):
        others = [method for method, names in SETTINGS.items() if field.name in names]
        if others and field.name not in own and getattr(recipe, field.name) != field.default:
            flag = "--" + field.name.replace("_", "-")
            raise UserError(f"{flag} goes with --method {' or '.join(others)}, not with {recipe.method}")
    return MAKERS[recipe.method](recipe) if recipe.method in MAKERS else None


def _lora(recipe: Any) -> LoRA:
    if recipe.alpha is not None and not 0 < recipe.alpha < math.inf:
        raise UserError(f"--alpha {recipe.alpha:g}: must be above 0 and finite, for it multiplies all that LoRA adds")
    return LoRA(
        rank=recipe.rank,
        alpha=recipe.alpha,
        dropout=recipe.dropout,
        target=_targets(recipe.target),
        bias=recipe.bias,
        modules_to_save=() if recipe.whole is None else _words(recipe.whole),
        rslora=recipe.rslora,
        dora=recipe.dora,
        plus=recipe.plus,
    )


def _targets(words: str | None) -> Targets | None:
    """Names between commas, "all-linear", or a regular expression, which has letters that no name has."""
    if words is None or words == ALL_LINEAR or set(words) & set("*+?|()[]\\^$"):
        return words
    if not _words(words):
        raise UserError(f'--target and --feedforward "{words}": no name is in it; such as q_proj,v_proj')
    return _words(words)


def _words(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


def _ia3(recipe: Any) -> IA3:
    return IA3(target=_targets(recipe.target), feedforward=_targets(recipe.feedforward))


def _prompt(recipe: Any) -> PromptTuning:
    init, text = _beginning(recipe.prompt_init or "vocabulary", ("random", "vocabulary"))
    return PromptTuning(recipe.virtual_tokens, init, text)


def _p_tuning(recipe: Any) -> PTuning:
    return PTuning(recipe.virtual_tokens, recipe.prompt_encoder, recipe.encoder_width)


def _prefix(recipe: Any) -> PrefixTuning:
    init, text = _beginning(recipe.prompt_init or "random", ("random", "zero"))
    width = PrefixTuning.hidden if recipe.encoder_width is None else recipe.encoder_width
    return PrefixTuning(recipe.virtual_tokens, recipe.projection, width, init, text)


def _beginning(wanted: str, known: tuple[str, ...]) -> tuple[Any, str | None]:
    """What virtual tokens begin as, and the text where they begin as one."""
    if wanted.startswith(TEXT):
        return "text", wanted.removeprefix(TEXT)
    if wanted not in known:
        raise UserError(f'--prompt-init {wanted}: must be {", ".join(known)} or "text:..." with words of yours')
    return wanted, None


TEXT = "text:"
MAKERS: dict[str, Callable[[Any], Method]] = {
    "lora": _lora,
    "ia3": _ia3,
    "prompt": _prompt,
    "p-tuning": _p_tuning,
    "prefix": _prefix,
    "bottleneck": lambda recipe: Adapters(recipe.bottleneck, recipe.reduction),
    "bitfit": lambda recipe: BitFit(),
    "layernorm": lambda recipe: LayerNorm(_targets(recipe.target)),
    "head": lambda recipe: HeadOnly(),
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "full": ("unfreeze_every",),
    "lora": ("rank", "alpha", "target", "dropout", "bias", "whole", "rslora", "dora", "plus"),
    "ia3": ("target", "feedforward"),
    "prompt": ("virtual_tokens", "prompt_init"),
    "p-tuning": ("virtual_tokens", "prompt_encoder", "encoder_width"),
    "prefix": ("virtual_tokens", "prompt_init", "projection", "encoder_width"),
    "bottleneck": ("bottleneck", "reduction"),
    "layernorm": ("target",),
}
"""The fields of a recipe that belong to a method."""
