"""The n-gram against a plain dictionary implementation of the same formula, and the properties of a proper model."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.baselines import ngram
from langwright.baselines.ngram import BYTES, NGram, largest_order

END, BEGIN, SYMBOLS = BYTES, BYTES + 1, BYTES + 1

TEXT = [
    b"def area(self):\n    return self.width * self.height\n",
    b"def scale(self, factor):\n    self.width *= factor\n    self.height *= factor\n    return self\n",
    b"",
    b"the cat ate the tuna, the other cat ate the chicken, and the third ate the rest of the tuna.\n",
]
documents = st.lists(st.binary(max_size=30) | st.text("ab", max_size=30).map(str.encode), min_size=1, max_size=6)


class Plain:
    """Interpolated modified Kneser-Ney as the paper writes it, with tuples and dictionaries."""

    def __init__(self, documents: list[bytes], order: int) -> None:
        self.order = order
        grams: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            stream = [BEGIN] * (order - 1) + list(document) + [END]
            grams.update(tuple(stream[i : i + order]) for i in range(len(stream) - order + 1))
        self.followers: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        self.discounts = {}
        for length in range(order, 0, -1):
            if length < order:
                grams = Counter(gram[1:] for gram in grams)
            self.discounts[length] = self.estimate(Counter(grams.values()))
            for gram, count in grams.items():
                self.followers[gram[:-1]][gram[-1]] = count

    @staticmethod
    def estimate(n: Counter[int]) -> list[float]:
        discounts = [0.0, 0.5, 1.0, 1.5]
        for k in (1, 2, 3):
            if n[1] and n[k]:
                estimate = k - (k + 1) * (n[1] / (n[1] + 2 * n[2])) * n[k + 1] / n[k]
                discounts[k] = estimate if estimate > 0 else discounts[k]
        return discounts

    def probability(self, context: tuple[int, ...], symbol: int) -> float:
        shorter = self.probability(context[1:], symbol) if context else 1 / SYMBOLS
        if context not in self.followers:
            return shorter
        seen, discounts = self.followers[context], self.discounts[len(context) + 1]
        total = sum(seen.values())
        own = seen.get(symbol, 0)
        kept = sum(discounts[min(count, 3)] for count in seen.values())
        return (own - discounts[min(own, 3)]) / total + kept / total * shorter

    def bits_per_byte(self, documents: list[bytes]) -> float:
        bits = 0.0
        for document in documents:
            stream = [BEGIN] * (self.order - 1) + list(document) + [END]
            for i in range(self.order - 1, len(stream)):
                bits -= math.log2(self.probability(tuple(stream[i - self.order + 1 : i]), stream[i]))
        return bits / sum(map(len, documents))


@pytest.mark.parametrize("order", [1, 2, 3, 6, 7])
def test_equals_the_plain_implementation(order: int) -> None:
    model, plain = NGram.train(TEXT, order), Plain(TEXT, order)
    held_out = [b"def height(self):\n    return self.height\n", b"a cat\xff", b""]
    assert model.order == order
    assert model.bits_per_byte(held_out) == pytest.approx(plain.bits_per_byte(held_out), rel=1e-12)
    for context in (b"", b"d", b"    return s", b"\x00\x01", b"the cat ate the "):
        padded = ((BEGIN,) * (order - 1) + tuple(context))[len(context) :]
        expected = [plain.probability(padded, symbol) for symbol in range(SYMBOLS)]
        np.testing.assert_allclose(model.distribution(context), expected, rtol=1e-12)


def test_words_are_numbers_of_a_larger_alphabet() -> None:
    """Bytes shifted into another alphabet are the same text, but that nothing is like anything more often."""
    shifted = [np.frombuffer(text, np.uint8).astype(np.int64) + 5000 for text in TEXT]
    model, alphabet = NGram.train(shifted, 4, 10_000), 10_000
    assert largest_order(alphabet) == 4
    assert largest_order(BYTES) == 7
    assert model.distribution(shifted[0][:7]).sum() == pytest.approx(1)
    known, other = NGram.train(TEXT, 4), shifted[3][:20]
    likelier = model.chain(other) / known.chain(TEXT[3][:20])
    np.testing.assert_allclose(likelier[:20], 1, atol=0.02)  # the floor under all symbols is lower
    bits, size = model.bits([other, shifted[2]])
    assert bits == pytest.approx(-np.log2(model.chain(other)).sum() - np.log2(model.chain(shifted[2])).sum())
    assert size == 20


def test_discounts_as_nltk_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one discount the modified smoothing is Kneser and Ney's own, which nltk has."""
    lm = pytest.importorskip("nltk.lm")
    from nltk.lm.preprocessing import padded_everygrams

    monkeypatch.setattr(ngram, "_discounts", lambda counts: np.array([0.0, 0.7, 0.7, 0.7]))
    text = TEXT[3].decode().replace(",", "").replace(".", "").split()
    names = sorted(set(text))
    theirs = lm.KneserNeyInterpolated(2, discount=0.7)
    theirs.fit([list(padded_everygrams(2, text))], ["<s>", "</s>", *names])
    model = NGram.train([np.array([names.index(word) for word in text])], 2, len(names))
    unigram = NGram(model.levels[:1], len(names)).distribution(b"")
    for word, context in (("cat", "the"), ("tuna", "the"), ("the", "ate"), ("of", "rest"), ("of", "the")):
        own, backoff = theirs.estimator.alpha_gamma(word, (context,))
        ours = model.distribution(np.array([names.index(context)]))[names.index(word)]
        assert ours == pytest.approx(own + backoff * unigram[names.index(word)], rel=1e-9)


@given(documents, st.integers(1, 7), st.binary(max_size=10))
def test_probabilities_are_positive_and_sum_to_one(texts: list[bytes], order: int, context: bytes) -> None:
    distribution = NGram.train(texts, order).distribution(context)
    assert distribution.shape == (SYMBOLS,)
    assert (distribution > 0).all()
    assert distribution.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NGram.train(TEXT, 4)
    score = whole.bits_per_byte(TEXT)
    monkeypatch.setattr(ngram, "_BLOCK", block)
    pieces = NGram.train(iter(TEXT), 4)
    for one, other in zip(whole.levels, pieces.levels, strict=True):
        np.testing.assert_array_equal(one.grams, other.grams)
        np.testing.assert_array_equal(one.own, other.own)
        np.testing.assert_array_equal(one.backoff, other.backoff)
    assert pieces.bits_per_byte(iter(TEXT)) == pytest.approx(score, rel=1e-12)


def test_generation_is_seeded_and_ends() -> None:
    model = NGram.train([b"hello world\n"] * 20, 4)
    texts = [model.generate(b"hello", 100, np.random.default_rng(3), 0.2) for _ in range(2)]
    assert texts == [b" world\n"] * 2
    assert len(model.generate(b"hello", 3, np.random.default_rng(3), 0.2)) == 3


def test_generation_stops_at_the_end() -> None:
    model, rng, same = NGram.train([b"hello world\n"] * 20, 4), np.random.default_rng(3), np.random.default_rng(3)
    assert model.generate(b"hello world\n", 100, rng, 0.2) == b""
    assert rng.random() == same.random(2)[1]


def test_generation_follows_the_distribution() -> None:
    model, rng = NGram.train([b"aab", b"aba", b"b"], 2), np.random.default_rng(0)
    firsts = Counter(model.generate(b"a", 1, rng) for _ in range(4000))
    expected = model.distribution(b"a")
    assert firsts[b"b"] / 4000 == pytest.approx(expected[ord("b")], abs=0.03)
    assert firsts[b""] / 4000 == pytest.approx(expected[END], abs=0.03)


def test_temperature_sharpens() -> None:
    model = NGram.train([b"ab"] * 6 + [b"ac"] * 4, 2)
    cold, warm = (
        sum(model.generate(b"a", 1, np.random.default_rng(i), heat) == b"b" for i in range(300)) for heat in (0.25, 1.0)
    )
    assert cold > warm
