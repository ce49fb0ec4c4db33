"""A model written as a GGUF file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from langwright.base.console import progress
from langwright.base.extras import need
from langwright.base.files import atomic_file
from langwright.base.gguf import KINDS
from langwright.models.config import Fields
from langwright.models.families import ROWS
from langwright.models.gguf.blocks import pack
from langwright.models.gguf.describing import ARCHITECTURE, FREQUENCIES, describe, frequency_factors, layout_of
from langwright.models.gguf.layout import TIED
from langwright.models.gguf.tensors import HEAD, TOKENS, Place, places
from langwright.models.model import Model

Type = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k"]
_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_k": 14, "q6_k": 18}
_WHOLE = ("position_embd.weight", "token_types.weight", "ffn_gate_inp.weight")
"""Tables that stay in float32, as in llama.cpp's own files; vectors do too."""
_FINER = {"q4_k": "q6_k"}
"""What the head has, and a token table that is the head, since they decide on every token."""
_WIDER = {"q4_k": "q8_0", "q6_k": "q8_0", "q8_0": "f16", "q4_0": "f16"}
"""What takes the place of a kind whose blocks do not fit into the rows of a tensor."""


@dataclass(frozen=True)
class Written:
    """What is in a file. tensors: how many of each kind. bytes: of all tensors. weights: numbers of all tensors."""

    tensors: Mapping[str, int]
    bytes: int
    weights: int


@torch.no_grad()
def write_gguf(
    path: Path,
    model: Model,
    parameters: Mapping[str, Tensor],
    fields: Fields,
    kind: Type,
    tables: Type | None = None,
) -> Written:
    """Write a file that llama.cpp opens.

    Args:
        path: the file, replaced when all of it is there.
        model: the model; a head that llama.cpp has no place for is left out.
        parameters: its parameters in floats, by name.
        fields: of its tokenizer.
        kind: what matrices hold; vectors hold float32.
        tables: what the token table and the head hold; the same unless given, with 4 bits the head q6_k.

    Raises:
        UserError: llama.cpp has no such model; names the field.
    """
    gguf: Any = need("gguf", "export", "GGUF")
    family, config = ROWS[model.family], model.config
    layout, told = layout_of(family), describe(family, config)
    tied = not any(place.name == HEAD for place in places(family, config))
    tensors: dict[str, list[Place]] = {}
    for place in places(family, config):
        tensors.setdefault(place.name, []).append(place)
    if tied and layout.own_head and getattr(config, TIED, False):
        tensors[HEAD] = tensors[TOKENS]

    def numbers(name: str) -> Tensor:
        """A tensor as it lies in the file."""
        parts = [
            place.join([parameters[own] for own in place.entry.ours], layout, config.head_width)
            for place in tensors[name]
        ]
        return parts[0] if tensors[name][0].expert is None else torch.stack(parts)

    def stored(name: str) -> tuple[str, torch.Size]:
        """The kind and the shape of a tensor."""
        first = tensors[name][0]
        rows = sum(parameters[own].shape[0] for own in first.entry.ours)
        shape = (rows, *parameters[first.entry.ours[0]].shape[1:])
        if len(shape) == 1 or name.endswith(_WHOLE):
            return "f32", torch.Size(shape)
        found: str = kind
        if name in (HEAD, TOKENS) and tables is not None:
            found = tables
        elif name == HEAD or (name == TOKENS and tied):
            found = _FINER.get(found, found)
        while shape[-1] % KINDS[found].block:
            found = _WIDER[found]
        return found, torch.Size(shape if first.expert is None else (len(tensors[name]), *shape))

    kinds = {name: stored(name) for name in tensors}
    inner = kinds[next(name for name in tensors if ".ffn_up" in name)][1][-2]
    told |= {f"{layout.architecture}.feed_forward_length": inner, "general.file_type": _FILE_TYPES[kind]}
    told |= {"general.quantization_version": 2, **fields}
    factors = frequency_factors(config)
    if factors is not None:
        kinds[FREQUENCIES] = ("f32", factors.shape)
    sizes = {name: shape.numel() // KINDS[form].block * KINDS[form].size for name, (form, shape) in kinds.items()}
    with atomic_file(path) as temporary:
        writer = gguf.GGUFWriter(str(temporary), told.pop(ARCHITECTURE))
        for key, value in told.items():
            # llama.cpp wants whole numbers without a sign, but in lists; bytes are a list.
            own = {int: gguf.GGUFValueType.UINT32, bytes: gguf.GGUFValueType.ARRAY}.get(type(value))
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value) if own is None else own)
        for name, (form, shape) in kinds.items():
            code = gguf.GGMLQuantizationType(KINDS[form].code)
            writer.add_tensor_info(name, shape, np.dtype(np.float32), sizes[name], code)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with progress(f"writing {path}", sum(sizes.values()), "bytes") as advance:
            for name, (form, _) in kinds.items():
                tensor = numbers(name) if name in tensors else factors
                assert tensor is not None
                writer.write_tensor_data(pack(tensor.cpu(), form).numpy())
                advance(sizes[name])
        writer.close()
    used = [form for form, _ in kinds.values()]
    total = sum(shape.numel() for _, shape in kinds.values())
    return Written({form: used.count(form) for form in dict.fromkeys(used)}, sum(sizes.values()), total)
