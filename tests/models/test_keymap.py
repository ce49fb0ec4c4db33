"""Names and layouts on disk against ours."""

import pytest
import torch

from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.folder import new_model
from langwright.models.keymap import Entry, to_disk
from langwright.models.shapes import by_depth
from oracles import small_config


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_where_locate_says(family: str) -> None:
    model = new_model(family, small_config(family))
    parameters = dict(model.named_parameters())
    entries = tasks.entries(FAMILIES[family], model.config, model.task)
    left = set(parameters)
    for entry in entries:
        tensor = to_disk([entry], parameters)[entry.disk]
        ours = [parameters[name] for name in entry.ours]
        assert list(tensor.shape) == entry.shape([parameter.shape for parameter in ours])
        for parameter, rows in zip(ours, entry.locate([len(parameter) for parameter in ours]), strict=True):
            assert torch.equal((tensor.t() if entry.transposed else tensor)[rows], parameter)
        left -= {*entry.ours}
    assert not left


def test_the_fused_projection_of_gpt2() -> None:
    model = new_model("gpt2", by_depth("gpt2", 1, 50, 16, 0.0))
    entries = {entry.disk: entry for entry in tasks.entries(FAMILIES["gpt2"], model.config, "language")}
    fused = entries["transformer.h.0.attn.c_attn.weight"]
    assert fused.ours == tuple(f"body.blocks.0.attention.fn.{part}.weight" for part in "qkv")
    assert fused.transposed
    assert [(int(rows[0]), int(rows[-1])) for rows in fused.locate([64, 64, 64])] == [(0, 63), (64, 127), (128, 191)]


def test_heads_that_take_turns() -> None:
    """BLOOM's fused projection: q, k and v of the first head, then of the second."""
    q, k, v = (torch.arange(4.0).view(4, 1) + 10 * i for i in range(3))
    fused = Entry("fused", ("q", "k", "v"), heads=2)
    disk = fused.join([q, k, v])
    assert disk.flatten().tolist() == [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]
    assert all(map(torch.equal, fused.split(disk, [4, 4, 4]), (q, k, v)))
    assert fused.shape([q.shape, k.shape, v.shape]) == [12, 1]
    rows = [place.tolist() for place in fused.locate([4, 4, 4])]
    assert rows == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_joining_and_splitting() -> None:
    q, k = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3) + 10
    fused = Entry("fused", ("q", "k"), transposed=True)
    disk = fused.join([q, k])
    assert disk.shape == (3, 6)
    assert disk.is_contiguous()
    assert disk[:, 0].tolist() == [0, 1, 2]
    assert disk[:, 2].tolist() == [10, 11, 12]
    back = fused.split(disk, [2, 4])
    assert torch.equal(back[0], q)
    assert torch.equal(back[1], k)
