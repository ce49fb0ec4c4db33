"""word2vec: steps against autograd, Huffman's tree, the seed, and what is learnt."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from langwright.baselines import word2vec
from langwright.baselines.word2vec import NegativeSampling, Word2VecRecipe, huffman_branches
from langwright.baselines.words import encode_words, split_words
from refusals import refused

TEXTS = ["The cat's food. A dog ate the cat's food!", "One_two ÉTÉ 3 the, the"]
VOCABULARY, WINDOW, DIMENSION, RATE = 12, 2, 5, 0.1


def test_words_and_their_numbers() -> None:
    assert split_words(TEXTS[0]) == ["the", "cat's", "food", "a", "dog", "ate", "the", "cat's", "food"]
    assert split_words(TEXTS[1]) == ["one", "two", "été", "3", "the", "the"]
    text = encode_words(TEXTS, min_count=2, gap=3)
    assert text.words == ("the", "cat's", "food")
    assert text.counts.tolist() == [4, 2, 2]
    assert text.ids.tolist() == [0, 1, 2, 0, 1, 2, 3, 3, 3, 0, 0, 3, 3, 3]
    with refused("--min-count", 4):
        encode_words(TEXTS, min_count=4, gap=1)


def huffman_ways(counts: list[int]) -> list[list[tuple[int, int]]]:
    ways: list[list[tuple[int, int]]] = [[] for _ in counts]
    for word, node, left in huffman_branches(counts).tolist():
        ways[word].append((node, left))
    return ways


def test_huffman_by_hand() -> None:
    assert huffman_ways([5, 2, 1, 1]) == [
        [(0, 0)],
        [(0, 1), (1, 1)],
        [(0, 1), (1, 0), (2, 1)],
        [(0, 1), (1, 0), (2, 0)],
    ]
    assert huffman_ways([3, 1]) == [[(0, 0)], [(0, 1)]]
    counts = np.random.default_rng(0).integers(1, 100, 50).tolist()
    ways = huffman_ways(counts)
    shares = np.array(counts) / sum(counts)
    assert 0 <= sum(shares * [len(way) for way in ways]) + (shares * np.log2(shares)).sum() < 1
    assert {node for way in ways for node, _ in way} == set(range(49))
    assert all(way[0][0] == 0 for way in ways)
    for way in ways:  # the same nodes lead to the same node: one tree
        for above, below in itertools.pairwise(way):
            assert all(other[other.index(above) + 1][0] == below[0] for other in ways if above in other)


def training(architecture: str, loss: str) -> "word2vec._Training":
    """One whose two layers are of random numbers."""
    texts = [" ".join(f"w{word}" for word in np.random.default_rng(1).integers(0, VOCABULARY, 400))]
    recipe = Word2VecRecipe(architecture, loss, DIMENSION, WINDOW, min_count=1)  # type: ignore[arg-type]
    made = word2vec._Training(encode_words(texts, 1, WINDOW), recipe, lambda count: None)
    made.vectors.normal_(generator=torch.Generator().manual_seed(0))
    made.layers[-1].vectors.normal_(generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("loss", ["negative-sampling", "hierarchical-softmax"])
@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_a_step_is_the_gradient_of_the_loss_pair_by_pair(
    architecture: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word2vec, "TOP", 4)
    made = training(architecture, loss)
    block, none, rows = made.layers[0].block, made.none, made.layers[-1].vectors
    random = np.random.default_rng(3)
    around = random.integers(0, VOCABULARY, 2 * block + 2 * WINDOW)
    around[:WINDOW], around[block] = none, none  # the text begins here, and a document ends
    reach = random.integers(1, WINDOW + 1, 2 * block, dtype=np.int8) * (around[WINDOW:-WINDOW] != none)
    vectors, output = made.vectors.clone().requires_grad_(), rows.clone().requires_grad_()
    columns = made.layers[0].columns(around[WINDOW:-WINDOW].reshape(2, block), np.random.default_rng(4))
    drawn = columns.rows[:, block:]
    ways = huffman_ways(made.text.counts.tolist())
    total, visits, pulls = torch.zeros(()), Counter[int](), dict[tuple[int, int], Tensor]()
    for place in range(WINDOW, len(around) - WINDOW):
        word, distance = int(around[place]), int(reach[place - WINDOW])
        near = [i for i in range(place - distance, place + distance + 1) if i != place and around[i] != none]
        if word == none or not near:
            continue
        # The gradient of CBOW's mean is handed to each neighbour undivided: as if the sum had been taken.
        several = vectors[around[near]]
        mean = several.sum(0) - (several.sum(0) - several.mean(0)).detach()
        asked = [(word, 1)] if loss == "negative-sampling" else ways[word]
        for i, h in zip(near, several, strict=True) if architecture == "skip-gram" else [(0, mean)]:
            total = total + sum(F.logsigmoid((2 * label - 1) * output[row] @ h) for row, label in asked)
            visits.update(row for row, _ in asked)
            if loss == "negative-sampling":
                pulls[place, i] = RATE * (1 - torch.sigmoid(output[word] @ h)).detach()
                wrong = [int(other) for other in drawn[(place - WINDOW) // block] if other != word]
                total = total + sum(F.logsigmoid(-output[other] @ h) for other in wrong) * 5 / drawn.shape[1]
    total.backward()
    assert vectors.grad is not None
    assert output.grad is not None
    with torch.no_grad():
        blocks = [made.near(around, reach, layer.block) for layer in made.layers]
        made.step(around, blocks, RATE, np.random.default_rng(4))
        change, to_vectors = RATE * output.grad, RATE * vectors.grad
        if loss == "hierarchical-softmax":  # many visits to a row near the root are damped
            for row in range(4):
                change[row] *= (1 - np.exp(-RATE * visits[row])) / (RATE * visits[row])
        elif architecture == "skip-gram":  # half of what the other pairs of a word and of a neighbour changed
            for (one, i), (other, j) in itertools.product(pulls, repeat=2):
                both = pulls[one, i] * pulls[other, j] / 2
                if one == other and i != j:
                    to_vectors[around[i]] += both * vectors[around[j]]
                if i == j and one != other and (one - WINDOW) // block == (other - WINDOW) // block:
                    change[around[one]] += both * output[around[other]]
        torch.testing.assert_close(rows, output + change, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made.vectors, vectors + to_vectors, atol=1e-5, rtol=1e-4)


def test_words_are_drawn_by_count_to_the_three_quarters() -> None:
    counts = np.array([1000, 100, 10])
    layer = NegativeSampling(counts, 4, 5, 16)
    drawn = Counter(layer.table.tolist())
    for word, share in enumerate(counts**0.75 / (counts**0.75).sum()):
        assert drawn[word] / len(layer.table) == pytest.approx(share, abs=1e-6)


def test_frequent_words_are_left_out() -> None:
    text = encode_words(["the " * 900 + "cat " * 100], 1, 1)
    kept = word2vec._Training(text, Word2VecRecipe(sample=0.01), lambda count: None).kept
    assert kept == pytest.approx([(90**0.5 + 1) / 90, (10**0.5 + 1) / 10, 1])
    assert all(word2vec._Training(text, Word2VecRecipe(sample=0), lambda count: None).kept == 1)


WORLD = [f"{who} {does} {what}" for who in "abcd" for does in ("eats", "likes") for what in ("fish", "meat")]
WORLD += [f"{what} hits {how} road" for what in ("car", "bus", "van", "cab") for how in ("this", "that")]


@pytest.mark.parametrize("loss", ["negative-sampling", "hierarchical-softmax"])
@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_words_in_the_same_places_become_alike(architecture: str, loss: str) -> None:
    recipe = Word2VecRecipe(architecture, loss, 16, 2, sample=0, learning_rate=0.2, epochs=4)  # type: ignore[arg-type]
    text = encode_words(WORLD * 10, 5, recipe.window)
    read: list[int] = []
    vectors = word2vec.train_vectors(text, recipe, read.append)
    assert sum(read) == 4 * len(text.ids)
    assert {word for word, _ in vectors.nearest(["a"], top=3)} == {"b", "c", "d"}
    assert {word for word, _ in vectors.nearest(["car"], top=3)} == {"bus", "van", "cab"}
    again = word2vec.train_vectors(text, recipe)
    assert again.vectors.tobytes() == vectors.vectors.tobytes()


def test_workers_share_the_text() -> None:
    text = encode_words(WORLD * 10, 5, 2)
    read: list[int] = []
    vectors = word2vec.train_vectors(
        text, Word2VecRecipe(dimension=16, window=2, workers=3, sample=0, learning_rate=0.2), read.append
    )
    assert sum(read) == 5 * len(text.ids)
    assert {word for word, _ in vectors.nearest(["car"], top=3)} == {"bus", "van", "cab"}


def test_vectors_without_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word2vec._Training, "work", lambda training, number: training.vectors[0, 0].fill_(torch.inf))
    with refused("--learning-rate 0.025"):
        word2vec.train_vectors(encode_words(WORLD, 1, 2), Word2VecRecipe(window=2))
