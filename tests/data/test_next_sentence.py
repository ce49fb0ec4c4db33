"""Pairs of the next-sentence objective: what is where, that a key alone decides it, and what the loss is."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from langwright.data.next_sentence import next_sentence_rows
from langwright.data.noise import Masking
from langwright.data.pieces import Framing
from langwright.data.shards import Tokens
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.language import NextSentence, NextSentenceBatch

CLS, SEP, MASK, FIRST, CONTEXT = 1, 2, 3, 10, 16


def batch(documents: int, length: int = 40, numbers: slice = slice(None), epoch: int = 0) -> NextSentenceBatch:
    """Documents whose tokens say where they stand: FIRST + 100 * document + place."""
    ids = FIRST + 100 * np.repeat(np.arange(documents), length) + np.tile(np.arange(length), documents)
    offsets = np.arange(documents + 1) * length
    tokens = Tokens(ids.astype(np.uint32), offsets, np.full(documents, length), "", "")
    noise = Masking(MASK, FIRST + 100 * documents)
    rows = next_sentence_rows(tokens, noise, Framing((CLS,), (SEP,)), CONTEXT, 7, (0, 0))
    chosen = np.arange(len(rows))[numbers]
    made: Any = rows.batch(chosen, chosen + epoch * len(rows))
    return made


def texts(made: NextSentenceBatch) -> list[tuple[list[int], list[int]]]:
    """Both texts of each pair without masks."""
    ids = made.ids.clone()
    for i, (places, targets, weights) in enumerate(zip(made.at, made.targets, made.weights, strict=True)):
        ids[i, places[weights > 0]] = targets[weights > 0]
    found = []
    for i, row in enumerate(ids):
        real = row if made.mask is None else row[made.mask[i]]
        kinds = made.types[i][: len(real)]
        assert real[0] == CLS
        sides = [real[kinds == kind].tolist() for kind in (0, 1)]
        assert sides[0][-1] == sides[1][-1] == SEP
        found.append((sides[0][1:-1], sides[1][:-1]))
    return found


def test_the_second_text_follows_the_first_or_is_from_another_document() -> None:
    made = batch(9)
    assert made.ids.shape[1] <= CONTEXT
    for (first, second), unrelated in zip(texts(made), made.unrelated.tolist(), strict=True):
        assert first == list(range(first[0], first[-1] + 1))
        assert second == list(range(second[0], second[-1] + 1))
        documents = {(token - FIRST) // 100 for token in (first[0], second[0])}
        assert (len(documents) == 2) if unrelated else (second[0] == first[-1] + 1)
    several = torch.cat([batch(9, epoch=epoch).unrelated for epoch in range(20)])
    assert several.float().mean() == pytest.approx(0.5, abs=0.05)


def test_seed_epoch_and_piece_decide_alone() -> None:
    whole, some = batch(5), batch(5, numbers=slice(3, 7))
    assert torch.equal(whole.ids[3:7, : some.ids.shape[1]], some.ids)
    assert torch.equal(whole.unrelated[3:7], some.unrelated)
    assert not torch.equal(whole.ids, batch(5, epoch=1).ids)


def test_of_one_document_other_pieces_are_taken() -> None:
    made = batch(1)
    assert made.unrelated.any()
    for (first, second), unrelated in zip(texts(made), made.unrelated.tolist(), strict=True):
        assert (second[0] != first[-1] + 1) == unrelated
    assert not batch(1, length=10).unrelated.any()  # one piece alone


def test_the_loss_has_two_terms_with_counts_of_their_own() -> None:
    made = batch(4)
    config = by_depth("bert", 1, FIRST + 400, CONTEXT, 0.0)
    model = new_model("bert", config, head="pretraining").eval()
    objective = NextSentence()
    assert objective.counts(made) == {"tokens": made.weights.sum(), "next": len(made)}
    sums = objective({"model": model}, made)
    hidden = model.body(made.ids, made.mask, types=made.types)
    logits = torch.tanh(hidden[:, 0] @ model.next.dense.weight.T) @ model.next.output.weight.T  # new biases are zero
    torch.testing.assert_close(sums["next"], F.cross_entropy(logits, made.unrelated, reduction="sum"))
    predicted = model.head(hidden)[torch.arange(len(made))[:, None], made.at]
    losses = F.cross_entropy(predicted.flatten(0, 1), made.targets.flatten(), reduction="none")
    torch.testing.assert_close(sums["tokens"], (losses * made.weights.flatten()).sum())
    halves = [objective({"model": model}, made.rows(*ends)) for ends in ((0, 3), (3, len(made)))]
    for name, total in sums.items():
        torch.testing.assert_close(halves[0][name] + halves[1][name], total)
