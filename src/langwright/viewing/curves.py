"""The curves of a training run, drawn from the rows of its metrics.jsonl."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from langwright.viewing.charts import Axes, Series, line_chart
from langwright.viewing.page import Html, macro, table
from langwright.viewing.text import compact

Column = NDArray[np.float64]

_SMOOTHING = 0.01  # the share of the run on either side that the running average of the loss takes in
_NOISY = 50  # rows from which the loss is averaged
_STEEP = 0.08  # the share of the run that may lie above the frame
_ROWS = 24  # of the table of values
_SMALL = {
    "accuracy": ("Accuracy", ".3f"),
    "margin": ("Margin of rewards", ".3f"),
    "rejected_reward": ("Reward of rejected answers", ".3f"),
    "gold": ("Second reward", ".4f"),
    "kl": ("KL, nats an answer", ".3f"),
    "entropy": ("Entropy, nats a token", ".3f"),
    "clip_share": ("Share of ratios clipped", ".4f"),
    "value_error": ("Squared error of values", ".4f"),
    "length": ("Tokens of an answer", ".1f"),
    "learning_rate": ("Learning rate", ".3g"),
    "tokens_per_second": ("Tokens per second", ",.0f"),
}
"""Columns with a small chart each, their headings and formats."""
_COLUMNS = {
    "step": ("Step", ",.0f"),
    "tokens": ("Tokens", ",.0f"),
    "reward": ("Reward", ".4f"),
    "validation_reward": ("Validation reward", ".4f"),
    "loss": ("Training loss", ".4f"),
    "validation_loss": ("Validation loss", ".4f"),
    **_SMALL,
}
_NEGATIVE = ("margin", "rejected_reward", "gold")
"""Columns whose chart does not begin at 0."""


def curves(rows: Sequence[Mapping[str, object]]) -> Html:
    """Loss, or reward and what goes with it, over tokens seen (or steps, where tokens are not logged); "" without any.

    Rows of one step are taken together. A missing, null or non-numeric value leaves a gap, as a non-finite one does.
    """
    merged: dict[object, dict[str, object]] = {}
    for index, row in enumerate(rows):
        known = {name: value for name, value in row.items() if value is not None}
        merged.setdefault(known.get("step", ("row", index)), {}).update(known)
    columns = {name: np.array([_number(row.get(name)) for row in merged.values()]) for name in _COLUMNS}
    columns = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    over, label = ("tokens", "tokens seen") if "tokens" in columns else ("step", "step")
    if over not in columns or len(columns) < 2:
        return Html("")
    small = []
    for name in _SMALL:
        if name in columns:
            heading = _COLUMNS[name][0]
            axes = Axes(label, heading, zero=name not in _NEGATIVE, width=488, height=240)
            small.append(line_chart([Series(heading.lower(), columns[over], columns[name])], axes))
    compares = "accuracy" in columns  # what is learnt of comparisons has no reward of its own
    if {"reward", "kl"} <= columns.keys() and not compares:  # over-optimisation: the second falls, the first does not
        small.append(_by_kl(columns))
    name = "reward" if "reward" in columns and not compares else "loss"
    title = "Reward of an answer" if name == "reward" else "Loss" if compares else "Loss, nats per token"
    large = _large(columns, columns[over], Axes(label, title), name)
    return macro("report.html", "curves", *large, small, _values(columns, name))


def _large(columns: Mapping[str, Column], places: Column, axes: Axes, name: str) -> tuple[Html, str]:
    """The chart of what matters most, and what is to be said of it."""
    train, series, words, top = columns.get(name), [], "", math.inf
    if train is not None:
        if np.isfinite(train).sum() >= _NOISY:
            series.append(Series("each step", places, train, "faint"))
            train = running_average(train, round(_SMOOTHING * len(train)))
            words = f"The thin line is the {name} of single steps, the thick one their running average."
            smooth = train[np.isfinite(train)]
            early = smooth[round(_STEEP * len(smooth))]
            if name == "loss" and np.ptp(smooth) > 2 * (
                early - smooth.min()
            ):  # a steep beginning would press the rest flat
                top = float(early)
                words += f" The first steps, from {compact(smooth[0])}, lie above the frame."
        series.append(Series("training", places, train))
    if (validation := columns.get(f"validation_{name}")) is not None:
        known = np.isfinite(validation)
        series.append(Series("validation", places[known], validation[known], "points", colour=1))
    return line_chart(series, replace(axes, top=top)), words


def _by_kl(columns: Mapping[str, Column]) -> Html:
    """Rewards over KL, which tells how far the policy has gone; means of steps of about one KL."""
    known = np.flatnonzero(np.isfinite(columns["kl"]) & np.isfinite(columns["reward"]))
    parts = np.array_split(known[np.argsort(columns["kl"][known], kind="stable")], min(_ROWS, len(known)))
    series = []
    for colour, (name, title) in enumerate((("reward", "reward"), ("gold", "second reward"))):
        if name in columns:
            x, y = (np.array([columns[each][part].mean() for part in parts]) for each in ("kl", name))
            series.append(Series(title, x, y, "points", colour=colour))
    return line_chart(series, Axes("KL, nats an answer", "Reward by KL", width=488, height=240))


def _values(columns: Mapping[str, Column], name: str) -> Html:
    """Some of the numbers behind the curves, for readers and machines that do not see them."""
    rows = np.stack(list(columns.values()), axis=1)
    if (measured := columns.get(f"validation_{name}")) is not None and np.isfinite(measured).sum() > 1:
        rows = rows[np.isfinite(measured)]
    rows = rows[::-1][:: math.ceil(len(rows) / _ROWS)][::-1]  # evenly, the last one included
    headings, forms = zip(*(_COLUMNS[name] for name in columns), strict=True)
    cells = [[f"{x:{form}}" if math.isfinite(x) else "–" for x, form in zip(row, forms, strict=True)] for row in rows]
    return table(headings, cells, numeric=headings)


def running_average(values: Column, reach: int) -> Column:
    """The mean of each value and up to `reach` finite ones on either side; as many before as after, but at the end.

    Evenly centred, it does not lag behind a steep fall. Gaps stay gaps and count for nothing.
    """
    finite = np.isfinite(values)
    sums = np.append(0.0, np.cumsum(values[finite]))
    index = np.arange(len(sums) - 1)
    start, stop = np.maximum(index - reach, 0), np.minimum(index + np.minimum(reach, index) + 1, len(index))
    means = np.full(len(values), math.nan)
    means[finite] = (sums[stop] - sums[start]) / (stop - start)
    return means


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
