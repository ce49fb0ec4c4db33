"""Quantised weights: which they are, how they lie on disk, and how they come into a model, one tensor at a time."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, Protocol, runtime_checkable

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
from langwright.parts.quantised import FourBitBlocks, Int8Both, Int8Rows, IntGroups, Packed, QuantisedLinear
from langwright.parts.quantisers import Levels, Nested
from langwright.parts.recurrent import Recurrent

Kind = Literal["int8", "w8a8", "int4", "int3", "nf4", "fp4"]
KINDS: tuple[Kind, ...] = ("int8", "w8a8", "int4", "int3", "nf4", "fp4")
"""w8a8: activations in int8 as well."""
FIELD = "quantization_config"
"""Of config.json: that the weights are quantised, and how."""
GROUPS = (64, 32)
"""Of int4 and int3: the first that fills the rows."""
BITS: Mapping[str, Literal[3, 4]] = {"int4": 4, "int3": 3}
"""Of kinds in groups."""
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
    "compressed-tensors": {
        "quant_method": Any,
        "format": Literal["pack-quantized", "int-quantized"],
        "quantization_status": Literal["compressed"],
        "config_groups": Mapping[str, Any],
        "ignore": tuple[str, ...] | None,
        "kv_cache_scheme": NoneType,
        "global_compression_ratio": float | None,
        "sparsity_config": NoneType,
        "transform_config": NoneType,
    },
}
"""The fields of `quantization_config` and their types, by its `quant_method`."""
_INERT = ("_load_in_", "bnb_4bit_compute_dtype", "llm_int8_", "version")
"""Beginnings of further fields, which do not change what the weights are."""
_ROUNDED: Fields = {
    "type": Literal["int"], "symmetric": bool, "strategy": Literal["group", "channel", "token"],
    "group_size": int | None, "dynamic": bool, "block_structure": NoneType, "actorder": str | bool | None,
}  # fmt: skip
"""What `compressed-tensors` says of weights or activations, besides `num_bits`."""
PACKED = "_packed"
"""Ends the name of a weight whose integers lie in words of 32 bits."""
OnPacked = Callable[[str, Tensor, Packed], None]
"""Is given each weight that is quantised: its name on disk, [rows, columns] before, and after."""


@dataclass(frozen=True)
class Scheme:
    """How weights are rounded.

    Args:
        kind: to which numbers.
        double: scales of 4-bit levels are rounded to 8 bits as well.
        group: columns that share a scale, of int4 and int3; the first of `GROUPS` that fills the rows unless given.
        symmetric: groups of int4 and int3 have no zeros.
    """

    kind: Kind
    double: bool = True
    group: int | None = None
    symmetric: bool = True

    def quantise(self, weight: Tensor) -> Packed:
        """A quantised weight [rows, columns]. ValueError where it cannot be cut into groups."""
        if self.kind == "int8":
            return Int8Rows.quantise(weight)
        if self.kind == "w8a8":
            return Int8Both.quantise(weight)
        if self.kind in BITS:
            group = self.columns_a_scale(weight.shape[1])
            return IntGroups.quantise(weight, group, self.symmetric, BITS[self.kind])
        assert self.kind in ("nf4", "fp4")
        return FourBitBlocks.quantise(weight, self.kind, self.double)

    def columns_a_scale(self, columns: int) -> int:
        """How many columns of a row share a scale."""
        if self.kind in ("int8", "w8a8"):
            return columns
        fitting = (size for size in GROUPS if columns % size == 0)
        return self.group or next(fitting, columns if self.kind in ("nf4", "fp4") else GROUPS[-1])

    def fields(self, skipped: Collection[str], dtype: str, groups: Mapping[int, Sequence[str]]) -> Fields:
        """The `quantization_config` of a folder.

        Args:
            skipped: modules on disk that hold matrices of floats.
            dtype: of the weights before.
            groups: the modules on disk that are rounded in groups of each size.
        """
        if self.kind in BITS:
            weights = {"num_bits": BITS[self.kind], "type": "int", "symmetric": self.symmetric, "strategy": "group"}
            sizes = [(size, ["Linear"] if len(groups) == 1 else list(of)) for size, of in groups.items()]
            rounded = [{"targets": of, "weights": weights | {"group_size": size}} for size, of in sizes]
            return _compressed_tensors("pack-quantized", rounded, skipped)
        if self.kind == "w8a8":
            plain = {"num_bits": 8, "type": "int", "symmetric": True}
            both = {
                "targets": ["Linear"],
                "weights": plain | {"strategy": "channel"},
                "input_activations": plain | {"strategy": "token", "dynamic": True},
            }
            return _compressed_tensors("int-quantized", [both], skipped)
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


def _compressed_tensors(format: str, groups: Sequence[Fields], skipped: Collection[str]) -> Fields:
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "ignore": sorted(skipped),
    }


def scheme_of(bits: int | str) -> Scheme:
    """What `bits` asks for: 8 (int8), 4 (int4), 3 (int3) or the name of a kind."""
    named = f"int{bits}" if isinstance(bits, int) else bits
    for kind in KINDS:
        if named == kind:
            return Scheme(kind)
    raise UserError(f"bits = {bits!r} is not known; choose 8, 4, 3 or one of {', '.join(KINDS)}")


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
    if method == "compressed-tensors":
        try:
            return _read_compressed_tensors(told)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    if told.get("load_in_8bit"):
        return Scheme("int8")
    return Scheme(told.get("bnb_4bit_quant_type", "fp4"), bool(told.get("bnb_4bit_use_double_quant")))


def _read_compressed_tensors(told: Fields) -> Scheme:
    """The scheme that all groups of a `quantization_config` share; ValueError where it is none that is read here."""
    found = set()
    eight = told.get("format") == "int-quantized"
    parts = {"weights": 8, "input_activations": 8} if eight else {"weights": Literal[3, 4]}
    for name, group in told.get("config_groups", {}).items():
        inside = f"{FIELD}: config_groups.{name}."
        check_types(group, {"weights": Mapping[str, Any], "input_activations": Mapping[str, Any] if eight else NoneType,
                            "output_activations": NoneType}, inside)  # fmt: skip
        for part, bits in parts.items():
            given = {"num_bits": 16, "dynamic": False} | group.get(part, {})
            dynamic = Literal[True] if part == "input_activations" else Literal[False]
            kinds = _ROUNDED | {"num_bits": Literal[8] if bits == 8 else bits, "dynamic": dynamic}
            check_types(given, kinds | ({"symmetric": Literal[True]} if eight else {}), f"{inside}{part}.")
        weights = group["weights"]
        found.add((weights["num_bits"], bool(weights.get("symmetric", True)), weights.get("group_size")))
    if len({each[:2] for each in found}) != 1:
        raise ValueError(f"{FIELD}: config_groups must name one way to round, not {len(found)}")
    bits, symmetric, group = found.pop()
    return Scheme("w8a8") if eight else Scheme(f"int{bits}", group=group, symmetric=symmetric)  # type: ignore[arg-type]


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


@runtime_checkable
class Fills(Protocol):
    """What fills parameters in its own way."""

    def take(self, model: Model, entry: Entry, name: str, left: dict[str, str], weights: Weights) -> bool:
        """Whether it has taken charge of an entry, which the tensor `name` holds."""
        ...


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
        base = name.removesuffix(PACKED)
        beside = (f"{base}.", f"{base}_", f"{base.removesuffix('weight')}SCB")
        with_it = [key for key, actual in left.items() if actual.startswith(beside)]
        try:
            if self.stored and with_it and is_linear(model, entry):
                rows, columns = shape[::-1] if entry.transposed else shape
                packed = read_packed(self.scheme, base, weights.read, (rows, columns), PACKED in name)
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


def write_packed(scheme: Scheme, name: str, packed: Packed) -> dict[str, Tensor]:
    """A quantised weight as tensors on disk; `name` is "MODULE.weight"."""
    if isinstance(packed, Int8Both):
        return {name: packed.codes, f"{name}_scale": packed.absmax[:, None] / 127}
    if isinstance(packed, Int8Rows):
        module = name.removesuffix("weight")
        form = torch.zeros((), dtype=torch.uint8)  # rows, and not one of the layouts of older graphics cards
        return {name: packed.codes, f"{module}SCB": packed.absmax, f"{module}weight_format": form}
    if isinstance(packed, IntGroups):
        half, bits = 2 ** (packed.bits - 1), packed.bits
        scale, zero = packed.scale, packed.zero
        tensors = {f"{name}{PACKED}": quantisers.pack_words(packed.plain_codes() + half - 8, bits)}
        tensors |= {f"{name}_scale": scale.contiguous(), f"{name}_shape": torch.tensor(packed.shape)}
        if not scheme.symmetric:
            steps = half - (zero.float() / torch.where(scale == 0, 1, scale).float()).round()
            tensors[f"{name}_zero_point"] = quantisers.pack_words(steps.to(torch.uint8).t(), bits).t().contiguous()
        return tensors
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


def read_packed(
    scheme: Scheme, name: str, read: Callable[[str], Tensor], shape: tuple[int, int], words: bool = False
) -> Packed:
    """The weight that `write_packed`, or bitsandbytes, wrote. ValueError where sizes or levels are others.

    words: its integers lie in words.
    """
    rows, columns = shape
    if words:
        return _read_words(scheme, name, read, shape)
    codes = read(name)
    if scheme.kind == "w8a8":
        scale = read(f"{name}_scale")
        _expect(codes, torch.int8, (rows, columns))
        _expect(scale, scale.dtype, (rows, 1))
        return Int8Both(codes, 127 * scale[:, 0].float(), torch.float32)
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
        return IntGroups(codes, scale, zero, torch.float32)
    assert scheme.kind in ("nf4", "fp4")
    kind: Levels = scheme.kind
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


def _read_words(scheme: Scheme, name: str, read: Callable[[str], Tensor], shape: tuple[int, int]) -> IntGroups:
    """Groups of integers as `compressed-tensors` stores them."""
    (rows, columns), bits = shape, BITS[scheme.kind]
    half, words, scale = 2 ** (bits - 1), read(f"{name}{PACKED}"), read(f"{name}_scale")
    _expect(words, torch.int32, (rows, -(-columns * bits // 32)))
    if (
        scale.ndim != 2
        or scale.shape[0] != rows
        or columns % scale.shape[1]
        or read(f"{name}_shape").tolist() != [*shape]
    ):
        raise ValueError(f"has scales of shape {list(scale.shape)}, which do not fit {rows} rows of {columns}")
    steps = torch.full(scale.shape, half)
    if not scheme.symmetric:
        zeros = read(f"{name}_zero_point")
        _expect(zeros, torch.int32, (-(-rows * bits // 32), scale.shape[1]))
        steps = quantisers.unpack_words(zeros.t(), bits, rows).t()
    codes = quantisers.pack(quantisers.unpack_words(words, bits, columns) + 8 - half)
    zero = ((half - steps.float()) * scale.float()).to(torch.bfloat16)
    return IntGroups(codes, scale.to(torch.bfloat16), zero, torch.float32, bits)


def _expect(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape:
        found = f"{tensor.dtype} of shape {list(tensor.shape)}"
        raise ValueError(f"goes with {found}, where {dtype} of shape {list(shape)} belongs")
