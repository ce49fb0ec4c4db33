"""The block formats of GGUF against gguf-py's numpy code."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from langwright.base.gguf import KINDS
from langwright.models.gguf.blocks import FORMATS, pack, unpack


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_mean_the_numbers_that_gguf_py_makes_of_them(kind: str) -> None:
    # Any bytes are numbers; the halves among them are kept finite, and small.
    data = np.random.default_rng(0).integers(0, 256, (40, KINDS[kind].size), dtype=np.uint8)
    for at in {"q4_0": (1,), "q8_0": (1,), "q4_k": (1, 3), "q6_k": (209,)}.get(kind, range(1, KINDS[kind].size, 2)):
        data[:, at] &= 0xBF
    found, theirs = unpack(torch.from_numpy(data), kind), gguf.quants.dequantize(data, Type[kind.upper()])
    np.testing.assert_array_equal(found.float().numpy(), theirs.reshape(-1))


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_blocks_of_32_are_packed_to_the_bytes_of_gguf_py(kind: str) -> None:
    x = np.random.default_rng(1).standard_normal((9, 64), dtype=np.float32)
    x[0] = 0
    theirs = gguf.quants.quantize(x, Type[kind.upper()])
    np.testing.assert_array_equal(pack(torch.from_numpy(x), kind).numpy().reshape(9, -1), theirs)


@pytest.mark.parametrize(("kind", "most"), [("q8_0", 0.006), ("q6_k", 0.02), ("q4_k", 0.08), ("q4_0", 0.1)])
def test_the_error_is_that_of_the_bits(kind: str, most: float) -> None:
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(0))
    x[0] = 0
    back = unpack(pack(x, kind), kind).reshape(x.shape)
    assert most / 2.5 < float((back - x).norm() / x.norm()) < most
    assert not back[0].any()


def test_every_number_that_k_quants_can_say_comes_back() -> None:
    """Packing what was unpacked finds the scales again, so that nothing is lost a second time."""
    for kind in FORMATS:
        once = unpack(pack(torch.randn(20, 256, generator=torch.Generator().manual_seed(1)), kind), kind)
        twice = unpack(pack(once.reshape(20, 256), kind), kind)
        assert float((twice - once).norm() / once.norm()) < 0.02, kind
