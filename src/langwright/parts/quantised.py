"""Linear layers whose weights are quantised in memory, and never trained."""

from abc import abstractmethod
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from langwright.parts import quantisers
from langwright.parts.linear import Linear
from langwright.parts.quantisers import BLOCK, NESTED_BLOCK, Levels, Nested, Scales, Weight


class Packed(nn.Module):
    """A quantised weight. Its tensors move from device to device, and keep their dtypes whatever a model is cast to.

    shape: (rows, columns) of the weight. dtype: what it was before, and what `full_weight` gives by default.
    """

    few = 0
    """Up to so many rows, a CPU's kernel that reads the codes beats turning the weight into bfloat16 first."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, **tensors: Tensor | None):
        super().__init__()
        self.shape, self.dtype = shape, dtype
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @abstractmethod
    def full_weight(self, dtype: torch.dtype | None = None) -> Weight:
        """The numbers that the weight was rounded to."""

    @abstractmethod
    def part(self, rows: slice | Tensor) -> "Packed":
        """Some rows of it; ValueError where these do not own whole bytes and blocks."""

    def product(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch rows"]:
        """x Wᵀ in the dtype of x, without gradients."""
        return F.linear(x, self.full_weight(x.dtype))

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(tensor.nbytes for tensor in self.buffers())

    def has_kernel(self, x: Tensor) -> bool:
        """Whether a kernel for a few rows in bfloat16 serves this input."""
        return x.device.type == "cpu" and x.dtype == torch.bfloat16 and 0 < len(x) <= self.few

    def _apply(self, fn: Any, recurse: bool = True) -> "Packed":
        moved: Packed = super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return moved


class Int8Rows(Packed):
    """Rows of int8 with one scale each: w = code * absmax / 127."""

    few = 8
    codes: Int8[Tensor, "rows columns"]
    absmax: Float[Tensor, " rows"]

    def __init__(self, codes: Tensor, absmax: Tensor, dtype: torch.dtype):
        super().__init__((codes.shape[0], codes.shape[1]), dtype, codes=codes, absmax=absmax)

    @classmethod
    def quantise(cls, weight: Weight) -> "Int8Rows":
        """The nearest codes."""
        return cls(*quantisers.quantise_rows(weight), weight.dtype)

    def full_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        return quantisers.dequantise_rows(self.codes, self.absmax).to(dtype or self.dtype)

    def part(self, rows: slice | Tensor) -> "Int8Rows":
        return Int8Rows(self.codes[rows], self.absmax[rows], self.dtype)

    def product(self, x: Tensor) -> Tensor:
        scale = (self.absmax / 127).to(x.dtype)
        if self.has_kernel(x) and self.shape[1] % 16 == 0:  # the kernel reads whole vectors
            return torch._weight_int8pack_mm(x.contiguous(), self.codes, scale)
        return F.linear(x, self.codes.to(x.dtype)) * scale


class Int4Groups(Packed):
    """Groups of 4-bit integers with a scale and a zero each: w = (code - 8) * scale + zero.

    On a CPU that has a kernel for it, the codes are laid out as that kernel wants them when they are first needed.
    """

    few = 64
    codes: UInt8[Tensor, "rows half"]
    steps: Float[Tensor, "groups rows 2"]

    def __init__(self, codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype):
        steps = torch.stack((scale, zero), -1).transpose(0, 1).contiguous()
        super().__init__((codes.shape[0], 2 * codes.shape[1]), dtype, codes=codes, steps=steps)
        self.laid_out = False

    @property
    def scale(self) -> Float[Tensor, "rows groups"]:
        """Of each group."""
        return self.steps[..., 0].t()

    @property
    def zero(self) -> Float[Tensor, "rows groups"]:
        """Of each group."""
        return self.steps[..., 1].t()

    @classmethod
    def quantise(cls, weight: Weight, group: int = BLOCK) -> "Int4Groups":
        """The nearest codes, asymmetric. ValueError where groups do not fill the rows."""
        codes, scale, zero = quantisers.quantise_groups(weight, group)
        return cls(quantisers.pack(codes), scale, zero, weight.dtype)

    def full_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        codes = _from_kernel(self.codes) if self.laid_out else quantisers.unpack(self.codes)
        return quantisers.dequantise_groups(codes, self.scale, self.zero).to(dtype or self.dtype)

    def part(self, rows: slice | Tensor) -> "Int4Groups":
        self._lay_out(False)
        return Int4Groups(self.codes[rows], self.scale[rows], self.zero[rows], self.dtype)

    def product(self, x: Tensor) -> Tensor:
        group, rows = self.shape[1] // len(self.steps), _kernel_rows()
        if self.has_kernel(x) and group in (32, 64, 128, 256) and rows and self.shape[0] % rows == 0:
            self._lay_out(True)
            steps = self.steps.to(x.dtype)
            return torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), self.codes, group, steps)
        return super().product(x)

    def _lay_out(self, for_kernel: bool) -> None:
        if for_kernel != self.laid_out:
            self.codes = _to_kernel(self.codes) if for_kernel else quantisers.pack(_from_kernel(self.codes))
            self.laid_out = for_kernel

    def _apply(self, fn: Any, recurse: bool = True) -> "Packed":
        self._lay_out(False)  # the layout is this CPU's alone
        return super()._apply(fn, recurse)


def _to_kernel(codes: UInt8[Tensor, "rows half"]) -> UInt8[Tensor, "rows half"]:
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(quantisers.unpack(codes).int(), 1)


def _from_kernel(codes: UInt8[Tensor, "rows half"]) -> UInt8[Tensor, "rows columns"]:
    """Inside a block of rows the kernel reads column by column; a byte holds a row and that half a block further."""
    rows, half = codes.shape
    blocks = codes.view(rows // _kernel_rows(), 2 * half, _kernel_rows() // 2)
    return torch.cat((blocks & 15, blocks >> 4), 2).transpose(1, 2).reshape(rows, 2 * half)


@cache
def _kernel_rows() -> int:
    """Rows in a block of the layout of this CPU's int4 kernel; 0 where it is none that is known here."""
    probe = torch.arange(64 * 32).view(64, 32).mul(7).remainder(16).int()
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(probe, 1).view(64, 16)
    for rows in (64, 32):
        blocks = packed.reshape(64 // rows, 32, rows // 2)
        if torch.equal(torch.cat((blocks & 15, blocks >> 4), 2).transpose(1, 2).reshape(64, 32).int(), probe):
            return rows
    return 0


class FourBitBlocks(Packed):
    """Blocks of 64 numbers of the flattened weight, each one of 16 levels times the block's scale: NF4 or FP4.

    absmax: the scales, or their codes where they are in 8 bits themselves; then `outer` and `offset` are what
    `Nested` calls absmax and offset, and `first` is the place of the first scale in its block of 256.
    """

    codes: UInt8[Tensor, " bytes"]
    absmax: Tensor
    outer: Float[Tensor, " blocks"] | None
    offset: Float[Tensor, ""] | None

    def __init__(
        self,
        kind: Levels,
        codes: Tensor,
        scales: Tensor | Nested,
        shape: tuple[int, int],
        dtype: torch.dtype,
        block: int = BLOCK,
        first: int = 0,
    ):
        absmax, outer, offset = scales if isinstance(scales, Nested) else (scales, None, None)
        super().__init__(shape, dtype, codes=codes, absmax=absmax, outer=outer, offset=offset)
        self.levels, self.block, self.first = kind, block, first

    @classmethod
    def quantise(cls, weight: Weight, kind: Levels = "nf4", double: bool = True) -> "FourBitBlocks":
        """The nearest levels. double: the scales are rounded to 8 bits as well."""
        codes, absmax = quantisers.quantise_levels(weight, kind)
        scales = quantisers.nest(absmax) if double else absmax
        return cls(kind, codes, scales, (weight.shape[0], weight.shape[1]), weight.dtype)

    def scales(self) -> Scales:
        """The largest value of each block."""
        if self.outer is None or self.offset is None:
            return self.absmax
        inner = quantisers.dynamic_map().to(self.absmax.device)[self.absmax.int()]
        outer = self.outer.repeat_interleave(NESTED_BLOCK)[self.first : self.first + len(inner)]
        return inner * outer + self.offset

    def full_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        flat = quantisers.dequantise_levels(self.codes, self.scales(), self.levels, self.block, dtype or self.dtype)
        return flat[: self.shape[0] * self.shape[1]].view(self.shape)

    def part(self, rows: slice | Tensor) -> "FourBitBlocks":
        columns = self.shape[1]
        if isinstance(rows, Tensor):
            if columns % self.block:
                raise ValueError(f"rows of {columns} numbers, which take turns, do not own blocks of {self.block}")
            codes = self.codes.view(self.shape[0], -1)[rows].view(-1)
            absmax = self.scales().view(self.shape[0], -1)[rows].view(-1)
            return FourBitBlocks(self.levels, codes, absmax, (len(rows), columns), self.dtype, self.block)
        start, stop, _ = rows.indices(self.shape[0])
        if start * columns % self.block or (stop * columns % self.block and stop != self.shape[0]):
            raise ValueError(f"{stop - start} rows of {columns} numbers do not own blocks of {self.block}")
        codes = self.codes[start * columns // 2 : (stop * columns + 1) // 2].clone()
        low, high = start * columns // self.block, -(-stop * columns // self.block)
        absmax = self.absmax[low:high].clone()
        scales: Tensor | Nested = absmax
        if self.outer is not None and self.offset is not None:
            low += self.first
            outer = self.outer[low // NESTED_BLOCK : -(-(high + self.first) // NESTED_BLOCK)].clone()
            scales = Nested(absmax, outer, self.offset.clone())
        return FourBitBlocks(
            self.levels, codes, scales, (stop - start, columns), self.dtype, self.block, low % NESTED_BLOCK
        )


class _Product(torch.autograd.Function):
    """x Wᵀ whose gradient reaches x and never W. The weight is made dense anew on the way back, and not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.packed = packed
        return packed.product(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0] @ ctx.packed.full_weight(upstream[0].dtype), None


class QuantisedLinear(Linear):
    """A `Linear` whose weight is `packed`: `full_weight` makes the matrix anew at each call."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None = None):
        nn.Module.__init__(self)
        self.outputs, self.inputs = packed.shape
        self.packed, self.bias, self.adapter = packed, bias, None

    def plain(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        flat = x.reshape(x.shape[:-1].numel(), self.inputs)
        wanted = torch.is_grad_enabled() and x.requires_grad
        y = _Product.apply(flat, self.packed) if wanted else self.packed.product(flat)  # type: ignore[no-untyped-call]
        y = y.view(*x.shape[:-1], self.outputs)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def full_weight(self) -> Float[Tensor, "outputs inputs"]:
        """The numbers that the weight was rounded to, in the dtype that it had."""
        return self.packed.full_weight()
