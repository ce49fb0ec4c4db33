"""How commands tell their results: words for people on stderr, JSON for programs on stdout."""

import json
from typing import Any

from langwright.evaluation.likelihood import Likelihood


def tell_likelihood(result: Likelihood, what: str, as_json: bool) -> None:
    """A measurement of held-out text on stdout, units named."""
    if as_json:
        print_json(result.record())
        return
    print(
        f"{what}: loss {result.loss:.4f} nats per token, perplexity {result.perplexity:.2f} per token, "
        f"{result.bits_per_byte:.4f} bits per byte ({result.tokens:,} tokens, {result.bytes:,} bytes)"
    )


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    print(json.dumps(value, ensure_ascii=False))
