"""Names and layouts on disk against ours."""

import pytest
import torch

from langwright.base.errors import UserError
from langwright.models.families import DECODERS, ENCODERS, FAMILIES
from langwright.models.folder import new_model
from langwright.models.keymap import Entry, locate, to_disk
from langwright.models.shapes import by_depth


@pytest.mark.parametrize("family", [family.name for family in (*DECODERS, *ENCODERS)])
def test_every_tensor_is_where_locate_says(family: str) -> None:
    model = new_model(family, by_depth(family, 2, 50, 16, 0.0))
    parameters = dict(model.named_parameters())
    entries = FAMILIES[family].keys(model.config)
    left = set(parameters)
    for disk, tensor in to_disk(entries, parameters).items():
        for name, rows, transposed in locate(entries, parameters, disk):
            assert torch.equal((tensor.t() if transposed else tensor)[rows], parameters[name])
            left.remove(name)
    assert not left


def test_the_fused_projection_of_gpt2() -> None:
    model = new_model("gpt2", by_depth("gpt2", 1, 50, 16, 0.0))
    entries = FAMILIES["gpt2"].keys(model.config)
    found = locate(entries, dict(model.named_parameters()), "transformer.h.0.attn.c_attn.weight")
    place = "body.blocks.0.attention.fn"
    assert found == [
        (f"{place}.q.weight", slice(0, 64), True),
        (f"{place}.k.weight", slice(64, 128), True),
        (f"{place}.v.weight", slice(128, 192), True),
    ]
    with pytest.raises(UserError, match=r'no tensor is named "transformer\.h\.1\.ln_1\.weight"'):
        locate(entries, dict(model.named_parameters()), "transformer.h.1.ln_1.weight")


def test_heads_that_take_turns() -> None:
    """BLOOM's fused projection: q, k and v of the first head, then of the second."""
    q, k, v = (torch.arange(4.0).view(4, 1) + 10 * i for i in range(3))
    fused = Entry("fused", ("q", "k", "v"), heads=2)
    disk = fused.join([q, k, v])
    assert disk.flatten().tolist() == [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]
    assert all(map(torch.equal, fused.split(disk, [4, 4, 4]), (q, k, v)))
    assert fused.shape([q.shape, k.shape, v.shape]) == [12, 1]
    rows = [place.tolist() for _, place, _ in locate([fused], {"q": q, "k": k, "v": v}, "fused")]
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
