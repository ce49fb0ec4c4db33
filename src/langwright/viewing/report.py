"""The parts of a training report that have no other home: facts, samples, and gains and losses of fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langwright.viewing.page import Html, macro, table


@dataclass(frozen=True)
class Sample:
    """What the model wrote after a prompt.

    Args:
        prompt: what it was given.
        continuation: what it wrote.
        kind: what was asked, such as "function body".
        verdict: a judgement in a few words.
        good: whether the verdict is praise; None for neither.
        truth: how the author went on.
    """

    prompt: str
    continuation: str
    kind: str = ""
    verdict: str = ""
    good: bool | None = None
    truth: str = ""


def facts(rows: Sequence[tuple[str, str, str]]) -> Html:
    """Numbers worth seeing first: label, value with its unit, and a note or nothing."""
    return macro("report.html", "facts", rows)


def writing(shares: Html, samples: Sequence[Sample]) -> Html:
    """How many function bodies parse, and what the model wrote, good and bad, beside how the author went on."""
    return macro("report.html", "writing", shares, samples)


def changes(rows: Mapping[str, tuple[float, float]]) -> Html:
    """Held-out bits per byte of texts, by their names, before and after fine-tuning; lower is better."""
    return macro("report.html", "changes", rows)


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """How often each label, a row, was taken for each, a column."""
    rows = [(name, *(f"{count:,}" for count in row)) for name, row in zip(labels, counts, strict=True)]
    return table(("Is", *(f"said {name}" for name in labels)), rows, [f"said {name}" for name in labels], "Confusion")


def label_scores(scores: Mapping[str, Mapping[str, float]]) -> Html:
    """Precision, recall and F1 of each label, and how often it is there."""
    rows = [
        (name, *(f"{row[score]:.3f}" for score in ("precision", "recall", "f1")), f"{row['rows']:,.0f}")
        for name, row in scores.items()
    ]
    headings = ("Label", "Precision", "Recall", "F1", "Times")
    return table(headings, rows, headings[1:], "Each label")


def examples(rows: Sequence[Mapping[str, str | float]], title: str) -> Html:
    """Examples of what a model said; all rows have the same columns."""
    cells = [[value if isinstance(value, str) else f"{value:.3f}" for value in row.values()] for row in rows]
    numbers = [name.capitalize() for name, value in rows[0].items() if not isinstance(value, str)]
    return table([name.capitalize() for name in rows[0]], cells, numbers, title)
