"""The block formats of GGUF: numbers of few bits that share scales, packed and unpacked as in ggml-quants.c.

q8_0 and q4_0 hold blocks of 32 numbers with one scale. The k-quants hold 256: q4_k eight groups of 32 numbers from 0 to
15, each with a scale and a minimum of 6 bits; q6_k sixteen groups of 16 numbers from -32 to 31, each with a scale of 8
bits. These scales are multiples of one float16 of the block, which is called d, and dmin for the minima.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from langwright.base.gguf import KINDS

Numbers = Float[Tensor, "blocks numbers"]
Bytes = UInt8[Tensor, "blocks bytes"]
ROWS = 512
"""Blocks that are packed at once: as many as stay in a cache, which is 2.6 times as fast as 4096."""
FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Format(NamedTuple):
    """pack: float32 [blocks, numbers] -> bytes. unpack: the other way."""

    pack: Callable[[Numbers], Bytes]
    unpack: Callable[[Bytes], Numbers]


def pack(numbers: Float[Tensor, "..."], kind: str) -> Bytes:
    """The bytes of a tensor, in blocks along its last dimension."""
    if kind in FLOATS:
        return numbers.to(FLOATS[kind]).contiguous().view(torch.uint8).reshape(-1, KINDS[kind].size)
    blocks = numbers.float().reshape(-1, KINDS[kind].block)
    return torch.cat([FORMATS[kind].pack(part) for part in blocks.split(ROWS)])


def unpack(data: Bytes, kind: str) -> Float[Tensor, " numbers"]:
    """The numbers of a tensor, in float32, or in the 16 bits that the file has."""
    if kind in FLOATS:
        return data.reshape(-1).view(FLOATS[kind])
    return torch.cat([FORMATS[kind].unpack(part) for part in data.split(ROWS)]).reshape(-1)


def _halves(*columns: Float[Tensor, "blocks 1"]) -> Bytes:
    """Each column as the bytes of float16."""
    return torch.cat([column.to(torch.float16).view(torch.uint8) for column in columns], 1)


def _floats(data: Bytes) -> Numbers:
    """Bytes of float16 as float32."""
    return data.contiguous().view(torch.float16).float()


def _round(x: Tensor) -> Tensor:
    """To the nearest whole number, halves away from zero, as C's roundf."""
    return x.sign() * (x.abs() + 0.5).floor()


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is 0."""
    return torch.where(x == 0, torch.zeros_like(x), 1 / x)


def _pack_q8_0(x: Numbers) -> Bytes:
    scale = x.abs().amax(1, keepdim=True) / 127
    return torch.cat([_halves(scale), _round(x * _inverse(scale)).to(torch.int8).view(torch.uint8)], 1)


def _unpack_q8_0(data: Bytes) -> Numbers:
    return _floats(data[:, :2]) * data[:, 2:].contiguous().view(torch.int8).float()


def _largest(x: Tensor) -> Tensor:
    """The number of the largest magnitude in the last dimension, with its sign."""
    return x.gather(-1, x.abs().argmax(-1, keepdim=True))


def _pack_q4_0(x: Numbers) -> Bytes:
    scale = _largest(x) / -8
    q = (x * _inverse(scale) + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    return torch.cat([_halves(scale), q[:, :16] | q[:, 16:] << 4], 1)


def _unpack_q4_0(data: Bytes) -> Numbers:
    q = torch.cat([data[:, 2:] & 15, data[:, 2:] >> 4], 1)
    return _floats(data[:, :2]) * (q.float() - 8)


def _scale_and_minimum(x: Float[Tensor, "blocks 8 32"]) -> tuple[Tensor, Tensor]:
    """Of each group the scale and the minimum (of at least 0, subtracted) with the least weighted squared error.

    ggml's make_qkx2_quants: 21 scales around the range's are rounded to, and for each the least squares solved.
    """
    weight = (x.square().mean(-1, keepdim=True)).sqrt() + x.abs()
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True)
    spread = high - low
    sum_w, sum_x = weight.sum(-1, keepdim=True), (weight * x).sum(-1, keepdim=True)

    def error(scale: Tensor, minimum: Tensor, q: Tensor) -> Tensor:
        return (weight * (scale * q + minimum - x).square()).sum(-1, keepdim=True)

    scale, minimum = spread / 15, low
    best = error(scale, minimum, (_inverse(scale) * (x - low)).round().clamp(0, 15))
    for step in range(21):
        q = ((14 + 0.1 * step) * _inverse(spread) * (x - low)).round().clamp(0, 15)
        sum_q, sum_qq, sum_xq = ((weight * one).sum(-1, keepdim=True) for one in (q, q * q, x * q))
        determinant = sum_w * sum_qq - sum_q * sum_q
        tried = (sum_w * sum_xq - sum_x * sum_q) / determinant
        offset = (sum_qq * sum_x - sum_q * sum_xq) / determinant
        tried, offset = torch.where(offset > 0, sum_xq * _inverse(sum_qq), tried), offset.clamp(max=0)
        found = error(tried, offset, q)
        better = (determinant > 0) & (found < best)
        scale, minimum = torch.where(better, tried, scale), torch.where(better, offset, minimum)
        best = torch.where(better, found, best)
    return scale.squeeze(-1), -minimum.squeeze(-1)


def _pack_q4_k(x: Numbers) -> Bytes:
    groups = x.reshape(-1, 8, 32)
    scales, minima = _scale_and_minimum(groups)
    largest = [part.amax(1, keepdim=True) for part in (scales, minima)]
    s, m = (
        (63 * _inverse(top) * part).round().clamp(0, 63).to(torch.uint8)
        for part, top in zip((scales, minima), largest, strict=True)
    )
    d, dmin = (_floats(_halves(top / 63)) for top in largest)
    q = ((groups + (dmin * m.float())[..., None]) * _inverse(d * s.float())[..., None]).round().clamp(0, 15)
    q = q.to(torch.uint8).reshape(-1, 4, 2, 32)
    six = [s[:, :4] | s[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, s[:, 4:] & 15 | m[:, 4:] << 4]
    return torch.cat([_halves(d, dmin), *six, (q[:, :, 0] | q[:, :, 1] << 4).flatten(1)], 1)


def _unpack_q4_k(data: Bytes) -> Numbers:
    a, b, c = data[:, 4:16].split(4, 1)
    s = torch.cat([a & 63, c & 15 | a >> 6 << 4], 1).float()
    m = torch.cat([b & 63, c >> 4 | b >> 6 << 4], 1).float()
    packed = data[:, 16:].reshape(-1, 4, 32)
    q = torch.stack([packed & 15, packed >> 4], 2).reshape(-1, 8, 32).float()
    d, dmin = _floats(data[:, :2]) * s, _floats(data[:, 2:4]) * m
    return (d[..., None] * q - dmin[..., None]).flatten(1)


def _scale(x: Float[Tensor, "blocks 16 16"]) -> Tensor:
    """Of each group the scale with the least squared error, numbers weighted by their squares: make_qx_quants."""
    top, weight = _largest(x), x.square()
    best = scale = torch.zeros_like(top)
    for step in (0, *(n for n in range(-9, 10) if n)):
        q = (-(32 + 0.1 * step) * _inverse(top) * x).round().clamp(-32, 31)
        xq, qq = (weight * x * q).sum(-1, keepdim=True), (weight * q * q).sum(-1, keepdim=True)
        better = xq * xq > best * qq if step else qq > 0
        tried = xq * _inverse(qq)
        scale, best = torch.where(better, tried, scale), torch.where(better, tried * xq, best)
    return scale.squeeze(-1)


def _pack_q6_k(x: Numbers) -> Bytes:
    groups = x.reshape(-1, 16, 16)
    scales = _scale(groups)
    top = _largest(scales)
    d = _floats(_halves(top / -128))
    s = (-128 * _inverse(top) * scales).round().clamp(-128, 127)
    q = ((groups * _inverse(d * s)[..., None]).round().clamp(-32, 31) + 32).to(torch.uint8).reshape(-1, 2, 4, 32)
    low = torch.cat([q[:, :, :2] & 15 | (q[:, :, 2:] & 15) << 4], 2)
    high = q >> 4
    high = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    return torch.cat([low.flatten(1), high.flatten(1), s.to(torch.int8).view(torch.uint8), _halves(d)], 1)


def _unpack_q6_k(data: Bytes) -> Numbers:
    low, high = data[:, :128].reshape(-1, 2, 2, 32), data[:, 128:192].reshape(-1, 2, 1, 32)
    upper = torch.cat([high >> shift & 3 for shift in (0, 2, 4, 6)], 2)
    q = torch.cat([low & 15, low >> 4], 2) | upper << 4
    s = data[:, 192:208].contiguous().view(torch.int8).float() * _floats(data[:, 208:])
    return (s[..., None] * (q.float() - 32).reshape(-1, 16, 16)).flatten(1)


FORMATS = {
    "q8_0": Format(_pack_q8_0, _unpack_q8_0),
    "q4_0": Format(_pack_q4_0, _unpack_q4_0),
    "q4_k": Format(_pack_q4_k, _unpack_q4_k),
    "q6_k": Format(_pack_q6_k, _unpack_q6_k),
}
