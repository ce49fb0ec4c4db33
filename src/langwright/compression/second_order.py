"""Columns of a weight decided one after another, each error made good by the columns that are left.

Optimal brain surgery (Hassibi and Stork, 1993) for all rows of a matrix at once, as GPTQ (Frantar et al., 2022) and
SparseGPT (Frantar and Alistarh, 2023) made it fast: with H = 2/n Σ x xᵀ, the error of column j is spread over the later
columns in the ratio of row j of the upper Cholesky factor of H⁻¹.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from langwright.compression.calibration import Moments
from langwright.parts.quantised import Packed

Matrix = Float[Tensor, "rows columns"]
Column = Float[Tensor, " rows"]
Decide = Callable[[Matrix, Int[Tensor, " columns"], Float[Tensor, " columns"]], Callable[[int, Column], Column]]
"""Given a block of columns, their numbers and their pivots: what a column of the block becomes, by its place in it."""
DAMPING = 0.01
"""Added to the diagonal of H, in parts of its mean."""
BLOCK = 128
"""Columns whose errors reach the rest of the matrix in one product."""


def correct(
    weight: Matrix, moments: Moments, decide: Decide, order: Int[Tensor, " columns"] | None = None, block: int = BLOCK
) -> Matrix:
    """The weight after all columns are decided, in the given order or from the first to the last."""
    columns = weight.shape[1]
    order = torch.arange(columns) if order is None else order
    w, h = weight.float()[:, order], 2 / max(1, moments.tokens) * moments.second[order][:, order].double()
    dead = h.diagonal() == 0  # nothing ever comes in there
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(DAMPING * h.diagonal().mean())
    h = torch.linalg.cholesky(h)  # one name for all, which lets go of each when the next is there
    h = torch.cholesky_inverse(h)
    factor = torch.linalg.cholesky(h, upper=True).float()
    del h
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        part, square = w[:, start:stop], factor[start:stop, start:stop]
        errors, decided = torch.empty_like(part), decide(part, order[start:stop], square.diagonal())
        for j in range(stop - start):
            value = decided(j, part[:, j])
            errors[:, j] = (part[:, j] - value) / square[j, j]
            part[:, j] = value
            part[:, j + 1 :].addr_(errors[:, j], square[j, j + 1 :], alpha=-1)
        w[:, stop:] -= errors @ factor[start:stop, stop:]
    return w[:, order.argsort()]


def gptq(weight: Matrix, moments: Moments, packed: Packed) -> Packed:
    """The weight rounded to the grid of `packed`, which was chosen for it, so that its outputs change least.

    The columns that carry most come first, while the others are still free to make their errors good (act-order).
    """
    grid, found = packed.grid(), torch.empty(weight.shape, dtype=torch.int32)

    def decide(part: Matrix, columns: Tensor, pivots: Tensor) -> Callable[[int, Column], Column]:
        def round_column(j: int, column: Column) -> Column:
            found[:, columns[j : j + 1]], value = grid.nearest(column[:, None], columns[j : j + 1])
            return value[:, 0]

        return round_column

    correct(weight, moments, decide, moments.second.diagonal().argsort(descending=True, stable=True))
    return packed.with_levels(found)
