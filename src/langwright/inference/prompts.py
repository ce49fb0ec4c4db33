"""The ids that a model is given for a text."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from langwright.base.errors import UserError, check_flag
from langwright.data.reading import sentinels
from langwright.models.model import Model
from langwright.text.tokenizer import Tokenizer


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids a model is given for a prompt; an empty one begins with bos where any other would not."""
    ids = [*tokenizer.prefix, *tokenizer.encode(text)]
    if not ids and tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id]
    if not ids:
        raise UserError("the prompt is empty and this tokenizer has no token that begins a text; give a prompt")
    return ids


def source_ids(model: Model, tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids an encoder is given for a text; UserError where it is empty or does not fit.

    Where the text names the mask or a sentinel, names of special tokens mean those tokens.
    """
    begin = tokenizer.bos_id if model.frame.source_bos else None
    gaps = [tokenizer.special_tokens.mask, *map(tokenizer.token, sentinels(tokenizer))]
    named = any(name is not None and name in text for name in gaps)
    inner = tokenizer.encode_named(text) if named else tokenizer.encode(text)
    ids = [token for token in (begin, *inner, tokenizer.eos_id) if token is not None]
    if not ids:
        raise UserError("the text is empty and this tokenizer has no token that ends one; give a text")
    return check_length(model, ids)


def given_ids(model: Model, tokenizer: Tokenizer | None, prompt: str | Sequence[int]) -> list[int]:
    """The ids of a prompt: of what the encoder reads, where there is one.

    Raises:
        UserError: It is empty, too long, or holds an id that the model does not have.
    """
    if not isinstance(prompt, str):
        ids = check_ids(prompt, model.vocabulary if tokenizer is None else tokenizer.vocab_size, "the prompt")
        if not ids:
            raise UserError("the prompt has no ids; give one at least")
    elif tokenizer is None:
        raise UserError("a prompt of text needs a tokenizer; give ids, or make the engine with one")
    else:
        ids = source_ids(model, tokenizer, prompt) if model.encoders else prompt_ids(tokenizer, prompt)
    return check_length(model, ids) if model.encoders else ids


def check_ids(ids: Iterable[int], vocabulary: int, where: str) -> list[int]:
    """The ids; UserError where one is none of the vocabulary."""
    ids = list(ids)
    for token in ids:
        if not 0 <= token < vocabulary:
            raise UserError(f"{where}: token {token} is outside the vocabulary: ids go from 0 to {vocabulary - 1}")
    return ids


def check_length(model: Model, ids: list[int], what: str = "text") -> list[int]:
    """The ids; UserError where they do not fit the model's context."""
    if model.context is not None and len(ids) > model.context:
        raise UserError(f"a {what} of {len(ids)} tokens does not fit the model's context of {model.context} tokens")
    return ids


def length_limit(context: int | None, longest: int, wanted: int | None) -> int:
    """How many tokens to write after a prompt of so many; `context` None has no end."""
    check_flag("max_new_tokens", wanted, wanted is None or wanted >= 1, "at least 1")
    if context is None:
        return wanted or 256
    room = context - longest
    if room < (wanted or 1):
        more = f" and {wanted} new ones" if wanted else ""
        raise UserError(f"a prompt of {longest} tokens{more} does not fit the model's context of {context} tokens")
    return min(room, 256) if wanted is None else wanted


def padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"] | None]:
    """Ids with padding at the right, and what is real; no mask when all are equally long."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)
    real = ids >= 0
    return ids.clamp(min=0).to(device), None if real.all() else real.to(device)
