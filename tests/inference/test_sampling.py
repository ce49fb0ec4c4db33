"""Choosing a token: each cut against its definition and `transformers`, frequencies against probabilities."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as theirs

from langwright.inference.sampling import Sampling, adjust, choose
from refusals import refused

NONE: list[int] = []


def kept(probabilities: list[float], **cuts: Any) -> list[int]:
    """The tokens that survive the cuts."""
    logits = torch.tensor(probabilities).log()
    return adjust(logits, Sampling(**cuts), NONE).isfinite().nonzero().flatten().tolist()


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
    adjusted = adjust(logits, Sampling(temperature=0, repetition_penalty=2.0), seen)
    assert adjusted.tolist() == [1.0, -4.0, 3.0, 0.0, 0.25]


LOGITS = st.lists(st.integers(-60, 60).map(lambda n: n / 8 + math.pi / 1e3 * n), min_size=2, max_size=12, unique=True)


@given(
    LOGITS,
    st.sampled_from([0.3, 1.0, 1.7]),
    st.integers(0, 5),
    st.sampled_from([0.05, 0.31, 0.9, 1.0]),
    st.sampled_from([0.0, 0.07, 0.6]),
    st.sampled_from([0.7, 1.0, 1.9]),
    st.lists(st.integers(0, 1), max_size=4),
)
def test_equals_transformers(
    values: list[float], temperature: float, k: int, p: float, min_p: float, penalty: float, seen: list[int]
) -> None:
    processors: list[Any] = [theirs.TemperatureLogitsWarper(temperature)]
    processors += [theirs.TopKLogitsWarper(k)] if k else []
    processors += [theirs.TopPLogitsWarper(p)] if p < 1 else []
    processors += [theirs.MinPLogitsWarper(min_p)] if min_p else []
    ids, scores = torch.tensor([seen], dtype=torch.long), torch.tensor([values])
    if seen:
        scores = theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores)
    for process in processors:
        scores = process(ids, scores)
    adjusted = adjust(torch.tensor(values), Sampling(temperature, k, p, min_p, penalty), seen)
    assert torch.equal(adjusted.isfinite(), scores[0].isfinite())
    assert torch.allclose(adjusted.softmax(-1), scores[0].softmax(-1), atol=1e-6)


@given(LOGITS, st.integers(0, 3), st.sampled_from([0.2, 1.0]))
def test_temperature_0_takes_the_likeliest(values: list[float], k: int, p: float) -> None:
    token = choose(torch.tensor(values), Sampling(0, top_k=k, top_p=p), NONE, torch.Generator())
    assert values[token] == max(values)


def frequencies(logits: Tensor, sampling: Sampling, draws: int = 2000) -> Tensor:
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens = [choose(logits, sampling, NONE, generator) for _ in range(draws)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / draws


@pytest.mark.parametrize("cuts", [{}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.7, "seed": 4}])
def test_frequencies_are_the_probabilities(cuts: dict[str, Any]) -> None:
    logits, sampling = torch.tensor(P).log(), Sampling(**cuts)
    expected = adjust(logits, sampling, NONE).softmax(-1)
    error = (expected * (1 - expected) / 2000).sqrt()
    assert ((frequencies(logits, sampling) - expected).abs() <= 4 * error).all()


def test_the_generator_decides() -> None:
    logits = torch.zeros(1000)
    draw = lambda seed: [  # noqa: E731
        choose(logits, Sampling(), NONE, g) for g in [torch.Generator().manual_seed(seed)] for _ in range(5)
    ]
    torch.manual_seed(1)
    first = draw(7)
    torch.manual_seed(2)
    assert draw(7) == first
    assert draw(8) != first
    assert len(set(first)) > 1


def test_bfloat16_logits_are_widened() -> None:
    assert adjust(torch.zeros(4, dtype=torch.bfloat16), Sampling(0.7, top_p=0.5), NONE).dtype == torch.float32


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "temperature": (-0.1, 1e-40, math.nan, math.inf),
        "top_k": (-1,),
        "top_p": (0.0, 1.1),
        "min_p": (-0.1, 1.5),
        "repetition_penalty": (0.0, 1e-40, math.inf),
        "seed": (-1, 2**63),
    }.items(),
)
def test_what_is_refused(field: str, values: tuple[float, ...]) -> None:
    for value in values:
        with refused(f"--{field.replace('_', '-')} {value}"):
            Sampling(**{field: value})  # type: ignore[arg-type]
    assert Sampling(seed=2**63 - 1).seed == 2**63 - 1
