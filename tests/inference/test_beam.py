"""Beam search and encoder-decoders: the same tokens as `transformers`, alone and in a batch, with and without cache."""

from typing import Any

import pytest
import torch

from langwright import load_model
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling, Search
from langwright.models.families.bart import BartConfig
from langwright.models.folder import new_model
from langwright.models.model import Frame
from langwright.text.training import raw_bytes
from oracles import CASES, SOURCED, left_padding, oracle, random_ids, sourced_oracle
from refusals import refused
from writers import GREEDY, written

EOS, NEW, ROWS, START = 1, 14, 3, 0
SEARCHES = {
    "plain": Search(beams=3),
    "long": Search(beams=4, length_penalty=2.0),
    "short": Search(beams=2, length_penalty=-1.0),
    "early": Search(beams=3, early_stopping=True),
    "no-repeat": Search(beams=3, no_repeat_ngram=2),
}


@pytest.fixture(scope="module", params=["gpt2", "mistral"])
def decoders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = oracle(CASES[request.param])
    theirs.save_pretrained(folder)
    return load_model(folder), theirs


@pytest.fixture(scope="module", params=["t5", "switch", "bart"])
def sourced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = sourced_oracle(SOURCED[request.param])
    theirs.save_pretrained(folder)
    return load_model(folder), theirs


def their_settings(theirs: Any, search: Search, **more: Any) -> dict[str, Any]:
    """Without a cache for T5: theirs is made for as many layers of the decoder as of the encoder."""
    theirs.generation_config.eos_token_id = None
    theirs.generation_config.forced_eos_token_id = None
    return {
        "num_beams": search.beams, "length_penalty": search.length_penalty, "early_stopping": search.early_stopping,
        "no_repeat_ngram_size": search.no_repeat_ngram, "do_sample": False, "max_new_tokens": NEW,
        "pad_token_id": 0, "eos_token_id": EOS, "use_cache": theirs.config.model_type != "t5", **more,
    }  # fmt: skip


def their_tokens(theirs: Any, settings: dict[str, Any]) -> torch.Tensor:
    return theirs.generate(SOURCE, attention_mask=MASK.long(), decoder_start_token_id=START, **settings)


def crowded(model: Any) -> bool:
    """Whether experts turn tokens away: then writing with a cache, a token at a time, is not writing without."""
    return bool(getattr(model.config, "expert_capacity", NEW) < NEW)


def cut(row: list[int], *ends: int) -> list[int]:
    """Without what theirs puts after the end."""
    return next((row[: i + 1] for i, token in enumerate(row) if token in (ends or (EOS,))), row)


SOURCE, MASK = random_ids(ROWS, 11), left_padding(ROWS, 11).flip(1)
SOURCES = [row[real].tolist() for row, real in zip(SOURCE, MASK, strict=True)]


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("eos", [EOS, 20])
def test_beams_of_encoder_decoders(sourced: tuple[Any, Any], name: str, eos: int) -> None:
    ours, theirs = sourced
    search = SEARCHES[name]
    settings = their_settings(theirs, search, eos_token_id=eos)
    expected = their_tokens(theirs, settings)
    for cache in (True, False):
        if not cache and crowded(ours):
            expected = their_tokens(theirs, {**settings, "use_cache": False})
        found = written(ours, SOURCES, NEW, cache=cache, search=search, stop_ids=[eos])
        for row, tokens in zip(expected[:, 1:].tolist(), found, strict=True):
            assert cut(row, eos) == tokens, cache


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("ends", [(20,), (EOS, 20, 33, 7)])
def test_beams_of_decoders_with_left_padding(decoders: tuple[Any, Any], name: str, ends: tuple[int, ...]) -> None:
    ours, theirs = decoders
    search, mask = SEARCHES[name], left_padding(ROWS, 11)
    settings = their_settings(theirs, search, eos_token_id=list(ends))
    expected = theirs.generate(SOURCE.masked_fill(~mask, 0), attention_mask=mask.long(), **settings)
    prompts = [row[real].tolist() for row, real in zip(SOURCE, mask, strict=True)]
    for cache in (True, False):
        found = written(ours, prompts, NEW, cache=cache, search=search, stop_ids=ends)
        for row, tokens in zip(expected[:, 11:].tolist(), found, strict=True):
            assert cut(row, *ends) == tokens, cache


def test_forced_tokens(sourced: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = sourced
    monkeypatch.setattr(ours, "frame", Frame(START, first=7, last=EOS, banned=(5, 9, 20)))
    more = {"forced_bos_token_id": 7, "forced_eos_token_id": EOS, "bad_words_ids": [[5], [9], [20]]}
    for beams in (3, 1):
        settings = their_settings(theirs, Search(beams=beams), **more)
        expected = theirs.generate(SOURCE, attention_mask=MASK.long(), decoder_start_token_id=START, **settings)
        found = written(ours, SOURCES, NEW, search=Search(beams=beams), stop_ids=[EOS])
        assert [cut(row) for row in expected[:, 1:].tolist()] == found


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_equals_transformers(sourced: tuple[Any, Any], penalty: float, cache: bool) -> None:
    ours, theirs = sourced
    for ngram in (0, 3):
        settings = their_settings(theirs, Search(no_repeat_ngram=ngram), repetition_penalty=penalty)
        if crowded(ours):
            settings["use_cache"] = cache
        expected = theirs.generate(SOURCE, attention_mask=MASK.long(), decoder_start_token_id=START, **settings)
        sampling = Sampling(temperature=0, repetition_penalty=penalty)
        search = Search(no_repeat_ngram=ngram)
        found = written(ours, SOURCES, NEW, sampling, cache=cache, search=search, stop_ids=[EOS])
        assert [cut(row) for row in expected[:, 1:].tolist()] == found


# Texts


BYTES = raw_bytes()


def small(**changes: Any) -> Any:
    """A BART over bytes with a random mind."""
    config = BartConfig(
        vocab_size=BYTES.vocab_size, max_position_embeddings=24, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=1, decoder_ffn_dim=16, decoder_attention_heads=2, d_model=16,
        init_std=0.5, decoder_start_token_id=1, forced_eos_token_id=1, **changes,
    )  # fmt: skip
    return new_model("bart", config).eval()


@pytest.mark.parametrize("search", [Search(), Search(beams=3), Search(beams=2, no_repeat_ngram=1)])
def test_a_text_alone_and_in_a_batch(search: Search) -> None:
    texts, model = ["a cat", "", "one weird cat"], small()
    together = complete(model, BYTES, texts, GREEDY, 9, search=search)
    assert [complete(model, BYTES, [text], GREEDY, 9, search=search)[0] for text in texts] == together
    model.body.cache = "none"
    assert complete(model, BYTES, texts, GREEDY, 9, search=search) == together
    assert all(c.ids[-1] == BYTES.eos_id and len(c.ids) <= 9 and c.reason == "end" for c in together)
    assert len({c.text for c in together}) == 3


def test_the_source_is_framed() -> None:
    """BART reads <bos> text <eos>; its decoder begins with its own token, and with what it is told to."""
    model, text = small(forced_bos_token_id=100), "a cat"
    (found,) = complete(model, BYTES, [text], GREEDY, 9)
    ids = torch.tensor([[BYTES.bos_id, *BYTES.encode(text), BYTES.eos_id]])
    with torch.no_grad():
        second = model(ids, torch.tensor([[1, 100]]))[0, -1].argmax()
    assert found.ids[:2] == [100, int(second)]


def test_sampling_from_an_encoder_decoder() -> None:
    model = small()
    samplings = [Sampling(seed=seed) for seed in range(3)]
    together = complete(model, BYTES, ["a cat"] * 3, samplings, 9)
    assert len({c.text for c in together}) == 3
    assert [complete(model, BYTES, ["a cat"], s, 9)[0] for s in samplings] == together


@pytest.mark.parametrize(
    ("ask", "names"),
    [
        (lambda m: Search(beams=0), ["--beams 0"]),
        (lambda m: Search(no_repeat_ngram=-1), ["--no-repeat-ngram -1"]),
        (lambda m: Search(beams=2, length_penalty=float("nan")), ["--length-penalty nan"]),
        (lambda m: Search(length_penalty=2.0), ["--length-penalty 2.0", "--beams"]),
        (lambda m: Search(early_stopping=True), ["--early-stopping"]),
        (lambda m: complete(m, BYTES, ["a"], Sampling(top_k=3), search=Search(2)), ["--top-k 3"]),
        (lambda m: complete(m, BYTES, ["a" * 30]), ["32", "24"]),
        (lambda m: complete(m, BYTES, ["a"], GREEDY, 24), ["1", "24"]),
    ],
)
def test_what_is_refused(ask: Any, names: list[str]) -> None:
    with refused(*names):
        ask(small())
