"""word2vec: steps against autograd, Huffman's tree, the seed, and what is learnt."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from langwright.baselines import word2vec
from langwright.baselines.word2vec import HierarchicalSoftmax, NegativeSampling, Word2VecRecipe, huffman_ways
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


def test_huffman_by_hand() -> None:
    ways = huffman_ways([5, 2, 1, 1])
    assert [len(way) for way in ways] == [1, 2, 3, 3]
    assert all(way[0][0] == 0 for way in ways)
    assert len({tuple(left for _, left in way) for way in ways}) == 4
    counts = np.random.default_rng(0).integers(1, 100, 50).tolist()
    mean = sum(count * len(way) for count, way in zip(counts, huffman_ways(counts), strict=True)) / sum(counts)
    shares = np.array(counts) / sum(counts)
    assert 0 <= mean + (shares * np.log2(shares)).sum() < 1
    assert {node for way in huffman_ways(counts) for node, _ in way} == set(range(49))


def training(architecture: str, loss: str) -> "word2vec._Training":
    """One whose two layers are of random numbers."""
    texts = [" ".join(f"w{word}" for word in np.random.default_rng(1).integers(0, VOCABULARY, 400))]
    recipe = Word2VecRecipe(architecture, loss, DIMENSION, WINDOW, min_count=1)  # type: ignore[arg-type]
    made = word2vec._Training(encode_words(texts, 1, WINDOW), recipe, lambda count: None)
    made.vectors.normal_(generator=torch.Generator().manual_seed(0))
    made.output.vectors.normal_(generator=torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize("loss", ["negative-sampling", "hierarchical-softmax"])
@pytest.mark.parametrize("architecture", ["skip-gram", "cbow"])
def test_a_step_is_the_gradient_of_the_loss_pair_by_pair(architecture: str, loss: str) -> None:
    made = training(architecture, loss)
    block, none = made.output.block, made.none
    random = np.random.default_rng(3)
    around = random.integers(0, VOCABULARY, 2 * block + 2 * WINDOW)
    around[:WINDOW], around[block] = none, none  # the text begins here, and a document ends
    reach = random.integers(1, WINDOW + 1, (2, block, 1), dtype=np.int8)
    vectors, output = made.vectors.clone().requires_grad_(), made.output.vectors.clone().requires_grad_()
    columns = made.output.columns(torch.from_numpy(around[WINDOW:-WINDOW]).view(2, block), np.random.default_rng(4))
    drawn = columns.rows[:, block:]
    ways = huffman_ways(made.text.counts.tolist())
    total, visits, extra = torch.zeros(()), Counter[int](), torch.zeros_like(vectors)
    for place in range(2 * block):
        word, here = int(around[WINDOW + place]), WINDOW + place
        distance = int(reach.ravel()[place])
        near = [int(around[i]) for i in range(here - distance, here + distance + 1) if i != here]
        near = [other for other in near if other != none]
        if word == none or not near:
            continue
        # The gradient of CBOW's mean is handed to each neighbour undivided: as if the sum had been taken.
        mean = vectors[near].sum(0) - (vectors[near].sum(0) - vectors[near].mean(0)).detach()
        asked = [(word, 1)] if loss == "negative-sampling" else ways[word]
        changes = []
        for h in [vectors[other] for other in near] if architecture == "skip-gram" else [mean]:
            total = total + sum(F.logsigmoid((2 * label - 1) * output[row] @ h) for row, label in asked)
            visits.update(row for row, _ in asked)
            changes.append({row: RATE * (label - torch.sigmoid(output[row] @ h)).detach() for row, label in asked})
            if loss == "negative-sampling":
                wrong = [int(other) for other in drawn[place // block] if other != word]
                total = total + sum(F.logsigmoid(-output[other] @ h) for other in wrong) * 5 / drawn.shape[1]
        for k, one in enumerate(changes):  # what the other pairs of the position changed, half of it
            for m, other in enumerate(changes):
                if k != m:
                    extra[near[k]] += sum(one[row] * other[row] for row in one) / 2 * vectors[near[m]].detach()
    total.backward()
    assert vectors.grad is not None
    assert output.grad is not None
    with torch.no_grad():
        made._step(torch.from_numpy(around), torch.from_numpy(reach), RATE, np.random.default_rng(4))
        change = RATE * output.grad
        if loss == "hierarchical-softmax":  # many visits to a row are damped
            for row, count in visits.items():
                change[row] *= (1 - np.exp(-RATE * count)) / (RATE * count)
        torch.testing.assert_close(made.output.vectors, output + change, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(made.vectors, vectors + RATE * vectors.grad + extra, atol=1e-5, rtol=1e-4)


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


def test_a_tree_has_room_for_the_shortest_vocabulary() -> None:
    layer = HierarchicalSoftmax(np.array([3, 1]), 4)
    columns = layer.columns(torch.tensor([[0, 1, 2]]), np.random.default_rng(0))
    assert columns.rows.tolist() == [[0, 0, 1]]
    assert columns.counts.sum() == 2
    assert columns.labels.sum() == 1
