"""The report of a training run: one self-contained HTML file from a handful of small records.

Everything but the title is optional; what is missing leaves no trace in the page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from langwright.viewing.attention import attention_figure
from langwright.viewing.charts import Bar, bars
from langwright.viewing.curves import curves
from langwright.viewing.page import Column, Html, Section, definitions, element, macros, page, table
from langwright.viewing.text import percent


@dataclass(frozen=True)
class Fact:
    """A number worth seeing first, already written with its unit."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened to the run: `kind` is a word such as "resumed", "re-planned" or "skipped"."""

    step: int
    kind: str
    text: str


@dataclass(frozen=True)
class Score:
    """Bits per byte of held-out text for one model or compressor; `ours` sets it off."""

    name: str
    bits_per_byte: float
    note: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Comparison:
    """Scores on the same held-out text, shown best first; `about` says which text."""

    scores: Sequence[Score]
    about: str = ""


@dataclass(frozen=True)
class Sample:
    """What the model wrote after a prompt.

    kind: what was asked, such as "function body".
    verdict, good: a judgement in a few words, and whether it is a praise (None: neither).
    truth: how the author went on.
    """

    prompt: str
    continuation: str
    kind: str = ""
    verdict: str = ""
    good: bool | None = None
    truth: str = ""


@dataclass(frozen=True)
class Share:
    """How many of `total` continuations passed, for one writer; `ours` sets it off."""

    name: str
    passed: int
    total: int
    note: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Parsing:
    """Shares of function bodies that parse; `about` says whose functions."""

    shares: Sequence[Share]
    about: str = ""


@dataclass(frozen=True)
class BeforeAfter:
    """Held-out bits per byte of one text before and after fine-tuning; lower is better."""

    text: str
    before: float
    after: float


@dataclass(frozen=True)
class FineTuning:
    """What fine-tuning gained on the new text and lost on the old one; `about` says which."""

    rows: Sequence[BeforeAfter]
    about: str = ""
    samples: Sequence[Sample] = ()


@dataclass(frozen=True)
class Attention:
    """The attention of one layer, `[heads, time, time]`, over a real line of `tokens`; `about` says which layer."""

    weights: ArrayLike
    tokens: Sequence[str]
    about: str = ""


@dataclass(frozen=True)
class Spending:
    """The share of each part in the time of a training step, in the order to show; `about` says of which steps."""

    shares: Mapping[str, float]
    about: str = ""


@dataclass(frozen=True)
class Report:
    """All that a report may show.

    lead: the outcome in a sentence or two. overline: where and when, above the title.
    metrics: the rows of metrics.jsonl: `step`, `tokens`, `loss`, `validation_loss`, `learning_rate` and
        `tokens_per_second` are drawn where present.
    settings: the recipe, possibly nested. card: the model card's fields.
    """

    title: str
    lead: str = ""
    overline: str = "Langwright training report"
    facts: Sequence[Fact] = ()
    comparison: Comparison | None = None
    metrics: Sequence[Mapping[str, object]] = ()
    events: Sequence[Event] = ()
    samples: Sequence[Sample] = ()
    samples_about: str = ""
    parsing: Parsing | None = None
    finetuning: FineTuning | None = None
    attention: Attention | None = None
    spending: Spending | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    card: Mapping[str, str] = field(default_factory=dict)


SECTIONS = {
    "result": "Held-out text",
    "learning": "Learning",
    "writing": "Writing",
    "finetuning": "Fine-tuning",
    "attention-of-a-layer": "Attention",
    "time": "Where the time goes",
    "recipe": "Recipe",
    "card": "Model card",
}


def report(data: Report) -> str:
    """The report as the text of an HTML file."""
    makers = (_scores, _events, _shares, _changes, _spending, _settings)
    names = {maker.__name__.removeprefix("_"): maker for maker in makers}
    macro = macros("report.html", curves=curves, definitions=definitions, heads=attention_figure, **names)
    abouts = {
        "result": data.comparison,
        "finetuning": data.finetuning,
        "attention-of-a-layer": data.attention,
        "time": data.spending,
    }
    leads = {name: part.about for name, part in abouts.items() if part} | {"writing": data.samples_about}
    bodies = {name: macro(name.partition("-")[0], data) for name in SECTIONS}
    sections = [Section(name, SECTIONS[name], body, leads.get(name, "")) for name, body in bodies.items() if body]
    return page(data.title, sections, data.lead, data.overline, macro("facts", data))


def _scores(scores: Sequence[Score]) -> Html:
    best_first = sorted(scores, key=lambda score: (math.isnan(score.bits_per_byte), score.bits_per_byte))
    rows = [Bar(score.name, score.bits_per_byte, score.note, score.ours) for score in best_first]
    return bars(rows, ("Model", "Bits per byte", "Remark"), _bits)


def _events(events: Sequence[Event]) -> Html:
    columns = [Column("Step", numeric=True), Column("Event"), Column("What happened")]
    return table(columns, [(f"{event.step:,}", event.kind, event.text) for event in events])


def _shares(shares: Sequence[Share]) -> Html:
    rows = []
    for share in shares:
        value = share.passed / share.total if share.total else math.nan
        counted = f"{share.passed} of {share.total}"
        rows.append(Bar(share.name, value, f"{counted}; {share.note}" if share.note else counted, share.ours))
    return bars(rows, ("Writer", "Share", "Count"), percent)


def _changes(rows: Sequence[BeforeAfter]) -> Html:
    columns = [Column("Held-out text"), *(Column(name, numeric=True) for name in ("Before", "After", "Change"))]
    cells = [(row.text, _bits(row.before), _bits(row.after), _change(row)) for row in rows]
    return table(columns, cells, "Bits per byte; lower is better")


def _change(row: BeforeAfter) -> Html:
    change = row.after - row.before
    if not math.isfinite(change):
        return element("span", None, "not finite")
    tone = "better" if change < 0 else "worse" if change > 0 else ""
    return element("span", {"class": tone}, f"{change:+.3f}".replace("-", "\N{MINUS SIGN}"))


def _bits(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _spending(shares: Mapping[str, float]) -> Html:
    return bars([Bar(part, share) for part, share in shares.items()], ("Part", "Share", "Remark"), percent)


def _settings(settings: Mapping[str, object]) -> Html:
    return definitions(_flatten(settings))


def _flatten(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", "none" if value is None else str(value)))
    return pairs
