"""The cache of sinks and a window: the full cache while all fits, exact and bounded afterwards."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from langwright import load_model
from langwright.base.errors import UserError
from langwright.inference.engine import Engine
from langwright.inference.sampling import Search
from langwright.inference.sinks import SinkCache, Streaming
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.parts.bias import Alibi
from langwright.parts.cache import KVCache
from langwright.parts.state import NewTokens, State
from oracles import LLAMA3, Case, oracle, perturb, random_ids
from tiny import tiny_model
from writers import written

YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
CONFIG = LlamaConfig(
    vocab_size=53, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, max_position_embeddings=40,
)  # fmt: skip
MODELS = {
    "llama": Case("llama"),
    "llama3": Case("llama", {"rope_parameters": LLAMA3}),
    "yarn": Case("llama", {"rope_parameters": YARN}),
    "mistral": Case("mistral", {"sliding_window": 5}),
    "qwen3": Case("qwen3", {"head_dim": 10}),
    "nanochat": Case("nanochat", {"final_logit_softcapping": 3.0}),
}


def small(layers: int = 2, alibi: bool = False, rope: dict[str, object] | None = None) -> Model:
    """A tiny model with RoPE, or with ALiBi in its place."""
    model = new_model("llama", replace(CONFIG, num_hidden_layers=layers, rope_parameters=rope)).eval()
    perturb(model)
    if alibi:
        model.body.rope = None
        model.body.biases = [replace(bias, term=Alibi(6)) for bias in model.body.biases]
    return model


def streamed(model: Model, ids: Tensor, cache: SinkCache) -> Tensor:
    """Logits of every token, fed as generation feeds them: the prompt in pieces."""
    with torch.no_grad():
        return torch.cat([model(ids[:, piece], state=cache) for piece in cache.pieces(ids.shape[1])], 1)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_the_full_cache_while_all_fits(name: str, tmp_path: Path) -> None:
    oracle(MODELS[name]).save_pretrained(tmp_path)
    model, ids = load_model(tmp_path), random_ids(1, 24)
    full, few = KVCache(len(model.body.blocks)), Streaming(window=20, sinks=4).cache(model)
    assert isinstance(few, State)
    for start, stop in ((0, 11), (11, 14), *((i, i + 1) for i in range(14, 24))):
        a, b = (model(ids[:, start:stop], state=state) for state in (full, few))
        assert torch.allclose(a, b, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "model", [small(1), small(1, alibi=True), small(1, rope=YARN), small(1, rope=DYNAMIC)],
    ids=["rope", "alibi", "yarn", "dynamic"],
)  # fmt: skip
def test_one_layer_reads_sinks_and_window_as_a_text_of_their_own(model: Model) -> None:
    """In one layer keys depend on their own token alone, so that the cache equals reading just what it kept."""
    ids, cache = random_ids(1, 90), Streaming(window=7, sinks=3).cache(model)
    for end in range(1, 91):
        given_out = model(ids[:, end - 1 : end], state=cache)[:, -1]
        kept = torch.cat((ids[:, : min(3, end)], ids[:, max(3, end - 7) : end]), 1)
        assert torch.allclose(given_out, model(kept)[:, -1], atol=1e-4), end


@given(st.integers(0, 4), st.integers(2, 9), st.integers(1, 40))
def test_memory_is_bounded_and_positions_leave_no_gap(sinks: int, window: int, prompt: int) -> None:
    cache, total = SinkCache(1, sinks, window), prompt + 29
    for piece in (*cache.pieces(prompt), *(slice(i, i + 1) for i in range(prompt, total))):
        token = torch.arange(total, dtype=torch.float)[None, None, piece, None]
        place = cache.begin(NewTokens(1, token.shape[2], token.device))
        k, v = cache.slot(0).extend(token, -token)
        assert k.shape[2] == cache.length == min(piece.stop, cache.length) <= sinks + window
        assert torch.equal(v, -k)
        assert place.key.tolist() == [list(range(cache.length))]
    kept = k[0, 0, :, 0].int().tolist()
    assert kept == sorted({*range(min(sinks, total)), *range(max(0, total - (len(kept) - sinks)), total)})
    assert len(kept) == min(total, sinks + window)


@pytest.mark.parametrize("streaming", [Streaming(8, 2), Streaming(12, 0)])
def test_rows_go_on_alone_as_in_a_batch(streaming: Streaming) -> None:
    """Rows of prompts that fit the cache; the second leaves after 20 tokens."""
    model, lengths = small(), (10, 4, 7)
    prompts = [random_ids(1, length, seed=length)[0].tolist() for length in lengths]
    alone = [written(model, [p], 40, streaming=streaming)[0] for p in prompts]
    assert written(model, prompts, [40, 20, 40], streaming=streaming) == [alone[0], alone[1][:20], alone[2]]


def test_a_prompt_is_cut_into_pieces_that_fit() -> None:
    cache = SinkCache(1, 4, 10)
    assert cache.pieces(14) == [slice(0, 14)]
    assert cache.pieces(21) == [slice(0, 14), slice(14, 19), slice(19, 21)]
    cache.begin(NewTokens(1, 14, torch.device("cpu")))
    with pytest.raises(ValueError, match="11 tokens at once"):
        cache.begin(NewTokens(1, 11, torch.device("cpu")))
    for batch, changes in ((2, {}), (1, {"positions": torch.zeros(1, 1)}), (1, {"segments": torch.zeros(1, 1)})):
        with pytest.raises(ValueError, match="one text"):
            cache.begin(NewTokens(batch, 1, torch.device("cpu"), **changes))


def test_a_text_far_past_the_context_is_read_as_well_as_within_it() -> None:
    """A model of a cycle of 13 tokens, trained on 40 positions and streamed over 400."""
    model = small()
    cycle = torch.arange(13).repeat(40)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(40):
        rows = torch.stack([cycle[i : i + 41] for i in range(step % 5, 13, 2)])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids = cycle[None, :401]
    logits = streamed(model, ids[:, :-1], Streaming(16, 4).cache(model))
    losses = F.cross_entropy(logits[0], ids[0, 1:], reduction="none")
    assert losses[1:40].mean() < 0.1
    assert losses[360:].mean() < 0.5  # a guess costs ln 13 = 2.6; the step from sinks to window is no step of the cycle


@pytest.mark.parametrize(
    ("model", "streaming", "message"),
    [
        (tiny_model(), Streaming(8), "gpt2 learns its positions"),
        (small(), Streaming(1), "a window has 2 tokens at least"),
        (small(), Streaming(8, -1), "sinks are 0 or more"),
        (small(), Streaming(37, 4), "--window 37 --sinks 4: together they do not fit the model's context of 40"),
    ],
)
def test_what_cannot_stream_is_refused(model: Model, streaming: Streaming, message: str) -> None:
    with pytest.raises(UserError, match=message):
        streaming.cache(model)


def test_streaming_without_a_cache_is_refused() -> None:
    with pytest.raises(UserError, match=r"--window.*cache"):
        Engine(small(), cache="none", streaming=Streaming(8))


def test_beams_keep_whole_texts() -> None:
    with pytest.raises(UserError, match="--beams 2"):
        written(small(), [[5]], 3, streaming=Streaming(8), search=Search(beams=2))
