"""Tiny models of `transformers`, every parameter perturbed: what ours is held against."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from langwright.models.families import FAMILIES
from langwright.models.families.bart import BartConfig
from langwright.models.families.switch import SwitchConfig
from langwright.models.families.t5 import T5Config
from langwright.models.shapes import by_depth

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

PUBLISHED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "models/published.json").read_text())
"""config.json of models on the Hub as it was published, the parameters of their files, shared tensors once, and where
the copy of the config lies, on GitHub unless it says otherwise."""
VOCABULARY = 53
WINDOW = 5


@dataclass(frozen=True)
class Case:
    """A family in a size that exercises one of its features. changes: to the fields of its tiny config."""

    family: str
    changes: dict[str, Any] = field(default_factory=dict)


LINEAR = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
"""At heads of 8 its four wavelengths are one kept, two blended, and one stretched."""

CASES = {
    "gpt2": Case("gpt2"),
    "gpt2-inner-erf": Case("gpt2", {"n_inner": 20, "activation_function": "gelu", "layer_norm_epsilon": 1e-2}),
    "llama": Case("llama"),
    "llama-biases": Case(
        "llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu", "rms_norm_eps": 1e-2}
    ),
    "llama-linear": Case("llama", {"rope_parameters": LINEAR}),
    "llama-llama3": Case("llama", {"rope_parameters": LLAMA3}),
    "mistral": Case("mistral", {"sliding_window": WINDOW}),
    "qwen2": Case(
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "tie_word_embeddings": True},
    ),
    "qwen3": Case("qwen3", {"head_dim": 10}),
    "gpt1": Case("openai-gpt"),
    "gpt1-relu": Case("openai-gpt", {"afn": "relu", "layer_norm_epsilon": 1e-2}),
    "gpt_neo": Case("gpt_neo", {"attention_types": [[["global", "local"], 1], [["local"], 1]]}),
    "gpt_neo-inner": Case("gpt_neo", {"intermediate_size": 20, "layer_norm_epsilon": 1e-2}),
    "gptj": Case("gptj"),
    "gptj-tied": Case("gptj", {"tie_word_embeddings": True, "n_inner": 20, "rotary_dim": 8}),
    "gpt_neox": Case("gpt_neox", {"rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5}}),
    "gpt_neox-serial": Case(
        "gpt_neox",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-2,
            "tie_word_embeddings": True,
            "rope_parameters": {**LINEAR, "partial_rotary_factor": 0.75},
        },
    ),
    "bloom": Case("bloom"),
    "mpt": Case("mpt"),
    "mpt-clipped": Case("mpt", {"attn_config": {"clip_qkv": 0.7, "softmax_scale": 0.9}, "layer_norm_epsilon": 1e-2}),
    "phi": Case("phi", {"rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.5}}),
    "phi-norms": Case("phi", {"qk_layernorm": True, "tie_word_embeddings": True}),
    "mixtral": Case("mixtral", {"sliding_window": WINDOW}),
    "mixtral-one": Case("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 1, "tie_word_embeddings": True}),
    "gemma": Case("gemma", {"head_dim": 10, "num_key_value_heads": 1}),
    "gemma-biases": Case("gemma", {"attention_bias": True, "tie_word_embeddings": False, "rms_norm_eps": 1e-2}),
    "gemma2": Case(
        "gemma2",
        {
            "head_dim": 10,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 3,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma2-uncapped": Case(
        "gemma2",
        {
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "sliding_window": WINDOW,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "nanochat": Case("nanochat", {"final_logit_softcapping": 3.0}),
    "nanochat-linear": Case("nanochat", {"final_logit_softcapping": None, "rope_parameters": LINEAR}),
}

_GPT2 = {
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 160,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
_LLAMA = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 40, "max_position_embeddings": 160,
}  # fmt: skip
_NEO = {"hidden_size": 24, "num_layers": 3, "num_heads": 3, "max_position_embeddings": 160, "window_size": WINDOW}
_OWN: dict[str, dict[str, Any]] = {
    "openai-gpt": _GPT2,
    "gpt2": _GPT2,
    "gptj": _GPT2 | {"rotary_dim": 4},
    "gpt_neo": _NEO | {"attention_types": [[["global", "local", "local"], 1]]},
    "gpt_neox": {name: value for name, value in _LLAMA.items() if name != "num_key_value_heads"},
    "bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 6},
    "mpt": {"d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": 160},
}
"""Tiny shapes where they are not those of LLaMA."""


def classes(family: str) -> tuple[Any, Any]:
    """Their config and their model with its head over the vocabulary."""
    return transformers.CONFIG_MAPPING[family], getattr(transformers, FAMILIES[family].architecture)


def published(name: str) -> dict[str, Any]:
    """config.json of a model on the Hub."""
    config: dict[str, Any] = PUBLISHED[name]["config"]
    return config


def oracle(case: Case) -> PreTrainedModel:
    """The model of `transformers` for a case, in eval mode, its parameters far from any special value."""
    config, model = classes(case.family)
    shape = _OWN.get(case.family, _LLAMA)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model(config(vocab_size=VOCABULARY, **ids, **(shape | case.changes))).eval()
    perturb(made)
    return made


def perturb(model: torch.nn.Module, seed: int = 0, trained: bool = False) -> None:
    """Move every parameter, or all that train, by noise, so that none (a norm's ones, a bias's zeros) hides a mistake.

    With more noise than this the models become so steep that float32 alone moves logits by 1e-4.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad or not trained):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def reopened(folder: Path) -> PreTrainedModel:
    """What `transformers` makes of a folder of ours, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def random_ids(rows: int, time: int, seed: int = 1) -> Tensor:
    """Token ids [rows, time], none of them special."""
    return torch.randint(3, VOCABULARY, (rows, time), generator=torch.Generator().manual_seed(seed))


def left_padding(rows: int, time: int) -> Tensor:
    """A mask [rows, time] with 0, 7, 2, 9, ... tokens of padding at the left."""
    lengths = torch.tensor([0, 7, 2, 9][:rows])
    return torch.arange(time)[None] >= lengths[:, None]


_T5 = {
    "d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
    "dropout_rate": 0.0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40, "decoder_ffn_dim": 32, "max_position_embeddings": 160, "dropout": 0.0, "bos_token_id": 2,
    "eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": None,
}  # fmt: skip
_SWITCH = _T5 | {
    "num_layers": 3, "num_experts": 4, "expert_capacity": 1000, "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}  # fmt: skip
"""As many layers on both sides, without which their cache fails."""
SOURCED = {
    "t5": Case("t5"),
    "t5-v1.1": Case("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "switch": Case("switch_transformers", {"expert_capacity": 5}),
    "switch-untied": Case("switch_transformers", {"expert_capacity": 5, "tie_word_embeddings": False}),
    "switch-all": Case(
        "switch_transformers",
        {
            "num_sparse_encoder_layers": 3,
            "num_sparse_decoder_layers": 3,
            "num_experts": 3,
            "router_bias": True,
            "dense_act_fn": "gelu",
            "layer_norm_epsilon": 1e-2,
        },
    ),
    "bart": Case("bart", {"activation_function": "gelu"}),
    "bart-scaled": Case("bart", {"scale_embedding": True, "activation_function": "relu"}),
    "marian": Case("marian", {"scale_embedding": True, "activation_function": "swish"}),
}
"""Families with an encoder and a decoder."""
SMALL: dict[str, Any] = {
    "t5": T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=6, d_ff=20, num_layers=1, num_decoder_layers=2, num_heads=2),
    "bart": BartConfig(
        vocab_size=VOCABULARY, max_position_embeddings=40, encoder_layers=1, encoder_ffn_dim=12,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=20, decoder_attention_heads=4, d_model=16,
    ),
}  # fmt: skip
SMALL["switch_transformers"] = SwitchConfig(
    vocab_size=VOCABULARY, d_model=16, d_kv=6, d_ff=20, num_layers=2, num_decoder_layers=2, num_heads=2,
    expert_capacity=4, num_experts=3, num_sparse_encoder_layers=1, num_sparse_decoder_layers=2,
)  # fmt: skip
SMALL["marian"] = replace(SMALL["bart"], scale_embedding=True, pad_token_id=0, decoder_start_token_id=0)


def small_config(family: str) -> Any:
    """A config of one layer or two."""
    return SMALL[family] if family in SMALL else by_depth(family, 2, VOCABULARY, 16, 0.0)


def sourced_oracle(case: Case) -> PreTrainedModel:
    """As `oracle`, for an encoder-decoder; the offset of the logits, which is no parameter, is noise too."""
    config, model = classes(case.family)
    shape = {"t5": _T5, "switch_transformers": _SWITCH}.get(case.family, _BART)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = model(config(vocab_size=VOCABULARY, pad_token_id=0, **(shape | case.changes))).eval()
        if case.family in ("t5", "switch_transformers"):
            made.shared.weight.data *= 0.5  # as wide as 1 they make the logits so steep that float32 alone shows
        else:
            made.final_logits_bias.normal_()
    if case.changes.get("tie_word_embeddings") is False:
        made.set_input_embeddings(made.shared)  # theirs gives an untied Switch one for each stack
        made.lm_head.weight = torch.nn.Parameter(torch.randn(made.lm_head.weight.shape, generator=_noise(7)) * 0.3)
    perturb(made)
    for module in made.modules():
        if hasattr(module, "create_weight"):  # sinusoids, which no file holds
            module.weight.data.copy_(module.create_weight())
    return made


def _noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reopened_sourced(folder: Path) -> PreTrainedModel:
    """What `transformers` makes of a folder of ours with an encoder and a decoder, in float32."""
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
