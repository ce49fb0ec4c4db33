"""Switch Transformer (Fedus et al., 2021): T5 in which some feed-forwards are many experts, one for each token."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from langwright.models.encoder_decoder import EncoderDecoderLM
from langwright.models.family import Family, Fields, check_sizes
from langwright.models.keymap import Entry
from langwright.models.t5 import OURS, T5Config, build
from langwright.models.t5 import initialise as initialise_t5
from langwright.models.t5 import keys as t5_keys
from langwright.parts.attention import Attention
from langwright.parts.feedforward import MLP
from langwright.parts.linear import Linear
from langwright.parts.moe import MoE

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}


@dataclass(frozen=True)
class SwitchConfig(T5Config):
    """The honoured fields of T5, and those of the experts.

    expert_capacity: most tokens of a text that an expert takes in one pass.
    encoder_sparse_step, decoder_sparse_step: every how many layers there are experts; the number of layers over that of
    sparse ones unless given. router_z_loss_coef, router_aux_loss_coef: weights of what counts in training besides.
    """

    expert_capacity: int = 64
    num_experts: int = 8
    num_sparse_encoder_layers: int = 3
    num_sparse_decoder_layers: int = 3
    encoder_sparse_step: int | None = None
    decoder_sparse_step: int | None = None
    router_bias: bool = False
    router_jitter_noise: float = 0.01
    router_z_loss_coef: float = 0.001
    router_aux_loss_coef: float = 0.001
    dense_act_fn: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, ("expert_capacity", "num_experts"))
        if self.dense_act_fn not in ACTIVATIONS:
            raise ValueError(f"dense_act_fn = {self.dense_act_fn!r} is not one of {', '.join(ACTIVATIONS)}")
        if not 0 <= self.router_jitter_noise < 1:
            raise ValueError(f"router_jitter_noise = {self.router_jitter_noise!r} is not at least 0 and below 1")

    def is_sparse(self, decoder: bool, layer: int) -> bool:
        """Whether a layer has experts, by the rule of `transformers`: the second of every so many layers."""
        layers = self.num_decoder_layers or self.num_layers if decoder else self.num_layers
        sparse = self.num_sparse_decoder_layers if decoder else self.num_sparse_encoder_layers
        given = self.decoder_sparse_step if decoder else self.encoder_sparse_step
        step = layers // max(1, sparse) if given is None else given
        return step == 1 or (step > 1 and layer % step == 1)


def feedforward(config: SwitchConfig, decoder: bool, layer: int) -> nn.Module:
    """One feed-forward, or many and their router."""
    c = config

    def mlp() -> MLP:
        return MLP(c.d_model, c.d_ff, ACTIVATIONS[c.dense_act_fn], dropout=c.dropout_rate)

    if not c.is_sparse(decoder, layer):
        return mlp()
    return MoE(
        c.d_model,
        [mlp() for _ in range(c.num_experts)],
        active=1,
        renormalise=False,
        capacity=c.expert_capacity,
        bias=c.router_bias,
        jitter=c.router_jitter_noise,
        balance=c.router_aux_loss_coef,
        z_loss=c.router_z_loss_coef,
    )


def feedforward_keys(config: SwitchConfig, decoder: bool, layer: int) -> dict[str, str]:
    """As `dense_keys` of T5."""
    if not config.is_sparse(decoder, layer):
        return {f"mlp.{name}.weight": OURS[name] for name in ("wi", "wo")}
    router = ("weight", "bias") if config.router_bias else ("weight",)
    return {f"mlp.router.classifier.{name}": f"router.{name}" for name in router} | {
        f"mlp.experts.expert_{number}.{name}.weight": f"experts.{number}.{OURS[name]}"
        for number in range(config.num_experts)
        for name in ("wi", "wo")
    }


def keys(config: SwitchConfig) -> list[Entry]:
    """T5's names, but for the feed-forward."""
    return t5_keys(config, feedforward_keys)


@torch.no_grad()
def initialise(model: EncoderDecoderLM) -> None:
    """As T5, but with a tenth of the variance in every linear map, and no draw beyond two deviations (section 2.4)."""
    c = model.config
    initialise_t5(model)
    for module in model.modules():
        if isinstance(module, Linear):
            std = c.initializer_factor * (0.1 / module.weight.shape[1]) ** 0.5
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
    for module in model.modules():
        if isinstance(module, Attention):
            module.q.weight.mul_(c.d_kv**-0.5)


def write(fields: Fields) -> Fields:
    """`transformers` takes a step that is there as it is, null too."""
    return {"is_encoder_decoder": True} | {
        name: value for name, value in fields.items() if value is not None or not name.endswith("sparse_step")
    }


SWITCH = Family(
    name="switch_transformers",
    architecture="SwitchTransformersForConditionalGeneration",
    config=SwitchConfig,
    build=partial(build, family="switch_transformers", feedforward=feedforward),
    keys=keys,
    initialise=initialise,
    absent=("feed_forward_proj",),
    defaults={"d_model": 768, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12},
    inert=("add_router_probs", "n_positions", "output_past", "output_router_logits"),
    default_only={
        "is_encoder_decoder": True,
        "feed_forward_proj": "relu",
        "is_gated_act": False,
        "num_selected_experts": 1,
        "router_dtype": "float32",
        "router_ignore_padding_tokens": False,
        "router_type": "tokens_masked",
    },
    ignored_keys=(".EncDecAttention.relative_attention_bias.weight",),
    write=write,
)
