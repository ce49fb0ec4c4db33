"""word2vec: vectors of words, learnt by guessing words from their neighbours (Mikolov et al., 2013).

Skip-gram lets each word near a position guess the word there, CBOW the mean of all of them. The guess is a logistic
regression for each of a few words instead of a softmax over all:

    negative sampling      the word itself (1) and `negative` words drawn by count ** 0.75 (0)
    hierarchical softmax   the branches on the way to the word in a Huffman tree

The original goes through the text one pair at a time. Here a step takes some hundred positions, cut into blocks of
neighbours. All pairs of a block, wanted or not, are one matrix product, which is faster than the wanted ones alone; a
matrix of weights, mostly zeros, says which count. A block shares its drawn words, weighted so that the expected
gradient is the original's. What a step adds to a vector is summed.
"""

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from langwright.base.errors import UserError, check_flag
from langwright.baselines.word_vectors import WordVectors
from langwright.baselines.words import EncodedWords

STEP = {"skip-gram": 256, "cbow": 512}
"""Positions in a step. With more, the vectors that a step began with are too old; with fewer, PyTorch's calls cost."""

DRAWS = {"skip-gram": 32, "cbow": 16}
"""Words that the 16 positions of a block are told from. A word guesses several neighbours in skip-gram, one in CBOW."""

_CHUNK = 1 << 16
"""Words that are sub-sampled at once."""

_TABLE = 1 << 22
"""Entries of the table that negative words are drawn from."""

_POWER = 0.75
_LEAST_RATE = 1e-4


@dataclass(frozen=True)
class Word2VecRecipe:
    """How vectors are learnt; the defaults are those of word2vec.c.

    Args:
        architecture: skip-gram (each neighbour guesses the word) or cbow (their mean does).
        loss: negative-sampling or hierarchical-softmax.
        dimension: numbers in a vector.
        window: the largest distance of a neighbour; each position draws its own from 1 to this.
        negative: words drawn for each guess of negative-sampling.
        sample: words with a larger share of the text than this are left out at random, the oftener the more
            frequent; 0 keeps all.
        min_count: words that occur less often are left out.
        epochs: passes over the text.
        learning_rate: at the beginning; it falls to 0.0001 in a line.
        workers: threads that share the vectors without locks (Hogwild); with more than one, results vary.
        seed: of every random choice.
    """

    architecture: Literal["skip-gram", "cbow"] = "skip-gram"
    loss: Literal["negative-sampling", "hierarchical-softmax"] = "negative-sampling"
    dimension: int = 100
    window: int = 5
    negative: int = 5
    sample: float = 1e-3
    min_count: int = 5
    epochs: int = 5
    learning_rate: float = 0.025
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dimension", "window", "negative", "min_count", "epochs", "workers"):
            check_flag(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        check_flag("window", self.window, self.window <= 100, "at most 100")
        check_flag("sample", self.sample, 0 <= self.sample <= 1, "from 0 to 1")
        rate = self.learning_rate
        check_flag("learning_rate", rate, _LEAST_RATE <= rate <= 1, f"from {_LEAST_RATE} to 1")
        check_flag("seed", self.seed, self.seed >= 0, "0 or more")


class Columns(NamedTuple):
    """What the words at some positions are guessed with: B positions a block, J rows of the output layer a block.

    Args:
        rows: which rows.
        counts: how often each position meets each row.
        labels: how often with the answer 1; of the first rows, for the others it is always 0.
    """

    rows: Int[Tensor, "n J"]
    counts: Float[Tensor, "n B J"]
    labels: Float[Tensor, "n B I"]


class OutputLayer(Protocol):
    """The logistic regressions behind the vectors, a row each.

    Args:
        block: how many positions are worked on as one matrix.
        vectors: the weights; they begin at 0.
    """

    block: int
    vectors: Float[Tensor, "R D"]

    def columns(self, targets: Int[Tensor, "n B"], random: np.random.Generator) -> Columns:
        """What guesses the words at these positions. The id after the last word, no word, may have any columns."""


class NegativeSampling:
    """A row for each word. A block shares `draws` drawn words, each weighted by negative / draws."""

    block = 16

    def __init__(self, counts: NDArray[np.int64], dimension: int, negative: int, draws: int) -> None:
        self.vectors = torch.zeros(len(counts) + 1, dimension)
        shares = np.cumsum(counts**_POWER)
        places = np.rint(shares / shares[-1] * _TABLE).astype(np.int64)
        self.table = np.repeat(np.arange(len(counts)), np.diff(places, prepend=0))
        self.draws, self.weight = draws, negative / draws

    def columns(self, targets: Int[Tensor, "n B"], random: np.random.Generator) -> Columns:
        """The words themselves, then the drawn ones; a drawn word does not count against itself."""
        n, block = targets.shape
        drawn = torch.from_numpy(self.table[random.integers(0, _TABLE, (n, self.draws))])
        wrong = (drawn[:, None] != targets[:, :, None]) * self.weight
        itself = torch.eye(block).expand(n, -1, -1)
        return Columns(torch.cat([targets, drawn], 1), torch.cat([itself, wrong], 2), itself)


class HierarchicalSoftmax:
    """A row for each inner node of the Huffman tree: does the way to the word go left (1) or right (0)?"""

    block = 8

    def __init__(self, counts: NDArray[np.int64], dimension: int) -> None:
        self.vectors = torch.zeros(len(counts), dimension)  # one node fewer than words; the last row is no node
        ways = huffman_ways(counts.tolist())
        lengths = np.array([*map(len, ways), 0])
        there = np.arange(lengths.max()) < lengths[:, None]
        nodes, left = np.full(there.shape, len(ways) - 1), np.zeros(there.shape, np.float32)
        nodes[there], left[there] = np.array([branch for way in ways for branch in way]).T
        self.lengths, self.nodes = torch.from_numpy(lengths), torch.from_numpy(nodes)
        self.left, self.there = torch.from_numpy(left), torch.from_numpy(there).float()

    def columns(self, targets: Int[Tensor, "n B"], random: np.random.Generator) -> Columns:
        """The nodes on the way to each word; a word meets those of its own way alone."""
        n, block = targets.shape
        depth = int(self.lengths[targets].max())
        own = torch.eye(block)[:, :, None]
        counts = (own * self.there[targets][:, None, :, :depth]).view(n, block, -1)
        labels = (own * self.left[targets][:, None, :, :depth]).view(n, block, -1)
        return Columns(self.nodes[targets][:, :, :depth].reshape(n, -1), counts, labels)


def huffman_ways(counts: list[int]) -> list[list[tuple[int, int]]]:
    """For each word the (node, went left) from the root of the Huffman tree; node 0 is the root.

    The two rarest are joined again and again, so that frequent words have short ways: the mean way is the shortest
    that any tree allows, within one branch of the entropy of the words.
    """
    heap = [(count, word) for word, count in enumerate(counts)]
    heapq.heapify(heap)
    last = 2 * len(counts) - 2
    above: dict[int, tuple[int, int]] = {}  # child to (parent, went left); leaves are numbered before inner nodes
    for parent in range(len(counts), last + 1):
        rarest, left = heapq.heappop(heap)
        count, right = heap[0]
        heapq.heapreplace(heap, (rarest + count, parent))
        above[left], above[right] = (parent, 1), (parent, 0)
    ways: dict[int, list[tuple[int, int]]] = {last: []}
    for child in sorted(above, reverse=True):
        parent, left = above[child]
        ways[child] = [*ways[parent], (last - parent, left)]
    return [ways[word] for word in range(len(counts))]


def train_vectors(
    text: EncodedWords, recipe: Word2VecRecipe, advance: Callable[[int], None] = lambda count: None
) -> WordVectors:
    """Learn the vectors of the words of a text.

    Args:
        text: encoded with a gap of `recipe.window`.
        recipe: the settings.
        advance: told of the words that were read.

    Raises:
        UserError: A vector is not finite at the end.
    """
    training = _Training(text, recipe, advance)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the products are too small to share
    try:
        if recipe.workers == 1:
            training.work(0)
        else:
            with ThreadPoolExecutor(recipe.workers) as pool:
                try:
                    for done in [pool.submit(training.work, number) for number in range(recipe.workers)]:
                        done.result()
                finally:
                    training.stopped.set()
    finally:
        torch.set_num_threads(threads)
    if not training.vectors.isfinite().all():
        raise UserError(f"--learning-rate {recipe.learning_rate}: the vectors grew without bound; choose a lower one")
    return WordVectors(text.words, training.vectors[:-1].numpy())


class _Training:
    """The state that workers share: both layers, and how far they are."""

    def __init__(self, text: EncodedWords, recipe: Word2VecRecipe, advance: Callable[[int], None]) -> None:
        self.text, self.recipe, self.advance = text, recipe, advance
        self.none = len(text.words)
        self.read, self.total = 0, len(text.ids) * recipe.epochs
        self.stopped = threading.Event()
        random = np.random.default_rng(recipe.seed)
        first = (random.random((self.none + 1, recipe.dimension), dtype=np.float32) - 0.5) / recipe.dimension
        self.vectors = torch.from_numpy(first)
        self.output: OutputLayer = (
            NegativeSampling(text.counts, recipe.dimension, recipe.negative, DRAWS[recipe.architecture])
            if recipe.loss == "negative-sampling"
            else HierarchicalSoftmax(text.counts, recipe.dimension)
        )
        block = self.output.block
        # The sum of what many positions add to one vector overshoots, so that a small vocabulary takes small steps.
        self.blocks = max(1, min(STEP[recipe.architecture], self.none // 8) // block)
        places = torch.arange(block + 2 * recipe.window) - recipe.window
        distance = (places - torch.arange(block)[:, None]).abs()
        self.distance = distance.masked_fill(distance == 0, recipe.window + 1).to(torch.int8)
        share = text.counts / text.counts.sum() / max(recipe.sample, 1e-30)
        kept = np.minimum(1, (np.sqrt(share) + 1) / share) if recipe.sample else np.ones(self.none)
        self.kept = np.append(kept, 1).astype(np.float32)

    @torch.no_grad()
    def work(self, number: int) -> None:
        """Go through this worker's part of the text, `epochs` times."""
        random = np.random.default_rng((self.recipe.seed, 1 + number))
        start, stop = (len(self.text.ids) * i // self.recipe.workers for i in (number, number + 1))
        for _ in range(self.recipe.epochs):
            for first in range(start, stop, _CHUNK):
                if self.stopped.is_set():
                    return
                ids = self.text.ids[first : min(first + _CHUNK, stop)]
                self._chunk(ids[random.random(len(ids), np.float32) < self.kept[ids]], len(ids), random)
                self.read += len(ids)
                self.advance(len(ids))

    def _chunk(self, ids: NDArray[np.int32], read: int, random: np.random.Generator) -> None:
        """Learn from a stretch of sub-sampled text, `read` words of the original."""
        window, step = self.recipe.window, self.blocks * self.output.block
        steps = -(-len(ids) // step)
        padded = np.full(steps * step + 2 * window, self.none, np.int64)
        padded[window : window + len(ids)] = ids
        reach = random.integers(1, window + 1, (steps, self.blocks, self.output.block, 1), dtype=np.int8)
        for i in range(steps):
            done = (self.read + read * i / steps) / self.total
            rate = self.recipe.learning_rate * (1 - done) + _LEAST_RATE * done
            around = torch.from_numpy(padded[i * step : (i + 1) * step + 2 * window])
            self._step(around, torch.from_numpy(reach[i]), rate, random)

    def _damping(self, rows: Int[Tensor, "n J"], visits: Float[Tensor, "n J"], rate: float) -> Float[Tensor, "n J"]:
        """What to take of a summed change, since n visits one after another would meet ever smaller gradients.

        Every way leads through the root: n pulls of strength r towards one place go 1 - exp(-n r) of the way there, not
        n r times.
        """
        total = torch.bincount(rows.flatten(), visits.flatten(), len(self.output.vectors)).float() * rate
        total = total.clamp_(min=1e-6)
        return (-torch.expm1(-total) / total)[rows]

    def _step(
        self, around: Int[Tensor, " L"], reach: Int[Tensor, "n B 1"], rate: float, random: np.random.Generator
    ) -> None:
        """One step of stochastic gradient ascent.

        Args:
            around: the words of n blocks of B positions one after another, with the windows at both ends.
            reach: the window of each position.
            rate: the learning rate.
            random: where negative words are drawn from.
        """
        window, block = self.recipe.window, self.output.block
        words = around.unfold(0, block + 2 * window, block)  # [n, C]: each block and its neighbours
        targets = words[:, window:-window]
        there, guessed = words != self.none, targets != self.none
        near = ((self.distance <= reach) & there[:, None] & guessed[:, :, None]).float()  # [n, B, C]
        vectors = F.embedding(words, self.vectors)
        rows, counts, labels = self.output.columns(targets, random)
        if self.recipe.architecture == "skip-gram":
            hidden, pairs = vectors, near.mT  # [n, C, B]: who guesses whom
            counts, labels = pairs @ counts, pairs @ labels
        else:  # without a neighbour the mean is 0, and nothing changes
            hidden = near @ vectors / near.sum(2, keepdim=True).clamp(min=1)
        weights = F.embedding(rows, self.output.vectors)
        gradient = (hidden @ weights.mT).sigmoid_().mul_(counts)
        gradient[:, :, : labels.shape[2]] -= labels
        gradient *= -rate
        change = gradient.mT @ hidden
        if self.recipe.architecture == "skip-gram":
            # One pair at a time, a neighbour meets the rows of the word as the neighbours before it left them: on
            # average with half of what the others change. That draws the words of a window together.
            own = gradient[:, :, : labels.shape[2]]
            weights[:, : labels.shape[2]] += change[:, : labels.shape[2]] / 2
            to_hidden = gradient @ weights - own.square().sum(2, keepdim=True) / 2 * hidden
        else:
            to_hidden = near.mT @ (gradient @ weights)  # the whole to each neighbour, as in word2vec.c and gensim
        if isinstance(self.output, HierarchicalSoftmax):
            change *= self._damping(rows, counts.sum(1), rate)[:, :, None]
        _add(self.output.vectors, rows, change)
        _add(self.vectors, words, to_hidden)


def _add(matrix: Float[Tensor, "R D"], rows: Int[Tensor, "n J"], values: Float[Tensor, "n J D"]) -> None:
    """Add to rows, of which some are the same; several times as fast as index_add_ on a CPU."""
    index = rows.reshape(-1, 1).expand(-1, matrix.shape[1])
    matrix.scatter_add_(0, index, values.reshape(index.shape))
