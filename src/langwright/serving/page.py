"""The pages: each is one file, whose headers let the browser run what is in it and nothing else."""

import base64
import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import final

from starlette.responses import Response


@final
class Page:
    """A page of its own.

    Args:
        name: of the file beside this one.
        media: where pictures, sounds and videos come from, as a Content-Security-Policy spells it.
    """

    def __init__(self, name: str, media: str = "data:"):
        self.text, self._media = (Path(__file__).parent / name).read_text("utf-8"), media

    @cached_property
    def headers(self) -> dict[str, str]:
        """What the browser is told of it."""
        policy = (
            "default-src 'none'",
            f"script-src {self._hash('script')}",
            f"style-src {self._hash('style')}",
            "connect-src 'self'",
            f"img-src {self._media}",  # the icon is empty data
            f"media-src {self._media}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # no string becomes HTML
            "trusted-types 'none'",
        )
        return {
            "Content-Security-Policy": "; ".join(policy),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }

    def response(self) -> Response:
        """The answer to who asks for the page."""
        return Response(self.text, media_type="text/html", headers=self.headers)

    def _hash(self, tag: str) -> str:
        """Of the one element of this name, as a Content-Security-Policy names what may run."""
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", self.text, flags=re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


CHAT = Page("chat.html")
