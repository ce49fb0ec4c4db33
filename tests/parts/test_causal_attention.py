"""Causal attention in blocks against the explicit formula, in value and gradient, alone and inside a model."""

import pytest
import torch
from torch import Tensor, library

from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.parts import causal_attention
from langwright.parts.attention import Attention, Context
from langwright.parts.bias import Lowered
from langwright.parts.causal_attention import attend_causally
from langwright.parts.kernels import attend_explicitly


def heads(time: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v and an upstream gradient."""
    generator = torch.Generator().manual_seed(time)
    return [torch.randn(2, 3, time, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]


@pytest.mark.parametrize("time", [1, 2, 128, 129, 300, 1100])
def test_equal_to_the_formula(time: int) -> None:
    """Times within one block, at its edge and past it, and with the larger blocks of long texts."""
    *inputs, upstream = heads(time)
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    given = attend_causally(*ours, scale=0.3)
    expected, _ = attend_explicitly(*theirs, Lowered(causal=True), scale=0.3)
    assert torch.allclose(given, expected, atol=1e-12)
    given.backward(upstream)
    expected.backward(upstream)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-11)  # type: ignore[arg-type]


def test_gradients_of_strided_upstream() -> None:
    """What comes back from a transposed output is no contiguous tensor."""
    *inputs, upstream = heads(130)
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    weight = upstream.transpose(1, 2)
    (attend_causally(*ours, scale=1.0).transpose(1, 2) * weight).sum().backward()
    (attend_explicitly(*theirs, Lowered(causal=True), scale=1.0)[0].transpose(1, 2) * weight).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.grad, other.grad, atol=1e-11)  # type: ignore[arg-type]


def test_the_operator_is_well_formed() -> None:
    """PyTorch's own checks; without those of unknown sizes, which the run-time check of `int` arguments refuses."""
    q, k, v, _ = (x.flatten(0, 1).float().requires_grad_() for x in heads(5))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    library.opcheck(torch.ops.langwright.causal_attention.default, (q, k, v, 0.5), test_utils=checks)


def test_models_take_it_in_bfloat16_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped heads included; with dropout, with attention watched, or in float32 the other paths serve."""
    calls = []
    run = causal_attention._attend
    monkeypatch.setattr(causal_attention, "_attend", lambda *inputs: calls.append(1) or run(*inputs))
    sizes = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=300)
    model = new_model("llama", config).eval()
    ids = torch.arange(150)[None] % 9
    wide = model(ids)
    assert not calls
    narrow = model.bfloat16()(ids)
    assert len(calls) == 2
    assert (narrow.float() - wide).abs().max() <= 0.05 * wide.abs().max()
    model(ids[:, :4], mask=torch.tensor([[False, True, True, True]]))
    assert len(calls) == 2


def test_dropout_takes_the_explicit_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the blocks, which drop nothing, nor the fused kernel, which is slow with dropout on a CPU."""
    monkeypatch.setattr("langwright.parts.kernels.attend_fused", None)
    monkeypatch.setattr("langwright.parts.kernels.attend_causally", None)
    attention = Attention(8, 2, dropout=0.5).bfloat16().train()
    for parameter in attention.parameters():
        torch.nn.init.eye_(parameter)
    torch.manual_seed(0)
    context = Context(Lowered(causal=True))
    first, second = (attention(torch.ones(1, 4, 8, dtype=torch.bfloat16), context) for _ in range(2))
    assert not torch.equal(first, second)
