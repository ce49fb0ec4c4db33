"""Switch Transformer (Fedus et al., 2021): T5 in which some feed-forwards are many experts, one for each token."""

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from langwright.models.config import ACTIVATIONS, Activation, Count, Fields, Rate, Size
from langwright.models.families.t5 import T5, T5Config, build, keys
from langwright.models.initialise import by_inputs
from langwright.models.keymap import Entry, names, within
from langwright.parts import MLP, MoE


@dataclass(frozen=True)
class SwitchConfig(T5Config):
    """The honoured fields of T5, and those of the experts.

    expert_capacity: most tokens of a text that an expert takes in one pass.
    encoder_sparse_step, decoder_sparse_step: every how many layers there are experts; the number of layers over that of
    sparse ones unless given. router_z_loss_coef, router_aux_loss_coef: weights of what counts in training besides.
    """

    expert_capacity: Size = 64
    num_experts: Count = 8
    num_sparse_encoder_layers: int = 3
    num_sparse_decoder_layers: int = 3
    encoder_sparse_step: int | None = None
    decoder_sparse_step: int | None = None
    router_bias: bool = False
    router_jitter_noise: Rate = 0.01
    router_z_loss_coef: float = 0.001
    router_aux_loss_coef: float = 0.001
    dense_act_fn: Activation = "relu"

    def is_sparse(self, decoder: bool, layer: int) -> bool:
        """Whether a layer has experts, by the rule of `transformers`: the second of every so many layers."""
        layers = self.decoder_layers if decoder else self.num_layers
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


def feedforward_keys(config: SwitchConfig) -> list[Entry]:
    """Of one feed-forward, and of many and their router."""
    one = names({"wi": "input", "wo": "output"})
    mixture = names({"router.classifier": "router"}) + within("experts.expert_*", "experts.*", one)
    return within("mlp", "fn", one + mixture)


def write(fields: Fields) -> Fields:
    """`transformers` takes a step that is there as it is, null too."""
    return {"is_encoder_decoder": True} | {
        name: value for name, value in fields.items() if value is not None or not name.endswith("sparse_step")
    }


SWITCH = replace(
    T5,
    name="switch_transformers",
    architecture="SwitchTransformersForConditionalGeneration",
    config=SwitchConfig,
    builder=partial(build, feedforward=feedforward),
    keys=partial(keys, feedforward=feedforward_keys, apart=True),
    initialise=partial(by_inputs, variance=0.1, cut=2.0),  # section 2.4
    heads={},
    absent=("classifier_dropout", "feed_forward_proj"),
    defaults={"d_model": 768, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12},
    inert=("add_router_probs", "n_positions", "output_past", "output_router_logits"),
    default_only={
        "is_encoder_decoder": True, "feed_forward_proj": "relu", "is_gated_act": False, "num_selected_experts": 1,
        "router_dtype": "float32", "router_ignore_padding_tokens": False, "router_type": "tokens_masked",
    },
    read=dict,
    write=write,
    adapters=replace(T5.adapters, norms=()),
    adapterhub="block",
    presets={},
)  # fmt: skip
