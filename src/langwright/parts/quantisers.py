"""Quantising, and back: rows of int8, groups of int4, blocks of 4-bit levels, and the dynamic 8-bit map.

Values and packing are those of bitsandbytes, whose files can so be read and written. All of it is plain PyTorch.
"""

from functools import cache
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8, Int32, Integer, UInt8
from torch import Tensor

Levels = Literal["nf4", "fp4"]
Weight = Float[Tensor, "rows columns"]
Codes = UInt8[Tensor, "rows columns"]
Scales = Float[Tensor, " blocks"]
Groups = Float[Tensor, "rows groups"]
Words = Int32[Tensor, "rows words"]
BLOCK = 64
"""Weights that share one largest value, in 4 bits."""
NESTED_BLOCK = 256
"""Numbers that share one largest value, in 8 bits: of an optimizer's state, or of the scales of 4-bit blocks."""
CHUNK = 2**17
"""Weights that a CPU looks up at a time: what they are made of stays in the cache."""
TINY = 1e-38
"""In place of a largest value of 0."""

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of the normal distribution, 7 below 0, 8 above, and 0 itself (QLoRA, Dettmers et al., 2023)."""

_FP4 = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = (*(value / 12 for value in _FP4), *(-value / 12 for value in _FP4))
"""One bit of sign, two of exponent, one of fraction; in the order of the bit patterns, so not sorted."""


class Nested(NamedTuple):
    """Scales in 8 bits: levels[codes] * absmax of their block of 256 + offset."""

    codes: UInt8[Tensor, " blocks"]
    absmax: Float[Tensor, " outer"]
    offset: Float[Tensor, ""]


class Grid(NamedTuple):
    """What a weight may be rounded to: levels * scale + zero.

    levels: sorted. scale, zero: of each weight.
    """

    levels: Float[Tensor, " levels"]
    scale: Weight
    zero: Weight

    def nearest(self, weight: Weight, columns: slice | Tensor) -> tuple[Int[Tensor, "rows some"], Weight]:
        """The numbers of the nearest levels to some columns of a weight, and their values."""
        scale, zero = self.scale[:, columns], self.zero[:, columns]
        found = _nearest((weight - zero) / _no_zeros(scale), self.levels)
        return found, self.levels[found] * scale + zero


@cache
def levels(kind: Levels) -> Float[Tensor, "16"]:
    """The 16 values of a 4-bit code, by code."""
    return torch.tensor(NF4 if kind == "nf4" else FP4, device="cpu")


@cache
def dynamic_map(signed: bool = True) -> Float[Tensor, "256"]:
    """The 256 sorted values of an 8-bit code whose exponent takes as many bits as it needs (Dettmers, 2015).

    Near 0 they stand close together, over seven powers of ten. Without a sign all values are 0 or above.
    """
    values = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + (not signed)) + 1, device="cpu")
        middles = (edges[:-1] + edges[1:]) / 2
        for sign in (1, -1)[: 1 + signed]:
            values += (sign * 10 ** (exponent - 6) * middles).tolist()
    return torch.tensor(sorted(values), device="cpu")  # whatever the device of who asks first


def _scaled(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """All numbers over the largest of their block, [blocks, block], the last one padded; and the largest ones."""
    flat = x.detach().reshape(-1).float()
    blocks = F.pad(flat, (0, -len(flat) % block)).view(-1, block)
    absmax = blocks.abs().amax(1)
    return (blocks * (1 / absmax.clamp(min=TINY))[:, None]).clamp(-1, 1), absmax


def _nearest(scaled: Tensor, values: Tensor) -> Tensor:
    """The numbers of the nearest of the sorted `values`."""
    return torch.bucketize(scaled, (values[:-1] + values[1:]) / 2, out_int32=True)


def quantise_blocks(
    x: Float[Tensor, "*shape"], signed: bool = True, block: int = NESTED_BLOCK
) -> tuple[UInt8[Tensor, "*shape"], Scales]:
    """8-bit codes of the dynamic map, and the largest value of each block of the flattened tensor.

    As the PyTorch code of bitsandbytes does it; its compiled CPU code misses the nearest value now and then.
    """
    scaled, absmax = _scaled(x, block)
    codes = _nearest(scaled, dynamic_map(signed).to(x.device)).to(torch.uint8)
    return codes.view(-1)[: x.numel()].view(x.shape), absmax


def dequantise_blocks(
    codes: UInt8[Tensor, "*shape"], absmax: Scales, signed: bool = True, block: int = NESTED_BLOCK
) -> Float[Tensor, "*shape"]:
    """The numbers that `quantise_blocks` rounded to."""
    values = dynamic_map(signed).to(codes.device)[codes.reshape(-1).int()]
    blocks = F.pad(values, (0, -len(values) % block)).view(-1, block) * absmax[:, None]
    return blocks.view(-1)[: codes.numel()].view(codes.shape)


def quantise_levels(
    weight: Float[Tensor, "*shape"], kind: Levels = "nf4", block: int = BLOCK
) -> tuple[UInt8[Tensor, " bytes"], Scales]:
    """4-bit codes, two a byte, the first in the high half; and the largest value of each block."""
    scaled, absmax = _scaled(weight, block)
    values = levels(kind).to(weight.device)
    order = values.argsort()
    codes = order[_nearest(scaled, values[order])].to(torch.uint8).view(-1)[: weight.numel() + weight.numel() % 2]
    return pack(codes), absmax


def dequantise_levels(
    packed: UInt8[Tensor, " bytes"],
    absmax: Scales,
    kind: Levels = "nf4",
    block: int = BLOCK,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " numbers"]:
    """The numbers that `quantise_levels` rounded to, flat; one more than there were if their count was odd."""
    out = torch.empty(2 * len(packed), dtype=dtype, device=packed.device)
    step = CHUNK if out.device.type == "cpu" else max(1, len(out))
    for start in range(0, len(out), step):
        codes = packed[start // 2 : (start + step) // 2]
        found = torch.index_select(_pairs(kind, codes.device), 0, codes.int()).view(torch.float32)
        blocks = F.pad(found, (0, -len(found) % block)) if len(found) % block else found
        blocks = blocks.view(-1, block).mul_(absmax[start // block : -(-(start + len(found)) // block), None])
        out[start : start + step] = blocks.view(-1)[: len(found)]
    return out


@cache
def _pairs(kind: Levels, device: torch.device) -> Tensor:
    """The two float32 levels of every byte, looked up together as one integer of 64 bits."""
    both = unpack(torch.arange(256, dtype=torch.uint8)[:, None]).int()
    return levels(kind)[both].view(torch.int64).view(-1).to(device)


def nest(absmax: Scales) -> Nested:
    """Double quantisation: the scales less their mean, in 8 bits. 4 + 8/64 + 32/(64 * 256) = 4.127 bits a weight."""
    offset = absmax.mean()
    return Nested(*quantise_blocks(absmax - offset), offset)


def quantise_rows(weight: Weight) -> tuple[Int8[Tensor, "rows columns"], Float[Tensor, " rows"]]:
    """int8 codes from -127 to 127, and the largest value of each row: w ≈ code * absmax / 127."""
    absmax = weight.detach().abs().amax(1).float()
    codes = (weight.detach().float() * (127.0 / absmax.clamp(min=TINY))[:, None]).round()
    return codes.to(torch.int8), absmax


def dequantise_rows(codes: Int8[Tensor, "rows columns"], absmax: Float[Tensor, " rows"]) -> Weight:
    """The numbers that `quantise_rows` rounded to."""
    return codes * absmax[:, None] * (1 / 127)


def quantise_groups(
    weight: Weight, group: int = BLOCK, symmetric: bool = True, dtype: torch.dtype = torch.bfloat16, bits: int = 4
) -> tuple[Codes, Groups, Groups]:
    """Codes around 8 with a scale and a zero for each `group` of columns: w ≈ (code - 8) * scale + zero.

    In 4 bits codes are 0 to 15, in 3 bits 4 to 11. symmetric: zero is 0, and the largest of a group, sign aside, gets
    the lowest code, by a scale below 0 where it is positive; so all codes are used. Otherwise zero is a whole number of
    steps, and these reach from the smallest to the largest, which costs a zero a group and errs less. dtype: of scales
    and zeros; codes are chosen after these are rounded. Raises ValueError where groups do not fill the rows.
    """
    if weight.shape[1] % group:
        raise ValueError(f"rows of {weight.shape[1]} numbers cannot be cut into groups of {group}")
    half = 2 ** (bits - 1)
    groups = weight.detach().float().unflatten(1, (-1, group))
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    if symmetric:
        scale = (torch.where(high > -low, high, low) / -half).to(dtype)
        zero = torch.zeros_like(scale)
    else:
        scale = ((high - low) / (2 * half - 1)).to(dtype)
        steps_below = (-low / scale.float().clamp(min=TINY)).round().clamp(0, 2 * half - 1)
        zero = ((half - steps_below) * scale.float()).to(dtype)
    steps = (groups - zero.float()[..., None]) / _no_zeros(scale.float())[..., None]
    return (steps.round().clamp(-half, half - 1) + 8).to(torch.uint8).flatten(1), scale, zero


def _no_zeros(scale: Tensor) -> Tensor:
    """A scale to divide by: 1 where all is 0."""
    return torch.where(scale == 0, 1, scale)


def dequantise_groups(codes: Codes, scale: Groups, zero: Groups) -> Weight:
    """The numbers that `quantise_groups` rounded to."""
    groups = codes.unflatten(1, (scale.shape[1], -1)).float().sub_(8)
    return groups.mul_(scale.float()[..., None]).add_(zero.float()[..., None]).flatten(1)


def pack(codes: UInt8[Tensor, "*shape"]) -> UInt8[Tensor, "*packed"]:
    """Two codes below 16 in a byte, the first in its high half."""
    return (codes[..., ::2] << 4) | codes[..., 1::2]


def unpack(packed: UInt8[Tensor, "*packed"]) -> Integer[Tensor, "*shape"]:
    """The two codes of each byte."""
    return torch.stack((packed >> 4, packed & 15), -1).flatten(-2)


def pack_words(codes: UInt8[Tensor, "rows columns"], bits: int) -> Words:
    """Codes of so many bits one after another in words of 32 bits, the first in the lowest (`compressed-tensors`)."""
    rows, columns = codes.shape
    single = (F.pad(codes, (0, -columns % 32))[..., None] >> torch.arange(bits)) & 1
    bytes_ = (single.view(rows, -1, 8) << torch.arange(8)).sum(-1, dtype=torch.uint8)
    return bytes_.view(torch.int32)[:, : -(-columns * bits // 32)].contiguous()


def unpack_words(words: Words, bits: int, columns: int) -> UInt8[Tensor, "rows columns"]:
    """What `pack_words` was given."""
    rows, count = words.shape
    bytes_ = F.pad(words, (0, -count % bits)).contiguous().view(torch.uint8)
    single = ((bytes_[..., None] >> torch.arange(8)) & 1).view(rows, -1, bits)
    return (single << torch.arange(bits)).sum(-1, dtype=torch.uint8)[:, :columns].contiguous()
