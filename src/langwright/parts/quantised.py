"""Linear layers whose weights are quantised in memory, and never trained."""

import functools
from abc import abstractmethod
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8, UInt8
from torch import Tensor, nn

from langwright.parts import native, quantisers, tiles
from langwright.parts.linear import FEW, Linear
from langwright.parts.quantisers import BLOCK, NESTED_BLOCK, Grid, Levels, Nested, Scales, Weight

Layout = Literal["plain", "tiles", "pytorch"]
"""How codes lie in memory: row by row as on disk, for the native kernels, or for PyTorch's kernel of 4-bit groups."""


class Packed(nn.Module):
    """A quantised weight. Its tensors move from device to device, and keep their dtypes whatever a model is cast to.

    On a CPU with a kernel for it, the codes are laid out as that kernel wants them when it first multiplies.

    shape: (rows, columns) of the weight. dtype: what it was before, and what `full_weight` gives by default.
    """

    few = 0
    """Up to so many rows, PyTorch's kernel that reads the codes beats turning the weight into bfloat16 first."""
    codes: Tensor

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, **tensors: Tensor | None):
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.layout: Layout = "plain"
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @abstractmethod
    def full_weight(self, dtype: torch.dtype | None = None) -> Weight:
        """The numbers that the weight was rounded to."""

    @abstractmethod
    def grid(self) -> Grid:
        """What its weights may be rounded to, scales as they are."""

    @abstractmethod
    def with_levels(self, found: Int[Tensor, "rows columns"]) -> "Packed":
        """The same scales with other levels of the grid, by their numbers."""

    @abstractmethod
    def part(self, rows: slice | Tensor) -> "Packed":
        """Some rows of it; ValueError where these do not own whole bytes and blocks."""

    def product(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch rows"]:
        """x Wᵀ in the dtype of x, without gradients, by a kernel that reads the codes where there is one."""
        found = self._by_tiles(x)
        return self.dense_product(x) if found is None else found

    def dense_product(self, x: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch rows"]:
        """The same with a weight that is made dense first, as in training, which needs it on the way back too."""
        return F.linear(x, self.full_weight(x.dtype))

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(tensor.nbytes for tensor in self.buffers())

    def has_kernel(self, x: Tensor) -> bool:
        """Whether PyTorch's kernel for a few rows in bfloat16 serves this input."""
        return x.is_cpu and x.dtype == torch.bfloat16 and 0 < x.shape[0] <= self.few

    def lay_out(self, layout: Layout) -> None:
        """Bring the codes into an order; where they do not fit it they stay."""
        if layout != self.layout:
            if self.layout != "plain":
                self._lay_back()
                self.layout = "plain"
            if layout != "plain" and self._lay(layout):
                self.layout = layout

    def _lay(self, layout: Layout) -> bool:
        """Leave the plain layout; whether the codes fit."""
        return False

    def _lay_back(self) -> None:
        """Take up the plain layout again."""

    def _by_tiles(self, x: Tensor) -> Tensor | None:
        """The product by the native kernels, where they serve and are the faster ones."""
        kernels, factors = native.library(), self.factors(x)
        return functools.reduce(torch.add, native.products(kernels, x, factors)) if kernels and factors else None

    def factors(self, x: Float[Tensor, "batch columns"]) -> list[native.Factor]:
        """What the native kernels multiply x with, and sum; empty where they do not serve, or are the slower ones."""
        if not x.is_cpu or x.dtype not in native.TAKEN or not x.shape[0] or native.library() is None:
            return []
        # Many rows of float32, which take three products, and kernels without vectors leave to PyTorch's product.
        if x.shape[0] > FEW and (x.dtype == torch.float32 or not native.native().vectors):
            return []
        self.lay_out("tiles")
        return self._factors(x.dtype) if self.layout == "tiles" else []

    def _factors(self, dtype: torch.dtype) -> list[native.Factor]:
        """The same of codes in tiles, for rows of a dtype."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> "Packed":
        self.lay_out("plain")  # other layouts are this CPU's alone
        moved: Packed = super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return moved


class Int8Rows(Packed):
    """Rows of int8 with one scale each: w = code * absmax / 127."""

    few = 8
    absmax: Float[Tensor, " rows"]

    def __init__(self, codes: Int8[Tensor, "rows columns"], absmax: Tensor, dtype: torch.dtype):
        super().__init__((codes.shape[0], codes.shape[1]), dtype, codes=codes, absmax=absmax)

    @classmethod
    def quantise(cls, weight: Weight) -> "Int8Rows":
        """The nearest codes."""
        return cls(*quantisers.quantise_rows(weight), weight.dtype)

    def full_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        return quantisers.dequantise_rows(self._plain_codes(), self.absmax).to(dtype or self.dtype)

    def grid(self) -> Grid:
        scale = self.absmax[:, None].expand(self.shape)
        return Grid(torch.arange(-127, 128) / 127, scale, torch.zeros(1, 1).expand(self.shape))

    def with_levels(self, found: Tensor) -> "Int8Rows":
        return type(self)((found - 127).to(torch.int8), self.absmax, self.dtype)

    def part(self, rows: slice | Tensor) -> "Int8Rows":
        self.lay_out("plain")
        return type(self)(self.codes[rows], self.absmax[rows], self.dtype)

    def product(self, x: Tensor) -> Tensor:
        found = self._by_tiles(x)
        if found is None and self.has_kernel(x) and self.shape[1] % 16 == 0:  # the kernel reads whole vectors
            self.lay_out("plain")
            return torch._weight_int8pack_mm(x.contiguous(), self.codes, (self.absmax / 127).to(x.dtype))
        return self.dense_product(x) if found is None else found

    def dense_product(self, x: Tensor) -> Tensor:
        return F.linear(x, self._plain_codes().to(x.dtype)) * (self.absmax / 127).to(x.dtype)

    def _plain_codes(self) -> Int8[Tensor, "rows columns"]:
        return self.codes if self.layout == "plain" else tiles.untile_int8(self.codes, self.shape[0])

    def _factors(self, dtype: torch.dtype) -> list[native.Factor]:
        return [native.factor("int8", self.codes, self.shape[0], self.absmax)]

    def _lay(self, layout: Layout) -> bool:
        fits = layout == "tiles" and self.shape[1] % 2 == 0 and bool((self.codes > -128).all())
        if fits:
            self.codes = tiles.tile_int8(self.codes)
        return fits

    def _lay_back(self) -> None:
        self.codes = self._plain_codes()


class Int8Both(Int8Rows):
    """Weights and activations in int8, multiplied as integers: each row of activations gets a scale when it comes."""

    @classmethod
    def quantise(cls, weight: Weight) -> "Int8Both":
        codes, absmax = quantisers.quantise_rows(weight)
        return cls(codes, absmax / 127 * 127, weight.dtype)  # what is left of it when absmax / 127 was stored

    def product(self, x: Tensor) -> Tensor:
        return self.dense_product(x)

    def dense_product(self, x: Tensor) -> Tensor:
        scale = x.detach().abs().amax(1, keepdim=True).float().clamp(min=quantisers.TINY) / 127.5
        codes = (x / scale).round().clamp(-128, 127).to(torch.int8)
        return (torch._int_mm(codes, self.codes.t()) * scale * (self.absmax / 127)).to(x.dtype)


class IntGroups(Packed):
    """Groups of 4-bit integers with a scale and a zero each: w = (code - 8) * scale + zero.

    bits: how many are used. Integers of 3 bits, codes 4 to 11, take 4 in memory, and 3 on disk.
    """

    few = 64
    steps: Tensor

    def __init__(
        self, codes: UInt8[Tensor, "rows half"], scale: Tensor, zero: Tensor, dtype: torch.dtype, bits: int = 4
    ):
        steps = torch.stack((scale, zero), -1).transpose(0, 1).contiguous()
        super().__init__((codes.shape[0], 2 * codes.shape[1]), dtype, codes=codes, steps=steps)
        self.bits = bits

    @property
    def scale(self) -> Float[Tensor, "rows groups"]:
        """Of each group."""
        return self._steps()[0]

    @property
    def zero(self) -> Float[Tensor, "rows groups"]:
        """Of each group."""
        return self._steps()[1]

    @classmethod
    def quantise(cls, weight: Weight, group: int = BLOCK, symmetric: bool = True, bits: int = 4) -> "IntGroups":
        """The nearest codes. ValueError where groups do not fill the rows."""
        codes, scale, zero = quantisers.quantise_groups(weight, group, symmetric, bits=bits)
        return cls(quantisers.pack(codes), scale, zero, weight.dtype, bits)

    def full_weight(self, dtype: torch.dtype | None = None) -> Tensor:
        return quantisers.dequantise_groups(self.plain_codes(), self.scale, self.zero).to(dtype or self.dtype)

    def grid(self) -> Grid:
        half, group = 2 ** (self.bits - 1), self.shape[1] // len(self.steps)
        scale, zero = (step.float().repeat_interleave(group, 1) for step in (self.scale, self.zero))
        return Grid(torch.arange(-half, half).float(), scale, zero)

    def with_levels(self, found: Tensor) -> "IntGroups":
        codes = quantisers.pack((found + 8 - 2 ** (self.bits - 1)).to(torch.uint8))
        return IntGroups(codes, self.scale, self.zero, self.dtype, self.bits)

    def part(self, rows: slice | Tensor) -> "IntGroups":
        self.lay_out("plain")
        return IntGroups(self.codes[rows], self.scale[rows], self.zero[rows], self.dtype, self.bits)

    def product(self, x: Tensor) -> Tensor:
        found = self._by_tiles(x)
        if found is None and self.has_kernel(x):
            self.lay_out("pytorch")
            if self.layout == "pytorch":
                steps, group = self.steps.to(x.dtype), self.shape[1] // len(self.steps)
                return torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), self.codes, group, steps)
        return self.dense_product(x) if found is None else found

    def _factors(self, dtype: torch.dtype) -> list[native.Factor]:
        return [native.factor("int4", self.codes, self.shape[0], self.steps, _integers())]

    def plain_codes(self) -> UInt8[Tensor, "rows columns"]:
        """The codes, one a byte."""
        if self.layout == "tiles":
            return tiles.untile_int4(self.codes, self.shape[0])
        return quantisers.unpack(self.codes) if self.layout == "plain" else _from_kernel(self.codes)

    def _steps(self) -> Float[Tensor, "2 rows groups"]:
        """Scales and zeros."""
        if self.layout == "tiles":
            return tiles.untile_steps(self.steps, self.shape[0])
        return self.steps.permute(2, 1, 0)

    def _lay(self, layout: Layout) -> bool:
        group, rows = self.shape[1] // len(self.steps), _kernel_rows()
        if layout == "tiles" and group % 4 == 0 and self.steps.dtype == torch.bfloat16:
            self.codes = tiles.tile_int4(quantisers.unpack(self.codes))
            self.steps = tiles.tile_steps(*self._steps())
        elif layout == "pytorch" and group in (32, 64, 128, 256) and rows and self.shape[0] % rows == 0:
            self.codes = _to_kernel(self.codes)
        else:
            return False
        return True

    def _lay_back(self) -> None:
        codes, steps = quantisers.pack(self.plain_codes()), self._steps()
        self.codes, self.steps = codes, steps.permute(2, 1, 0).contiguous()


@cache
def _integers() -> Float[Tensor, "16"]:
    """The levels of groups."""
    return torch.arange(-8, 8, device="cpu").bfloat16()


@cache
def _thirds(kind: Levels) -> list[Float[Tensor, "16"]]:
    """Levels as a sum of three in bfloat16, the first of which is the nearest to them."""
    left, parts = quantisers.levels(kind), []
    for _ in range(3):
        parts.append(left.bfloat16())
        left = left - parts[-1].float()
    return parts


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

    absmax: Tensor
    outer: Float[Tensor, " blocks"] | None
    offset: Float[Tensor, ""] | None
    steps: Tensor | None

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
        super().__init__(shape, dtype, codes=codes, absmax=absmax, outer=outer, offset=offset, steps=None)
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
        codes, scales = self._plain_codes(), self.scales()
        flat = quantisers.dequantise_levels(codes, scales, self.levels, self.block, dtype or self.dtype)
        return flat[: self.shape[0] * self.shape[1]].view(self.shape)

    def _factors(self, dtype: torch.dtype) -> list[native.Factor]:
        tables = _thirds(self.levels)[: 3 if dtype == torch.float32 else 1]
        return [native.factor("levels", self.codes, self.shape[0], self.steps, table) for table in tables]

    def grid(self) -> Grid:
        rows, columns = self.shape
        scale = self.scales().float().repeat_interleave(self.block)[: rows * columns].view(rows, columns)
        return Grid(quantisers.levels(self.levels).sort().values, scale, torch.zeros(1, 1).expand(rows, columns))

    def with_levels(self, found: Tensor) -> "FourBitBlocks":
        flat = quantisers.levels(self.levels).argsort()[found].to(torch.uint8).view(-1)
        codes = quantisers.pack(F.pad(flat, (0, len(flat) % 2)))
        nested = self.outer is not None and self.offset is not None
        scales = Nested(self.absmax, self.outer, self.offset) if nested else self.absmax  # type: ignore[arg-type]
        return FourBitBlocks(self.levels, codes, scales, self.shape, self.dtype, self.block, self.first)

    def _plain_codes(self) -> UInt8[Tensor, " bytes"]:
        """Two codes a byte."""
        if self.layout == "plain":
            return self.codes
        return quantisers.pack(tiles.untile_int4(self.codes, self.shape[0])).view(-1)

    def _lay(self, layout: Layout) -> bool:
        rows, columns = self.shape
        fits = layout == "tiles" and columns % self.block == 0 and self.block % 4 == 0
        if fits:
            self.codes = tiles.tile_int4(quantisers.unpack(self.codes).view(rows, columns))
            self.steps = tiles.tile_steps(self.scales().float().view(rows, -1))
        return fits

    def _lay_back(self) -> None:
        self.codes, self.steps = self._plain_codes(), None

    def part(self, rows: slice | Tensor) -> "FourBitBlocks":
        self.lay_out("plain")
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
        packed.lay_out("plain")
        return packed.dense_product(x)

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

    def factor(self, x: Float[Tensor, "rows inputs"]) -> native.Factor | None:
        factors = self.packed.factors(x) if self.bias is None else []
        return factors[0] if len(factors) == 1 else None

    def full_weight(self) -> Float[Tensor, "outputs inputs"]:
        """The numbers that the weight was rounded to, in the dtype that it had."""
        return self.packed.full_weight()
