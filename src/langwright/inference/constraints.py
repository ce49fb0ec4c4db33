"""Texts held to a form: JSON of a schema, a regular expression, one of several texts, a grammar.

The forms are those of llguidance, whose masks are computed token by token with bounded work, so that a form from
elsewhere can be refused but cannot hang the engine.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from langwright.base.errors import UserError
from langwright.base.extras import need
from langwright.text.tokenizer import Tokenizer

Form = Literal["json_schema", "regex", "choices", "grammar"]
MOST_CHARACTERS = 200_000
"""Of the source of a form."""
NESTED = 100
"""Levels of a schema."""


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
        if len(self.source) > MOST_CHARACTERS:
            self._refuse(f"has {len(self.source):,} characters; at most {MOST_CHARACTERS:,} are read")
        if self.form in ("json_schema", "choices"):
            try:
                value = json.loads(self.source)
            except (ValueError, RecursionError) as error:
                self._refuse(f"is no JSON: {error}")
            if self.form == "choices" and not (
                isinstance(value, list) and value and all(isinstance(text, str) and text for text in value)
            ):
                self._refuse("is to be texts, at least one and none empty")
            if _depth(value) > NESTED:
                self._refuse(f"is nested deeper than {NESTED} levels")

    def _refuse(self, why: str) -> None:
        raise UserError(f"--{self.form.replace('_', '-')}: {why}")


class Matcher:
    """How far one text has come in its form.

    Args:
        matcher: llguidance's.
    """

    def __init__(self, matcher: Any):
        self._matcher = matcher

    @property
    def ended(self) -> bool:
        """Whether the form is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def error(self) -> str | None:
        """Why no token may come, where the form has failed."""
        return str(self._matcher.get_error()).splitlines()[0] if self._matcher.is_error() else None

    def allowed(self, vocabulary: int) -> Bool[np.ndarray, " vocabulary"]:
        """Which tokens may come next; those that end a text where the form is complete."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, count=vocabulary, bitorder="little").view(bool)
        return np.zeros_like(allowed) if self._matcher.is_error() else allowed

    def take(self, token: int) -> None:
        """Go on with a token that was allowed."""
        self._matcher.consume_token(token)


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
        self._tokens = vocabulary_of(tokenizer)
        self._compiled = lru_cache(maxsize=64)(self._compile)

    def begin(self, constraint: Constraint) -> Matcher:
        """A text of this form, before its first token; UserError where the form is invalid or takes too much."""
        return Matcher(self._compiled(constraint).deep_copy())

    def _compile(self, constraint: Constraint) -> Any:
        made: Any = getattr(self, f"_{constraint.form}")(constraint.source)
        if self._spaced:
            made = {"grammars": [{"lark_grammar": 'start: " "? @form'}, {"name": "form", **made["grammars"][0]}]}
        matcher = self._library.LLMatcher(self._tokens, json.dumps(made), log_level=0)
        if matcher.is_error():
            constraint._refuse(" ".join(str(matcher.get_error()).split())[:300])
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
    size = tokenizer.vocab_size
    special = set(tokenizer.special_ids) | set(tokenizer.ends)

    class Vocabulary:
        """What `TokenizerWrapper` asks for; without a token that ends texts, one more that no model has."""

        tokens = [tokenizer.token(i).encode() if i in special else tokenizer.token_bytes(i) for i in range(size)]
        tokens += [] if tokenizer.ends else [b"<end>"]
        eos_token_id = tokenizer.ends[0] if tokenizer.ends else size
        bos_token_id = None
        special_token_ids = sorted(special) or [size]

        def __call__(self, text: str) -> list[int]:
            """The ids of text that a form forces: those that the tokenizer gives it, where they spell just that."""
            ids = tokenizer.encode(text)
            return ids if b"".join(map(tokenizer.token_bytes, ids)) == text.encode() else made.greedy_tokenize(text)

    made = library.LLTokenizer(
        library.TokenizerWrapper(Vocabulary()), eos_token=list(tokenizer.ends) or [size]
    )
    return made


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other."""
    depth, level = 0, [value]
    while level := [
        inner
        for outer in level
        for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
    ]:
        depth += 1
    return depth
