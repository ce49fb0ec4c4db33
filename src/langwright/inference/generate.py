"""Text from a model, token by token: one prompt streamed, or a batch of prompts side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from langwright.base.errors import UserError, check_flag
from langwright.data.reading import sentinels
from langwright.inference.beam import beam_search
from langwright.inference.request import Reading, Request, padded
from langwright.inference.sampling import Rules, Sampling, Search, adjust, apply_rules, draw
from langwright.inference.sinks import Streaming
from langwright.models.model import Frame, Model
from langwright.text.tokenizer import StreamDecoder, Tokenizer

Reason = Literal["length", "end", "stop"]


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt.

    Attributes:
        text: what the ids add to the text of the prompt, so that both joined are the whole text.
        ids: the new tokens.
        reason: the limit was reached, the document ended, or a stop string came.
    """

    text: str
    ids: list[int]
    reason: Reason


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids a model is given for a prompt; an empty one begins with bos where any other would not."""
    ids = [*tokenizer.prefix, *tokenizer.encode(text)]
    if not ids and tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id]
    if not ids:
        raise UserError("the prompt is empty and this tokenizer has no token that begins a text; give a prompt")
    return ids


def complete(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    max_new_tokens: int | None = None,
    stop: Sequence[str] = (),
    *,
    cache: bool = True,
    on_text: Callable[[int, str], None] = lambda row, text: None,
    streaming: Streaming | None = None,
    search: Search = Search(),
) -> list[Completion]:
    """Continue each prompt until its document ends, a stop string comes, or the limit is reached.

    Args:
        model: a model that writes text; an encoder-decoder reads the prompts and writes texts of its own.
        tokenizer: the model's.
        prompts: texts, or ids, as a chat template makes them.
        sampling: one for all, or one a prompt. Each sequence draws from a generator of its own, so that a prompt gives
            the same tokens alone and in a batch.
        max_new_tokens: by default what the context has room for, at most 256.
        stop: strings that end a text; they and what follows are left out.
        cache: whether keys and values are kept between steps.
        on_text: called with row and text as soon as text is final, which with several beams is at the end.
        streaming: forget the middle of a text that grows too long, so that it may go on past the model's context.
        search: beams, and rules for what may come.

    Raises:
        UserError: settings that exclude each other, or a prompt that does not fit.
    """
    if not prompts:
        return []
    if "" in stop:
        raise UserError("an empty stop string would stop at once; leave it out")
    if streaming is not None and search.beams > 1:
        raise UserError(f"--window: has no place beside --beams {search.beams}, which keep whole texts; leave one out")
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    if search.beams > 1:
        _refuse_draws(samplings)
    memory = None
    if model.encoders:
        sources = [
            source_ids(model, tokenizer, p) if isinstance(p, str) else check_length(model, list(p)) for p in prompts
        ]
        with torch.inference_mode():
            memory = model.encode(*padded(sources, model.device, "right"), remember=cache)
        rows = [[model.frame.start] for _ in sources]
    else:
        rows = [prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
    limit = _limit(None if streaming else model.context, max(map(len, rows)), max_new_tokens)
    request = Request(
        rows, samplings, limit, tokenizer.ends, cache, tokenizer.vocab_size, streaming, search,
        model.frame, memory,
    )  # fmt: skip
    writers = [_Writer(tokenizer, ids, stop, partial(on_text, row)) for row, ids in enumerate(rows)]
    steps = generate_ids(model, request, lambda row: writers[row].reason is not None)
    if search.beams > 1:
        best = beam_search(model, request)
        steps = ((row, token) for row, tokens in enumerate(best) for token in tokens)
    for row, token in steps:
        if writers[row].reason is None:
            writers[row].take(token)
    return [writer.close() for writer in writers]


def _refuse_draws(samplings: Sequence[Sampling]) -> None:
    """Beam search draws nothing: a setting of the draw would be ignored."""
    for sampling in samplings:
        for name, value in vars(sampling).items():
            if value != getattr(Sampling(), name) and (name, value) != ("temperature", 0):
                raise UserError(f"--{name.replace('_', '-')} {value}: has no place beside --beams, which draws nothing")


def generate_ids(
    model: Model, request: Request, finished: Callable[[int], bool] = lambda row: False
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) for every new token; a row leaves the batch once `finished(row)` holds after its token."""
    reading, samplings, search, frame = Reading(model, request), request.samplings, request.search, request.frame
    generators = [torch.Generator().manual_seed(sampling.seed) for sampling in samplings]
    active = list(range(len(request.rows)))
    written = [list(row) for row in request.rows]
    rules = Rules.of(frame, search.no_repeat_ngram)
    free = not search.no_repeat_ngram and (frame is None or frame == Frame(frame.start, frame.source_bos))
    likeliest = free and all(s.temperature == 0 and s.repetition_penalty == 1 for s in samplings)
    for new in range(request.max_new_tokens):
        left = request.max_new_tokens - new - 1
        logits = reading.logits()
        if likeliest:
            tokens = logits.float().argmax(-1).tolist()
        else:
            there, count = [written[row] for row in active], len(active)
            allowed = apply_rules(logits, [rules] * count, there, [new] * count, [left] * count)
            chosen = [samplings[row] for row in active]
            tokens = draw(adjust(allowed, chosen, there, [new] * count), chosen, [generators[row] for row in active])
        for row, token in zip(active, tokens, strict=True):
            written[row].append(token)
            yield row, token
        going = [i for i, row in enumerate(active) if not finished(row)]
        if not going or not left:
            return
        reading.go_on(going, [tokens[i] for i in going])
        active = [active[i] for i in going]


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


def check_length(model: Model, ids: list[int], what: str = "text") -> list[int]:
    """The ids; UserError where they do not fit the model's context."""
    if model.context is not None and len(ids) > model.context:
        raise UserError(f"a {what} of {len(ids)} tokens does not fit the model's context of {model.context} tokens")
    return ids


def _limit(context: int | None, longest: int, wanted: int | None) -> int:
    """How many tokens to write; `context` None has no end."""
    check_flag("max_new_tokens", wanted, wanted is None or wanted >= 1, "at least 1")
    if context is None:
        return wanted or 256
    room = context - longest
    if room < (wanted or 1):
        more = f" and {wanted} new ones" if wanted else ""
        raise UserError(f"a prompt of {longest} tokens{more} does not fit the model's context of {context} tokens")
    return min(room, 256) if wanted is None else wanted


class _Writer:
    """The text of one sequence: decodes tokens as they come and holds back what may become a stop string."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], emit: Callable[[str], None]
    ) -> None:
        self._ends, self._stop, self._emit = tokenizer.ends, stop, emit
        self._decoder = StreamDecoder(tokenizer, prompt)
        self._text = ""
        self._emitted = 0
        self._ids: list[int] = []
        self.reason: Reason | None = None

    def take(self, token: int) -> None:
        self._ids.append(token)
        if token in self._ends:
            self.reason = "end"
        else:
            self._extend(self._decoder.feed(token))

    def close(self) -> Completion:
        if self.reason != "stop":
            self._extend(self._decoder.flush())
            self._release(len(self._text))
        return Completion(self._text, self._ids, self.reason or "length")

    def _extend(self, text: str) -> None:
        self._text += text
        found = [at for stop in self._stop if (at := self._text.find(stop, self._searched(stop))) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.reason = "stop"
        self._release(len(self._text) if found else len(self._text) - self._held())

    def _searched(self, stop: str) -> int:
        """Text before this place was searched for the stop string already."""
        return max(0, self._emitted - len(stop) + 1)

    def _held(self) -> int:
        """How many characters at the end begin a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        sizes = range(min(longest, len(self._text)), 0, -1)
        return next((n for n in sizes if any(stop.startswith(self._text[-n:]) for stop in self._stop)), 0)

    def _release(self, until: int) -> None:
        if until > self._emitted:
            self._emit(self._text[self._emitted : until])
            self._emitted = until


def next_tokens(
    model: Model, tokenizer: Tokenizer, text: str, top: int, temperature: float = 1.0
) -> list[tuple[int, float]]:
    """The `top` likeliest next tokens of a text with their probabilities, likeliest first."""
    ids = torch.tensor([check_length(model, prompt_ids(tokenizer, text))], device=model.device)
    at = torch.arange(ids.shape[1], device=model.device) == ids.shape[1] - 1
    return _likeliest(model, tokenizer, ids, at[None], top, temperature)


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
