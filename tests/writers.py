"""Texts of an engine as ids, and small models that write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langwright import load_model
from langwright.inference.engine import Engine
from langwright.inference.request import Request
from langwright.inference.sampling import Sampling
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.lstm_attention import LSTMAttentionConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from oracles import CASES, SOURCED, oracle, perturb, sourced_oracle

GREEDY = Sampling(temperature=0)
SAMPLINGS = [
    GREEDY,
    Sampling(seed=3),
    Sampling(0.7, top_k=20, top_p=0.9, seed=4),
    Sampling(1.3, min_p=0.02, repetition_penalty=1.2, seed=5),
    Sampling(typical_p=0.8, presence_penalty=0.5, frequency_penalty=0.3, seed=6),
]
OWN = {
    "lstm": by_depth("lstm", 2, 53, 64, 0.0, width=64),
    "cnn": by_depth("cnn", 2, 53, 64, 0.0, width=64),
    "lstm-attention": LSTMAttentionConfig(vocab_size=53, hidden_size=16, encoder_layers=2, decoder_layers=1),
}


def small(context: int = 48, size: int = 53) -> Model:
    config = GPT2Config(vocab_size=size, n_positions=context, n_embd=16, n_layer=2, n_head=2)
    model = new_model("gpt2", config).eval()
    perturb(model)
    return model


def made(name: str, folder: Path) -> Model:
    if name in OWN:
        model = new_model(name, OWN[name]).eval()
        perturb(model)
        return model
    (sourced_oracle(SOURCED[name]) if name in SOURCED else oracle(CASES[name])).save_pretrained(folder)
    return load_model(folder)


def written(
    model: Model,
    prompts: Sequence[Sequence[int]],
    new: int | Sequence[int],
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    engine: Engine | None = None,
    cache: bool = True,
    streaming: Any = None,
    **asked: Any,
) -> list[list[int]]:
    """What a model writes after each prompt, all of them side by side. asked: what else a `Request` says."""
    engine = engine or Engine(model, batch=64, longest=160, cache=None if cache else "none", streaming=streaming)
    news = [new] * len(prompts) if isinstance(new, int) else new
    samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
    handles = [
        engine.add(Request(list(prompt), one, limit, **asked))
        for prompt, one, limit in zip(prompts, samplings, news, strict=True)
    ]
    return [completions[0].ids for completions in engine.finish(handles)]
