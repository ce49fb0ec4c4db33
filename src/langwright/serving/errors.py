"""What a caller is told when a request is not answered: a status, and a body in OpenAI's form."""

import re
from collections.abc import Mapping
from typing import Any

from langwright.base.errors import UserError

KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    429: "rate_limit_error", 500: "server_error", 503: "unavailable_error", 504: "timeout_error",
}  # fmt: skip
"""The type of an error by its status; that of others is `invalid_request_error`."""
_FLAG = re.compile(r"--([a-z][a-z-]*)")


class RequestError(Exception):
    """Ends a request.

    Args:
        status: of HTTP.
        message: one line: what is wrong, naming the field.
        code: a word for programs.
        headers: further ones of the answer.
    """

    def __init__(self, status: int, message: str, code: str, headers: Mapping[str, str] = {}):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers)

    @classmethod
    def of(cls, error: UserError) -> "RequestError":
        """What the rooms below refuse, with fields in place of the flags that their lines name."""
        message = _FLAG.sub(lambda flag: flag[1].replace("-", "_"), str(error))
        return cls(400, message.replace("max_new_tokens", "max_tokens"), "invalid_request")

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "code": self.code}}


def too_many() -> RequestError:
    """What a caller is told where so many others wait that it may not."""
    return RequestError(429, "too many requests are waiting; try again later", "overloaded", {"Retry-After": "1"})
