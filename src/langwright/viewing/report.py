"""The parts of a training report that have no other home: facts, samples, and gains and losses of fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langwright.viewing.page import Html, macro


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
