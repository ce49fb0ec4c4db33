"""Choosing a token: each cut against its definition and `transformers`, frequencies against probabilities."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as theirs

from langwright.inference.sampling import Rules, Sampling, adjust, apply_rules, draw
from refusals import refused


def adjusted(logits: Tensor, sampling: Sampling, seen: list[int], new: int = 0) -> Tensor:
    """One row, beside others that must not change it."""
    others = [Sampling(0.3, 2, 0.5, 0.1, 1.5, 0, 0.4, 0.7, 0.2), Sampling(temperature=0)]
    rows = torch.stack((logits.flip(0), logits, logits * 2))
    written = [[0, 1, 1], seen, [1]]
    together = adjust(rows, [others[0], sampling, others[1]], written, [2, new, 0])
    alone = adjust(logits[None], [sampling], [seen], [new])[0]
    assert torch.equal(together[1], alone)
    return alone


def kept(probabilities: list[float], **cuts: Any) -> list[int]:
    """The tokens that survive the cuts."""
    logits = torch.tensor(probabilities).log()
    return adjusted(logits, Sampling(**cuts), []).isfinite().nonzero().flatten().tolist()


P = [0.05, 0.4, 0.1, 0.2, 0.25]


@pytest.mark.parametrize(
    ("cuts", "left"),
    [
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        ({"top_p": 1e-9}, [1]),
        ({"top_p": 1e-300}, [1]),
        ({"top_p": 0.66}, [1, 3, 4]),
        ({"min_p": 0.26}, [1, 3, 4]),
        ({"top_k": 3, "top_p": 0.7}, [1, 4]),  # of what top-k left: 0.47, 0.29, 0.24
        ({"top_p": 0.66, "min_p": 0.6}, [1, 4]),
        ({"temperature": 0.5, "top_p": 0.8}, [1, 4]),  # squares: 0.58, 0.23, 0.15, ...
    ],
)
def test_cuts_by_hand(cuts: dict[str, Any], left: list[int]) -> None:
    assert kept(P, **cuts) == left


def test_ties_are_all_kept_by_top_k() -> None:
    assert kept([0.3, 0.3, 0.2, 0.2], top_k=3) == [0, 1, 2, 3]


def test_repetition_penalty_by_hand() -> None:
    logits, seen = torch.tensor([2.0, -2.0, 3.0, 0.0, 0.5]), [0, 1, 3, 0, 0, 4]
    found = adjusted(logits, Sampling(temperature=0, repetition_penalty=2.0), seen)
    assert found.tolist() == [1.0, -4.0, 3.0, 0.0, 0.25]


LOGITS = st.lists(st.integers(-60, 60).map(lambda n: n / 8 + math.pi / 1e3 * n), min_size=2, max_size=12, unique=True)


@given(
    LOGITS,
    st.sampled_from([0.3, 1.0, 1.7]),
    st.integers(0, 5),
    st.sampled_from([0.05, 0.31, 0.9, 1.0]),
    st.sampled_from([0.0, 0.07, 0.6]),
    st.sampled_from([0.7, 1.0, 1.9]),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.lists(st.integers(0, 1), max_size=4),
)
def test_equals_transformers(
    values: list[float],
    temperature: float,
    k: int,
    p: float,
    min_p: float,
    penalty: float,
    typical: float,
    seen: list[int],
) -> None:
    processors: list[Any] = [theirs.TemperatureLogitsWarper(temperature)]
    processors += [theirs.TopKLogitsWarper(k)] if k else []
    processors += [theirs.TopPLogitsWarper(p)] if p < 1 else []
    processors += [theirs.MinPLogitsWarper(min_p)] if min_p else []
    processors += [theirs.TypicalLogitsWarper(typical)] if typical < 1 else []
    ids, scores = torch.tensor([seen], dtype=torch.long), torch.tensor([values])
    if seen:
        scores = theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    for process in processors:
        scores = process(ids, scores)
    found = adjusted(torch.tensor(values), Sampling(temperature, k, p, min_p, penalty, typical_p=typical), seen)
    assert torch.equal(found.isfinite(), scores[0].isfinite())
    assert torch.allclose(found.softmax(-1), scores[0].softmax(-1), atol=1e-6)


def test_presence_and_frequency_by_hand() -> None:
    """Of [4, 0, 0, 2, 0] the last three were generated: 0 came twice there and 2 once."""
    logits, sampling = torch.zeros(5), Sampling(presence_penalty=1.0, frequency_penalty=0.25)
    assert adjusted(logits, sampling, [4, 0, 0, 2, 0], 3).tolist() == [-1.5, 0.0, -1.25, 0.0, 0.0]


@pytest.mark.parametrize(
    ("rules", "theirs_is"),
    [
        (Rules(bias={1: 2.5, 3: -1.0}), lambda: theirs.SequenceBiasLogitsProcessor([[[1], 2.5], [[3], -1.0]])),
        (Rules(banned=(0, 3)), lambda: theirs.SuppressTokensLogitsProcessor([0, 3])),
        (Rules(no_repeat_ngram=2), lambda: theirs.NoRepeatNGramLogitsProcessor(2)),
        (Rules(forced=(3,)), lambda: theirs.ForcedBOSTokenLogitsProcessor(3)),
        (Rules(last=4), lambda: theirs.ForcedEOSTokenLogitsProcessor(6, [4])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("written", [[2], [2, 1, 0, 2], [2, 1, 2, 0, 2]])
def test_rules_equal_transformers(rules: Rules, theirs_is: Callable[[], Any], written: list[int]) -> None:
    """A text that begins with one token, of which the sixth is the last."""
    scores = torch.tensor([P]).log()
    new, left = len(written) - 1, 5 - len(written)
    found = apply_rules(scores.repeat(2, 1), [Rules(), rules], [[1], written], [0, new], [9, left])
    assert torch.equal(found[:1], scores)
    assert torch.equal(found[1:], theirs_is()(torch.tensor([written]), scores))


def test_a_text_begins_with_forced_tokens() -> None:
    rules = [Rules(forced=(3, 0))] * 3
    found = apply_rules(torch.zeros(3, 5), rules, [[2], [2, 3], [2, 3, 0]], [0, 1, 2], [9] * 3)
    assert found.argmax(-1).tolist() == [3, 0, 0]
    assert found.isfinite().sum(-1).tolist() == [1, 1, 5]


@pytest.mark.parametrize("p", [0.3, 0.9, 0.9999])
def test_top_p_of_many_tokens(p: float) -> None:
    """One row whose nucleus is among the likeliest, and one that is flat."""
    logits = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[6.0], [0.01]])
    expected = theirs.TopPLogitsWarper(p)(torch.zeros(2, 0, dtype=torch.long), logits).isfinite()
    found = adjust(logits, [Sampling(top_p=p)] * 2, [[], []], [0, 0]).isfinite()
    assert (found != expected).sum() <= 2  # theirs adds up from the other end


@given(LOGITS, st.integers(0, 3), st.sampled_from([0.2, 1.0]))
def test_temperature_0_takes_the_likeliest(values: list[float], k: int, p: float) -> None:
    sampling = Sampling(0, top_k=k, top_p=p)
    (token,) = draw(adjusted(torch.tensor(values), sampling, [])[None], [sampling], [torch.Generator()])
    assert values[token] == max(values)


def frequencies(logits: Tensor, sampling: Sampling, draws: int = 2000) -> Tensor:
    generator = torch.Generator().manual_seed(sampling.seed)
    rows = adjusted(logits, sampling, []).expand(draws, -1)
    tokens = draw(rows, [sampling] * draws, [generator] * draws)
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / draws


@pytest.mark.parametrize("cuts", [{}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.7, "seed": 4}])
def test_frequencies_are_the_probabilities(cuts: dict[str, Any]) -> None:
    logits, sampling = torch.tensor(P).log(), Sampling(**cuts)
    expected = adjusted(logits, sampling, []).softmax(-1)
    error = (expected * (1 - expected) / 2000).sqrt()
    assert ((frequencies(logits, sampling) - expected).abs() <= 4 * error).all()


def test_the_generator_decides() -> None:
    logits = torch.zeros(1000)

    def drawn(*seeds: int) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        steps = [draw(logits.expand(len(seeds), -1), [Sampling()] * len(seeds), generators) for _ in range(5)]
        return [list(row) for row in zip(*steps, strict=True)]

    torch.manual_seed(1)
    (first,) = drawn(7)
    torch.manual_seed(2)
    other, again = drawn(8, 7)
    assert again == first
    assert other != first
    assert len(set(first)) > 1


def test_bfloat16_logits_are_widened() -> None:
    assert adjusted(torch.zeros(4, dtype=torch.bfloat16), Sampling(0.7, top_p=0.5), []).dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "temperature": (-0.1, 1e-40, math.nan, math.inf),
        "top_k": (-1,),
        "top_p": (0.0, 1.1),
        "min_p": (-0.1, 1.5),
        "repetition_penalty": (0.0, 1e-40, math.inf),
        "seed": (-1, 2**63),
        "typical_p": (0.0, 1.5),
        "presence_penalty": (math.inf, -101.0),
        "frequency_penalty": (math.nan,),
    }.items(),
)
def test_what_is_refused(field: str, values: tuple[float, ...]) -> None:
    for value in values:
        with refused(f"--{field.replace('_', '-')} {value}"):
            Sampling(**{field: value})  # type: ignore[arg-type]
    assert Sampling(seed=2**63 - 1).seed == 2**63 - 1
