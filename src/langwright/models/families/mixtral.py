"""Mixtral (Jiang et al., 2024): Mistral whose feed-forward is a mixture of experts, two for each token."""

from dataclasses import dataclass, replace
from functools import partial

from langwright.models.config import Count
from langwright.models.families.llama import GGUF_FIELDS, LlamaConfig, build, keys
from langwright.models.families.mistral import MISTRAL
from langwright.models.family import AdapterTargets
from langwright.models.gguf.layout import Layout
from langwright.models.keymap import names, within
from langwright.models.task_heads import causal_heads
from langwright.parts import GLU, MoE


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """The honoured fields of Mistral, and those of the experts.

    router_aux_loss_coef: weight of the loss that gives experts the same work; it counts in training, and only where
    `output_router_logits` asks for it.
    """

    num_local_experts: Count = 8
    num_experts_per_tok: Count = 2
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(f"num_experts_per_tok = {self.num_experts_per_tok} is more than all experts")


def experts(config: MixtralConfig) -> MoE:
    """Gated feed-forwards and their router."""
    c = config
    glus = [GLU(c.hidden_size, c.intermediate_size, c.hidden_act) for _ in range(c.num_local_experts)]
    balance = c.router_aux_loss_coef if c.output_router_logits else 0.0
    return MoE(c.hidden_size, glus, c.num_experts_per_tok, balance=balance)


EXPERTS = {"experts.*.w1": "experts.*.gate", "experts.*.w2": "experts.*.output", "experts.*.w3": "experts.*.input"}
MIXTRAL = replace(
    MISTRAL,
    name="mixtral",
    architecture="MixtralForCausalLM",
    config=MixtralConfig,
    builder=partial(build, feedforward=experts),
    keys=partial(keys, feedforward=within("block_sparse_moe", "feedforward.fn", names(EXPERTS | {"gate": "router"}))),
    heads=causal_heads("Mixtral"),
    defaults={
        "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 1e6},
    },
    default_only={"router_jitter_noise": 0.0},
    adapters=AdapterTargets(),
    gguf=Layout(
        "llama",
        fields={
            **GGUF_FIELDS, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok",
        },
        only={"hidden_act": ("silu",)},
        sizes={"vocab_size": "token_embd.weight", "num_local_experts": "blk.0.ffn_gate_inp.weight"},
        pairs=True,
        experts=True,
    ),
    presets={},
)  # fmt: skip
