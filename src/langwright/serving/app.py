"""The routes: a body is read and checked, asked of a model, and told in OpenAI's form."""

import base64
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from langwright.inference.prompts import check_ids, check_length
from langwright.serving.answers import Call
from langwright.serving.beside import Line, stay
from langwright.serving.bodies import (
    MOST_PROMPTS,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    TokenizeBody,
)  # fmt: skip
from langwright.serving.composed import ServedCascade
from langwright.serving.door import App, Door
from langwright.serving.errors import RequestError
from langwright.serving.metrics import Metrics
from langwright.serving.page import CHAT
from langwright.serving.routes import application, read_body
from langwright.serving.served import Served
from langwright.serving.worker import Worker

Writing = Served | ServedCascade
FRONT_SECONDS = 10.0
"""The longest that templates and tokens, or the form of a request, may take, and that their turn is waited for."""


class Service:
    """The application, and what its routes share.

    Args:
        keys: of callers.
        deadline: seconds after which a text ends as it is.
        page: whether the chat page, which holds no data, is handed to who shows no key; without keys it always is.
    """

    def __init__(self, keys: Sequence[str] = (), deadline: float = 600.0, page: bool = False):
        self.deadline, self.metrics, self.created = deadline, Metrics(), int(time.time())
        self.served: Mapping[str, Writing] = {}
        self._front, self._forms = Line(FRONT_SECONDS), Line(FRONT_SECONDS)  # a tokenizer is used by one thread
        open_paths = ("/health", "/") if keys and page else ("/health",)
        self.app = Door(self._routes(), keys, self.metrics.answered, open_paths)

    def open(self, served: Sequence[Writing]) -> None:
        """Answer for these models from now on. To be called on the event loop."""
        self.served = {one.name: one for one in served}
        for worker in self._workers:
            worker.start()
        self._front.room = self._forms.room = sum(worker.room for worker in self._workers)
        self.metrics.watch({part.name: part for one in served for part in one.parts}.values())
        self.app.ready = True

    @property
    def _workers(self) -> Collection[Worker]:
        return {part.worker: None for one in self.served.values() for part in one.parts}

    def close(self) -> None:
        """Let the threads end."""
        for worker in self._workers:
            worker.close()

    def _routes(self) -> FastAPI:
        routes: dict[str, tuple[str, Any]] = {
            "/": ("GET", self._page), "/health": ("GET", self._health), "/ready": ("GET", self._ready),
            "/metrics": ("GET", self._metrics),
            "/v1/models": ("GET", self._models), "/v1/models/{name}": ("GET", self._model),
            "/v1/completions": ("POST", self._completions), "/v1/chat/completions": ("POST", self._chat),
            "/v1/embeddings": ("POST", self._embeddings),
            "/tokenize": ("POST", self._tokenize), "/detokenize": ("POST", self._detokenize),
        }  # fmt: skip
        self.metrics.routes = frozenset(routes)
        return application(routes)

    async def _page(self, request: Request) -> Response:
        return CHAT.response()

    async def _health(self, request: Request) -> Response:
        dead = [worker.dead for worker in self._workers if worker.dead is not None]
        if dead:
            raise RequestError(503, f"an engine has stopped: {dead[0]}", "engine_dead")
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if not self.app.ready:
            raise RequestError(503, "the model is being loaded", "loading")
        return await self._health(request)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._row(one) for one in self.served.values()]})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._row(self._find(request.path_params["name"])))

    def _row(self, one: Writing) -> dict[str, Any]:
        row = {"id": one.name, "object": "model", "created": self.created, "owned_by": "langwright"}
        return {**row, "parent": one.parent, "max_model_len": one.context, "task": one.task}

    def _model_named(self, name: str | None) -> Served:
        """A single model; RequestError where the name is that of several."""
        one = self._find(name)
        if not isinstance(one, Served):
            raise RequestError(400, f"model: {one.name} is several models, each with tokens of its own", "several")
        return one

    def _find(self, name: str | None) -> Writing:
        """What is served under a name; the first model unless one is named."""
        name = next(iter(self.served)) if name is None else name
        if name not in self.served:
            raise RequestError(404, f"model: {name} is not served, only {', '.join(self.served)}", "model_not_found")
        return self.served[name]

    async def _completions(self, request: Request) -> App:
        body = await read_body(request, CompletionBody)
        return await self._find(body.model).completed(body, self._call(request))

    async def _chat(self, request: Request) -> App:
        body = await read_body(request, ChatBody)
        return await self._find(body.model).answered(body, self._call(request))

    def _call(self, request: Request) -> Call:
        salt: str = request.scope["salt"]
        return Call(request.receive, salt, self.deadline, self._front, self._forms, self.metrics.ended)

    async def _embeddings(self, request: Request) -> Response:
        body = await read_body(request, EmbeddingBody)
        one = self._model_named(body.model)
        if one.writes:
            raise RequestError(400, f"model: {one.name} writes texts, and makes no vectors of them", "invalid_field")
        given: Any = body.input
        inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        if not all(inputs) or len(inputs) > MOST_PROMPTS:
            raise RequestError(400, f"input: must be 1 to {MOST_PROMPTS} texts, none of them empty", "invalid_field")

        def ids() -> list[list[int]]:
            one.check_texts(inputs)
            rows = [one.tokenizer.frame(text)[0] if isinstance(text, str) else text for text in inputs]
            return [check_length(one.model, check_ids(row, one.tokenizer.vocab_size, "input")) for row in rows]

        rows = await self._front.do(ids, request.receive)
        vectors = await stay(one.vectors(rows), request.receive, self.deadline)
        spelt = [v if body.encoding_format == "float" else _base64(v) for v in vectors]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(spelt)]
        count = sum(map(len, rows))
        self.metrics.tokens.labels(one.name, "read").inc(count)
        told = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": one.name, "usage": told})

    async def _tokenize(self, request: Request) -> Response:
        body = await read_body(request, TokenizeBody)
        one = self._model_named(body.model)
        encode = one.ids if body.add_special_tokens and body.prompt else one.tokenizer.encode
        ids = await self._front.do(partial(encode, body.prompt), request.receive)
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": one.model.context})

    async def _detokenize(self, request: Request) -> Response:
        body = await read_body(request, DetokenizeBody)
        one = self._model_named(body.model)
        text = await self._front.do(partial(one.tokenizer.decode, body.tokens), request.receive)
        return JSONResponse({"prompt": text})


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
