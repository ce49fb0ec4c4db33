"""Attention over blocks equals attention over whole texts, and shared blocks are not multiplied for those who do not
read them."""

import pytest
import torch
import torch.nn.functional as F

from langwright.inference.paged import Pages, Pool, attend_blocks
from langwright.parts.bias import Lowered
from langwright.parts.kept import FORMS
from langwright.parts.state import Settings


def tables_of(rows: int, shared: int, own: int, pool: int) -> list[list[int]]:
    """Rows of which all but the last have their first blocks in common, the rest anywhere in the pool."""
    order = torch.randperm(pool, generator=torch.Generator().manual_seed(rows)).tolist()
    common = [order.pop() for _ in range(shared)]
    begins = [common] * (rows - 1) + [[order.pop() for _ in range(shared)]]
    return [begin + [order.pop() for _ in range(own)] for begin in begins]


@pytest.mark.parametrize("together", [False, True], ids=["scattered", "contiguous"])
@pytest.mark.parametrize(("rows", "shared", "own", "time"), [(9, 4, 2, 1), (3, 0, 3, 2), (6, 3, 1, 3), (1, 1, 1, 1)])
def test_blocks_are_attended_to_as_whole_texts(rows: int, shared: int, own: int, time: int, together: bool) -> None:
    kv_heads, heads, width, size = 2, 4, 6, 3
    tables = tables_of(rows, shared, own, pool=shared * 2 + rows * own if together else 200)
    pool = Pool.of(*(torch.randn(200, kv_heads, size, width) for _ in range(2)), FORMS["int8" if time == 2 else "full"])
    starts = [(shared + own) * size - time - row % size for row in range(rows)]
    pages = Pages(tables, starts, [time] * rows, size, "cpu")
    pages.order_reads()
    q = torch.randn(rows, heads, time, width)
    seen = torch.tensor(starts)[:, None] + torch.arange(time)
    allowed = torch.arange((shared + own) * size) <= seen[:, None, :, None]
    found = attend_blocks(q, pool, pages, Lowered(allowed=allowed), Settings(scale=0.3))
    k, v = (
        pool.read(held, torch.tensor(tables)).transpose(2, 3).flatten(1, 2).transpose(1, 2)
        for held in (pool.keys, pool.values)
    )
    k, v = (whole.repeat_interleave(heads // kv_heads, 1) for whole in (k, v))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=0.3)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_shared_beginning_costs_those_who_read_it_alone() -> None:
    """The products of 64 rows with 16 blocks in common, and with one, grow with the blocks that each row reads."""
    for shared, own in ((16, 8), (1, 23)):
        pages = Pages(tables_of(64, shared, own, pool=2000), [24 * 4 - 1] * 64, [1] * 64, 4, "cpu")
        pages.order_reads()
        assert sum(part.readers.numel() for part in pages.parts) <= 2 * 64 * 24
