"""Several corpora in given shares: which corpus and which of its rows each sample is, and their rows in one batch.

Samples come in decks of `DECK`, counted from where the weights began to hold; a deck is shuffled by the bijection of
`data/order.py`. Shares are whole millionths. Deck d holds of each corpus its share of `DECK` rounded down or up: with
`edges`, the sums of the shares in millionths, corpus k has the slots from `(edges[k - 1] + u) // DECK` up to
`(edges[k] + u) // DECK`, where u is `STRIDE * d` modulo `DECK` (systematic sampling). Over `DECK` decks the shares are
exact. Within a corpus the samples are numbered on, so that each row is seen once in an epoch of that corpus. All this
is a function of the sample number: not of ranks, workers, or where a run was resumed. It is a format, as the order is.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from langwright.base.errors import UserError, suggest
from langwright.base.quantities import parse_quantity
from langwright.data.order import Layout, shuffled, windows_of
from langwright.data.supply import RECORD_VERSION, Row, Rows
from langwright.objectives.batch import PairBatch, TokenBatch

Ids = NDArray[np.int64]
Texts = TokenBatch | PairBatch
DECK = 1000
STRIDE = 703
"""No fraction with a small denominator is near STRIDE / DECK, so decks that round alike are spread evenly."""
UNIT = DECK * DECK


class Weights(NamedTuple):
    """How much of each corpus is drawn once so many tokens were seen, in the order of the corpora."""

    tokens: int
    weights: tuple[float, ...]


def parse_mix(text: str, names: Sequence[str]) -> list[Weights]:
    """Read "web=0.7,code=0.3; 1m tokens: web=0.2,code=0.8": weights, and those that hold from a token on.

    Args:
        text: what the user wrote.
        names: of the corpora; each has a weight.

    Raises:
        UserError: Anything else.
    """
    found: list[Weights] = []
    for part in text.split(";"):
        when, colon, given = part.rpartition(":")
        tokens = int(parse_quantity(when, ["tokens"], "--mix").value) if colon or found else 0
        if found and tokens <= found[-1].tokens:
            raise UserError(f'--mix "{text}": each change must come at a later token than the one before')
        if colon and not found:
            raise UserError(f'--mix "{text}": the first weights hold from the beginning and have no "{when.strip()}:"')
        found.append(Weights(tokens, _weights(given, names)))
    return found


def _weights(text: str, names: Sequence[str]) -> tuple[float, ...]:
    weights: dict[str, float] = {}
    for entry in text.split(","):
        name, _, number = (side.strip() for side in entry.partition("="))
        if name not in names:
            known = f"the corpora are {', '.join(names)}{suggest(name, names)}"
            raise UserError(f'--mix: "{entry.strip()}" is not NAME=WEIGHT of a corpus; {known}')
        if name in weights:
            raise UserError(f"--mix: {name} has two weights in {text.strip()}")
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = -1.0
        if not 0 <= weights[name] < math.inf:
            raise UserError(f"--mix: the weight of {name} must be a number from 0 on, not {number or 'nothing'}")
    if missing := [name for name in names if name not in weights]:
        raise UserError(f"--mix: no weight for {', '.join(missing)} in {text.strip()}; 0 leaves a corpus out")
    if not any(weights.values()):
        raise UserError(f"--mix: all weights are 0 in {text.strip()}")
    return tuple(weights[name] for name in names)


@dataclass(frozen=True, eq=False)
class _Phase:
    """Samples that are drawn by the same weights: the first one, `edges`, and what was drawn before of each corpus."""

    start: int
    edges: Ids
    before: Ids

    def deck(self, number: int, seed: int) -> tuple[Ids, Ids]:
        """The corpus of each sample of a deck, and what was drawn of each corpus before it."""
        place = shuffled(np.arange(DECK), DECK, seed, self.start + number * DECK)
        corpora = np.searchsorted((self.edges + number * STRIDE % DECK) // DECK, place, side="right")
        rest = np.arange(number % DECK)[:, None] * STRIDE % DECK
        dealt = number // DECK * self.edges + ((self.edges + rest) // DECK).sum(0)
        return corpora, self.before + np.diff(dealt, prepend=0)


@final
class Mixture:
    """Training batches of several corpora, each a pure function of its step.

    Args:
        corpora: the rows of each, by name.
        layout: how samples become batches.
        mix: the weights, the first from token 0; None for every corpus by its number of rows. A change takes effect at
            the sample nearest to its token, by the mean inputs of the rows drawn.
    """

    def __init__(self, corpora: Mapping[str, Rows], layout: Layout, mix: Sequence[Weights] | None = None) -> None:
        self._names, self._rows, self._layout = list(corpora), list(corpora.values()), layout
        for name, rows in corpora.items():
            if not len(rows):
                raise UserError(f"{name}: too little text to train on: no document has two tokens")
        sizes = np.array([len(rows) for rows in self._rows])
        means = np.array([rows.inputs for rows in self._rows]) / sizes
        self._phases: list[_Phase] = []
        self._summed = [(0, 0)] * len(sizes)
        begin, start = 0, 0
        for tokens, weights in mix or [Weights(0, tuple(sizes.tolist()))]:
            if self._phases:
                start += round((tokens - begin) / self._inputs_a_row(means))
                begin = tokens
            shares = np.array(weights) / sum(weights)
            edges = np.rint(shares.cumsum() * UNIT).astype(np.int64)
            if rare := [
                n for n, s, e in zip(self._names, shares, np.diff(edges, prepend=0), strict=True) if s and not e
            ]:
                raise UserError(f"--mix: the share of {rare[0]} is below a millionth; make it more, or 0")
            self._phases.append(_Phase(start, edges, self._count(start)))
        self.tokens_per_step = max(1, round(layout.batch_size * self._inputs_a_row(means, phase=0)))

    @property
    def windows(self) -> int:
        """The rows of all corpora."""
        return sum(map(len, self._rows))

    def batch(self, step: int) -> Texts:
        """The batch of a step, counted from 0."""
        samples = self._layout.samples(step)
        corpora, numbers = self.draw(samples)
        rows = np.empty_like(numbers)
        for corpus in np.unique(corpora):
            here = corpora == corpus
            rows[here] = windows_of(numbers[here], len(self._rows[corpus]), self._layout.seed)
        batch = rows_of(self._rows, corpora, rows, numbers, self._layout.fixed)
        return replace(batch, samples=torch.from_numpy(samples))

    def draw(self, samples: Ids) -> tuple[Ids, Ids]:
        """The corpus of each sample, and its number among the samples of that corpus."""
        corpora, numbers = np.empty_like(samples), np.empty_like(samples)
        starts = [phase.start for phase in self._phases]
        phase = np.searchsorted(starts, samples, side="right") - 1
        deck, place = np.divmod(samples - np.array(starts)[phase], DECK)
        for which in sorted(set(zip(phase.tolist(), deck.tolist(), strict=True))):
            here = (phase == which[0]) & (deck == which[1])
            dealt, before = self._phases[which[0]].deck(which[1], self._layout.seed)
            each = dealt[:, None] == np.arange(len(before))
            number = (before + each.cumsum(0) - each)[np.arange(DECK), dealt]
            corpora[here], numbers[here] = dealt[place[here]], number[place[here]]
        return corpora, numbers

    def drawn(self, step: int) -> Row:
        """For the log: the share of each corpus in the rows and in the inputs of so many steps."""
        rows = self._count(step * self._layout.batch_size)
        tokens = np.array([self._inputs(corpus, count) for corpus, count in enumerate(rows.tolist())])
        return {"mix": {"rows": self._shares(rows), "tokens": self._shares(tokens)}}

    def record(self) -> dict[str, Any]:
        """What a training checkpoint keeps to know that a resumed run sees the same samples."""
        return {
            "version": RECORD_VERSION,
            "context": self._rows[0].context,
            "batch_size": self._layout.batch_size,
            "seed": self._layout.seed,
            "corpora": {name: rows.record() for name, rows in zip(self._names, self._rows, strict=True)},
            "mix": [[phase.start, *np.diff(phase.edges, prepend=0).tolist()] for phase in self._phases],
        }

    def _count(self, samples: int) -> Ids:
        """How many of the first samples are of each corpus."""
        if not samples:
            return np.zeros(len(self._rows), dtype=np.int64)
        phase = next(phase for phase in reversed(self._phases) if phase.start < samples)
        deck, place = divmod(samples - 1 - phase.start, DECK)
        dealt, before = phase.deck(deck, self._layout.seed)
        return before + np.bincount(dealt[: place + 1], minlength=len(before))

    def _inputs(self, corpus: int, count: int) -> int:
        """Real inputs of the first samples of a corpus; only what is new since the last call is looked at."""
        rows = self._rows[corpus]
        epochs = count // len(rows)
        done = max(self._summed[corpus], (epochs * len(rows), epochs * rows.inputs))
        if done[0] > count:
            done = epochs * len(rows), epochs * rows.inputs
        new = windows_of(np.arange(done[0], count), len(rows), self._layout.seed)
        self._summed[corpus] = count, done[1] + int(rows.lengths(new).sum())
        return self._summed[corpus][1]

    def _inputs_a_row(self, means: NDArray[np.float64], phase: int = -1) -> float:
        return float(np.diff(self._phases[phase].edges, prepend=0) @ means) / UNIT

    def _shares(self, amounts: Ids) -> dict[str, float]:
        total = max(1, int(amounts.sum()))
        return {name: round(int(n) / total, 6) for name, n in zip(self._names, amounts, strict=True)}


@final
class Together:
    """The rows of several corpora numbered through, to be measured as those of one.

    Args:
        corpora: the rows of each.
    """

    def __init__(self, corpora: Sequence[Rows]) -> None:
        self._corpora, self.context = corpora, corpora[0].context
        self._ends = np.cumsum([len(rows) for rows in corpora])
        self.inputs = sum(rows.inputs for rows in corpora)

    def __len__(self) -> int:
        """The number of rows."""
        return int(self._ends[-1])

    def lengths(self, numbers: Ids) -> Ids:
        """Real inputs of each of some rows."""
        corpora, own = self._places(numbers)
        found = np.empty_like(numbers)
        for corpus in np.unique(corpora):
            found[corpora == corpus] = self._corpora[corpus].lengths(own[corpora == corpus])
        return found

    def batch(self, numbers: Ids, samples: Ids, fixed: bool = False) -> Texts:
        """Some rows as tensors, with the noise of the first epoch."""
        corpora, own = self._places(numbers)
        return rows_of(self._corpora, corpora, own, own, fixed)

    def record(self) -> dict[str, Any]:
        """What identifies the rows."""
        return {"corpora": [rows.record() for rows in self._corpora]}

    def _places(self, numbers: Ids) -> tuple[Ids, Ids]:
        corpora = np.searchsorted(self._ends, numbers, side="right")
        return corpora, numbers - np.concatenate(([0], self._ends))[corpora]


def mixture_record(corpora: Mapping[str, Row], spec: str) -> Row:
    """The record of a mixture, given those of its corpora by name; see docs/formats.md."""
    each = list(corpora.values())
    names = "".join(f"{name} {record['hash']}\n" for name, record in corpora.items())
    return {
        "name": " + ".join(corpora),
        "kind": "mixture",
        **{count: sum(record[count] for record in each) for count in ("files", "documents", "characters", "bytes")},
        "hash": hashlib.sha256(names.encode()).hexdigest(),
        "spec": spec,
        "split": ", ".join(dict.fromkeys(record["split"] for record in each)),
        "field": each[0]["field"],
        "corpora": dict(corpora),
    }


def rows_of(rows: Sequence[Rows], corpora: Ids, numbers: Ids, samples: Ids, fixed: bool) -> Texts:
    """Rows of several corpora as one batch.

    Args:
        rows: of each corpus.
        corpora: of which corpus each row of the batch is.
        numbers, samples, fixed: see `Rows.batch`.
    """
    parts: list[Any] = []
    places = []
    for corpus in np.unique(corpora):
        here = np.flatnonzero(corpora == corpus)
        parts.append(rows[corpus].batch(numbers[here], samples[here], fixed))
        places.append(here)
    return joined(parts, torch.from_numpy(np.argsort(np.concatenate(places))))


def joined(parts: Sequence[Texts], order: Tensor) -> Texts:
    """Batches of one kind as one, padded at the right to the widest; a field that one of them lacks is made.

    Args:
        parts: the batches.
        order: which of all their rows comes first, second ...
    """
    every = [_complete(part, parts) for part in parts]
    made: dict[str, Any] = {
        name: None if values[0] is None else torch.cat(_padded(values, name.endswith("segments")))[order]
        for name, values in ((name, [fields[name] for fields in every]) for name in every[0])
    }
    return type(parts[0])(**made)


def _complete(part: Texts, parts: Sequence[Texts]) -> dict[str, Tensor | None]:
    """The fields of a batch with all those that any of `parts` has, or needs when its rows get wider."""

    def has(name: str) -> bool:
        return any(getattr(each, name, None) is not None for each in parts)

    fields: dict[str, Any] = dict(vars(part))
    for side, mask, segments in (("ids", "mask", "segments"), ("source", "source_mask", "source_segments")):
        widths = {getattr(each, side).shape[1] for each in parts if side in fields}
        if mask in fields and fields[mask] is None and (has(mask) or len(widths) > 1):
            fields[mask] = torch.ones_like(fields[side], dtype=torch.bool)
        if has(segments) and fields[segments] is None:
            fields[segments] = torch.ones_like(fields[side])
    if has("positions") and fields["positions"] is None:
        real = torch.ones_like(fields["ids"]) if fields["mask"] is None else fields["mask"]
        fields["positions"] = (real.cumsum(1) - 1).clamp(min=0)
    return fields


def _padded(values: Sequence[Any], repeat: bool) -> list[Tensor]:
    """Tensors of one width, filled with zeros, or with the last column, so that padding has a segment to read."""
    if values[0].ndim < 2:
        return list(values)
    width = max(value.shape[1] for value in values)
    missing = [width - value.shape[1] for value in values]
    if repeat:
        return [torch.cat((v, v[:, -1:].expand(-1, n)), 1) for v, n in zip(values, missing, strict=True)]
    return [F.pad(value, (0, n)) for value, n in zip(values, missing, strict=True)]
