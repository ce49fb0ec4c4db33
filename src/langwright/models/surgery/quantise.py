"""Quantised weights: which they are, how they lie on disk, and how they come into a model, one tensor at a time."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from langwright.base.errors import UserError
from langwright.base.value_types import check_types
from langwright.models.family import Fields
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.models.weights import Weights
from langwright.parts import quantisers
from langwright.parts.attention import Attention
from langwright.parts.convolution import CausalConvolution
from langwright.parts.feedforward import GLU, MLP
from langwright.parts.linear import Linear
from langwright.parts.quantised import FourBitBlocks, Int4Groups, Int8Rows, Packed, QuantisedLinear
from langwright.parts.quantisers import Nested
from langwright.parts.recurrent import Recurrent

Kind = Literal["int8", "int4", "nf4", "fp4"]
KINDS: tuple[Kind, ...] = ("int8", "int4", "nf4", "fp4")
FIELD = "quantization_config"
"""Of config.json: that the weights are quantised, and how."""
GROUPS = (64, 32)
"""Of int4: the first that fills the rows."""
_FIELDS: Mapping[str, Fields] = {
    "langwright": {"quant_method": Any, "bits": Literal[4]},
    "bitsandbytes": {
        "quant_method": Any,
        "load_in_4bit": bool | None,
        "load_in_8bit": bool | None,
        "bnb_4bit_quant_storage": Literal["uint8"],
        "bnb_4bit_quant_type": Literal["nf4", "fp4"],
        "bnb_4bit_use_double_quant": bool | None,
        "llm_int8_has_fp16_weight": Literal[False],
    },
}
"""The fields of `quantization_config` and their types, by its `quant_method`."""
_INERT = ("_load_in_", "bnb_4bit_compute_dtype", "llm_int8_")
"""Beginnings of further fields, which do not change what the weights are."""
OnPacked = Callable[[str, Tensor, Packed], None]
"""Is given each weight that is quantised: its name on disk, [rows, columns] before, and after."""


@dataclass(frozen=True)
class Scheme:
    """How weights are rounded. double: scales of 4-bit levels are rounded to 8 bits as well."""

    kind: Kind
    double: bool = True

    def quantise(self, weight: Tensor) -> Packed:
        """A quantised weight [rows, columns]. ValueError where it cannot be cut into groups."""
        if self.kind == "int8":
            return Int8Rows.quantise(weight)
        if self.kind == "int4":
            return Int4Groups.quantise(weight, next((g for g in GROUPS if weight.shape[1] % g == 0), GROUPS[-1]))
        return FourBitBlocks.quantise(weight, self.kind, self.double)

    def fields(self, skipped: Collection[str], dtype: str) -> Fields:
        """The `quantization_config` of a folder. skipped: modules on disk that hold matrices of floats."""
        if self.kind == "int4":
            return {"quant_method": "langwright", "bits": 4}
        eight = self.kind == "int8"
        return {
            "quant_method": "bitsandbytes",
            "load_in_8bit": eight,
            "load_in_4bit": not eight,
            "bnb_4bit_quant_type": "fp4" if eight else self.kind,
            "bnb_4bit_use_double_quant": self.double and not eight,
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": sorted(skipped),
            "llm_int8_threshold": 6.0,
        }


def scheme_of(bits: int | str) -> Scheme:
    """What `bits` asks for: 8 (int8), 4 (int4) or the name of a kind."""
    named = {8: "int8", 4: "int4"}.get(bits, bits) if isinstance(bits, int) else bits
    for kind in KINDS:
        if named == kind:
            return Scheme(kind)
    raise UserError(f"bits = {bits!r} is not known; choose 8, 4 or one of {', '.join(KINDS)}")


def read_scheme(raw: Fields, where: str) -> Scheme | None:
    """What config.json says of its weights; None for plain ones. UserError where it is none that is read here."""
    told = raw.get(FIELD)
    if told is None:
        return None
    method = str(told.get("quant_method") if isinstance(told, dict) else told)
    if method not in _FIELDS:
        known = " or ".join(_FIELDS)
        raise UserError(f'{where}: weights quantised by "{method}" are not read here, only by {known}')
    try:
        check_types(told, _FIELDS[method], f"{FIELD}: ")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    for name in told:
        if name not in _FIELDS[method] and not name.startswith(_INERT):
            raise UserError(f'{where}: field "{name}" of {FIELD} is not known')
    if method == "langwright":
        return Scheme("int4")
    if told.get("load_in_8bit"):
        return Scheme("int8")
    return Scheme(told.get("bnb_4bit_quant_type", "fp4"), bool(told.get("bnb_4bit_use_double_quant")))


MIXED = Attention | MLP | GLU | Recurrent | CausalConvolution
"""Modules whose linear layers are rounded."""


def is_chosen(model: Model, entry: Entry) -> bool:
    """Whether a tensor on disk is rounded: the linear maps of what mixes tokens and of feed-forwards are.

    Embeddings, heads, routers, norms and biases stay as they are: they are few, and much hangs on each.
    """
    owners = [name.rpartition(".")[0].rpartition(".")[0] for name in entry.ours]
    return is_linear(model, entry) and all(isinstance(model.get_submodule(o), MIXED) for o in owners)


def is_linear(model: Model, entry: Entry) -> bool:
    """Whether a tensor on disk holds weights of linear maps and nothing else."""
    owners = [name.removesuffix(".weight") for name in entry.ours if name.endswith(".weight")]
    return len(owners) == len(entry.ours) and all(isinstance(model.get_submodule(o), Linear) for o in owners)


def is_quantised(model: Model) -> bool:
    """Whether any of a model's weights are quantised."""
    return any(isinstance(module, QuantisedLinear) for module in model.modules())


def place(model: Model, entry: Entry, packed: Packed, device: torch.device | str = "cpu") -> None:
    """Put a quantised tensor into the linear layers that it belongs to, each with its own rows."""
    rows_of_each = entry.locate([model.get_parameter(name).shape[0] for name in entry.ours])
    for name, rows in zip(entry.ours, rows_of_each, strict=True):
        # Rows side by side may own blocks together, and keep scales that are in 8 bits so.
        part = packed.part(slice(int(rows[0]), int(rows[-1]) + 1) if entry.heads is None else rows)
        bias = model.get_submodule(name.removesuffix(".weight")).bias
        assert bias is None or isinstance(bias, nn.Parameter)
        model.set_submodule(name.removesuffix(".weight"), QuantisedLinear(part.to(device), bias))


@torch.no_grad()
def dequantise(model: Model) -> None:
    """Turn quantised linear layers into plain ones in float32 with the numbers that their weights were rounded to.

    What stands beside them stays. The weights are frozen, as they were.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedLinear):
            plain = Linear(module.inputs, module.outputs)
            plain.weight = nn.Parameter(module.packed.full_weight(torch.float32), requires_grad=False)
            plain.bias, plain.adapter = module.bias, module.adapter
            model.set_submodule(name, plain)


@dataclass(frozen=True)
class Filler:
    """Fills linear layers with quantised weights, from a folder that holds them so or from one that holds floats.

    Args:
        scheme: how they are quantised.
        stored: whether the folder holds them so.
        dtype: what they are made dense in unless told otherwise; their own unless given.
        device: where they are.
        on_packed: is told of each weight that is quantised here.
    """

    scheme: Scheme
    stored: bool
    dtype: torch.dtype | None
    device: torch.device | str
    on_packed: OnPacked | None = None

    def take(self, model: Model, entry: Entry, name: str, left: dict[str, str], weights: Weights) -> bool:
        """Fill the linear maps of an entry from the tensor `name`, if they are to be; then what goes with it is no
        longer `left`. UserError where it does not fit.
        """
        shape = entry.shape([model.get_parameter(ours).shape for ours in entry.ours])
        beside = (f"{name}.", f"{name.removesuffix('weight')}SCB", f"{name.removesuffix('weight')}weight_format")
        with_it = [key for key, actual in left.items() if actual.startswith(beside)]
        try:
            if self.stored and with_it and is_linear(model, entry):
                rows, columns = shape[::-1] if entry.transposed else shape
                packed = read_packed(self.scheme, name, weights.read, (rows, columns))
                for key in with_it:
                    del left[key]
            elif not self.stored and is_chosen(model, entry):
                tensor = weights.floats(name, shape)
                upright = tensor.t().contiguous() if entry.transposed else tensor
                packed = self.scheme.quantise(upright)
                if self.on_packed:
                    self.on_packed(name, upright, packed)
            else:
                return False
            packed.dtype = self.dtype or packed.dtype
            place(model, entry, packed, self.device)
        except ValueError as error:
            raise weights.refusal(name, error) from None
        return True


def write_packed(name: str, packed: Packed) -> dict[str, Tensor]:
    """A quantised weight as tensors on disk; `name` is "MODULE.weight"."""
    if isinstance(packed, Int8Rows):
        module = name.removesuffix("weight")
        form = torch.zeros((), dtype=torch.uint8)  # rows, and not one of the layouts of older graphics cards
        return {name: packed.codes, f"{module}SCB": packed.absmax, f"{module}weight_format": form}
    if isinstance(packed, Int4Groups):
        return {name: packed.codes, f"{name}.scale": packed.scale, f"{name}.zero": packed.zero}
    assert isinstance(packed, FourBitBlocks)
    state: dict[str, Any] = {
        "quant_type": packed.levels,
        "blocksize": packed.block,
        "dtype": str(packed.dtype).removeprefix("torch."),
        "shape": list(packed.shape),
    }
    tensors = {name: packed.codes[:, None], f"{name}.absmax": packed.absmax}
    tensors[f"{name}.quant_map"] = quantisers.levels(packed.levels).clone()
    if packed.outer is not None and packed.offset is not None:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": packed.offset.item()}
        tensors[f"{name}.nested_absmax"] = packed.outer
        tensors[f"{name}.nested_quant_map"] = quantisers.dynamic_map().clone()
    told = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return {**tensors, f"{name}.quant_state.bitsandbytes__{packed.levels}": told}


def read_packed(scheme: Scheme, name: str, read: Callable[[str], Tensor], shape: tuple[int, int]) -> Packed:
    """The weight that `write_packed`, or bitsandbytes, wrote. ValueError where sizes or levels are others."""
    codes, (rows, columns) = read(name), shape
    if scheme.kind == "int8":
        absmax = read(f"{name.removesuffix('weight')}SCB").float()
        _expect(codes, torch.int8, (rows, columns))
        _expect(absmax, torch.float32, (rows,))
        return Int8Rows(codes, absmax, torch.float32)
    if scheme.kind == "int4":
        scale, zero = read(f"{name}.scale"), read(f"{name}.zero")
        _expect(codes, torch.uint8, (rows, columns // 2))
        _expect(zero, torch.bfloat16, tuple(scale.shape))
        if scale.shape[0] != rows or columns % scale.shape[1]:
            raise ValueError(f"has scales of shape {list(scale.shape)}, which do not fit {rows} rows of {columns}")
        return Int4Groups(codes, scale, zero, torch.float32)
    kind = scheme.kind
    state = json.loads(bytes(read(f"{name}.quant_state.bitsandbytes__{kind}").tolist()))
    blocks = -(-rows * columns // state["blocksize"])
    if state["shape"] != [rows, columns] or state["quant_type"] != kind:
        raise ValueError(f"holds {state['quant_type']} of shape {state['shape']}, the config asks for {list(shape)}")
    _expect(codes.view(-1), torch.uint8, ((rows * columns + 1) // 2,))
    absmax = read(f"{name}.absmax")
    scales: Tensor | Nested = absmax
    if "nested_offset" in state:
        _expect(absmax, torch.uint8, (blocks,))
        outer = read(f"{name}.nested_absmax")
        _expect(outer, torch.float32, (-(-blocks // 256),))
        ours, theirs = quantisers.dynamic_map(), read(f"{name}.nested_quant_map")
        if state["nested_blocksize"] != 256 or not torch.equal(ours, theirs):
            raise ValueError("has scales that were rounded in another way than bitsandbytes does by itself")
        scales = Nested(absmax, outer, torch.tensor(state["nested_offset"], dtype=torch.float32))
    else:
        _expect(absmax, torch.float32, (blocks,))
    if not torch.equal(read(f"{name}.quant_map").float(), quantisers.levels(kind)):
        raise ValueError(f"has levels other than those of {kind}")
    return FourBitBlocks(kind, codes.view(-1), scales, shape, getattr(torch, state["dtype"]), state["blocksize"])


def _expect(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        found = f"{tensor.dtype} of shape {list(tensor.shape)}"
        raise ValueError(f"goes with {found}, where {dtype} of shape {list(shape)} belongs")
