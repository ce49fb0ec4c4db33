"""Text from a model: the same tokens however they are computed, and a text that ends where it should."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from langwright import load_model
from langwright.base.errors import UserError
from langwright.evaluation.likeliest import likeliest_continuations, next_tokens
from langwright.inference.generate import complete
from langwright.inference.prompts import prompt_ids
from langwright.inference.request import Completion, Writer
from langwright.inference.sampling import Sampling
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.text.special_tokens import SpecialTokens
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import raw_bytes, train_bpe
from oracles import CASES, WINDOW, oracle, random_ids
from writers import GREEDY, written

PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 3, 14, 9)]


@pytest.fixture(scope="module", params=["gpt2", "llama", "mistral"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = oracle(CASES[request.param])
    theirs.save_pretrained(folder)
    theirs.generation_config.eos_token_id = None
    return load_model(folder), theirs


# The same tokens however they are computed


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers(models: tuple[Model, Any], penalty: float) -> None:
    ours, theirs = models
    steps = 4 * WINDOW
    for prompt in PROMPTS[:2]:
        expected = theirs.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=steps, repetition_penalty=penalty, pad_token_id=0
        )
        sampling = Sampling(temperature=0, repetition_penalty=penalty)
        assert written(ours, [prompt], steps, sampling) == expected[:, len(prompt) :].tolist()


def test_a_batch_equals_transformers(models: tuple[Model, Any]) -> None:
    ours, theirs = models
    longest = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in PROMPTS])
    expected = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=20, pad_token_id=0)
    assert written(ours, PROMPTS, 20) == expected[:, longest:].tolist()


SAMPLINGS = [
    GREEDY,
    Sampling(seed=3),
    Sampling(0.7, top_k=20, top_p=0.9, seed=4),
    Sampling(1.3, min_p=0.02, repetition_penalty=1.2, seed=5),
]


def test_with_and_without_cache_alone_and_together(models: tuple[Model, Any]) -> None:
    """Rows leave the batch after 70, 5, 30 and 12 tokens."""
    ours, _ = models
    lengths = [70, 5, 30, 12]
    alone = [
        written(ours, [prompt], length, sampling)[0]
        for prompt, sampling, length in zip(PROMPTS, SAMPLINGS, lengths, strict=True)
    ]
    for cache in (True, False):
        assert written(ours, PROMPTS, lengths, SAMPLINGS, cache=cache) == alone
    assert len({tuple(row[:5]) for row in alone}) == 4


def test_the_cache_spares_work(models: tuple[Model, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = models
    fed: list[int] = []
    body = ours.body.forward
    monkeypatch.setattr(ours.body, "forward", lambda ids, *a, **k: fed.append(ids.shape[1]) or body(ids, *a, **k))
    for cache in (True, False):
        written(ours, [PROMPTS[0]], 4, cache=cache)
    assert fed == [9, 1, 1, 1, 9, 10, 11, 12]


# A text that ends where it should

BYTES = raw_bytes()


def chain(successors: dict[int, int], context: int = 64, size: int = BYTES.vocab_size) -> Model:
    """A model without attention that follows each token by one other: a bigram table in a transformer's clothes."""
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1, head_dim=2,
        max_position_embeddings=context,
    )  # fmt: skip
    model = new_model("llama", config).eval()
    with torch.no_grad():
        for parameter in model.body.blocks.parameters():
            parameter.zero_()
        model.body.embed.tokens.copy_(torch.eye(size))
        model.head.weight.zero_()
        for token, successor in successors.items():
            model.head.weight[successor, token] = 1
    return model


def speaker(text: str, context: int = 64) -> Model:
    """A model that knows one text by heart (no byte of it twice) and ends there."""
    ids = [*BYTES.encode(text), BYTES.eos_id or 0]
    return chain(dict(pairwise(ids)), context)


def test_a_document_that_ends() -> None:
    heard: list[tuple[int, str]] = []
    text = "abcdé☃xyz"
    (completion,) = complete(speaker(text), BYTES, ["ab"], GREEDY, on_text=lambda row, t: heard.append((row, t)))
    assert completion == Completion("cdé☃xyz", [*BYTES.encode("cdé☃xyz"), 1], "end")
    assert [t for _, t in heard] == list("cdé☃xyz")  # whole characters, each as soon as it is there


def test_the_limit() -> None:
    assert complete(speaker("abcdefgh"), BYTES, ["a", "e"], GREEDY, 3) == [
        Completion("bcd", BYTES.encode("bcd"), "length"),
        Completion("fgh", BYTES.encode("fgh"), "length"),
    ]
    ring = chain({token: 3 + (token - 2) % 256 for token in range(3, 259)}, context=400)
    assert len(complete(ring, BYTES, ["a"], GREEDY)[0].ids) == 256
    short = chain({token: 3 + (token - 2) % 256 for token in range(3, 259)}, context=12)
    assert len(complete(short, BYTES, ["abc"], GREEDY)[0].ids) == 12 - 4  # bos and three bytes are there


def test_rows_beyond_the_vocabulary_are_never_chosen() -> None:
    """Tables are often padded to a round number of rows, which no text ever trains."""
    model = chain({100: 101, 101: 102}, size=300)
    with torch.no_grad():
        model.head.weight[280] = 5
    assert complete(model, BYTES, ["a"], GREEDY, 2)[0].text == "bc"
    assert next_tokens(model, BYTES, "a", 1)[0][0] == 101
    assert len(next_tokens(model, BYTES, "a", 300)) == BYTES.vocab_size


def test_a_character_cut_by_the_limit_is_not_lost() -> None:
    (completion,) = complete(speaker("a☃"), BYTES, ["a"], GREEDY, 2)
    assert completion.text == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_ends_one_row_of_a_batch() -> None:
    completions = complete(speaker("abcdefghijklmno"), BYTES, ["a", "g"], GREEDY, stop=["fgh", "de", "zz"])
    assert [(c.text, c.reason) for c in completions] == [("bc", "stop"), ("hijklmno", "end")]
    assert completions[0].ids == BYTES.encode("bcde")


WORDS = train_bpe(["the cat sat on the mat; the hat of the cat sat; " * 9], 290)


def ended(tokens: list[int], stops: Sequence[str]) -> str:
    """The definition: at the first token that completes a stop string, cut before the earliest."""
    for n in range(len(tokens)):
        text = WORDS.decode(tokens[: n + 1])
        found = [text.find(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)]
    return WORDS.decode(tokens)


PIECES = st.lists(st.sampled_from([" the", " cat", "s", "at", ";", " m", "é", "t", "h"]), max_size=12).map("".join)
STOPS = st.lists(st.sampled_from(["the", "t;", " cat sat", "at", "thh", "sss", ";é", " mat;"]), max_size=3)


@settings(max_examples=150)
@given(PIECES, STOPS)
@example(" cat", ["at", "ca"])  # two in one token: the earlier counts
def test_stop_strings(text: str, stops: list[str]) -> None:
    """Stop strings that begin inside a token, span tokens, or overlap; what was told can never be taken back."""
    tokens, writer = WORDS.encode(text), Writer(WORDS, WORDS.encode(" "), WORDS.ends, stops)
    heard = []
    for token in tokens:
        if writer.reason is None:
            heard.append(writer.take(token))
    heard.append(writer.close("length"))
    expected = ended(tokens, stops)
    assert writer.text == expected
    assert "".join(heard) == expected
    assert (writer.reason == "stop") == (expected != text)


def test_what_may_become_a_stop_string_is_held_back_no_longer_than_needed() -> None:
    heard: list[str] = []
    complete(speaker("abcdefgh"), BYTES, ["a"], GREEDY, stop=["cdX"], on_text=lambda row, t: heard.append(t))
    assert heard == ["b", "cde", "f", "g", "h"]


# Prompts, refusals, and the next token


def test_a_document_begins_as_in_training() -> None:
    def unprefixed(**roles: str) -> Tokenizer:
        backend = raw_bytes()._backend
        backend.post_processor = None
        return Tokenizer(backend, SpecialTokens(**roles))

    gpt2 = unprefixed(bos="<|eos|>", eos="<|eos|>")
    assert prompt_ids(BYTES, "a") == [0, 100]
    assert prompt_ids(BYTES, "") == [0]
    assert prompt_ids(gpt2, "a") == [100]
    assert prompt_ids(gpt2, "") == [1]
    bare = unprefixed(eos="<|eos|>")
    assert prompt_ids(bare, "a") == [100]
    with pytest.raises(UserError, match="the prompt is empty"):
        prompt_ids(bare, "")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m: complete(m, BYTES, ["abcdefgh"], GREEDY), "9 tokens does not fit the model's context of 9 tokens"),
        (lambda m: complete(m, BYTES, ["abc"], GREEDY, 6), "4 tokens and 6 new ones does not fit the model's context"),
        (lambda m: complete(m, BYTES, ["a", "abcdefghij"], GREEDY), "a prompt of 11 tokens"),
        (lambda m: complete(m, BYTES, ["a"], GREEDY, 0), "--max-new-tokens 0: must be at least 1"),
        (lambda m: complete(m, BYTES, ["a"], GREEDY, stop=["b", ""]), "an empty stop string"),
        (lambda m: next_tokens(m, BYTES, "abcdefghi", 3), "a text of 10 tokens does not fit"),
    ],
)
def test_what_is_refused(ask: Callable[[Model], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ask(speaker("abcdefghijkl", context=9))


def test_what_just_fits() -> None:
    model = speaker("abcdefghijkl", context=9)
    assert complete(model, BYTES, ["abc"], GREEDY, 5)[0].text == "defgh"
    assert len(next_tokens(model, BYTES, "abcdefgh", 3)) == 3


def test_next_tokens() -> None:
    model = new_model("llama", LlamaConfig(
        vocab_size=BYTES.vocab_size, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5,
    )).eval()  # fmt: skip
    with torch.no_grad():
        logits: Tensor = model(torch.tensor([prompt_ids(BYTES, "one cat")]))[0, -1]
    for temperature in (1.0, 0.5):
        expected = (logits / temperature).softmax(-1)
        found = next_tokens(model, BYTES, "one cat", 300, temperature)
        assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
        assert len(found) == BYTES.vocab_size
        assert sum(p for _, p in found) == pytest.approx(1, abs=1e-5)
        assert all(p == pytest.approx(float(expected[token]), abs=1e-6) for token, p in found)
    assert next_tokens(model, BYTES, "one cat", 4, 0.5) == found[:4]


def test_likeliest_continuations() -> None:
    """Beside all continuations of two tokens, and those of one that end the text."""
    size, end = BYTES.vocab_size, BYTES.ends[0]
    model = new_model("llama", LlamaConfig(
        vocab_size=size, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.5,
    )).eval()  # fmt: skip
    prompt = prompt_ids(BYTES, "one cat")
    with torch.no_grad():
        first = model(torch.tensor([prompt]))[0, -1].softmax(-1)
        second = model(torch.tensor([[*prompt, token] for token in range(size)]))[:, -1].softmax(-1)
    both = {(a, b): float(p) for a, row in enumerate(first[:, None] * second) for b, p in enumerate(row) if a != end}
    expected = sorted([*both.items(), ((end,), float(first[end]))], key=lambda one: -one[1])[:5]
    found, given_up = likeliest_continuations(model, BYTES, "one cat", 5, 2)
    assert [tuple(ids) for ids, _ in found] == [ids for ids, _ in expected]
    assert [p for _, p in found] == pytest.approx([p for _, p in expected], rel=1e-4)
    assert given_up < found[-1][1]  # so that nothing can be missing
    assert likeliest_continuations(model, BYTES, "one cat", 4, 1)[0] == [
        ([token], pytest.approx(p, rel=1e-4)) for token, p in next_tokens(model, BYTES, "one cat", 4)
    ]
