"""What is asked of word vectors: analogies and similarities, as gensim measures them."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langwright.base.errors import UserError
from langwright.base.files import read_text
from langwright.baselines.word_vectors import WordVectors

RESTRICTED = 300_000
"""Questions and answers are among this many of the most frequent words."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Analogies:
    """Right answers and questions asked, by section, and the questions with a word that has no vector."""

    sections: dict[str, tuple[int, int]]
    skipped: int

    @property
    def right(self) -> int:
        """Right answers in all."""
        return sum(right for right, _ in self.sections.values())

    @property
    def asked(self) -> int:
        """Questions asked in all."""
        return sum(asked for _, asked in self.sections.values())


@dataclass(frozen=True)
class Similarity:
    """Spearman's rank correlation with people's scores; the pairs, and those with a word that has no vector."""

    spearman: float
    pairs: int
    skipped: int


def answer_analogies(vectors: WordVectors, path: Path, restrict: int = RESTRICTED) -> Analogies:
    """Answer the questions of a file such as questions-words.txt by 3CosAdd, capitals aside.

    Args:
        vectors: their words are the possible answers, but those of the question.
        path: lines of four words, "Athens Greece Oslo Norway"; a line ": name" begins a section.
        restrict: only this many of the most frequent words take part.

    Raises:
        UserError: Names the line that has not four words, or the file where no question can be asked.
    """
    unit = vectors.unit[:restrict]
    first: dict[str, int] = {}
    spelt = np.array([first.setdefault(word.lower(), row) for row, word in enumerate(vectors.words[:restrict])])
    questions: dict[str, list[list[int]]] = {}
    section, skipped = "", 0
    for number, line in enumerate(read_text(path, "the file of analogies").splitlines(), start=1):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = line.lower().split()
        if len(words) != 4:
            if words:
                raise UserError(f"{path}:{number}: expected four words, found {len(words)}")
            continue
        rows = [first.get(word, -1) for word in words]
        asked = questions.setdefault(section, [])
        if -1 in rows:
            skipped += 1
        else:
            asked.append(rows)
    sections = {
        name: (sum(_right(unit, spelt, rows[i : i + _AT_ONCE]) for i in range(0, len(rows), _AT_ONCE)), len(rows))
        for name, rows in questions.items()
    }
    if not any(asked for _, asked in sections.values()):
        raise UserError(f"{path}: no question has vectors for all its words ({skipped} questions)")
    return Analogies(sections, skipped)


def _right(unit: NDArray[np.float32], spelt: NDArray[np.int64], questions: list[list[int]]) -> int:
    """How many of the rows (a, b, c, d) have d as the word nearest to b - a + c, which are left out."""
    a, b, c, d = np.array(questions).T
    cosines = (unit[b] - unit[a] + unit[c]) @ unit.T
    for given in (a, b, c):
        cosines[np.arange(len(d)), given] = -np.inf
    for row, best in enumerate(cosines.argmax(1)):
        while spelt[best] in (a[row], b[row], c[row]):  # the same word in other capitals
            cosines[row, best] = -np.inf
            best = cosines[row].argmax()
        cosines[row, 0] = spelt[best] == d[row]
    return int(cosines[:, 0].sum())


def judge_similarity(vectors: WordVectors, path: Path) -> Similarity:
    """Compare cosines with people's scores in a file such as wordsim353.tsv or simlex999.txt, capitals aside.

    Args:
        vectors: of the words.
        path: lines "word, word, score" with tabs or commas between; "#" begins a comment, and the first line may name
            the columns.

    Raises:
        UserError: Names the line that is none, or the file where fewer than two pairs have vectors.
    """
    cosines, scores, skipped, begun = list[float](), list[float](), 0, False
    for number, line in enumerate(read_text(path, "the file of similarities").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = [cell.strip() for cell in re.split("[\t,]", line)]
        try:
            one, two, score = cells[0].lower(), cells[1].lower(), float(cells[2])
        except (IndexError, ValueError):
            if begun or len(cells) < 3:
                raise UserError(f"{path}:{number}: expected two words and a score with tabs between") from None
            begun = True
            continue
        begun = True
        if one in vectors.folded and two in vectors.folded:
            cosines.append(float(vectors.unit[vectors.folded[one]] @ vectors.unit[vectors.folded[two]]))
            scores.append(score)
        else:
            skipped += 1
    if len(scores) < 2:
        raise UserError(f"{path}: vectors for both words are there in {len(scores)} pairs only; two are needed")
    return Similarity(spearman(np.array(cosines), np.array(scores)), len(scores), skipped)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank; NaN without variance."""
    with np.errstate(invalid="ignore"):
        return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
