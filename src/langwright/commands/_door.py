"""Where a server listens, and the keys of its callers: the options that `serve` and `label` share."""

import os
from collections.abc import Sequence

from langwright.base.errors import UserError, check_flag
from langwright.base.extras import need

KEY = "LANGWRIGHT_API_KEY"


def caller_keys(command: str, port: int, host: str, api_key: Sequence[str]) -> list[str]:
    """The keys of callers, from flags and environment, once it is sure that the server may listen there.

    Raises:
        UserError: Names the flag: no such port, an empty key, an address that others can reach without a key.
    """
    need("fastapi", "server", command)
    need("uvicorn", "server", command)
    from langwright.serving.door import is_local

    keys = [*api_key, *([os.environ[KEY]] if os.environ.get(KEY) else [])]
    check_flag("api_key", "", all(key.strip() for key in keys), "a text that is not empty")
    check_flag("port", port, 0 <= port < 65536, "between 0 and 65535")
    if not is_local(host) and not keys:
        raise UserError(f"--host {host}: others can reach it, so callers must show a key; give --api-key or {KEY}")
    return keys
