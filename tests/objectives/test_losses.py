"""The chunked cross-entropy against a table worked by hand, against PyTorch, and against autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langwright.objectives import losses
from langwright.objectives.losses import entropies, linear_cross_entropy, log_probabilities, token_losses
from langwright.parts.heads import Projection


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def plain(p: Projection, targets: Tensor, weights: Tensor, z_loss: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """The definition, logits held whole."""
    logits = p.scale * p.hidden.flatten(0, -2) @ p.weight.T
    for added in (p.bias, p.offset):
        logits = logits if added is None else logits + added
    logits = logits if p.softcap is None else p.softcap * (logits / p.softcap).tanh()
    each = F.cross_entropy(logits, targets.flatten(), reduction="none", label_smoothing=smoothing)
    each = each + z_loss * logits.logsumexp(-1).square()
    return (weights.flatten() * each).sum()


def test_by_hand() -> None:
    """Logits (ln 1, ln 2, ln 5): Z = 8, so p = 1/8, 2/8, 5/8."""
    hidden, weight = torch.tensor([[1.0]] * 3), torch.tensor([1.0, 2.0, 5.0]).log()[:, None]
    targets, weights = torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.5, 0.0])
    projection, expected = Projection(hidden, weight), math.log(8) + 0.5 * math.log(4)
    assert float(linear_cross_entropy(projection, targets, weights)) == pytest.approx(expected)
    z = 0.1 * 1.5 * math.log(8) ** 2
    assert float(linear_cross_entropy(projection, targets, weights, z_loss=0.1)) == pytest.approx(expected + z)
    assert token_losses(hidden @ weight.T, targets).tolist() == pytest.approx(
        [math.log(8), math.log(4), math.log(8 / 5)]
    )


@given(
    tokens=st.sampled_from([(1, 1), (2, 3), (1, 7)]),
    vocabulary=st.integers(2, 9),
    chunk=st.integers(1, 8),
    z_loss=st.sampled_from([0.0, 0.1]),
    smoothing=st.sampled_from([0.0, 0.2]),
    softcap=st.sampled_from([None, 3.0]),
    weights=st.lists(st.sampled_from([0.0, 1.0, 0.3]), min_size=7, max_size=7),
    upstream=st.sampled_from([1.0, -2.5]),
    scale=st.sampled_from([1.0, 0.3]),
    added=st.sets(st.sampled_from(["bias", "offset"])),
)
def test_value_and_gradients(
    tokens: tuple[int, int], vocabulary: int, chunk: int, z_loss: float, smoothing: float, softcap: float | None,
    weights: list[float], upstream: float, scale: float, added: set[str],
) -> None:  # fmt: skip
    """Whatever the chunks, the weights, the pieces of the logits, and what the loss is multiplied with afterwards."""
    tensors = {"hidden": normal(*tokens, 4, seed=0), "weight": normal(vocabulary, 4, seed=1)}
    tensors |= {name: normal(vocabulary, seed=2 + len(name)) for name in added}
    targets = torch.arange(tokens[0] * tokens[1]).view(tokens) * 5 % vocabulary
    each = torch.tensor(weights[: targets.numel()]).view(tokens)
    ours, theirs = (
        Projection(
            **{n: x.clone().requires_grad_(n != "offset") for n, x in tensors.items()}, scale=scale, softcap=softcap
        )
        for _ in range(2)
    )
    expected = plain(theirs, targets, each, z_loss, smoothing)
    (expected * upstream).backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK_LOGITS", {"cpu": chunk * vocabulary})
        patch.setattr(losses, "SLICE_LOGITS", {"cpu": chunk * vocabulary // 2})
        given_loss = linear_cross_entropy(ours, targets, each, z_loss, smoothing=smoothing)
        (given_loss * upstream).backward()
    assert torch.allclose(given_loss, expected, atol=1e-5)
    for name in tensors.keys() - {"offset"}:
        assert torch.allclose(getattr(ours, name).grad, getattr(theirs, name).grad, atol=1e-5), name


@pytest.mark.parametrize("chunk", [2, 100])
def test_log_probabilities_and_entropies(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of logits (ln 1, ln 2, ln 5) / T: at T = 1, p = 1/8, 2/8, 5/8; gradients are those of the logits held whole."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS", {"cpu": chunk * 3})
    known = Projection(torch.ones(1, 3, 1), torch.tensor([1.0, 2.0, 5.0]).log()[:, None])
    targets = torch.arange(3)[None]
    assert log_probabilities(known, targets)[0].exp().tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    expected = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    assert entropies(known, targets)[0].tolist() == pytest.approx([expected] * 3)
    hidden, weight, bias = (normal(*shape, seed=4).requires_grad_() for shape in ((2, 3, 4), (3, 4), (3,)))
    p, targets, upstream = (
        Projection(hidden, weight, bias, 0.5, softcap=2.0),
        targets.expand(2, 3),
        normal(2, 3, seed=5),
    )
    said = ((2 * ((hidden @ weight.T * 0.5 + bias) / 2).tanh()) / 0.7).log_softmax(-1)
    for ours, whole in (
        (log_probabilities(p, targets, 0.7), said.gather(2, targets[..., None])[..., 0]),
        (entropies(p, targets, 0.7), -(said.exp() * said).sum(-1)),
    ):
        assert torch.allclose(ours, whole, atol=1e-6)
        slopes = (
            torch.autograd.grad((x * upstream).sum(), (hidden, weight, bias), retain_graph=True) for x in (ours, whole)
        )
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(*slopes, strict=True))


def test_chunks_hold_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    linear = F.linear
    monkeypatch.setattr(F, "linear", lambda x, w, b: sizes.append(x.shape[0]) or linear(x, w, b))
    monkeypatch.setattr(losses, "CHUNK_LOGITS", {"cpu": 3 * 11 + 10})
    linear_cross_entropy(Projection(normal(8, 4, seed=0), normal(11, 4, seed=1)), torch.arange(8), torch.ones(8))
    assert sizes == [3, 3, 2]


@pytest.mark.parametrize(
    ("vocabulary", "tokens"), [(50304, 2560), (2**17, 1024), (2**18, 512), (300_000, 256), (2**27, 1)]
)
def test_chunks_are_multiples_of_256_where_they_are_large(vocabulary: int, tokens: int) -> None:
    assert losses._chunk_tokens(vocabulary, torch.device("cpu")) == tokens


def test_a_vocabulary_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets = normal(3, 4, seed=0), normal(11, 4, seed=1), torch.tensor([3, 0, 10])
    monkeypatch.setattr(losses, "CHUNK_LOGITS", {"cpu": 5})
    given_loss = linear_cross_entropy(Projection(hidden, weight), targets, torch.ones(3))
    assert torch.allclose(given_loss, plain(Projection(hidden, weight), targets, torch.ones(3)))


def test_bfloat16_is_summed_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 in, float32 inside: the loss is that of the rounded inputs, gradients are in the dtype of their tensor."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS", {"cpu": 40})
    hidden, weight = normal(600, 32, seed=0).bfloat16(), normal(40, 32, seed=1)
    targets, weights = torch.arange(600) % 40, torch.ones(600)
    wide = [hidden.float().requires_grad_(), weight.bfloat16().float().requires_grad_()]
    expected = plain(Projection(wide[0], wide[1]), targets, weights)
    expected.backward()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    given_loss = linear_cross_entropy(Projection(leaves[0], leaves[1]), targets, weights)
    given_loss.backward()
    assert given_loss.dtype == torch.float32
    assert given_loss.item() == pytest.approx(expected.item(), rel=2e-3)
    for ours, theirs in zip(leaves, wide, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert ours.grad.dtype == ours.dtype
        assert (ours.grad.float() - theirs.grad).norm() <= 0.01 * theirs.grad.norm()


def test_huge_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    loss = linear_cross_entropy(Projection(hidden, torch.tensor([[1.0], [-1.0]])), torch.tensor([0, 0]), torch.ones(2))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == pytest.approx([0.0, -2.0])


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation costs one product a chunk, although the head's weight is a parameter."""
    products = []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: products.append(1) or multiply(*a, **k))
    hidden, weight = normal(5, 4, seed=0), torch.nn.Parameter(normal(7, 4, seed=1))
    arguments = (Projection(hidden, weight), torch.arange(5), torch.ones(5))
    with torch.no_grad():
        quiet = linear_cross_entropy(*arguments)
    with torch.inference_mode():
        linear_cross_entropy(*arguments)
    assert not products
    assert not quiet.requires_grad
    linear_cross_entropy(*arguments)
    assert not products  # the hidden states want none
    loud = linear_cross_entropy(Projection(hidden.clone().requires_grad_(), weight), *arguments[1:])
    assert products
    assert loud.item() == quiet.item()


def test_either_side_may_be_frozen() -> None:
    hidden, weight = normal(5, 4, seed=0), normal(7, 4, seed=1)
    full = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    linear_cross_entropy(Projection(full[0], full[1]), torch.arange(5), torch.ones(5)).backward()
    for moving in (0, 1):
        leaves = [hidden.clone().requires_grad_(moving == 0), weight.clone().requires_grad_(moving == 1)]
        linear_cross_entropy(Projection(leaves[0], leaves[1]), torch.arange(5), torch.ones(5)).backward()
        assert torch.equal(leaves[moving].grad, full[moving].grad)  # type: ignore[arg-type]
        assert leaves[1 - moving].grad is None
