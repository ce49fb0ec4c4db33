"""A probabilistic context-free grammar: sentences as trees, their probabilities as sums over trees.

    S -> NP VP                          a rule for S; its probability is 1
    NP -> Det N [0.7] | 'Kim' [0.3]     two rules for NP; words stand in quotes

A sentence is written by replacing symbols by one of their rules, at random, until only words are left. It may have
many trees, and its probability is the sum over them (Baker, "Trainable grammars for speech recognition", 1979; Jelinek,
Lafferty and Mercer, "Basic methods of probabilistic context free grammars", 1990): `inside[A, i, j]` is the probability
that A becomes the words from i to j. If rules have two symbols at the right side,

    inside[A, i, j] = sum over rules A -> B C and places k between of P(rule) * inside[B, i, k] * inside[C, k, j]

A finite-state model is the special case where every rule is A -> word B: its trees lean to one side, and it cannot
count brackets.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from langwright.base.errors import UserError, suggest

Array = np.ndarray
_TOKEN = re.compile(
    r"""\s*(?:(?P<bar>\|)|\[\s*(?P<number>[^\s\]]*)\s*\]|'(?P<word>[^']*)'|"(?P<quoted>[^"]*)"|(?P<symbol>[^\s|\[\]'"#]+))"""
)
_SUMS_TO_ONE = 0.01  # how far the probabilities of a symbol's rules may be from it before they are divided by their sum


class Word(NamedTuple):
    """A word at the right side of a rule, where a plain text is a symbol."""

    text: str


class Rule(NamedTuple):
    """What may take the place of a symbol; nothing at all if `right` is empty."""

    right: tuple[str | Word, ...]
    probability: float


@dataclass(frozen=True)
class Grammar:
    """A grammar; read it with `read_grammar`.

    Args:
        start: The symbol that every sentence begins as.
        rules: For each symbol its rules, whose probabilities sum to one.
    """

    start: str
    rules: Mapping[str, Sequence[Rule]]

    @cached_property
    def expected(self) -> Float[Array, "symbols symbols"]:
        """How many of each symbol one replacement of each symbol leaves, on average."""
        place = {symbol: i for i, symbol in enumerate(self.rules)}
        counts = np.zeros((len(place), len(place)))
        for symbol, rules in self.rules.items():
            for rule in rules:
                for item in rule.right:
                    if isinstance(item, str):
                        counts[place[symbol], place[item]] += rule.probability
        return counts

    def sample(self, rng: np.random.Generator) -> list[str]:
        """The words of a sentence."""
        words: list[str] = []
        waiting: list[str | Word] = [self.start]
        while waiting:
            item = waiting.pop()
            if isinstance(item, Word):
                words.append(item.text)
            else:
                rules = self.rules[item]
                rule = rules[int(rng.choice(len(rules), p=[rule.probability for rule in rules]))]
                waiting.extend(reversed(rule.right))
        return words

    def probability(self, words: Sequence[str]) -> float:
        """The probability of a sentence: the sum over all its trees; zero if it has none."""
        short, n = self._short, len(words)
        if not words:
            return float(short.empty[0])
        inside = np.zeros((n + 1, n + 1, len(short.empty)))
        for i, word in enumerate(words):
            inside[i, i + 1] = short.units @ short.words.get(word, np.zeros(len(short.empty)))
        parent, left, right, probability = short.pairs
        for length in range(2, n + 1):
            for i in range(n - length + 1):
                j, between = i + length, np.arange(i + 1, i + length)
                split = inside[i, between][:, left] * inside[between, j][:, right]
                made = np.bincount(parent, probability * split.sum(0), minlength=len(short.empty))
                inside[i, j] = short.units @ made
        return float(inside[0, n, 0])

    @cached_property
    def _short(self) -> "_Short":
        return _shortened(self)


class _Short(NamedTuple):
    """The same grammar with at most two symbols at the right side of a rule; the first symbol is the start.

    Args:
        pairs: Of the rules with two symbols: parent, left and right as numbers, and probability.
        words: For each word the probability that each symbol becomes it by one rule.
        empty: The probability that each symbol becomes nothing.
        units: The expected number of times that each symbol is reached from each by replacing a symbol by one other,
            which may be again and again: the sum of a geometric series of matrices.
    """

    pairs: tuple[Array, Array, Array, Array]
    words: Mapping[str, Float[Array, "symbols"]]
    empty: Float[Array, "symbols"]
    units: Float[Array, "symbols symbols"]


def _shortened(grammar: Grammar) -> _Short:
    """A -> B C D becomes A -> B X and X -> C D; a word among symbols becomes a symbol that becomes the word."""
    place: dict[object, int] = {grammar.start: 0}
    pairs: list[tuple[int, int, int, float]] = []
    single: list[tuple[int, int, float]] = []
    nothing: list[tuple[int, float]] = []
    becomes: list[tuple[str, int, float]] = []

    def number(item: object) -> int:
        if item not in place:
            place[item] = len(place)
            if isinstance(item, Word):
                becomes.append((item.text, place[item], 1.0))
        return place[item]

    for symbol, rules in grammar.rules.items():
        for rule in rules:
            parent, remaining, probability = number(symbol), rule.right, rule.probability
            while len(remaining) > 2:
                rest = number(object())
                pairs.append((parent, number(remaining[0]), rest, probability))
                parent, remaining, probability = rest, remaining[1:], 1.0
            match remaining:
                case ():
                    nothing.append((parent, probability))
                case (Word(text),):
                    becomes.append((text, parent, probability))
                case (item,):
                    single.append((parent, number(item), probability))
                case (item, other):
                    pairs.append((parent, number(item), number(other), probability))

    empty, units = np.zeros(len(place)), np.zeros((len(place), len(place)))
    while True:  # each round adds the trees that are one step higher, to less than is left
        before, empty = empty, np.zeros(len(place))
        for parent, probability in nothing:
            empty[parent] += probability
        for parent, child, probability in single:
            empty[parent] += probability * before[child]
        for parent, left, right, probability in pairs:
            empty[parent] += probability * before[left] * before[right]
        if np.abs(empty - before).max() < 1e-16:
            break
    for parent, child, probability in single:
        units[parent, child] += probability
    for parent, left, right, probability in pairs:
        units[parent, left] += probability * empty[right]
        units[parent, right] += probability * empty[left]
    words = {text: np.zeros(len(place)) for text, _, _ in becomes}
    for text, parent, probability in becomes:
        words[text][parent] += probability
    parents, lefts, rights = np.array([pair[:3] for pair in pairs], np.int64).reshape(-1, 3).T
    probabilities = np.array([pair[3] for pair in pairs])
    return _Short((parents, lefts, rights, probabilities), words, empty, np.linalg.inv(np.eye(len(place)) - units))


def read_grammar(text: str, where: str) -> Grammar:
    """Read a grammar: lines `A -> B 'word' C [0.4] | D [0.6]`.

    The first symbol is the start. Words stand in quotes, a rule's probability behind it in brackets; where a symbol has
    none, its rules are equally likely. A symbol may go on in a further line. `#` begins a comment.

    Raises:
        UserError: Names the line: what is no rule, a symbol without rules, probabilities that do not sum to one, a
            grammar whose sentences would be infinitely long on average.
    """
    read: dict[str, list[tuple[tuple[str | Word, ...], float | None]]] = {}
    lines: dict[str, int] = {}
    used: dict[str, int] = {}
    for line, written in enumerate(text.splitlines(), start=1):
        if not written.strip() or written.lstrip().startswith("#"):
            continue
        symbol, arrow, rest = (part.strip() for part in written.partition("->"))
        if not arrow or not re.fullmatch(r"[^\s|\[\]'\"#]+", symbol):
            raise UserError(f"{where}:{line}: no rule; write a line such as S -> NP VP [0.9] | 'yes' [0.1]")
        lines.setdefault(symbol, line)
        for right, probability in _alternatives(rest, f"{where}:{line}"):
            read.setdefault(symbol, []).append((right, probability))
            for item in right:
                if isinstance(item, str):
                    used.setdefault(item, line)
    if not read:
        raise UserError(f"{where}: there is no rule in it")
    for symbol, line in used.items():
        if symbol not in read:
            raise UserError(
                f"{where}:{line}: the symbol {symbol} has no rule; words stand in quotes{suggest(symbol, read)}"
            )
    rules = {symbol: _weighed(found, f"{where}:{lines[symbol]}: {symbol}") for symbol, found in read.items()}
    grammar = Grammar(next(iter(read)), rules)
    _check_ends(grammar, where)
    return grammar


def _alternatives(text: str, where: str) -> list[tuple[tuple[str | Word, ...], float | None]]:
    """The right sides between bars, each with its probability or None."""
    found: list[tuple[tuple[str | Word, ...], float | None]] = []
    right: list[str | Word] = []
    probability: float | None = None
    position = 0
    while position < len(text) and text[position:].strip() and not text[position:].lstrip().startswith("#"):
        match = _TOKEN.match(text, position)
        if match is None or (probability is not None and not match["bar"]):
            raise UserError(f'{where}: cannot be read from "{text[position:].strip()}" on')
        position = match.end()
        if match["bar"]:
            found.append((tuple(right), probability))
            right, probability = [], None
        elif match["number"]:
            try:
                probability = float(match["number"])
            except ValueError:
                probability = -1.0
            if not 0 < probability <= 1:
                raise UserError(f"{where}: [{match['number']}] is no probability above 0 and at most 1")
        elif match["symbol"]:
            right.append(match["symbol"])
        else:
            right += map(Word, (match["word"] or match["quoted"] or "").split())
    return [*found, (tuple(right), probability)]


def _weighed(found: Sequence[tuple[tuple[str | Word, ...], float | None]], where: str) -> list[Rule]:
    """The rules of a symbol with probabilities that sum to one."""
    given = [probability for _, probability in found if probability is not None]
    if not given:
        return [Rule(right, 1 / len(found)) for right, _ in found]
    if len(given) < len(found) or abs(sum(given) - 1) > _SUMS_TO_ONE:
        missing = "; one has none" if len(given) < len(found) else ""
        raise UserError(f"{where}: the probabilities of its rules sum to {sum(given):g}, not 1{missing}")
    return [Rule(right, probability / sum(given)) for (right, _), probability in zip(found, given, strict=True)]


def _check_ends(grammar: Grammar, where: str) -> None:
    """Refuse a grammar that may write on for ever: one whose expected counts of symbols do not shrink.

    Booth and Thompson, "Applying probability measures to abstract languages", 1973.
    """
    counts = grammar.expected
    reached = np.linalg.matrix_power(np.eye(len(counts)) + (counts > 0), len(counts))[0] > 0
    growth = float(np.abs(np.linalg.eigvals(counts[np.ix_(reached, reached)])).max())
    if growth > 1 - 1e-9:
        raise UserError(
            f"{where}: its sentences do not end, or are infinitely long on average: a replacement leaves {growth:g} "
            "times the symbols; make rules that lead back to their own symbol less likely"
        )
