"""What a model that reads both sides puts in the place of a mask."""

import torch

from langwright.base.errors import UserError
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer


def likeliest_fillings(
    model: Model, tokenizer: Tokenizer, text: str, top: int, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """The `top` likeliest tokens for the mask in a text with their probabilities, likeliest first.

    Raises UserError for a model without a head for it, and for a text that does not name the mask once.
    """
    if model.task != "masked":
        raise UserError(
            f'a {model.family} model with the head "{model.task}" neither continues a text nor fills a mask; '
            'that takes the head "language" or "masked"'
        )
    mask = tokenizer.special_tokens.mask
    if mask is None:
        raise UserError("the tokenizer of this model has no mask token")
    if (count := text.count(mask)) != 1:
        raise UserError(f"the text must hold {mask} once, where a token is to be guessed; it holds it {count} times")
    ids = torch.tensor([tokenizer.frame(text, named=True)[0]], device=model.device)
    if ids.shape[1] > model.context:
        raise UserError(f"a text of {ids.shape[1]} tokens does not fit the model's context of {model.context} tokens")
    with torch.inference_mode():
        logits = model.head(model.body(ids)[ids == tokenizer.mask_id])[0].float()[: tokenizer.vocab_size]
    best = ((logits - logits.max()) / temperature).softmax(-1).topk(min(top, len(logits)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
