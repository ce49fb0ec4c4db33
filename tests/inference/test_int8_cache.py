"""Caches in 8 bits: half of the memory, and the texts of a model whose keys and values are rounded in every call."""

from pathlib import Path

import pytest
import torch

from langwright.inference.engine import Engine
from langwright.inference.paged import PagedCache
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.inference.sinks import Streaming
from langwright.models.model import Model
from langwright.parts import native
from langwright.parts.kept import FORMS, Cache, rounded
from refusals import refused
from writers import made, small, written

PROMPTS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [2, 7], [1, 6, 1, 8, 0, 3, 3, 9, 8, 8], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 9]]
LENGTHS = [12, 20, 6, 9]


def test_rounding() -> None:
    x = torch.tensor([[127.0, -63.4, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, torch.inf, 0.0, 0.0]])
    codes, steps = FORMS["int8"].pack(x)
    assert codes[:2].tolist() == [[127, -63, 0, 0], [0, 0, 0, 0]]
    assert steps[:2, 0].tolist() == [1.0, 0.0]
    assert rounded(x, "int8")[2].isnan().any()
    drawn = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    once = rounded(drawn, "int8")
    assert (once - drawn).abs().max() < 0.51 * drawn.abs().amax(-1).max() / 127 * 1.01
    assert torch.equal(rounded(once, "int8"), once)
    assert torch.equal(rounded(drawn, "none"), drawn)


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_texts_are_those_of_a_model_that_rounds(
    name: str, kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, in a crowd, in pieces, from a beginning that was kept, and computed anew for each token."""
    model = small() if name == "gpt2" else made(name, tmp_path)
    if kernels == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("SKIPPED FOR WANT OF NATIVE KERNELS")

    def texts(cache: Cache, prompt_tokens: int = 2048) -> list[list[int]]:
        engine = Engine(model, batch=4, longest=48, block_size=4, cache=cache, prompt_tokens=prompt_tokens)
        again = [written(model, PROMPTS, LENGTHS, engine=engine) for _ in range(2)]
        assert again[0] == again[1]
        return again[0]

    full, eight = texts("full"), texts("int8")
    assert eight == texts("int8", prompt_tokens=5)
    assert eight == [
        written(model, [p], n, cache=True, engine=_int8(model))[0] for p, n in zip(PROMPTS, LENGTHS, strict=True)
    ]
    model.body.cache = "int8"
    assert eight == texts("none")
    assert [len(text) for text in full] == [len(text) for text in eight]


def _int8(model: Model) -> Engine:
    return Engine(model, batch=1, longest=48, cache="int8")


def test_half_of_the_memory() -> None:
    model = small().bfloat16()
    full, eight = (PagedCache.block_bytes(model, 16, cache) for cache in ("full", "int8"))
    assert eight / full == pytest.approx(0.5 + 1 / 8)  # a head of 8 numbers has one step of two bytes
    for cache, each in (("full", full), ("int8", eight)):
        pools = PagedCache(model, 5, 16, cache).pools.values()
        assert sum(part.nbytes for pool in pools for part in (*pool.keys, *pool.values)) == 5 * each


def test_the_model_says_how_its_cache_is_kept() -> None:
    model = small()
    ids = torch.tensor([PROMPTS[0]])
    whole = model(ids)
    model.body.cache = "int8"
    near = model(ids)
    assert 0 < (near - whole).norm() / whole.norm() < 0.02
    engine = Engine(model, batch=1)
    (done,) = engine.finish([engine.add(Request(PROMPTS[0][:5], Sampling(temperature=0), 1, prompt_logprobs=0))])[0]
    wanted = near[0].log_softmax(-1)[torch.arange(4), ids[0, 1:5]]
    found = torch.tensor([one.logprob for one in done.prompt_logprobs or ()])
    assert torch.allclose(found, wanted, atol=1e-4)
    with refused("--cache", "--window"):
        Engine(model, streaming=Streaming(8))
