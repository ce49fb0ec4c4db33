"""What is answered: OpenAI's objects for texts, whole and in chunks."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

from langwright.inference.request import Completion, Logprob
from langwright.serving.tools import ToolForm
from langwright.text.tokenizer import StreamDecoder, Tokenizer

Json = dict[str, Any]
REASONS = {"end": "stop", "stop": "stop", "length": "length", "deadline": "deadline", "cancelled": "cancelled"}
"""Why a text ended, in OpenAI's words and two more."""


class Envelope:
    """What stands around the choices of an answer. counts: whether chunks have a place for the usage."""

    def __init__(self, kind: str, prefix: str, model: str, counts: bool):
        self.kind, self._counts = kind, counts
        self._common: Json = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, choices: list[Json], usage: Json) -> Json:
        """An answer in one piece."""
        return {**self._common, "object": self.kind, "choices": choices, "usage": usage}

    def chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        """A piece of an answer."""
        kind = "chat.completion.chunk" if self.kind == "chat.completion" else self.kind
        told = {**self._common, "object": kind, "choices": choices}
        return {**told, "usage": usage} if self._counts else told


def usage(prompt: int, written: int) -> Json:
    """How many tokens there were."""
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


class CompletionReply:
    """Texts of /v1/completions.

    Args:
        tokenizer: names the tokens.
        n: texts of a prompt.
        logprobs: how many likeliest tokens are told, if any are.
        echoes: of each prompt its text and its ids, where they are to stand before what follows.
        written: whether what follows is told at all.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n: int,
        logprobs: int | None,
        echoes: Sequence[tuple[str, Sequence[int]]] = (),
        written: bool = True,
    ):
        self._tokenizer, self._n, self._top, self._echoes, self._written = tokenizer, n, logprobs, echoes, written
        self._spelt: dict[int, tuple[StreamDecoder, int]] = {}

    def choice(self, number: int, completion: Completion) -> Json:
        """A text, behind its prompt where that is asked for."""
        text = completion.text if self._written else ""
        measured: list[Logprob | int] = [*(completion.logprobs or ())] if self._written else []
        if self._echoes:
            before, ids = self._echoes[number // self._n]
            text = before + text
            measured = [*ids[:1], *(completion.prompt_logprobs or ()), *measured]
        reason = REASONS[completion.reason] if self._written else "length"
        return self._told(number, text, measured, reason)

    def piece(self, number: int, text: str, logprobs: Sequence[Logprob]) -> list[Json]:
        """The next words."""
        return [self._told(number, text, logprobs, None)] if text or logprobs else []

    def last(self, number: int, completion: Completion) -> list[Json]:
        """What is left, which is why it ended."""
        return [self._told(number, "", (), REASONS[completion.reason])]

    def _told(self, number: int, text: str, logprobs: Sequence[Logprob | int], reason: str | None) -> Json:
        told = None if self._top is None else self._logprobs(number, logprobs)
        return {"index": number, "text": text, "logprobs": told, "finish_reason": reason}

    def _logprobs(self, number: int, measured: Sequence[Logprob | int]) -> Json:
        """The older form: four lists. The first token of a prompt is a bare id, for nothing predicts it."""
        token = self._tokenizer.token
        ids = [one if isinstance(one, int) else one.token for one in measured]
        (decoder, at), offsets = self._spelt.get(number) or (StreamDecoder(self._tokenizer), 0), []
        for id in ids:
            offsets.append(at)
            at += len(decoder.feed(id))
        self._spelt[number] = decoder, at
        tops = [None if isinstance(m, int) else {token(id): p for id, p in reversed(m.top)} for m in measured]
        return {
            "tokens": [token(id) for id in ids],
            "token_logprobs": [None if isinstance(m, int) else m.logprob for m in measured],
            "top_logprobs": tops if self._top else None,
            "text_offset": offsets,
        }


class ChatReply:
    """Answers of /v1/chat/completions.

    Args:
        tokenizer: names the tokens.
        logprobs: whether log-probabilities are told.
        tools: the form of calls, where any may be made.
    """

    def __init__(self, tokenizer: Tokenizer, logprobs: bool, tools: ToolForm | None):
        self._tokenizer, self._measured, self._tools = tokenizer, logprobs, tools
        self._heard: dict[int, str] = {}
        self._given: dict[int, int] = {}

    def choice(self, number: int, completion: Completion) -> Json:
        """An answer, and the calls in it."""
        content, calls = self._parsed(completion.text)
        message: Json = {"role": "assistant", "content": content or None if calls else content}
        if calls:
            message["tool_calls"] = calls
        return {
            "index": number,
            "message": message,
            "logprobs": self._logprobs(completion.logprobs or ()),
            "finish_reason": self._reason(completion, bool(calls)),
        }

    def piece(self, number: int, text: str, logprobs: Sequence[Logprob]) -> list[Json]:
        """The next words, and before the first who says them; of what may be a call nothing is told before its end."""
        told = [] if number in self._heard else [self._told(number, {"role": "assistant", "content": ""})]
        heard = self._heard[number] = self._heard.get(number, "") + text
        said = self._said(number, heard if self._tools is None else self._tools.before_calls(heard))
        return [*told, self._told(number, {"content": said}, logprobs)] if said or logprobs else told

    def last(self, number: int, completion: Completion) -> list[Json]:
        """What is left, the calls, and why it ended."""
        content, calls = self._parsed(completion.text)
        said = self._said(number, content)
        told = [self._told(number, {"content": said})] if said else []
        if calls:
            told.append(self._told(number, {"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}))
        return [*told, self._told(number, {}, reason=self._reason(completion, bool(calls)))]

    def _said(self, number: int, text: str) -> str:
        """What of a text was not told yet."""
        given = self._given.get(number, 0)
        self._given[number] = max(given, len(text))
        return text[given:]

    def _told(self, number: int, delta: Json, logprobs: Sequence[Logprob] = (), reason: str | None = None) -> Json:
        told = self._logprobs(logprobs) if logprobs else None
        return {"index": number, "delta": delta, "logprobs": told, "finish_reason": reason}

    def _parsed(self, text: str) -> tuple[str, list[Json]]:
        return (text, []) if self._tools is None else self._tools.parse(text)

    @staticmethod
    def _reason(completion: Completion, calls: bool) -> str:
        return "tool_calls" if calls and completion.reason == "end" else REASONS[completion.reason]

    def _logprobs(self, logprobs: Sequence[Logprob]) -> Json | None:
        if not self._measured:
            return None
        rows = [(self._named(m.token, m.logprob), [self._named(*top) for top in m.top]) for m in logprobs]
        return {"content": [{**own, "top_logprobs": likeliest} for own, likeliest in rows]}

    def _named(self, token: int, logprob: float) -> Json:
        spelt = self._tokenizer.token_bytes(token)
        return {"token": self._tokenizer.token(token), "logprob": logprob, "bytes": list(spelt)}


Reply = CompletionReply | ChatReply
