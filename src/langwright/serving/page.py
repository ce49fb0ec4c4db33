"""The chat page: one file, whose headers let the browser run what is in it and nothing else."""

import base64
import hashlib
import re
from pathlib import Path


def _hash(tag: str) -> str:
    """Of the one element of this name, as a Content-Security-Policy names what may run."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


PAGE = (Path(__file__).parent / "chat.html").read_text("utf-8")
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash('script')}",
            f"style-src {_hash('style')}",
            "connect-src 'self'",
            "img-src data:",  # the icon, which is empty
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",  # no string becomes HTML
            "trusted-types 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
