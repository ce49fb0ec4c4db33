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
from langwright.viewing.page import Column, Html, Section, definitions, element, join, page, paragraph, table
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


def report(data: Report) -> str:
    """The report as the text of an HTML file."""
    makers = (_result, _learning, _writing, _finetuning, _attention, _time, _settings, _card)
    sections = [section for make in makers if (section := make(data))]
    return page(data.title, sections, data.lead, data.overline, _facts(data.facts))


def _facts(facts: Sequence[Fact]) -> Html | None:
    tiles = [
        element(
            "div",
            None,
            element("dt", None, fact.label),
            element("dd", None, fact.value),
            element("dd", {"class": "fact-note"}, fact.note) if fact.note else "",
        )
        for fact in facts
    ]
    return element("dl", {"class": "facts"}, *tiles) if tiles else None


def _result(data: Report) -> Section | None:
    if data.comparison is None or not data.comparison.scores:
        return None
    scores = sorted(data.comparison.scores, key=lambda score: (math.isnan(score.bits_per_byte), score.bits_per_byte))
    rows = [Bar(score.name, score.bits_per_byte, score.note, score.ours) for score in scores]
    chart = bars(rows, ("Model", "Bits per byte", "Remark"), _bits)
    body = join([chart, paragraph("Lower is better: fewer bits to write down what was not read before.", "note")])
    return Section("result", "Held-out text", body, data.comparison.about)


def _learning(data: Report) -> Section | None:
    drawn = curves(data.metrics)
    if not drawn and not data.events:
        return None
    parts = [drawn]
    if data.events:
        columns = [Column("Step", numeric=True), Column("Event"), Column("What happened")]
        rows = [(f"{event.step:,}", event.kind, event.text) for event in data.events]
        parts += [element("h3", None, "Events"), table(columns, rows)]
    return Section("learning", "Learning", join(parts))


def _writing(data: Report) -> Section | None:
    parts = []
    if data.parsing and data.parsing.shares:
        parts.append(_parsing(data.parsing))
    if data.samples:
        parts += [element("h3", None, "Samples"), _samples(data.samples)]
    return Section("writing", "Writing", join(parts), data.samples_about) if parts else None


def _parsing(parsing: Parsing) -> Html:
    rows = []
    for share in parsing.shares:
        value = share.passed / share.total if share.total else math.nan
        counted = f"{share.passed} of {share.total}"
        rows.append(Bar(share.name, value, f"{counted}; {share.note}" if share.note else counted, share.ours))
    chart = bars(rows, ("Writer", "Share", "Count"), percent)
    return join([element("h3", None, "Function bodies that parse"), paragraph(parsing.about, "section-lead"), chart])


def _samples(samples: Sequence[Sample]) -> Html:
    return element("div", {"class": "samples"}, *map(_sample, samples))


def _sample(sample: Sample) -> Html:
    tone = {True: "good", False: "bad", None: ""}[sample.good]
    verdict = element("span", {"class": f"verdict {tone}".strip()}, sample.verdict) if sample.verdict else ""
    top = element("p", None, element("span", None, sample.kind), verdict) if sample.kind or sample.verdict else ""
    truth = ""
    if sample.truth:
        original = element("pre", None, sample.prompt, _shaded(sample.truth))
        truth = element("details", None, element("summary", None, "How the author went on"), original)
    text = element("pre", None, sample.prompt, _shaded(sample.continuation))
    return element("article", {"class": "sample"}, top, text, truth)


def _shaded(continuation: str) -> Html:
    """The text marked as added, line by line so that its indentation stays blank."""
    parts: list[str] = []
    for number, line in enumerate(continuation.split("\n")):
        words = line.lstrip()
        parts += ["\n" if number else "", line[: len(line) - len(words)], element("ins", None, words) if words else ""]
    return join(parts)


def _finetuning(data: Report) -> Section | None:
    if data.finetuning is None or not data.finetuning.rows:
        return None
    columns = [
        Column("Held-out text"),
        Column("Before", numeric=True),
        Column("After", numeric=True),
        Column("Change", numeric=True),
    ]
    rows = [(row.text, _bits(row.before), _bits(row.after), _change(row)) for row in data.finetuning.rows]
    parts = [
        table(columns, rows, "Bits per byte; lower is better"),
        element("h3", None, "After fine-tuning") if data.finetuning.samples else "",
        _samples(data.finetuning.samples) if data.finetuning.samples else "",
    ]
    return Section("finetuning", "Fine-tuning", join(parts), data.finetuning.about)


def _change(row: BeforeAfter) -> Html:
    change = row.after - row.before
    if not math.isfinite(change):
        return element("span", None, "not finite")
    tone = "better" if change < 0 else "worse" if change > 0 else ""
    return element("span", {"class": tone}, f"{change:+.3f}".replace("-", "\N{MINUS SIGN}"))


def _bits(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _attention(data: Report) -> Section | None:
    if data.attention is None:
        return None
    shown = attention_figure(data.attention.weights, data.attention.tokens)
    return Section("attention-of-a-layer", "Attention", shown, data.attention.about)


def _time(data: Report) -> Section | None:
    if data.spending is None or not data.spending.shares:
        return None
    rows = [Bar(part, share) for part, share in data.spending.shares.items()]
    chart = bars(rows, ("Part", "Share", "Remark"), percent)
    return Section("time", "Where the time goes", chart, data.spending.about)


def _settings(data: Report) -> Section | None:
    pairs = _flatten(data.settings)
    return Section("recipe", "Recipe", definitions(pairs)) if pairs else None


def _flatten(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", "none" if value is None else str(value)))
    return pairs


def _card(data: Report) -> Section | None:
    if not data.card:
        return None
    return Section("card", "Model card", element("div", {"class": "card"}, definitions(data.card.items())))
