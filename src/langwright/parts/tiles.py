"""Quantised weights in the order of the native kernels: tiles of 64 outputs (see native.cpp)."""

import torch
import torch.nn.functional as F
from jaxtyping import Int8, Shaped, UInt8
from torch import Tensor

TILE = 64

Int8Codes = Int8[Tensor, "rows columns"]
Int4Codes = UInt8[Tensor, "rows columns"]


def tile_int8(codes: Int8Codes) -> UInt8[Tensor, "tiles pairs 128"]:
    """Sign and magnitude, two columns of 64 rows together; rows are filled up with zeros. -128 has no place."""
    code = codes.abs().view(torch.uint8) | (codes.view(torch.uint8) & 128)
    tiles = _filled(code).view(-1, 2, 2, 4, 4, codes.shape[1] // 2, 2)  # tile, half, part, lane, row, pair, column
    return tiles.permute(0, 5, 1, 3, 2, 4, 6).reshape(len(tiles), -1, 2 * TILE)


def untile_int8(tiles: UInt8[Tensor, "tiles pairs 128"], rows: int) -> Int8Codes:
    """What `tile_int8` was given."""
    count, pairs, _ = tiles.shape
    code = tiles.view(count, pairs, 2, 4, 2, 4, 2).permute(0, 2, 4, 3, 5, 1, 6).reshape(-1, 2 * pairs)[:rows]
    size = (code & 127).view(torch.int8)
    return torch.where(code > 127, -size, size)


def tile_int4(codes: Int4Codes) -> UInt8[Tensor, "tiles fours 128"]:
    """Four columns of 64 rows together, two codes below 16 in a byte."""
    tiles = _filled(codes).view(-1, TILE, codes.shape[1] // 4, 2, 2).permute(0, 2, 1, 4, 3)
    return (tiles[..., 0] | (tiles[..., 1] << 4)).flatten(2)


def untile_int4(tiles: UInt8[Tensor, "tiles fours 128"], rows: int) -> Int4Codes:
    """What `tile_int4` was given."""
    codes = torch.stack((tiles & 15, tiles >> 4), -1).view(*tiles.shape[:2], TILE, 2, 2)
    return codes.permute(0, 2, 1, 4, 3).reshape(-1, 4 * tiles.shape[1])[:rows].contiguous()


def tile_steps(*steps: Shaped[Tensor, "rows groups"]) -> Shaped[Tensor, "tiles groups steps 64"]:
    """Scales of groups, and zeros where there are such."""
    both = torch.stack([_filled(one) for one in steps])
    return both.view(len(steps), -1, TILE, both.shape[2]).permute(1, 3, 0, 2).contiguous()


def untile_steps(tiles: Shaped[Tensor, "tiles groups steps 64"], rows: int) -> Shaped[Tensor, "steps rows groups"]:
    """What `tile_steps` was given."""
    return tiles.permute(2, 0, 3, 1).reshape(tiles.shape[2], -1, tiles.shape[1])[:, :rows]


def _filled(rows: Shaped[Tensor, "rows columns"]) -> Shaped[Tensor, "more columns"]:
    return F.pad(rows, (0, 0, 0, -len(rows) % TILE))
