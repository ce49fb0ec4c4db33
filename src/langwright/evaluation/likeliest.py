"""The likeliest next tokens of a text, continuations of it, and fillings of its mask, with their probabilities."""

import math

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.inference.prompts import check_length, length_limit, prompt_ids
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer

WIDTH = 64
"""Beginnings of continuations that are followed side by side."""


def next_tokens(
    model: Model, tokenizer: Tokenizer, text: str, top: int, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """The `top` likeliest next tokens of a text with their probabilities, likeliest first."""
    ids = torch.tensor([check_length(model, prompt_ids(tokenizer, text))], device=model.device)
    at = torch.arange(ids.shape[1], device=model.device) == ids.shape[1] - 1
    return _likeliest(model, tokenizer, ids, at[None], top, temperature)


@torch.inference_mode()
def likeliest_continuations(
    model: Model, tokenizer: Tokenizer, text: str, top: int, length: int, temperature: float = 1.0
) -> tuple[list[tuple[list[int], float]], float]:
    """The likeliest continuations of a text by `length` tokens, or fewer where the text ends with them.

    The WIDTH likeliest beginnings of each length go on, so that the search is exact wherever it gave up none that is
    likelier than what it found.

    Returns:
        Ids and probability of each, likeliest first; and the probability of the likeliest beginning that was given up.
    """
    prompt = prompt_ids(tokenizer, text)
    length_limit(model.context, len(prompt), length)
    found: list[tuple[list[int], float]] = []
    live, sums, given_up = [list[int]()], torch.zeros(1), 0.0
    for _ in range(length):
        ids = torch.tensor([[*prompt, *one] for one in live], device=model.device)
        logits = model.head(model.body(ids)[:, -1]).double().cpu()[:, : tokenizer.vocab_size]
        scores = (sums[:, None] + (logits / temperature).log_softmax(-1)).flatten()
        best = scores.topk(min(max(top, WIDTH) + 1, len(scores)))
        rows = list(zip(best.values.tolist(), best.indices.tolist(), strict=True))
        if len(rows) > max(top, WIDTH):
            given_up = max(given_up, math.exp(rows.pop()[0]))
        grown = [([*live[i // logits.shape[1]], i % logits.shape[1]], score) for score, i in rows]
        found += [(one, math.exp(score)) for one, score in grown if one[-1] in tokenizer.ends]
        going = [(one, score) for one, score in grown if one[-1] not in tokenizer.ends]
        live, sums = [one for one, _ in going], torch.tensor([score for _, score in going], dtype=torch.float64)
        if not live:
            break
    found += [(one, math.exp(score)) for one, score in zip(live, sums.tolist(), strict=True)]
    return sorted(found, key=lambda one: -one[1])[:top], given_up


def likeliest_fillings(
    model: Model, tokenizer: Tokenizer, text: str, top: int, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """The `top` likeliest tokens for the mask in a text with their probabilities, likeliest first.

    Raises UserError for a model without a head for it, and for a text that does not name the mask once.
    """
    if not model.fills:
        raise UserError(f'a {model.family} model with the head "{model.task}" neither writes text nor fills a mask')
    mask = tokenizer.special_tokens.mask
    if mask is None:
        raise UserError("the tokenizer of this model has no mask token")
    if (count := text.count(mask)) != 1:
        raise UserError(f"the text must hold {mask} once, where a token is to be guessed; it holds it {count} times")
    ids = torch.tensor([check_length(model, tokenizer.frame(text, named=True)[0])], device=model.device)
    return _likeliest(model, tokenizer, ids, ids == tokenizer.mask_id, top, temperature)


def _likeliest(
    model: Model, tokenizer: Tokenizer, ids: Tensor, at: Tensor, top: int, temperature: float
) -> list[tuple[int, float]]:
    """The likeliest tokens by the logits of one place, and their probabilities."""
    with torch.inference_mode():
        logits = model.head(model.body(ids)[at])[0].float()[: tokenizer.vocab_size]
    best = ((logits - logits.max()) / temperature).softmax(-1).topk(min(top, len(logits)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
