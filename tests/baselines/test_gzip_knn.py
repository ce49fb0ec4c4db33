"""Distances as the paper defines them, votes by hand, and the fault of the published figures."""

import gzip

import numpy as np
import pytest

from langwright.baselines.gzip_knn import Neighbour, nearest_neighbours, vote

TEXTS = ["oil prices rise again", "a probe lands on mars", "oil and gas prices fall", "mars probe sends pictures",
         "the oil price", "the red planet"]  # fmt: skip
LABELS = ["money", "space", "money", "space", "money", "space"]


def ncd(x: str, y: str) -> float:
    """The authors' own lines (npc_gzip, experiments.py), with their names."""
    x1, x2 = len(gzip.compress(x.encode("utf-8"))), len(gzip.compress(y.encode("utf-8")))
    x1x2 = len(gzip.compress(" ".join([x, y]).encode("utf-8")))
    return (x1x2 - min(x1, x2)) / max(x1, x2)


@pytest.mark.parametrize("processes", [1, 2])
def test_neighbours_are_the_nearest_by_the_papers_distance(processes: int) -> None:
    unknown = ["gas prices rise", "pictures of mars", "é", ""]
    found = nearest_neighbours(TEXTS, LABELS, unknown, k=3, processes=processes)
    for text, nearest in zip(unknown, found, strict=True):
        far = [ncd(text, other) for other in TEXTS]
        assert [neighbour.distance for neighbour in nearest] == sorted(far)[:3]
        assert all(far[i] in [n.distance for n in nearest if n.label == LABELS[i]] for i in np.argsort(far)[:1])
    assert [vote(nearest)[0] for nearest in found[:2]] == ["money", "space"]


def test_equal_distances_do_not_come_in_the_order_of_the_file() -> None:
    """Four times the same text under two labels: which two are nearest is drawn."""
    drawn = {
        tuple(n.label for n in nearest_neighbours(["x"] * 4, list("aabb"), ["y"], k=2, seed=seed)[0])
        for seed in range(20)
    }
    assert drawn == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}


@pytest.mark.parametrize(
    ("nearest", "said", "tied"),
    [
        ([(0.1, "a")], "a", ["a"]),
        ([(0.1, "a"), (0.2, "b")], "a", ["a", "b"]),  # k = 2: a tie, and the nearest decides
        ([(0.1, "a"), (0.2, "b"), (0.3, "b")], "b", ["b"]),
        ([(0.1, "a"), (0.2, "b"), (0.25, "b"), (0.4, "a")], "b", ["a", "b"]),  # 0.5 against 0.45
        ([(0.1, "a"), (0.2, "b"), (0.2, "b"), (0.3, "a")], "a", ["a", "b"]),  # equal: the first
        ([(0.1, "c"), (0.2, "a"), (0.2, "b"), (0.3, "a"), (0.4, "b")], "a", ["a", "b"]),
    ],
)
def test_votes_by_hand(nearest: list[tuple[float, str]], said: str, tied: list[str]) -> None:
    assert vote([Neighbour(*pair) for pair in nearest]) == (said, tied)
