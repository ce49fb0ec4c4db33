"""The automaton against a sum over all its paths, and what learning does to it."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from langwright.baselines import finite_state
from langwright.baselines.finite_state import FiniteState
from langwright.baselines.grammar import Grammar, Rule, Word


def of(*symbols: int) -> finite_state.Sentence:
    return np.array(symbols, np.int64)


SENTENCES = [of(2, 0, 1), of(), of(1), of(0, 0, 2, 1, 1), of(3), of(2, 2)]


@pytest.fixture
def model() -> FiniteState:
    return FiniteState.random(3, 4, np.random.default_rng(0))


def by_paths(model: FiniteState, sentence: finite_state.Sentence) -> float:
    """The probability of a sentence as the sum over every sequence of states that may have written it."""
    if not len(sentence):
        return float(model.start[-1])
    total = 0.0
    for path in itertools.product(range(len(model.write)), repeat=len(sentence)):
        moves = [model.move[a, b] for a, b in itertools.pairwise([*path, -1])]
        total += model.start[path[0]] * math.prod(moves) * math.prod(model.write[list(path), sentence])
    return total


@pytest.mark.parametrize("places", [4, 1 << 16])
def test_a_sentence_is_the_sum_over_its_paths(model: FiniteState, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_state, "_PLACES", places)  # also in several batches
    expected = [by_paths(model, sentence) for sentence in SENTENCES]
    np.testing.assert_allclose(2.0 ** -model.bits(SENTENCES), expected, rtol=1e-12)
    np.testing.assert_allclose([model.chain(sentence).prod() for sentence in SENTENCES], expected, rtol=1e-12)


def test_all_sentences_together_are_certain(model: FiniteState) -> None:
    """Those of up to six symbols, and the share of longer ones."""
    short = [of(*s) for length in range(7) for s in itertools.product(range(4), repeat=length)]
    longer = model.start[:-1] @ np.linalg.matrix_power(model.move[:, :-1], 6)
    assert (2.0 ** -model.bits(short)).sum() + longer.sum() == pytest.approx(1)


def test_it_is_the_grammar_whose_trees_lean_to_one_side(model: FiniteState) -> None:
    """Two algorithms, inside and forward, on one model."""
    names = "abcd"
    after = [
        [Rule((f"W{t}",), p) for t, p in enumerate(row[:-1])] + [Rule((), float(row[-1]))]
        for row in (model.start, *model.move)
    ]
    rules = {"S": after[0]} | {f"A{s}": after[s + 1] for s in range(3)}
    rules |= {f"W{s}": [Rule((Word(names[w]), f"A{s}"), p) for w, p in enumerate(model.write[s])] for s in range(3)}
    grammar = Grammar("S", rules)
    for sentence, bits in zip(SENTENCES, model.bits(SENTENCES), strict=True):
        assert grammar.probability([names[i] for i in sentence]) == pytest.approx(2**-bits, rel=1e-9)


def test_learning_by_hand() -> None:
    """With one state there is nothing hidden: counts become shares."""
    model = FiniteState.random(1, 2, np.random.default_rng(0)).improved([of(0, 0, 1), of(0), of()])
    np.testing.assert_allclose(model.start, [2 / 3, 1 / 3], atol=1e-3)
    np.testing.assert_allclose(model.move, [[2 / 4, 2 / 4]], atol=1e-3)
    np.testing.assert_allclose(model.write, [[3 / 4, 1 / 4]], atol=1e-3)


def test_learning_never_makes_the_text_less_likely(model: FiniteState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite_state, "_PRIOR", 1e-12)
    losses, told = [], []
    for _ in range(12):
        losses.append(model.bits(SENTENCES).sum())
        model = model.improved(SENTENCES, told.append)
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 5
    assert sum(told) == 12 * sum(map(len, SENTENCES))


def test_states_are_found_that_were_never_shown() -> None:
    """Two kinds of symbols that alternate: one state learns to write the ones, the other the others."""
    rng = np.random.default_rng(1)
    texts = [np.where(np.arange(9) % 2, rng.integers(2, 4, 9), rng.integers(0, 2, 9)) for _ in range(60)]
    model = FiniteState.train(texts, states=2, alphabet=4, iterations=60, rng=rng)
    kinds = np.sort(model.write[:, :2].sum(1))
    np.testing.assert_allclose(kinds, [0, 1], atol=0.01)
    # A bit a symbol, and the end, which follows the fifth of five visits of the first state.
    assert model.bits(texts).mean() == pytest.approx(9 + 4 * math.log2(5 / 4) + math.log2(5), abs=0.1)


def test_samples_follow_the_model(model: FiniteState) -> None:
    rng, seen = np.random.default_rng(0), Counter[tuple[int, ...]]()
    for _ in range(6000):
        seen[tuple(model.sample(rng, 9))] += 1
    for sentence in (of(), of(1), of(0), of(2, 2)):
        probability = 2 ** -model.bits([sentence])[0]
        assert seen[tuple(sentence.tolist())] / 6000 == pytest.approx(probability, abs=0.015)
    assert max(map(len, seen)) <= 9
