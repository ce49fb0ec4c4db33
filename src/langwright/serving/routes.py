"""An application of routes: bodies are read as their fields say, and every refusal is told in one form."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from langwright.base.errors import UserError
from langwright.serving.body import Parsed
from langwright.serving.errors import RequestError


def application(routes: Mapping[str, tuple[str, Any]]) -> FastAPI:
    """What answers at these paths, each with its method and its function, and nowhere else."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for kind in (RequestError, UserError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    for path, (method, route) in routes.items():
        app.add_route(path, route, methods=[method])
    return app


async def read_body(request: Request, kind: type[Parsed]) -> Parsed:
    """The body of a request. Raises RequestError where it is no JSON of this kind."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":  # which no form on another page can send
        raise RequestError(415, "Content-Type: must be application/json", "invalid_content_type")
    try:
        return kind.read(await request.body())
    except ClientDisconnect:
        raise RequestError(400, "the body ends before its end", "incomplete_body") from None


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, UserError):
        error = RequestError.of(error)
    if isinstance(error, HTTPException):
        error = RequestError(error.status_code, f"{request.method} {request.url.path}: {error.detail}", "no_such_route")
    if not isinstance(error, RequestError):  # a mistake of ours; it is logged
        error = RequestError(500, "the server has made a mistake", "internal_error")
    return JSONResponse(error.body, error.status, error.headers)
