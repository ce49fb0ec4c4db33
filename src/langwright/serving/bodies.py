"""The bodies of requests, field by field: what is not listed here, or out of its bounds, is refused by its name."""

import json
import secrets
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from langwright.inference.constraints import Constraint
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.serving.body import LONGEST_TEXT, Body
from langwright.serving.errors import RequestError

MOST_MESSAGES, MOST_TOOLS, MOST_PROMPTS = 1024, 64, 64
MOST_TEXTS, MOST_LOGPROBS = 16, 20
"""Of `n` and `best_of`, and of the likeliest tokens beside each."""
MOST_STOPS, LONGEST_STOP, MOST_BIASES = 8, 128, 1024
LONGEST_FORM = 10_000
"""Characters of a regular expression and of a grammar, whose mistakes are found in up to the square of them."""

Token = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Source = Annotated[str, Field(max_length=LONGEST_FORM)]
Name = Annotated[str, Field(max_length=128)]
Text = str | list[Token] | list[str] | list[list[Token]]


class StreamOptions(Body):
    """Of a stream: whether a last chunk says how many tokens there were."""

    include_usage: bool = False


class JsonSchema(Body):
    """A schema, which is always kept to, strict or not."""

    name: Name = "answer"
    description: str | None = None
    strict: bool | None = None
    content: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema goes with type "json_schema"')
        return self

    @property
    def constraint(self) -> Constraint | None:
        """What the engine holds the text to."""
        if self.type == "text":
            return None
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.content
        return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))


class StructuredOutputs(Body):
    """Forms beside JSON, as vLLM names them; one of them."""

    regex: Source | None = None
    choice: list[str] | None = None
    grammar: Source | None = None

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        if sum(form is not None for form in (self.regex, self.choice, self.grammar)) != 1:
            raise ValueError("give one of regex, choice and grammar")
        return self

    @property
    def constraint(self) -> Constraint:
        """What the engine holds the text to."""
        if self.regex is not None:
            return Constraint("regex", self.regex)
        if self.choice is not None:
            return Constraint("choices", json.dumps(self.choice, ensure_ascii=False))
        return Constraint("grammar", self.grammar or "")


class Generation(Body):
    """What both kinds of texts have in common. The names are OpenAI's, and vLLM's where OpenAI has none."""

    model: Name | None = None
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    n: int = Field(1, ge=1, le=MOST_TEXTS)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    typical_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, ge=1e-6, le=1e6)
    presence_penalty: float = Field(0.0, ge=-100, le=100)
    frequency_penalty: float = Field(0.0, ge=-100, le=100)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=MOST_BIASES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream")
        if any(not (token.isascii() and token.isdecimal()) or len(token) > 9 for token in self.logit_bias or ()):
            raise ValueError("logit_bias: its keys are ids of tokens")
        if self.response_format is not None and self.structured_outputs is not None:
            raise ValueError("response_format and structured_outputs exclude each other")
        return self

    @property
    def usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def constraint(self) -> Constraint | None:
        """The form of the text."""
        form = self.response_format or self.structured_outputs
        return None if form is None else form.constraint

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end the text."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def request(self, prompt: list[int], **more: Any) -> Request:
        """What the engine is asked; texts without a seed get one by chance."""
        drawn = {field.name for field in fields(Sampling)} - {"seed"}
        seed = secrets.randbelow(2**63) if self.seed is None else self.seed
        return Request(
            prompt,
            Sampling(seed=seed, **{name: getattr(self, name) for name in drawn}),
            max_new_tokens=self.max_tokens,
            stop=self.stops,
            n=self.n,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            **more,
        )


class CompletionBody(Generation):
    """Of /v1/completions."""

    prompt: Text
    best_of: int | None = Field(None, ge=1, le=MOST_TEXTS)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    @model_validator(mode="after")
    def _whole(self) -> "CompletionBody":
        if self.stream and self.echo:
            raise ValueError("echo: has no place beside stream")
        if self.stream and (self.best_of or self.n) > self.n:
            raise ValueError("best_of: the best of several texts are known at the end only, which is no stream")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError("best_of: must be at least n")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 goes with echo only")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, of one or of several."""
        given: Any = self.prompt
        many = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        if len(many) > MOST_PROMPTS:
            raise RequestError(400, f"prompt: {len(many)} prompts; at most {MOST_PROMPTS} are taken", "invalid_field")
        return many


class TextPart(Body):
    """A part of what is said."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """A function that was called; the arguments are JSON."""

    name: Name
    arguments: str


class ToolCall(Body):
    """A call that an assistant made."""

    id: Name
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MOST_TOOLS)
    tool_call_id: Name | None = None

    def row(self) -> dict[str, Any]:
        """What a template sees: text in one piece, and arguments as an object."""
        content = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content
        row: dict[str, Any] = {"role": self.role, "content": content or ""}
        row |= {name: value for name in ("name", "tool_call_id") if (value := getattr(self, name)) is not None}
        if self.tool_calls:
            row["tool_calls"] = [self._called(call) for call in self.tool_calls]
        return row

    @staticmethod
    def _called(call: ToolCall) -> dict[str, Any]:
        try:
            arguments = json.loads(call.function.arguments)
        except (ValueError, RecursionError):
            raise RequestError(400, "tool_calls.function.arguments: not valid JSON", "invalid_field") from None
        return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


class Function(Body):
    """A function that may be called; what it takes is a JSON schema, which its arguments always fit."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


class Tool(Body):
    """A tool."""

    type: Literal["function"]
    function: Function

    def row(self) -> dict[str, Any]:
        """What a template sees."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True, exclude={"strict"})}


class ChosenFunction(Body):
    """The name of the function that is to be called."""

    name: Name


class ChosenTool(Body):
    """The tool that is to be called."""

    type: Literal["function"]
    function: ChosenFunction


class ChatBody(Generation):
    """Of /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)
    tools: list[Tool] | None = Field(None, max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool = True

    @model_validator(mode="after")
    def _whole(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: goes with logprobs")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_completion_tokens: is max_tokens by another name; give one")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools: two have the same name")
        chosen = self.tool_choice
        if isinstance(chosen, ChosenTool) and chosen.function.name not in names:
            raise ValueError(f"tool_choice: no tool is called {chosen.function.name}")
        if chosen in ("auto", "required") and not names:
            raise ValueError("tool_choice: there are no tools")
        return self

    @property
    def callable(self) -> list[Function]:
        """The functions that may be called here."""
        functions = [tool.function for tool in self.tools or ()]
        if isinstance(self.tool_choice, ChosenTool):
            return [one for one in functions if one.name == self.tool_choice.function.name]
        return [] if self.tool_choice == "none" else functions


class EmbeddingBody(Body):
    """Of /v1/embeddings."""

    model: Name | None = None
    input: Text
    encoding_format: Literal["float", "base64"] = "float"


class TokenizeBody(Body):
    """Of /tokenize."""

    model: Name | None = None
    prompt: str = Field(max_length=LONGEST_TEXT)
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    """Of /detokenize."""

    model: Name | None = None
    tokens: list[Token]
