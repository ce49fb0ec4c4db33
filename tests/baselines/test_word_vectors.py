"""Word vectors against gensim: files, neighbours, analogies, similarities."""

import os
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors
from scipy.stats import spearmanr

from langwright.baselines.word_tests import answer_analogies, judge_similarity, spearman
from langwright.baselines.word_vectors import WordVectors, parse_expression, read_vectors, write_vectors
from refusals import refused

WORDS = ["the", "King", "king", "queen", "naïve", "東京", "man", "woman", "paris", "france", "rome", "italy"]


@pytest.fixture
def vectors() -> WordVectors:
    return WordVectors(WORDS, np.random.default_rng(0).normal(size=(len(WORDS), 7)).astype(np.float32))


def theirs(vectors: WordVectors) -> KeyedVectors:
    made = KeyedVectors(vectors.vectors.shape[1])
    made.add_vectors(list(vectors.words), vectors.vectors)
    return made


@pytest.mark.parametrize("ending", [".txt", ".bin"])
def test_files_both_ways(ending: str, vectors: WordVectors, tmp_path: Path) -> None:
    ours, gensims, binary = tmp_path / f"a{ending}", tmp_path / f"b{ending}", ending == ".bin"
    write_vectors(vectors, ours)
    opened = KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert opened.index_to_key == WORDS
    assert opened.vectors.tobytes() == vectors.vectors.tobytes()
    theirs(vectors).save_word2vec_format(str(gensims), binary=binary)
    read = read_vectors(gensims)
    assert list(read.words) == WORDS
    assert read.vectors.tobytes() == vectors.vectors.tobytes()


TEXT = b"2 3\na 1 2 3\nb 4 5 6\n"
BINARY = b"2 1\na \0\0\0\0\nb \0\0\0\0\n"


@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        ("a.txt", b"", ":1"),
        ("a.txt", b"a 1 2 3\n", ":1"),
        ("a.txt", b"2 3\na 1 2 3\n", ":3"),
        ("a.txt", b"9 9\na 1 2 3\n", ":1"),
        ("a.txt", TEXT[:-4], ":3"),
        ("a.txt", TEXT.replace(b"5", b"x"), ":3"),
        ("a.txt", TEXT.replace(b"5", b"nan"), ":3"),
        ("a.txt", TEXT.replace(b"b", b"a"), ":3"),
        ("a.txt", TEXT.replace(b"b", b"\xff"), ":3"),
        ("a.txt", TEXT + b"c 7 8 9\n", "a.txt"),
        ("a.bin", BINARY[:-3], "row 2"),
        ("a.bin", BINARY.replace(b"2 1", b"9 9"), ":1"),
        ("a.bin", BINARY.replace(b"b ", b"bb"), "row 2"),
        ("a.bin", BINARY + b"c", "a.bin"),
    ],
)
def test_broken_files(name: str, data: bytes, where: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with refused(name, where):
        read_vectors(tmp_path / name)


def test_what_no_file_can_hold(tmp_path: Path) -> None:
    with refused("a.txt", "New York"):
        write_vectors(WordVectors(["New York"], np.ones((1, 2), np.float32)), tmp_path / "a.txt")
    assert os.listdir(tmp_path) == []
    with refused("none.txt"):
        read_vectors(tmp_path / "none.txt")


def test_neighbours_are_those_of_gensim(vectors: WordVectors) -> None:
    for plus, minus in ((["paris", "italy"], ["france"]), (["queen"], []), (["man"], ["king", "the"])):
        ours = vectors.nearest(plus, minus, top=4)
        expected = theirs(vectors).most_similar(positive=plus, negative=minus, topn=4)
        assert [word for word, _ in ours] == [word for word, _ in expected]
        assert [cosine for _, cosine in ours] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)
    assert len(vectors.nearest(["the"], top=99)) == len(WORDS) - 1
    assert vectors.row("PARIS") == WORDS.index("paris")
    assert vectors.row("KING") == WORDS.index("King")
    with refused("quen", "queen"):
        vectors.nearest(["quen"])


def test_expressions() -> None:
    assert parse_expression("king - man + woman") == (["king", "woman"], ["man"])
    assert parse_expression("well-known") == (["well-known"], [])
    for text in ("", "king -", "king man", "- king", "king + + man"):
        with refused(f'"{text}"'):
            parse_expression(text)


QUESTIONS = """: capitals
Paris France Rome Italy
Rome Italy Paris France
Oslo Norway Rome Italy

: people
man woman king queen
king queen man woman
queen king woman man
"""


@pytest.mark.parametrize("restrict", [10, 300_000])
def test_analogies_are_those_of_gensim(restrict: int, tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text(QUESTIONS)
    right = 0
    for seed in range(40):
        made = WordVectors(WORDS, np.random.default_rng(seed).normal(size=(len(WORDS), 3)).astype(np.float32))
        ours = answer_analogies(made, path, restrict)
        score, sections = theirs(made).evaluate_word_analogies(str(path), restrict_vocab=restrict)
        assert ours.right / ours.asked == pytest.approx(score)
        assert {name: asked for name, (_, asked) in ours.sections.items() if asked} == {
            s["section"]: len(s["correct"]) + len(s["incorrect"])
            for s in sections[:-1]
            if s["correct"] + s["incorrect"]
        }
        assert ours.asked + ours.skipped == 6
        right += ours.right
    assert right > 5


def test_similarities_are_those_of_gensim(vectors: WordVectors, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    rows = ["man\twoman\t8", "King\tqueen\t8", "paris\trome\t5.5", "the\titaly\t1", "Oslo\tparis\t3"]
    path.write_text("# people's scores\n" + "\n".join(rows) + "\n")
    ours = judge_similarity(vectors, path)
    expected = theirs(vectors).evaluate_word_pairs(str(path))
    assert ours.spearman == pytest.approx(expected[1].statistic)
    assert (ours.pairs, ours.skipped) == (4, 1)
    path.write_text("Word 1,Word 2,Human (mean)\n" + "\n".join(rows).replace("\t", ","))
    assert judge_similarity(vectors, path) == ours


def test_ranks_with_ties() -> None:
    a, b = np.random.default_rng(0).integers(0, 5, (2, 40)).astype(np.float64)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)


@pytest.mark.parametrize(
    ("text", "names"),
    [("Paris France Rome\n", ":1"), (": a\nx y z w\n", "questions.txt"), ("", "questions.txt")],
)
def test_bad_questions(text: str, names: str, vectors: WordVectors, tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_text(text)
    with refused("questions.txt", names):
        answer_analogies(vectors, path)


@pytest.mark.parametrize(
    ("text", "names"), [("man\twoman\t1\nman\twoman\tx\n", ":2"), ("man\twoman\n", ":1"), ("", "p")]
)
def test_bad_pairs(text: str, names: str, vectors: WordVectors, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(text)
    with refused("pairs.tsv", names):
        judge_similarity(vectors, path)
