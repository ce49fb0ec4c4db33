"""Small models and inputs for tests of compression."""

from typing import Any

import torch
from torch import Tensor

from langwright.compression.calibration import Moments
from oracles import random_ids

SIZES: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 128, "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "max_position_embeddings": 64,
    },
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8},
    "mixtral": {
        "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 64, "num_local_experts": 3, "max_position_embeddings": 64,
    },
    "gemma": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16,
        "intermediate_size": 128, "max_position_embeddings": 64,
    },
}  # fmt: skip
WINDOWS = [random_ids(4, 32, seed=seed) for seed in range(4)]


def correlated(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -1.5, columns)
    return torch.randn(rows, columns, generator=generator) @ mixing


def moments_of(x: Tensor) -> Moments:
    found = Moments.zeros(x.shape[1])
    found.add(x)
    return found


def error(x: Tensor, w: Tensor, q: Tensor) -> float:
    return float((x @ (w - q).t()).square().sum())
