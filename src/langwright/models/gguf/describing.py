"""The fields of a GGUF file that describe a model, and the config that they mean."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.gguf import GGUF
from langwright.models.config import Fields
from langwright.models.families import ROWS
from langwright.models.family import Family
from langwright.models.gguf.layout import TIED, Layout
from langwright.models.rope import FRACTION, ORIGINAL, RotaryConfig
from langwright.parts.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, YarnScaling

ARCHITECTURE, SPLIT = "general.architecture", "split.count"
KV = "attention.head_count_kv"
_FLOATS = ("epsilon", "freq_base", "factor", "softcapping", "clamp_kqv", "alibi_bias")
"""Ends of the keys whose values are floats, which llama.cpp insists on."""
_OPTIONAL = (
    KV, "attention.key_length", "attention.clamp_kqv", "use_parallel_residual", "attn_logit_softcapping",
    "final_logit_softcapping",
)  # fmt: skip
"""Keys that files may lack."""
_READ = (
    "vocab_size", "context_length", "feed_forward_length", "expert_count", "attention.key_length",
    "attention.value_length", "rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "pooling_type", "tensor_data_layout",
)  # fmt: skip
"""Keys that are read beside those of a family's layout, or that change nothing."""
FREQUENCIES = "rope_freqs.weight"
"""The tensor that holds by what the frequency of each pair is divided."""


def layout_of(family: Family) -> Layout:
    """How the files hold a family; UserError where llama.cpp has none for it."""
    if family.gguf is None:
        known = ", ".join(row.name for row in ROWS.values() if row.gguf)
        raise UserError(f"llama.cpp has no {family.name} models, only {known}; --format folder writes a folder")
    return family.gguf


def shape_keys(family: Family) -> dict[str, str]:
    """Keys of the fields that all files have -> fields of the config."""
    shape = family.config.shape
    own = {"embedding_length": shape.width, "block_count": shape.layers, "attention.head_count": str(shape.heads)}
    keys = own | {"context_length": str(shape.context)} | dict(layout_of(family).fields)
    return {key: name for key, name in keys.items() if name in family.honoured()}


def describe(family: Family, config: Any) -> Fields:
    """The fields that describe a model.

    Raises:
        UserError: llama.cpp computes something else for a field of the config; names it.
    """
    layout = layout_of(family)
    for name, values in layout.only.items():
        if (value := getattr(config, name)) not in values:
            others = " or ".join(map(repr, values))
            raise UserError(f"{name} = {value!r} cannot be written for llama.cpp, which has {others} for {family.name}")
    if (other := layout.checks(config)) is not None:
        raise UserError(
            f"{other} = {getattr(config, other)!r} cannot be written for llama.cpp, which has another value"
        )
    told = {key: getattr(config, name) for key, name in shape_keys(family).items()}
    told |= {"vocab_size": config.vocab_size, **layout.constants}
    told[KV] = told.get(KV) or told["attention.head_count"]
    told |= {"attention.key_length": config.head_width, "attention.value_length": config.head_width}
    if not layout.windows and (window := smallest_window(config)) is not None:
        told["context_length"] = min(told["context_length"], window)
    if isinstance(config, RotaryConfig):
        told |= _rope_fields(config)
    typed = {key: float(value) if key.endswith(_FLOATS) else value for key, value in told.items() if value is not None}
    return {ARCHITECTURE: layout.architecture} | {f"{layout.architecture}.{key}": value for key, value in typed.items()}


def smallest_window(config: Any) -> int | None:
    """The fewest positions that a layer sees; None where all see everything."""
    seen = (config.window(layer) for layer in range(config.num_hidden_layers)) if hasattr(config, "window") else ()
    return min((window for window in seen if window is not None), default=None)


def _rope_fields(config: RotaryConfig) -> Fields:
    rope = config.rope()
    told: Fields = {"rope.freq_base": rope.theta, "rope.dimension_count": rope.head_dim}
    match rope.scaling:
        case None | Llama3Scaling():
            return told
        case LinearScaling(factor=factor):
            return told | {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case YarnScaling(factor=factor, original_max_position_embeddings=original) as yarn:
            if yarn == YarnScaling(factor, original):
                told |= {"rope.scaling.type": "yarn", "rope.scaling.factor": factor}
                return told | {"rope.scaling.original_context_length": original}
        case DynamicScaling():
            pass
    raise UserError(f"rope_parameters = {config.rope_parameters!r} cannot be written for llama.cpp")


def frequency_factors(config: Any) -> Tensor | None:
    """What `FREQUENCIES` holds for a config; None where there is no such tensor."""
    rope = config.rope() if isinstance(config, RotaryConfig) else None
    if rope is None or not isinstance(rope.scaling, Llama3Scaling):
        return None
    plain = rope.theta ** -(torch.arange(0, rope.head_dim, 2) / rope.head_dim)
    return plain / rope.scaling(plain, rope.theta, torch.zeros(1, 1, dtype=torch.long))


def family_of(file: GGUF) -> Family:
    """The family of a file; UserError where it is not read here."""
    named = file.get(ARCHITECTURE, str)
    if file.get(SPLIT, int, 1) > 1:
        raise UserError(f"{file.path}: is one part of a model; join the parts with llama-gguf-split --merge")
    experts = bool(file.get(f"{named}.expert_count", int, 0))
    rows = [row for row in ROWS.values() if row.gguf]
    for row in rows:
        assert row.gguf is not None
        if row.gguf.architecture == named and row.gguf.experts == experts:
            return row
    known = ", ".join(dict.fromkeys(row.gguf.architecture for row in rows if row.gguf))
    raise UserError(f"{file.path}: {ARCHITECTURE} = {named!r} is not read, only {known}")


def config_fields(file: GGUF) -> Fields:
    """What config.json says of the model in a file.

    Raises:
        UserError: naming the field that is missing, or of the wrong type, or not read.
    """
    family = family_of(file)
    layout = layout_of(family)

    def get(key: str) -> Any:
        return file.fields.get(f"{layout.architecture}.{key}")

    told: Fields = {}
    for key, name in shape_keys(family).items():
        told[name] = get(key)
        if told[name] is None and key not in _OPTIONAL:
            raise UserError(f'{file.path}: field "{layout.architecture}.{key}" is missing')
    layers = file.get(f"{layout.architecture}.block_count", int, 0)
    if layers > len(file.tensors):
        raise UserError(f"{file.path}: {layout.architecture}.block_count = {layers:,} is more than there are tensors")
    if KV in layout.fields:
        told[layout.fields[KV]] = get(KV) or get("attention.head_count")
    told |= {name: mark in file.tensors for name, mark in layout.marks.items()}
    for name, tensor in layout.sizes.items():
        if tensor not in file.tensors:
            raise UserError(f'{file.path}: tensor "{tensor}" is missing')
        told[name] = file.tensors[tensor].shape[0]
    for key, value in layout.constants.items():
        if get(key) not in (None, value):
            raise UserError(f"{file.path}: {layout.architecture}.{key} = {get(key)!r} is not read, only {value!r}")
    if TIED in family.honoured():
        told[TIED] = "output.weight" not in file.tensors
    if issubclass(family.config, RotaryConfig):
        told["rope_parameters"] = _rope_parameters(file, layout, told, family)
    raw = layout.complete({name: value for name, value in told.items() if value is not None})
    config = family.parse(raw, str(file.path))
    _check(file, family, config)
    return family.dump(config)


def _check(file: GGUF, family: Family, config: Any) -> None:
    """UserError where a file says what llama.cpp knows and the family does not have."""
    layout = layout_of(family)
    prefix, read = f"{layout.architecture}.", {*shape_keys(family), *layout.fields, *layout.constants, KV, *_READ}
    for name, value in file.fields.items():
        if name.startswith(prefix) and name.removeprefix(prefix) not in read:
            raise UserError(f"{file.path}: {name} = {value!r} is not known for {family.name}, and would be ignored")
    for key, width in (("key_length", config.head_width), ("value_length", config.head_width)):
        if file.get(f"{layout.architecture}.attention.{key}", int, width) != width:
            raise UserError(f"{file.path}: {layout.architecture}.attention.{key} is not the width of a head, {width}")


def _rope_parameters(file: GGUF, layout: Layout, told: Fields, family: Family) -> Fields:
    prefix = f"{layout.architecture}.rope."
    rope: Fields = {"rope_theta": file.get(f"{prefix}freq_base", float, 10000.0)}
    width, heads = told.get(family.config.shape.width), told.get(str(family.config.shape.heads))
    each = width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else 0
    head = told.get("head_dim") or each
    turned = file.get(f"{prefix}dimension_count", int, head)
    if family.config.spelling.usual is not None and head:
        rope[FRACTION] = turned / head
    elif turned != head:
        raise UserError(f"{file.path}: {prefix}dimension_count = {turned} is not the width of a head, {head}")
    kind, factor = file.get(f"{prefix}scaling.type", str, "none"), file.get(f"{prefix}scaling.factor", float, 1.0)
    if kind == "linear" and factor != 1.0:
        return rope | {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = file.get(f"{prefix}scaling.original_context_length", int)
        return rope | {"rope_type": "yarn", "factor": factor, ORIGINAL: original}
    if kind not in ("none", "linear"):
        raise UserError(f"{file.path}: {prefix}scaling.type = {kind!r} is not read, only none, linear and yarn")
    if FREQUENCIES not in file.tensors:
        return rope
    for found in _llama3(float(_numbers(file).max())):
        config = family.make(**{**told, "rope_parameters": rope | found})
        factors = frequency_factors(config)
        assert factors is not None
        if factors.shape == _numbers(file).shape and torch.allclose(factors, _numbers(file), rtol=1e-4):
            return rope | found
    raise UserError(f'{file.path}: tensor "{FREQUENCIES}" is not that of a Llama 3, and is not read')


def _llama3(factor: float) -> Iterator[Fields]:
    """What may have made the tensor of frequencies, whose largest number is `factor`."""
    for power in range(5, 21):
        usual = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, ORIGINAL: 2**power}
        yield {"rope_type": "llama3", "factor": factor, **usual}


def _numbers(file: GGUF) -> Tensor:
    stored = file.tensors[FREQUENCIES]
    if stored.kind.name != "f32":
        raise UserError(f'{file.path}: tensor "{FREQUENCIES}" must hold f32 numbers, not {stored.kind.name}')
    return torch.from_numpy(stored.data.reshape(-1).view("<f4").copy())
