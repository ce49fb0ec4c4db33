"""Texts held to a form: JSON of a schema, a regular expression, one of several texts, a grammar.

The forms are those of llguidance, whose work for the mask of a token is bounded: a form from elsewhere that takes more
ends its own text with an error.
"""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.text.tokenizer import Tokenizer

Form = Literal["json_schema", "regex", "choices", "grammar"]
MOST_CHARACTERS = 50_000
"""Of the source of a form."""
STACK = 1 << 28
"""Bytes for reading a form, which takes 10 kB for a rule that names another."""
NESTED = 100
"""Levels of a schema."""
FUEL = 300_000
"""Expressions that the lexer of a form may take; `MOST_CHARACTERS` bounds the rest of the work of reading it."""


@dataclass(frozen=True)
class Constraint:
    """The form that a whole text has. JSON is written without free white space.

    Args:
        form: what the source is.
        source: a JSON schema; a regular expression in the syntax of Rust's regex; a JSON list of texts; a grammar in
            Lark's syntax, as llguidance reads it.
    """

    form: Form
    source: str

    def __post_init__(self) -> None:
        try:
            self.source.encode()
        except UnicodeEncodeError:
            self.refuse("holds characters that are no text")
        if len(self.source) > MOST_CHARACTERS:
            self.refuse(f"has {len(self.source):,} characters; at most {MOST_CHARACTERS:,} are read")
        if self.form in ("json_schema", "choices"):
            try:
                value = json.loads(self.source)
            except (ValueError, RecursionError) as error:
                self.refuse(f"is no JSON: {error}")
            if self.form == "choices" and not (
                isinstance(value, list) and value and all(isinstance(text, str) and text for text in value)
            ):
                self.refuse("is to be texts, at least one and none empty")
            if '"x-guidance"' in self.source:
                self.refuse('"x-guidance" is not taken: it changes how a schema is read')
            if _depth(value) > NESTED:
                self.refuse(f"is nested deeper than {NESTED} levels")

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.form.replace("_", "-")

    def refuse(self, why: str) -> NoReturn:
        """Raise UserError that names the form."""
        raise UserError(f"--{self.flag}: {why}")


class Matcher:
    """How far one text has come in its form.

    Args:
        matcher: llguidance's.
    """

    def __init__(self, matcher: Any):
        self._matcher = matcher

    def copy(self) -> "Matcher":
        """Another one that has come as far."""
        return Matcher(self._matcher.deep_copy())

    @property
    def error(self) -> str | None:
        """Why no token may come, where the form has failed."""
        return str(self._matcher.get_error()).splitlines()[0] if self._matcher.is_error() else None

    def allowed(self, vocabulary: int) -> Bool[np.ndarray, " vocabulary"]:
        """Which tokens may come next; those that end a text where the form is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, count=vocabulary, bitorder="little").view(bool)
        return np.zeros_like(allowed) if self._matcher.is_error() else allowed

    @property
    def complete(self) -> bool:
        """Whether the text has its form as it is, even if more may follow."""
        return bool(self._matcher.is_accepting()) and not self._matcher.is_error()

    def take(self, token: int) -> bool:
        """Go on with a token that was allowed; whether the form is complete by it, so that nothing can follow."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()


def hold(
    logits: Float[Tensor, "rows vocabulary"], matchers: Sequence[Matcher | None]
) -> Float[Tensor, "rows vocabulary"]:
    """The logits, -inf where the form of a row does not allow a token; rows without a form stay as they are."""
    if not any(matchers):
        return logits
    allowed = np.ones(logits.shape, bool)
    for row, matcher in enumerate(matchers):
        if matcher is not None:
            allowed[row] = matcher.allowed(logits.shape[1])
    return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)


class Constraints:
    """The forms that texts of a tokenizer are held to.

    Args:
        tokenizer: the model's.
        begins: whether a text begins anew, rather than going on after a prompt: tokenizers whose first token has a
            blank in front that the text has not may begin with it.
    """

    def __init__(self, tokenizer: Tokenizer, begins: bool):
        self._library = need("llguidance", "constraints", "a form for texts")
        self._spaced = begins and tokenizer.spelling.starts_with_space
        self._tokens, self._size = vocabulary_of(tokenizer), tokenizer.vocab_size
        self._compiled = lru_cache(maxsize=64)(self._compile)

    def begin(self, constraint: Constraint) -> Matcher:
        """A text of this form, before its first token; UserError where the form is invalid or takes too much."""
        return Matcher(self._compiled(constraint)).copy()

    def _compile(self, constraint: Constraint) -> Any:
        made: Any = getattr(self, f"_{constraint.form}")(constraint.source)
        if self._spaced:
            made = {"grammars": [{"lark_grammar": 'start: " "? @form'}, {**made["grammars"][0], "name": "form"}]}
        limits = self._library.LLParserLimits(initial_lexer_fuel=FUEL, verbose_errors=False)
        found: list[Any] = []

        def read() -> None:
            found.append(self._library.LLMatcher(self._tokens, json.dumps(made), log_level=0, limits=limits))

        before = threading.stack_size(STACK)  # rules that name each other are followed by recursion
        try:
            thread = threading.Thread(target=read)
            thread.start()
        finally:
            threading.stack_size(before)
        thread.join()
        (matcher,) = found
        if matcher.is_error():
            constraint.refuse(" ".join(str(matcher.get_error()).split())[:300])
        if not Matcher(matcher).copy().allowed(self._size).any():
            constraint.refuse("no text has this form")
        return matcher

    def _json_schema(self, source: str) -> Any:
        overrides = {"whitespace_flexible": False}
        try:
            return json.loads(self._library.LLMatcher.grammar_from_json_schema(source, overrides=overrides))
        except ValueError as error:
            raise UserError(f"--json-schema: {error}") from None

    def _regex(self, source: str) -> Any:
        return json.loads(self._library.LLMatcher.grammar_from_regex(source))

    def _choices(self, source: str) -> Any:
        texts = (json.dumps(text, ensure_ascii=False) for text in json.loads(source))
        return self._grammar("start: " + " | ".join(texts))

    def _grammar(self, source: str) -> Any:
        return {"grammars": [{"lark_grammar": source}]}


def vocabulary_of(tokenizer: Tokenizer) -> Any:
    """The tokens of a tokenizer as llguidance takes them."""
    library = need("llguidance", "constraints", "a form for texts")
    vocabulary = _Vocabulary(tokenizer)
    vocabulary.made = library.LLTokenizer(
        library.TokenizerWrapper(vocabulary), eos_token=vocabulary.ends, n_vocab=len(vocabulary.tokens)
    )
    return vocabulary.made


class _Vocabulary:
    """What llguidance asks of a tokenizer; one without an end of texts gets one more token, which no model has."""

    bos_token_id = None
    made: Any

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, size = tokenizer, tokenizer.vocab_size
        special = tokenizer.special_ids.union(tokenizer.ends)
        spelt = (tokenizer.token(i).encode() if i in special else tokenizer.token_bytes(i) for i in range(size))
        self.ends = list(tokenizer.ends) or [size]
        self.tokens = [*spelt, *([] if tokenizer.ends else [b"<end>"])]
        self.eos_token_id, self.special_token_ids = self.ends[0], sorted(special.union(self.ends))

    def __call__(self, text: str) -> list[int]:
        """The ids of text that a form forces: those that the tokenizer gives it, where they spell just that."""
        ids = self._tokenizer.encode(text)
        exact = b"".join(map(self._tokenizer.token_bytes, ids)) == text.encode()
        return ids if exact else list(self.made.greedy_tokenize(text))


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other."""
    depth, level = 0, [value]
    while level := [one for outer in level if isinstance(outer, (dict, list)) for one in _inside(outer)]:
        depth += 1
    return depth


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
