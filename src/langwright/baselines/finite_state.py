"""A finite-state model of sentences: a probabilistic automaton that no one sees the states of.

The automaton starts in a state, writes a symbol, moves to another state or ends, writes the next symbol, and so on:
what it will do depends on its state alone. The same sentence may come out of many paths, and its probability is the
sum over them. There are S to the power of n paths of n symbols, but their sum is the product of n matrices:

    forward[s] = start[s] * write[s, first symbol]
    forward    = (forward @ move) * write[:, next symbol]         for each further symbol
    P(sentence) = forward @ end

The probabilities are learnt from sentences alone (Baum, Petrie, Soules and Weiss, "A maximization technique occurring
in the statistical analysis of probabilistic functions of Markov chains", 1970; the model is known as the hidden Markov
model): expect, by one pass forward and one back, how often each state wrote each symbol and each move was made; take
these shares as the new probabilities; again. No step makes the training sentences less likely.

An n-gram is a finite-state model as well, whose state is the last n - 1 symbols, seen instead of learnt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray
Sentence = Int[Array, "_"]
"""The numbers of the symbols of a sentence."""

_PLACES = 1 << 16  # symbols in a batch, padding included: what is remembered of it takes a few MB a state
_PRIOR = 1e-3  # times a symbol is taken to have been written by each state before any was counted


@dataclass(frozen=True)
class FiniteState:
    """The automaton.

    Args:
        start: The probability that a sentence begins in each state; the last is that of a sentence without symbols.
        move: That each state is followed by each other; the last column is the end of the sentence.
        write: That each state writes each symbol.
    """

    start: Float[Array, "next"]
    move: Float[Array, "states next"]
    write: Float[Array, "states alphabet"]

    @classmethod
    def random(cls, states: int, alphabet: int, rng: np.random.Generator) -> "FiniteState":
        """Where learning begins: every set of probabilities as likely as any other."""
        shapes = (1, states + 1), (states, states + 1), (states, alphabet)
        start, move, write = (_shares(rng.exponential(size=shape)) for shape in shapes)
        return cls(start[0], move, write)

    @classmethod
    def train(
        cls,
        sentences: Sequence[Sentence],
        *,
        states: int,
        alphabet: int,
        iterations: int,
        rng: np.random.Generator,
        told: Callable[[int], None] = lambda count: None,
    ) -> "FiniteState":
        """Learn an automaton of sentences.

        Args:
            sentences: What it learns from.
            states: How many states it has.
            alphabet: How many symbols there are.
            iterations: How often counts are expected and taken as the new probabilities.
            rng: Where it begins.
            told: Called with the number of symbols that were read.
        """
        model = cls.random(states, alphabet, rng)
        for _ in range(iterations):
            model = model.improved(sentences, told)
        return model

    def improved(
        self, sentences: Sequence[Sentence], told: Callable[[int], None] = lambda count: None
    ) -> "FiniteState":
        """One step of learning: the probabilities that fit what this model expects to have happened."""
        start, move, write = (np.full_like(old, _PRIOR) for old in (self.start, self.move, self.write))
        start[-1] += sum(len(sentence) == 0 for sentence in sentences)
        end = self.move[:, -1]
        for batch in _batches(sentences):
            ids, lengths = _padded([sentences[i] for i in batch])
            forward, scale = self._forward(ids)
            last = lengths - 1
            rows, total = np.arange(len(ids)), forward[np.arange(len(ids)), last] @ end
            happened = np.zeros_like(forward)  # how likely each state was at each place
            back = np.zeros_like(forward[:, 0])
            for t in range(ids.shape[1] - 1, -1, -1):
                if t + 1 < ids.shape[1]:
                    ahead = back * self.write[:, ids[:, t + 1]].T / scale[:, t + 1, None]
                    move[:, :-1] += self.move[:, :-1] * (forward[:, t].T @ ahead)
                    back = ahead @ self.move[:, :-1].T
                back[last == t] = end / total[last == t, None]  # before it was zero, in the padding
                happened[:, t] = forward[:, t] * back
            start[:-1] += happened[:, 0].sum(0)
            move[:, -1] += happened[rows, last].sum(0)
            seen = np.arange(ids.shape[1]) < lengths[:, None]
            for state, counts in enumerate(write):
                counts += np.bincount(ids[seen], happened[seen, state], minlength=len(counts))
            told(int(lengths.sum()))
        return FiniteState(_shares(start[None])[0], _shares(move), _shares(write))

    def bits(self, sentences: Sequence[Sentence]) -> Float[Array, "sentences"]:
        """The bits that each sentence needs, its end included: minus the logarithm to base two of its probability."""
        bits = np.full(len(sentences), -np.log2(self.start[-1]))
        for batch in _batches(sentences):
            ids, lengths = _padded([sentences[i] for i in batch])
            forward, scale = self._forward(ids)
            ends = forward[np.arange(len(ids)), lengths - 1] @ self.move[:, -1]
            seen = np.arange(ids.shape[1]) < lengths[:, None]
            bits[batch] = -np.log2(ends) - np.log2(scale, out=np.zeros_like(scale), where=seen).sum(1)
        return bits

    def chain(self, sentence: Sentence) -> Float[Array, "factors"]:
        """The probability of each symbol of a sentence given those before it, and of its end: the chain rule."""
        if not len(sentence):
            return self.start[-1:]
        forward, scale = self._forward(sentence[None])
        return np.append(scale[0], forward[0, -1] @ self.move[:, -1])

    def sample(self, rng: np.random.Generator, longest: int) -> list[int]:
        """A sentence, cut after `longest` symbols."""
        symbols: list[int] = []
        state = int(rng.choice(len(self.start), p=self.start))
        while state < len(self.write) and len(symbols) < longest:
            symbols.append(int(rng.choice(self.write.shape[1], p=self.write[state])))
            state = int(rng.choice(self.move.shape[1], p=self.move[state]))
        return symbols

    def _forward(
        self, ids: Int[Array, "batch time"]
    ) -> tuple[Float[Array, "batch time states"], Float[Array, "batch time"]]:
        """The share of each state at each place given the symbols so far, and the probability of each symbol.

        The shares sum to one, so that long sentences do not come to zero.
        """
        forward, scale = np.zeros((*ids.shape, len(self.write))), np.ones(ids.shape)
        now = np.tile(self.start[:-1], (len(ids), 1))
        for t in range(ids.shape[1]):
            now = now * self.write[:, ids[:, t]].T
            scale[:, t] = now.sum(1)
            now /= scale[:, t, None]
            forward[:, t] = now
            now = now @ self.move[:, :-1]
        return forward, scale


def _batches(sentences: Sequence[Sentence]) -> Iterator[list[int]]:
    """The numbers of the sentences that have symbols, those of a length together, in batches of bounded size."""
    batch: list[int] = []
    for i in sorted((i for i, s in enumerate(sentences) if len(s)), key=lambda i: len(sentences[i])):
        if batch and (len(batch) + 1) * len(sentences[i]) > _PLACES:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(sentences: Sequence[Sentence]) -> tuple[Int[Array, "batch time"], Int[Array, "batch"]]:
    lengths = np.array([len(sentence) for sentence in sentences])
    ids = np.zeros((len(sentences), lengths.max()), np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = sentence
    return ids, lengths


def _shares(counts: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Each row divided by its sum; one that was never counted is even."""
    sums = counts.sum(1, keepdims=True)
    return np.where(sums > 0, counts / np.where(sums > 0, sums, 1), 1 / counts.shape[1])
