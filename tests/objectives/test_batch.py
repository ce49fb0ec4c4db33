"""The currency between data and training."""

from dataclasses import fields

import torch

from langwright.objectives.batch import TokenBatch

FULL = TokenBatch(
    ids=torch.arange(12).view(4, 3),
    targets=torch.arange(12).view(4, 3) + 1,
    weights=torch.rand(4, 3),
    mask=torch.tensor([[True, True, False]] * 4),
    positions=torch.arange(3).expand(4, -1),
    segments=torch.arange(12).view(4, 3) // 5,
    samples=torch.tensor([9, 8, 7, 6]),
    at=torch.arange(12).view(4, 3),
)
BARE = TokenBatch(ids=FULL.ids, targets=FULL.targets, weights=FULL.weights)
NAMES = [field.name for field in fields(TokenBatch) if field.name != "state"]
"""The tensors; what the model carries is cut and moved as they are (`tests/parts/test_recurrent.py`)."""


def test_rows_and_devices() -> None:
    parts = [FULL.rows(start, start + 3) for start in range(0, 4, 3)]
    assert [len(part) for part in parts] == [3, 1]
    assert all(torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(FULL, name)) for name in NAMES)
    assert all(getattr(FULL.to("meta"), name).device.type == "meta" for name in NAMES)
    for bare in (BARE.rows(0, 1), BARE.to("meta")):
        assert [name for name in NAMES if getattr(bare, name) is not None] == ["ids", "targets", "weights"]
