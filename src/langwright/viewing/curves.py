"""The curves of a training run, drawn from the rows of its metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence

from langwright.viewing.charts import Axes, Series, line_chart, running_average
from langwright.viewing.page import Column, Html, element, figure, join, table
from langwright.viewing.text import compact

_SMOOTHING = 0.01  # the share of the run on either side that the running average of the loss takes in
_NOISY = 50  # rows from which the loss is averaged
_STEEP = 0.08  # the share of the run that may lie above the frame
_ROWS = 24  # of the table of values
_COLUMNS = {
    "step": ("Step", ",.0f"),
    "tokens": ("Tokens", ",.0f"),
    "loss": ("Training loss", ".4f"),
    "validation_loss": ("Validation loss", ".4f"),
    "learning_rate": ("Learning rate", ".3g"),
    "tokens_per_second": ("Tokens per second", ",.0f"),
}

Rows = Sequence[Mapping[str, object]]


def curves(rows: Rows) -> Html:
    """Loss, learning rate and speed over tokens seen (or steps, where tokens are not logged); "" without any.

    Rows of one step are taken together. A missing, null or non-numeric value leaves a gap, as a non-finite one does.
    """
    rows = _by_step(rows)
    over = "tokens" if _any(_column(rows, "tokens")) else "step"
    small = [
        _small(rows, over, "learning_rate", "Learning rate"),
        _small(rows, over, "tokens_per_second", "Tokens per second"),
    ]
    small = [chart for chart in small if chart]
    pair = element("div", {"class": "pair"}, *small) if small else ""
    parts = [_loss(rows, over), pair, _values(rows, over)]
    return join(parts)


def _loss(rows: Rows, over: str) -> Html:
    places = _column(rows, over)
    train, validation = _column(rows, "loss"), _column(rows, "validation_loss")
    series, words = [], []
    if _any(train):
        if len(_finite(train)) >= _NOISY:
            series += [Series("each step", places, train, "faint")]
            train = running_average(train, round(_SMOOTHING * len(train)))
            words.append("The thin line is the loss of single steps, the thick one their running average.")
        series.append(Series("training", places, train))
    if _any(validation):
        known = [(x, y) for x, y in zip(places, validation, strict=True) if math.isfinite(y)]
        series.append(Series("validation", [x for x, _ in known], [y for _, y in known], "points", colour=1))
    if not series:
        return Html("")
    top = _top(train)
    if math.isfinite(top):
        words.append(f"The first steps, from {compact(_finite(train)[0])}, lie above the frame.")
    return figure(line_chart(series, Axes(_label(over), "Loss, nats per token", top=top)), " ".join(words))


def _top(losses: Sequence[float]) -> float:
    """Where to end the upright axis so that a steep beginning does not press the rest flat."""
    finite = _finite(losses)
    if len(finite) < _NOISY:
        return math.inf
    early = finite[round(_STEEP * len(finite))]
    return early if max(finite) - min(finite) > 2 * (early - min(finite)) else math.inf


def _small(rows: Rows, over: str, name: str, label: str) -> Html:
    values = _column(rows, name)
    if not _any(values):
        return Html("")
    axes = Axes(_label(over), label, zero=True, width=488, height=240)
    return figure(line_chart([Series(label.lower(), _column(rows, over), values)], axes))


def _values(rows: Rows, over: str) -> Html:
    """Some of the numbers behind the curves, for readers and machines that do not see them."""
    columns = {name: _column(rows, name) for name in _COLUMNS}
    present = [name for name in _COLUMNS if _any(columns[name])]
    if over not in present or len(present) < 2:
        return Html("")
    judged = [index for index, value in enumerate(columns["validation_loss"]) if math.isfinite(value)]
    chosen = _spread(judged or range(len(rows)))
    cells = [[_cell(columns[name][index], _COLUMNS[name][1]) for name in present] for index in chosen]
    shown = table([Column(_COLUMNS[name][0], numeric=True) for name in present], cells)
    return element("details", {"class": "values"}, element("summary", None, "The values behind the curves"), shown)


def _spread(indices: Sequence[int]) -> list[int]:
    """At most about `_ROWS` of them, evenly, the last one included."""
    step = math.ceil(len(indices) / _ROWS)
    return list(indices[::-1][::step][::-1]) if step else []


def _cell(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _label(over: str) -> str:
    return "tokens seen" if over == "tokens" else "step"


def _column(rows: Rows, name: str) -> list[float]:
    return [_number(row.get(name)) for row in rows]


def _by_step(rows: Rows) -> list[dict[str, object]]:
    """One row a step: training and validation may have been logged apart."""
    merged: dict[object, dict[str, object]] = {}
    for index, row in enumerate(rows):
        known = {name: value for name, value in row.items() if value is not None}
        merged.setdefault(known.get("step", ("row", index)), {}).update(known)
    return list(merged.values())


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _any(values: Sequence[float]) -> bool:
    return any(map(math.isfinite, values))
