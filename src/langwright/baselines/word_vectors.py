"""Vectors of words: read and written in the formats of word2vec, neighbours, and analogies."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from langwright.base.errors import UserError, suggest
from langwright.base.files import atomic_file

BINARY = ".bin"
"""The ending of word2vec's binary format; any other means its text format."""

_LARGEST_WORD = 1 << 16
_SUGGESTED = 50_000


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words with a vector each, the most frequent first.

    Args:
        words: each once.
        vectors: float32.
    """

    words: Sequence[str]
    vectors: Float[np.ndarray, "V D"]

    @cached_property
    def unit(self) -> Float[np.ndarray, "V D"]:
        """The vectors at length 1; a vector of zeros stays."""
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return self.vectors / np.where(lengths == 0, 1, lengths)

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    @cached_property
    def folded(self) -> dict[str, int]:
        """The row of each word in lower case; of those that differ in capitals alone, the most frequent."""
        return {word.lower(): row for row, word in reversed(list(enumerate(self.words)))}

    def row(self, word: str) -> int:
        """The row of a word, as it is written or in other capitals. Raises UserError that names it."""
        row = self.index.get(word, self.folded.get(word.lower()))
        if row is None:
            raise UserError(f'"{word}" has no vector{suggest(word.lower(), self.words[:_SUGGESTED])}')
        return row

    def nearest(self, plus: Sequence[str], minus: Sequence[str] = (), top: int = 10) -> list[tuple[str, float]]:
        """The words nearest to a sum of words, with the cosines; the words themselves are left out.

        For "king - man + woman" this is 3CosAdd (Mikolov et al., 2013).
        """
        rows = [self.row(word) for word in (*plus, *minus)]
        signs = np.array([1] * len(plus) + [-1] * len(minus), np.float32)
        wanted = signs @ self.unit[rows]
        cosines = self.unit @ (wanted / max(float(np.linalg.norm(wanted)), 1e-12))
        cosines[rows] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(top, len(self.words) - len(set(rows)))]
        return [(self.words[row], float(cosines[row])) for row in best]


def parse_expression(text: str) -> tuple[list[str], list[str]]:
    """The words to add and to subtract in "king - man + woman". Raises UserError where it is none."""
    signs: tuple[list[str], list[str]] = ([], [])
    sign, parts = 0, text.split()
    for place, part in enumerate(parts):
        if (part in ("+", "-")) is (place % 2 == 0):
            break
        if part in ("+", "-"):
            sign = int(part == "-")
        else:
            signs[sign].append(part)
    else:
        if len(parts) % 2:
            return signs
    raise UserError(f'"{text}" is no sum of words; write words with + or - between blanks, as in "king - man + woman"')


def write_vectors(vectors: WordVectors, path: Path) -> None:
    """Write in word2vec's format, atomically: binary where the name ends in .bin, else text.

    Text is a line with the counts of words and numbers, then a line a word; nine digits give back any float32.
    """
    binary, numbers = path.suffix == BINARY, vectors.vectors.astype("<f4")
    form = " ".join(["%.9g"] * numbers.shape[1])
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(b"%d %d\n" % numbers.shape)
        for word, vector in zip(vectors.words, numbers, strict=True):
            if not word or set(word) & {" ", "\n"}:
                raise UserError(f"{path}: {word!r} cannot be written; a word has no blanks and no line breaks here")
            data = vector.tobytes() if binary else (form % tuple(vector.tolist())).encode()
            file.write(word.encode() + b" " + data + b"\n")


def read_vectors(path: Path) -> WordVectors:
    """Read a file of word2vec, gensim or ours: binary where its name ends in .bin, else text.

    Raises:
        UserError: Names the file, and the row of what is broken, missing, double or too much.
    """
    try:
        with path.open("rb") as file:
            words, vectors = _read(file, path)
    except OSError as error:
        raise UserError(f"{path}: the word vectors cannot be read: {error.strerror}") from None
    return WordVectors(words, vectors)


def _read(file: BinaryIO, path: Path) -> tuple[list[str], NDArray[np.float32]]:
    header = file.readline(_LARGEST_WORD).split()
    if len(header) != 2 or not all(number.isdigit() and 0 < int(number) < 1 << 31 for number in header):
        raise UserError(f"{path}:1: expected the number of words and of dimensions, as in word2vec's formats")
    count, dimension = map(int, header)
    size = path.stat().st_size
    if count * dimension * (4 if path.suffix == BINARY else 2) > size:
        raise UserError(
            f"{path}:1: {count} vectors of {dimension} numbers do not fit into {size} bytes; it is truncated"
        )
    vectors = np.empty((count, dimension), np.float32)
    rows: dict[str, int] = {}
    read: Callable[[BinaryIO, int], tuple[bytes, NDArray[np.float32]]]
    read = _binary_row if path.suffix == BINARY else _text_row
    for row in range(count):
        where = f"{path}: row {row + 1}" if read is _binary_row else f"{path}:{row + 2}"
        try:
            name, vectors[row] = read(file, dimension)
            word = name.decode()
        except UnicodeDecodeError:
            raise UserError(f"{where}: the word is not UTF-8 text") from None
        except ValueError:
            raise UserError(
                f"{where}: expected a word and {dimension} numbers, {row} of {count} rows are whole"
            ) from None
        if not word or word in rows or not np.isfinite(vectors[row]).all():
            fault = "no word" if not word else f'"{word}" for the second time' if word in rows else "no finite number"
            raise UserError(f"{where}: {fault}")
        rows[word] = row
    if file.read(_LARGEST_WORD).strip():
        raise UserError(f"{path}: more than the {count} rows that its first line announces")
    return list(rows), vectors


def _text_row(file: BinaryIO, dimension: int) -> tuple[bytes, NDArray[np.float32]]:
    word, *numbers = file.readline().rstrip(b" \r\n").rsplit(b" ", dimension)
    return word, np.array(numbers, np.float32).reshape(dimension)


def _binary_row(file: BinaryIO, dimension: int) -> tuple[bytes, NDArray[np.float32]]:
    name = b"".join(_until_blank(file)).lstrip(b"\n")  # word2vec.c ends rows with a line break, gensim does not
    return name, np.frombuffer(file.read(4 * dimension), "<f4").reshape(dimension)


def _until_blank(file: BinaryIO) -> Iterator[bytes]:
    for _ in range(_LARGEST_WORD):
        byte = file.read(1)
        if byte == b" ":
            return
        yield byte
    raise ValueError
