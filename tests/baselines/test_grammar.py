"""The inside algorithm against nltk's parser and against counted samples; faults are named with their line."""

from collections import Counter

import numpy as np
import pytest

from langwright.baselines.grammar import Word, read_grammar

from ..refusals import refused

TELESCOPE = """
S -> NP VP [1.0]          # as in nltk's book
NP -> Det N [0.5] | NP PP [0.25]
NP -> 'John' [0.1] | "I" [0.15]
Det -> 'the' [0.8] | 'my' [0.2]
N -> 'man' [0.5] | 'telescope' [0.5]
VP -> VP PP [0.1] | V NP [0.7] | V [0.2]
V -> 'ate' [0.35] | 'saw' [0.65]
PP -> P NP [1.0]
P -> 'with' [0.61] | 'under' [0.39]
"""


def test_a_sentence_is_the_sum_over_its_trees() -> None:
    nltk = pytest.importorskip("nltk")
    ours = read_grammar(TELESCOPE, "g")
    parser = nltk.InsideChartParser(nltk.PCFG.fromstring(TELESCOPE.replace("# as in nltk's book", "")), beam_size=0)
    for text, trees in (
        ("I saw John with my telescope", 2),
        ("the man saw John with the man under my telescope", 5),
        ("I ate", 1),
        ("ate I", 0),
    ):
        found = [tree.prob() for tree in parser.parse(text.split())]
        assert len(found) == trees
        assert ours.probability(text.split()) == pytest.approx(sum(found), rel=1e-12)
    assert ours.probability(["I", "greet", "John"]) == 0
    assert ours.probability([]) == 0


@pytest.mark.parametrize(
    "rules",
    [
        "S -> A S B [.3] | A [.4] | [.3]\nA -> 'a' [.5] | B [.2] | [.3]\nB -> 'b' | S A 'x' | |",
        "S -> '(' S ')' S [.3] | 'x' [.2] | [.5]",
        "S -> S 'a' [.4] | A [.6]\nA -> S [.2] | 'a b' 'c' [.3] | 'a' [.5]",
    ],
)
def test_samples_are_as_frequent_as_they_are_probable(rules: str) -> None:
    """Rules with nothing, with one symbol, in circles, and with more than two."""
    grammar, rng, count = read_grammar(rules, "g"), np.random.default_rng(0), 4000
    seen = Counter(tuple(grammar.sample(rng)) for _ in range(count))
    for words, times in seen.most_common(6):
        probability = grammar.probability(words)
        assert times / count == pytest.approx(probability, abs=4 * (probability / count) ** 0.5)


def test_by_hand() -> None:
    brackets = read_grammar("S -> 'a' S 'b' [0.25] | 'c' [0.75]", "g")
    assert brackets.probability(list("aacbb")) == pytest.approx(0.25**2 * 0.75)
    assert brackets.probability(list("acbb")) == 0
    even = read_grammar("S -> A | 'b'\nA -> 'a' | 'New York'", "g")
    assert even.probability(["a"]) == 0.25
    assert even.probability(["New", "York"]) == 0.25
    assert even.rules["A"][1].right == (Word("New"), Word("York"))
    rounded = read_grammar("S -> 'a' [0.333] | 'b' [0.333] | 'c' [0.333]", "g")
    assert rounded.probability(["a"]) == pytest.approx(1 / 3)


FAULTS = [
    ("# only a comment\n", ("g",)),
    ("S -> 'a'\nno arrow", ("g:2",)),
    ("S T -> 'a'", ("g:1",)),
    ("'S' -> 'a'", ("g:1",)),
    ("S -> NP VP\nNP -> 'a'\nVPs -> 'b'", ("g:1", "VP", "VPs")),
    ("S -> 'a' [0.5]\n\nS -> 'b' [0.4]", ("g:1", "S", "0.9")),
    ("S -> 'a' [0.5] | 'b'", ("g:1", "S", "0.5")),
    ("S -> 'a' [1.5]", ("g:1", "1.5")),
    ("S -> 'a' [x]", ("g:1", "x")),
    ("S -> 'a' [0]", ("g:1", "[0]")),
    ("S -> 'a' [0.5] 'b' [0.5]", ("g:1",)),
    ("S -> 'a", ("g:1",)),
    ("S -> S S [0.5] | 'a' [0.5]", ("g",)),
    ("S -> A\nA -> A", ("g",)),
]


@pytest.mark.parametrize(("text", "names"), FAULTS)
def test_faults_are_named_with_their_line(text: str, names: tuple[str, ...]) -> None:
    with refused(*names):
        read_grammar(text, "g")


def test_what_is_never_reached_may_go_on_for_ever() -> None:
    assert read_grammar("S -> 'a'\nA -> A A", "g").probability(["a"]) == 1
