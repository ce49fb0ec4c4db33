"""What people said: a file that only grows, and what trainers learn from it."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError
from langwright.base.files import sync
from langwright.base.value_types import check_types
from langwright.corpora.labelling import MEDIA, Ask
from langwright.corpora.preferences import Asked

LABELS = "labels.jsonl"
"""The file in the folder of what was said."""
BEGINNING = b'{"item": "'
"""Of each of its lines."""


@dataclass(frozen=True)
class Judgement:
    """What one person said of one item. A later one of the same person takes its place.

    Args:
        item: its id.
        labeller: who said it.
        ask: what was asked.
        prompt, answers, models: of the item, so that the file says all without the data.
        media: where its picture, sound or video lies, by kind.
        order: the places of the answers in `answers` in the order in which they were shown, without names.
        marks: of each of `answers`: its rank, 1 for the best; or 1 for good and 0 for bad. None where it was skipped.
        text: what was written.
        seconds: that it took.
        time: when, in UTC.
        seed: of the order.
    """

    item: str
    labeller: str
    ask: Ask
    prompt: Asked
    answers: tuple[str, ...]
    models: tuple[tuple[str, ...], ...]
    media: Mapping[str, str]
    order: tuple[int, ...]
    marks: tuple[int, ...] | None
    text: str | None
    seconds: float
    time: str
    seed: int

    @property
    def skipped(self) -> bool:
        """Whether nothing was said."""
        return self.marks is None and self.text is None

    def row(self) -> dict[str, Any]:
        """A line of the file."""
        row = {name: value for name, value in vars(self).items() if name != "media" and value is not None}
        return {**row, **self.media}


KINDS: Mapping[str, Any] = {
    "item": str, "labeller": str, "ask": Ask, "answers": tuple[str, ...], "models": tuple[tuple[str, ...], ...],
    "order": tuple[int, ...], "marks": tuple[int, ...], "text": str, "seconds": float, "time": str, "seed": int,
    **dict.fromkeys(MEDIA, str),
}  # fmt: skip


def read_judgement(row: Mapping[str, Any]) -> Judgement:
    """A line of the file. Raises ValueError, KeyError or TypeError where it is none."""
    check_types(row, KINDS)
    places, marks, prompt = list(range(len(row["answers"]))), row.get("marks"), row["prompt"]
    if sorted(row["order"]) != places or len(row["models"]) != len(places) or len(marks or places) != len(places):
        raise ValueError("order, marks and models must be of all answers")
    return Judgement(
        item=row["item"],
        labeller=row["labeller"],
        ask=row["ask"],
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        answers=tuple(row["answers"]),
        models=tuple(tuple(models) for models in row["models"]),
        media={kind: row[kind] for kind in MEDIA if kind in row},
        order=tuple(row["order"]),
        marks=None if marks is None else tuple(marks),
        text=row.get("text"),
        seconds=row["seconds"],
        time=row["time"],
        seed=row["seed"],
    )


class Judgements:
    """The file of what was said. What was added is on disk when `add` returns, and is never changed.

    Args:
        folder: where it lies; it must exist.
    """

    def __init__(self, folder: Path):
        self.path = folder / LABELS
        self._latest: dict[tuple[str, str, str], Judgement] = {}
        self.whole = 0
        self.path.touch()
        sync(folder)  # the name of the new file
        *lines, cut = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                self._note(read_judgement(json.loads(line)))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                told = f"misses {error}" if isinstance(error, KeyError) else str(error)
                raise UserError(f"{self.path}:{number}: not a line of labels: {told}") from None
            self.whole += len(line) + 1
        # A line without an end is of a writer who was killed before anybody was told that it is kept.
        if not (cut.startswith(BEGINNING) or BEGINNING.startswith(cut)):
            raise UserError(f"{self.path}:{len(lines) + 1}: not a line of labels; move the file away, or mend it")

    def __iter__(self) -> Iterator[Judgement]:
        """The last word of each person on each item, in the order of their first."""
        return iter(self._latest.values())

    def find(self, item: str, ask: Ask, labeller: str) -> Judgement | None:
        """The last word of a person on an item."""
        return self._latest.get((item, ask, labeller))

    def add(self, judgement: Judgement) -> None:
        """Keep what was said. Raises OSError where the disk does not take it; then the file is as it was."""
        line = json.dumps(judgement.row(), ensure_ascii=False).encode() + b"\n"
        file = os.open(self.path, os.O_WRONLY)
        try:
            os.ftruncate(file, self.whole)
            if os.pwrite(file, line, self.whole) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        except OSError:
            os.ftruncate(file, self.whole)
            raise
        finally:
            os.close(file)
        self.whole += len(line)
        self._note(judgement)

    def _note(self, judgement: Judgement) -> None:
        self._latest[judgement.item, judgement.ask, judgement.labeller] = judgement


def training_files(judgements: Iterable[Judgement]) -> dict[str, list[dict[str, Any]]]:
    """The rows that trainers take, by the name of their file.

    Where several people labelled an item, answers are ordered by their mean rank, and good is what more than half call
    good; what is equal then is in no row. Empty answers are in none.

    Returns:
        `preferences.jsonl` (prompt, chosen, rejected), `rankings.jsonl` (prompt, answers, best first; one of those that
        tie), `thumbs.jsonl` (prompt, completion, label), `demonstrations.jsonl` (prompt, completion) and
        `captions.jsonl` (image, audio or video, and text).
    """
    files: dict[str, list[dict[str, Any]]] = {
        f"{name}.jsonl": [] for name in ("preferences", "rankings", "thumbs", "demonstrations", "captions")
    }
    together: dict[tuple[str, str], list[Judgement]] = {}
    for one in judgements:
        if one.marks is not None:
            together.setdefault((one.item, one.ask), []).append(one)
        elif one.text is not None and one.media:
            asked = {"prompt": one.prompt} if one.prompt else {}
            files["captions.jsonl"].append({**one.media, **asked, "text": one.text})
        elif one.text is not None:
            chat = not isinstance(one.prompt, str)
            said: Any = [{"role": "assistant", "content": one.text}] if chat else one.text
            files["demonstrations.jsonl"].append({"prompt": one.prompt, "completion": said})
    for (_, ask), said_of in together.items():
        first = said_of[0]
        shown: dict[str, Any] = {**first.media, "prompt": first.prompt}
        sums = [sum(marks) for marks in zip(*(one.marks or () for one in said_of), strict=True)]
        marked = [(sums[i], answer) for i, answer in enumerate(first.answers) if answer.strip()]
        if ask == "thumbs":
            rows = [
                {**shown, "completion": answer, "label": 2 * total > len(said_of)}
                for total, answer in marked
                if 2 * total != len(said_of)
            ]
            files["thumbs.jsonl"] += rows
            continue
        files["preferences.jsonl"] += [
            {**shown, "chosen": better, "rejected": worse} for a, better in marked for b, worse in marked if a < b
        ]
        levels = dict(reversed(marked))
        if len(levels) > 1:
            files["rankings.jsonl"].append({**shown, "answers": [levels[total] for total in sorted(levels)]})
    return files


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
