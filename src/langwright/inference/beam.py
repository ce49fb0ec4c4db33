"""Beam search: the likeliest whole text instead of the likeliest next token, as `transformers` 5.23 searches.

Every row of the batch keeps `beams` hypotheses. Each step looks at all continuations of all of them, takes so many of
the likeliest that at least `beams` are unfinished, sets finished ones among the best `beams` aside, and goes on with
the likeliest unfinished ones.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from langwright.inference.request import Reading, Request
from langwright.inference.rules import Search, apply_rules
from langwright.models.model import Model

NEVER = -1e9
"""The score of what cannot win."""


@dataclass
class Hypotheses:
    """The beams of one row. live: (log p, tokens), likeliest first. done: (score, tokens), best first."""

    live: list[tuple[float, list[int]]]
    done: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True


@torch.inference_mode()
def beam_search(model: Model, request: Request) -> list[list[int]]:
    """The new tokens of the best hypothesis of each row, its end included where it ended."""
    search, ends, beams = request.search, request.ends, request.search.beams
    reading = Reading(model, request, copies=beams)
    rows = [Hypotheses([(0.0 if beam == 0 else NEVER, []) for beam in range(beams)]) for _ in request.rows]
    for step in range(request.max_new_tokens):
        left = request.max_new_tokens - step - 1
        scores = reading.logits().float().log_softmax(-1)
        totals = torch.stack(
            [
                apply_rules(
                    scores[row * beams + beam], search, request.frame, [*request.rows[row], *written], step, left
                )
                + so_far
                for row, hypotheses in enumerate(rows)
                for beam, (so_far, written) in enumerate(hypotheses.live)
            ]
        )
        best = totals.view(len(rows), -1).topk(max(2, 1 + len(ends)) * beams)
        kept: list[int] = []
        for row, hypotheses in enumerate(rows):
            parents = (best.indices[row] // totals.shape[1]).tolist()
            tokens = (best.indices[row] % totals.shape[1]).tolist()
            origins = _advance(hypotheses, best.values[row].tolist(), parents, tokens, search, ends, left)
            kept += [row * beams + origin for origin in origins]
        for hypotheses in rows:
            _close(hypotheses, search, step + 1)
        if not left or not any(hypotheses.open for hypotheses in rows) or _all_full(rows, search):
            break
        reading.go_on(kept, [written[-1] for hypotheses in rows for _, written in hypotheses.live])
    return [hypotheses.done[0][1] if hypotheses.done else hypotheses.live[0][1] for hypotheses in rows]


def _advance(
    row: Hypotheses,
    totals: list[float],
    parents: list[int],
    tokens: list[int],
    search: Search,
    ends: Collection[int],
    left: int,
) -> list[int]:
    """Take the likeliest continuations in; the beams that the live ones came from."""
    found = [
        (total, [*row.live[parent][1], token], parent)
        for total, parent, token in zip(totals, parents, tokens, strict=True)
    ]
    full = search.early_stopping and len(row.done) == search.beams
    if row.open and not full:
        ended = [(total, written) for total, written, _ in found[: search.beams] if written[-1] in ends or not left]
        scored = [(total / len(written) ** search.length_penalty, written) for total, written in ended]
        row.done = sorted(row.done + scored, key=lambda one: -one[0])[: search.beams]
    going = [one for one in found if one[1][-1] not in ends][: search.beams]
    row.live = [(total, written) for total, written, _ in going]
    return [parent for _, _, parent in going]


def _close(row: Hypotheses, search: Search, length: int) -> None:
    """A row whose likeliest live hypothesis cannot beat its worst finished one, at this length, is over."""
    if len(row.done) == search.beams:
        row.open &= row.live[0][0] / length**search.length_penalty > row.done[-1][0]


def _all_full(rows: Sequence[Hypotheses], search: Search) -> bool:
    return search.early_stopping and all(len(row.done) == search.beams for row in rows)
