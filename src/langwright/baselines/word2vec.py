"""word2vec: vectors of words, learnt by guessing words from their neighbours (Mikolov et al., 2013).

Skip-gram lets each word near a position guess the word there, CBOW the mean of all of them. The guess is a logistic
regression for each of a few words instead of a softmax over all:

    negative sampling      the word itself (1) and `negative` words drawn by count ** 0.75 (0)
    hierarchical softmax   the branches on the way to the word in a Huffman tree

The original goes through the text one pair at a time. Here a step takes some hundred positions, cut into blocks of
neighbours. All pairs of a block, wanted or not, are one matrix product, which is faster than the wanted ones alone; a
matrix of weights, mostly zeros, says which count. A block shares its drawn words, weighted so that the expected
gradient is the original's, and all words share the nodes near the root of the tree. What a step adds to a vector is
summed.
"""

import heapq
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from langwright.base.errors import UserError, check_flag
from langwright.baselines.word_vectors import WordVectors
from langwright.baselines.words import EncodedWords

STEP = {
    ("skip-gram", "negative-sampling"): 256,
    ("skip-gram", "hierarchical-softmax"): 512,
    ("cbow", "negative-sampling"): 512,
    ("cbow", "hierarchical-softmax"): 512,
}
"""Positions in a step. With more, the vectors that a step began with are too old; with fewer, calls of PyTorch cost."""

DRAWS = {"skip-gram": 48, "cbow": 16}
"""Words that the 16 positions of a block are told from. A word guesses several neighbours in skip-gram, one in CBOW."""

TOP = 60
"""Nodes near the root that all words share."""

_CHUNK = 1 << 15
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
        rows: which rows, in one line for all blocks where they are the same.
        counts: how often each position meets each row.
        labels: how often with the answer 1; of the first rows, for the others it is always 0.
    """

    rows: Int[Tensor, "m J"]
    counts: Float[Tensor, "n B J"]
    labels: Float[Tensor, "n B I"]


@runtime_checkable
class OutputLayer(Protocol):
    """The logistic regressions behind the vectors, a row each; the weights begin at 0.

    Args:
        block: how many positions are worked on as one matrix.
        vectors: the weights.
        one_by_one: whether skip-gram makes up for what a pair would have seen of the pairs before it.
    """

    block: int
    vectors: Float[Tensor, "R D"]
    one_by_one: bool

    def columns(self, targets: NDArray[np.int64], random: np.random.Generator) -> Columns:
        """What guesses the words at positions [n, B]. The id after the last word, no word, may have any columns."""

    def add(
        self, rows: Int[Tensor, "m J"], change: Float[Tensor, "n J D"], counts: Float[Tensor, "n P J"], rate: float
    ) -> None:
        """Add to rows what their examples, so many in each block, say together at this learning rate."""


class NegativeSampling:
    """A row for each word. A block shares `draws` drawn words, each weighted by negative / draws."""

    block, one_by_one = 16, True

    def __init__(self, counts: NDArray[np.int64], dimension: int, negative: int, draws: int) -> None:
        self.vectors = torch.zeros(len(counts) + 1, dimension)
        shares = np.cumsum(counts**_POWER)
        places = np.rint(shares / shares[-1] * _TABLE).astype(np.int64)
        self.table = np.repeat(np.arange(len(counts)), np.diff(places, prepend=0))
        self.draws, self.weight = draws, np.float32(negative / draws)

    def columns(self, targets: NDArray[np.int64], random: np.random.Generator) -> Columns:
        """The words themselves, then the drawn ones; a drawn word does not count against itself."""
        n, block = targets.shape
        drawn = self.table[random.integers(0, _TABLE, (n, self.draws))]
        counts = np.empty((n, block, block + self.draws), np.float32)
        counts[:, :, :block] = np.eye(block)
        np.multiply(drawn[:, None] != targets[:, :, None], self.weight, out=counts[:, :, block:])
        wanted = torch.from_numpy(counts)
        return Columns(torch.from_numpy(np.concatenate([targets, drawn], 1)), wanted, wanted[:, :, :block])

    def add(
        self, rows: Int[Tensor, "m J"], change: Float[Tensor, "n J D"], counts: Float[Tensor, "n P J"], rate: float
    ) -> None:
        """No word is a large part of the text after sub-sampling: a sum does."""
        self.vectors.index_add_(0, rows.flatten(), change.flatten(0, 1))


class TopOfTree:
    """A row for each node near the root of the Huffman tree: does the way to the word go left (1) or right (0)?"""

    block, one_by_one = 32, False

    def __init__(self, branches: NDArray[np.int64], nodes: Float[Tensor, "R D"]) -> None:
        self.vectors = nodes[:TOP]
        word, node, left = branches[branches[:, 1] < TOP].T
        self.met, self.left = torch.zeros(2, len(nodes) + 1, len(self.vectors))
        self.met[word, node], self.left[word, node] = 1, torch.from_numpy(left).float()

    def columns(self, targets: NDArray[np.int64], random: np.random.Generator) -> Columns:
        """All of them; a word meets those on its way."""
        words = torch.from_numpy(targets)
        rows = torch.arange(len(self.vectors))[None]
        return Columns(rows, F.embedding(words, self.met), F.embedding(words, self.left))

    def add(
        self, rows: Int[Tensor, "m J"], change: Float[Tensor, "n J D"], counts: Float[Tensor, "n P J"], rate: float
    ) -> None:
        """Damped: every way leads through the root, and one after another its examples meet ever smaller gradients.

        n pulls of strength r towards one place go 1 - exp(-n r) of the way there, not n r times.
        """
        total = (counts.sum((0, 1)) * rate).clamp_(min=1e-6)
        self.vectors += change.sum(0) * (-torch.expm1(-total) / total)[:, None]


class RestOfTree:
    """A row for each of the other nodes, which few words share."""

    block, one_by_one = 8, False

    def __init__(self, branches: NDArray[np.int64], nodes: Float[Tensor, "R D"]) -> None:
        self.vectors = nodes
        word, self.nodes, self.left = branches[branches[:, 1] >= TOP].T
        self.lengths = np.bincount(word, minlength=len(nodes) + 1)
        self.starts = self.lengths.cumsum() - self.lengths

    def columns(self, targets: NDArray[np.int64], random: np.random.Generator) -> Columns:
        """The nodes on the way to each word, one word's after another's; a word meets its own alone."""
        n, block = targets.shape
        lengths = self.lengths[targets]
        column = lengths.cumsum(1)  # where the nodes of the next word of the block begin
        width, column = int(column.max()), column - lengths
        position, each = np.arange(n * block).reshape(n, block), np.arange(lengths.sum())
        before = lengths.cumsum().reshape(n, block) - lengths

        def spread(first: NDArray[np.int64]) -> NDArray[np.int64]:
            """first, first + 1, ... for each node of a word, all words one after another."""
            return np.repeat(first - before, lengths.ravel()) + each

        node = spread(self.starts[targets])
        place = spread(position * width + column)
        rows = np.full(n * width, len(self.vectors) - 1)
        rows[spread(position // block * width + column)] = self.nodes[node]
        met, left = np.zeros((2, n * block * width), np.float32)
        met[place], left[place] = 1, self.left[node]
        shape = n, block, width
        return Columns(
            torch.from_numpy(rows).view(n, width), torch.from_numpy(met).view(shape), torch.from_numpy(left).view(shape)
        )

    def add(
        self, rows: Int[Tensor, "m J"], change: Float[Tensor, "n J D"], counts: Float[Tensor, "n P J"], rate: float
    ) -> None:
        """None of them is on the way to a large part of the text: a sum does."""
        self.vectors.index_add_(0, rows.flatten(), change.flatten(0, 1))


def huffman_branches(counts: list[int]) -> NDArray[np.int64]:
    """The (word, node, went left) of all branches of the Huffman tree, each word's from the root (node 0) on.

    The two rarest are joined again and again, so that frequent words have short ways: the mean way is the shortest
    that any tree allows, within one branch of the entropy of the words. Nodes are numbered from the most frequent on.
    """
    heap = [(count, word) for word, count in enumerate(counts)]
    heapq.heapify(heap)
    last = 2 * len(counts) - 2  # leaves are numbered before inner nodes
    parent, left = np.zeros((2, last + 1), np.int64)
    for node in range(len(counts), last + 1):
        rarest, one = heapq.heappop(heap)
        count, other = heap[0]
        heapq.heapreplace(heap, (rarest + count, node))
        parent[[one, other]], left[one] = node, 1
    levels, child, word = [], np.arange(len(counts)), np.arange(len(counts))
    while len(word):
        levels.append(np.stack([word, last - parent[child], left[child]], 1))
        child = parent[child]
        word, child = word[child < last], child[child < last]
    branches = np.concatenate(levels[::-1])
    return branches[branches[:, 0].argsort(kind="stable")]


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
        self.layers: list[OutputLayer]
        if recipe.loss == "negative-sampling":
            draws = DRAWS[recipe.architecture]
            self.layers = [NegativeSampling(text.counts, recipe.dimension, recipe.negative, draws)]
        else:
            branches = huffman_branches(text.counts.tolist())
            nodes = torch.zeros(self.none, recipe.dimension)  # one node fewer than words; the last row is no node
            self.layers = [TopOfTree(branches, nodes), RestOfTree(branches, nodes)]
        # The sum of what many positions add to one vector overshoots, so that a small vocabulary takes small steps.
        block = self.layers[0].block
        self.positions = max(1, min(STEP[recipe.architecture, recipe.loss], self.none // 8) // block) * block
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
        window, step = self.recipe.window, self.positions
        steps = -(-len(ids) // step)
        padded = np.full(steps * step + 2 * window, self.none, np.int64)
        padded[window : window + len(ids)] = ids
        reach = random.integers(1, window + 1, steps * step, np.int8) * (padded[window:-window] != self.none)
        near = [self.near(padded, reach, layer.block).split(step // layer.block) for layer in self.layers]
        for i, parts in enumerate(zip(*near, strict=True)):
            done = (self.read + read * i / steps) / self.total
            rate = self.recipe.learning_rate * (1 - done) + _LEAST_RATE * done
            self.step(padded[i * step : (i + 1) * step + 2 * window], parts, rate, random)

    def near(self, around: NDArray[np.int64], reach: NDArray[np.int8], block: int) -> Float[Tensor, "n B C"]:
        """Which of the C words of a block, with the windows at both ends, are near each of its B positions."""
        window = self.recipe.window
        distance = abs(np.arange(block + 2 * window) - window - np.arange(block)[:, None])
        distance[distance == 0] = window + 1
        words = np.lib.stride_tricks.sliding_window_view(around, block + 2 * window)[::block]
        near = (distance.astype(np.int8) <= reach.reshape(-1, block, 1)) & (words != self.none)[:, None]
        return torch.from_numpy(near.astype(np.float32))

    def step(
        self,
        around: NDArray[np.int64],
        near: Iterable[Tensor],
        rate: float,
        random: np.random.Generator,
    ) -> None:
        """One step of stochastic gradient ascent.

        Args:
            around: the words at some positions one after another, with the windows at both ends.
            near: for each output layer, who is near whom, [n, B, C].
            rate: the learning rate.
            random: where negative words are drawn from.
        """
        words, targets = torch.from_numpy(around), around[self.recipe.window : -self.recipe.window]
        vectors = F.embedding(words, self.vectors)
        change = torch.zeros_like(vectors)
        for layer, mask in zip(self.layers, near, strict=True):
            blocks = vectors.unfold(0, mask.shape[2], layer.block).mT
            columns = layer.columns(targets.reshape(-1, layer.block), random)
            _add_overlapping(change, self._learn(layer, columns, blocks, mask, rate), layer.block)
        self.vectors.index_add_(0, words, change)

    def _learn(
        self,
        layer: OutputLayer,
        columns: Columns,
        vectors: Float[Tensor, "n C D"],
        near: Float[Tensor, "n B C"],
        rate: float,
    ) -> Float[Tensor, "n C D"]:
        """Change the rows of an output layer, and say what to add to the vectors of the words of each block."""
        rows, counts, labels = columns
        if self.recipe.architecture == "skip-gram":
            hidden, pairs = vectors, near.mT  # [n, C, B]: who guesses whom
            counts, labels = _product(pairs, counts), _product(pairs, labels)
        else:  # without a neighbour the mean is 0, and nothing changes
            hidden = _product(near / near.sum(2, keepdim=True).clamp_(min=1), vectors)
        weights = F.embedding(rows, layer.vectors)
        gradient = _product(hidden, weights.mT).sigmoid_().mul_(counts)
        gradient[:, :, : labels.shape[2]] -= labels
        gradient *= -rate
        change, to_hidden = _product(gradient.mT, hidden), _product(gradient, weights)
        if self.recipe.architecture == "cbow":
            to_hidden = _product(near.mT, to_hidden)  # the whole to each neighbour, as in word2vec.c and gensim
        elif layer.one_by_one:
            own = gradient[:, :, : labels.shape[2]]
            to_hidden += _half_of_the_others(own, hidden)
            change[:, : labels.shape[2]] += _half_of_the_others(own.mT, weights[:, : labels.shape[2]])
        layer.add(rows, change, counts, rate)
        return to_hidden


def _half_of_the_others(gradient: Float[Tensor, "n I J"], vectors: Float[Tensor, "n I D"]) -> Float[Tensor, "n I D"]:
    """What a step misses because its pairs learn at once.

    One pair at a time, a vector would meet the row of a pair as the pairs before it left it: on average with half of
    what all the others add to the row. That draws the words of a window together, and the rows of their neighbours.
    """
    among = _product(gradient, gradient.mT).mul_(0.5)
    among.diagonal(dim1=1, dim2=2).zero_()
    return _product(among, vectors)


def _product(a: Float[Tensor, "n I K"], b: Float[Tensor, "m K J"]) -> Float[Tensor, "n I J"]:
    """Small matrix products: NumPy's take two thirds of the time of PyTorch's; large ones would start threads."""
    if a[0].numel() * b.shape[2] > 1 << 18:
        return a @ b
    return torch.from_numpy(a.numpy() @ b.numpy())


def _add_overlapping(total: Float[Tensor, "L D"], blocks: Float[Tensor, "n C D"], stride: int) -> None:
    """Add blocks to the stretches of C that begin every `stride` rows."""
    for first in range(0, blocks.shape[1], stride):
        part = blocks[:, first : first + stride]
        total[first:].unfold(0, part.shape[1], stride).mT[: len(part)] += part
