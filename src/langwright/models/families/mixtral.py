"""Mixtral (Jiang et al., 2024): Mistral whose feed-forward is a mixture of experts, two for each token."""

from dataclasses import dataclass, replace
from functools import partial

from langwright.models.checks import check_sizes
from langwright.models.families.llama import LlamaConfig, build
from langwright.models.families.llama import keys as keys_of_llama
from langwright.models.families.mistral import MISTRAL
from langwright.models.family import AdapterTargets
from langwright.models.keymap import Entry, affine, affines, numbered, within
from langwright.parts.feedforward import GLU
from langwright.parts.moe import MoE


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """The honoured fields of Mistral, and those of the experts.

    router_aux_loss_coef: weight of the loss that gives experts the same work; it counts in training, and only where
    `output_router_logits` asks for it.
    """

    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, ("num_local_experts", "num_experts_per_tok"))
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(f"num_experts_per_tok = {self.num_experts_per_tok} is more than all experts")


def experts(config: MixtralConfig) -> MoE:
    """Gated feed-forwards and their router."""
    c = config
    glus = [GLU(c.hidden_size, c.intermediate_size, c.hidden_act) for _ in range(c.num_local_experts)]
    balance = c.router_aux_loss_coef if c.output_router_logits else 0.0
    return MoE(c.hidden_size, glus, c.num_experts_per_tok, balance=balance)


def keys(config: MixtralConfig) -> list[Entry]:
    """LLaMA's names, but for the feed-forward: an expert is three tensors of its own."""
    expert = affines({"w1": "gate", "w2": "output", "w3": "input"}, bias=False)
    mixture = [
        *affine("gate", "router", bias=False),
        *numbered(config.num_local_experts, "experts", expert, ours="experts"),
    ]
    return keys_of_llama(config, feedforward=within("block_sparse_moe", "feedforward.fn", mixture))


MIXTRAL = replace(
    MISTRAL,
    name="mixtral",
    architecture="MixtralForCausalLM",
    config=MixtralConfig,
    build=partial(build, family="mixtral", feedforward=experts),
    keys=keys,
    heads={},
    defaults={
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 1e6},
    },
    default_only={"router_jitter_noise": 0.0},
    adapters=AdapterTargets(),
    presets={},
)
