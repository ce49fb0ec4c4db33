"""Beam search: the likeliest whole text instead of the likeliest next token, as `transformers` 5.23 searches.

Every row of the batch keeps `beams` hypotheses. Each step looks at all continuations of all of them, takes so many of
the likeliest that at least `beams` are unfinished, sets finished ones among the best `beams` aside, and goes on with
the likeliest unfinished ones.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch

from langwright.inference.request import Reading, Request
from langwright.inference.sampling import Rules, Search, apply_rules
from langwright.models.model import Model

NEVER = -1e9
"""The score of what cannot win."""


@dataclass
class Hypotheses:
    """The beams of one row. live: (log p, tokens), likeliest first. done: (score, tokens), best first."""

    live: list[tuple[float, list[int]]]
    done: list[tuple[float, list[int]]] = field(default_factory=list)
    open: bool = True

    def advance(
        self, found: Sequence[tuple[float, list[int], int]], search: Search, ends: Collection[int], left: int
    ) -> list[int]:
        """Take the likeliest continuations in; the beams that the live ones came from.

        found: (log p, tokens, the beam it continues), likeliest first. left: how many tokens may follow.
        """
        if self.open:
            ended = [(total, tokens) for total, tokens, _ in found[: search.beams] if tokens[-1] in ends or not left]
            self.done += [(total / len(tokens) ** search.length_penalty, tokens) for total, tokens in ended]
            self.done = sorted(self.done, key=lambda one: -one[0])[: search.beams]
        going = [one for one in found if one[1][-1] not in ends][: search.beams]
        self.live = [(total, tokens) for total, tokens, _ in going]
        if len(self.done) == search.beams:  # over, where at this length the likeliest cannot beat the worst of them
            score = self.live[0][0] / len(self.live[0][1]) ** search.length_penalty
            self.open &= not search.early_stopping and score > self.done[-1][0]
        return [beam for _, _, beam in going]


@torch.inference_mode()
def beam_search(model: Model, request: Request) -> list[list[int]]:
    """The new tokens of the best hypothesis of each row, its end included where it ended."""
    search, ends, beams = request.search, request.ends, request.search.beams
    reading = Reading(model, request, copies=beams)
    rules = Rules.of(request.frame, search.no_repeat_ngram)
    rows = [Hypotheses([(0.0 if beam == 0 else NEVER, []) for beam in range(beams)]) for _ in request.rows]
    for step in range(request.max_new_tokens):
        left = request.max_new_tokens - step - 1
        scores = reading.logits().float().log_softmax(-1)
        size = scores.shape[1]
        live = [(prompt, *one) for prompt, row in zip(request.rows, rows, strict=True) for one in row.live]
        written, count = [[*prompt, *tokens] for prompt, _, tokens in live], len(live)
        scores = apply_rules(scores, [rules] * count, written, [step] * count, [left] * count)
        totals = scores + torch.tensor([so_far for _, so_far, _ in live], device=scores.device)[:, None]
        best = totals.view(len(rows), -1).topk(max(2, 1 + len(ends)) * beams)
        kept: list[int] = []
        for number, row in enumerate(rows):
            likeliest = zip(best.values[number].tolist(), best.indices[number].tolist(), strict=True)
            found = [(total, [*row.live[at // size][1], at % size], at // size) for total, at in likeliest]
            kept += [number * beams + beam for beam in row.advance(found, search, ends, left)]
        if not left or not any(row.open for row in rows):
            break
        reading.go_on(kept, [tokens[-1] for row in rows for _, tokens in row.live])
    return [row.done[0][1] if row.done else row.live[0][1] for row in rows]
