"""Properties of a whole stack, whatever its family: causality, and rows that neither see each other nor padding."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.parts.state import Taps

NEAR = 1e-4
VOCABULARY, CONTEXT = 31, 24


def model(family: str, **changes: Any) -> Model:
    """Two layers, every parameter perturbed."""
    config: Any
    if family == "gpt2":
        config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=12, n_layer=2, n_head=3)
    else:
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=CONTEXT, **changes,
        )  # fmt: skip
    made = new_model(family, config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return made


MODELS = {
    "gpt2": model("gpt2"),
    "llama": model("llama"),
    "mistral": model("mistral", sliding_window=3),
    "qwen3": model("qwen3", sliding_window=3, layer_types=("sliding_attention", "full_attention"), head_dim=6),
}
names = st.sampled_from(list(MODELS))


def ids_of(rows: int, time: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(rows * 100 + time))


def near(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= NEAR)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_causality_by_gradient(name: str, explicit: bool) -> None:
    """d logits[t] / d embedding[s] is zero exactly where s is after t, or too far back for every path of windows."""
    tested, time = MODELS[name], 9
    embedded: list[Tensor] = []
    keep = lambda module, inputs, out: embedded.append(out) or out  # noqa: E731
    hook = tested.body.embed.register_forward_hook(keep)
    try:
        taps = Taps("attention") if explicit else None
        logits = tested(ids_of(1, time), taps=taps)
    finally:
        hook.remove()
    reach = time if name in ("gpt2", "llama", "qwen3") else 2 * 2  # two layers, each two positions back
    for t in range(time):
        (gradient,) = torch.autograd.grad(logits[0, t].sum(), embedded[0], retain_graph=True)
        moved = gradient[0].abs().amax(-1) > 0
        assert moved.tolist() == [t - reach <= s <= t for s in range(time)], t


@settings(max_examples=25)
@given(names, st.integers(2, 4), st.integers(2, 9), st.data())
@torch.no_grad()
def test_a_row_does_not_know_its_batch(name: str, rows: int, time: int, data: st.DataObject) -> None:
    """Alone, in a batch, with padding at the left, the right or both: the same logits for the same tokens."""
    tested, ids = MODELS[name], ids_of(rows, CONTEXT)
    left = [data.draw(st.integers(0, CONTEXT - time)) for _ in range(rows)]
    mask = torch.tensor([[start <= t < start + time for t in range(CONTEXT)] for start in left])
    given_logits = tested(ids, mask)
    assert given_logits.isfinite().all()
    for row, start in enumerate(left):
        alone = tested(ids[row : row + 1, start : start + time])
        assert near(given_logits[row, start : start + time], alone[0])


@pytest.mark.parametrize("name", MODELS)
def test_a_row_of_padding_alone_spoils_nothing(name: str) -> None:
    tested, ids = MODELS[name], ids_of(2, 5)
    mask = torch.tensor([[False] * 5, [True] * 5])
    logits = tested(ids, mask)
    logits[1].square().sum().backward()
    gradients = [p.grad for p in tested.parameters() if p.grad is not None]
    tested.zero_grad()
    assert logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_takes_either_path_to_the_same_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(2, 12)
    mask = torch.arange(12) >= torch.tensor([[0], [3]])
    half = model(name if name != "qwen3" else "llama").bfloat16()
    wide = half.float()(ids, mask)
    half.bfloat16()
    explicit = half(ids, mask)
    monkeypatch.setattr("langwright.parts.kernels.EXPLICIT_BELOW", 0)
    fused = half(ids, mask)
    assert explicit.dtype == fused.dtype == torch.bfloat16
    assert not torch.equal(explicit[mask], fused[mask])  # two paths, then
    for rounded in (explicit, fused):
        assert (rounded.float() - wide)[mask].abs().max() <= 0.05 * wide[mask].abs().max()


@torch.no_grad()
def test_taps_see_every_layer() -> None:
    tested, ids = MODELS["mistral"], ids_of(2, 7)
    taps = Taps("attention", "hidden")
    assert near(tested(ids, taps=taps), tested(ids))
    attention, hidden = taps.get("attention"), taps.get("hidden")
    assert [tuple(a.shape) for a in attention] == [(2, 4, 7, 7)] * 2
    allowed = torch.ones(7, 7).tril().bool() & ~torch.ones(7, 7).tril(-3).bool()
    for weights in attention:
        assert torch.equal(weights > 0, allowed.expand_as(weights))
    assert near(tested.head(tested.body.final_norm(hidden[-1])), tested(ids))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens do not fit the 24 learned positions"):
        MODELS["gpt2"](ids_of(1, CONTEXT + 1))
    assert MODELS["llama"](ids_of(1, CONTEXT + 1)).shape[1] == CONTEXT + 1
