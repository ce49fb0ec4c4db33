"""llama.cpp in this process, asked over HTTP as its users do."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xllamacpp


class Written(NamedTuple):
    """ids: what was written. likeliest: at each position the logarithms of the probabilities of some ids."""

    ids: list[int]
    likeliest: list[dict[int, float]]


class LlamaCpp:
    """A server over one file."""

    def __init__(self, path: Path, embedding: bool = False) -> None:
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx, settings.n_parallel, settings.verbosity, settings.cache_ram_mib = 128, 1, 0, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        settings.warmup = False
        if embedding:
            settings.embedding, settings.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        self._server = xllamacpp.Server(settings)

    def _ask(self, path: str, **asked: Any) -> Any:
        address = self._server.listening_address + path
        request = urllib.request.Request(address, json.dumps(asked).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def tokens(self, text: str, special: bool = False) -> list[int]:
        """The ids of a text, bos and eos included where `special`."""
        asked = {"content": text, "add_special": special, "parse_special": False}
        found: list[int] = self._ask("/tokenize", **asked)["tokens"]
        return found

    def write(self, ids: Sequence[int], count: int) -> Written:
        """Greedy text after a prompt."""
        asked = {"prompt": list(ids), "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = self._ask("/completion", **asked, return_tokens=True, n_probs=4)
        each = [{top["id"]: top["logprob"] for top in at["top_logprobs"]} for at in answer["completion_probabilities"]]
        return Written(answer["tokens"], each)

    def hidden(self, text: str) -> list[list[float]]:
        """The hidden states of a text."""
        found: list[list[float]] = self._ask("/embeddings", content=text, embd_normalize=-1)[0]["embedding"]
        return found
