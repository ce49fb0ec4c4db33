"""The LLaMA line (Touvron et al., 2023): LLaMA, Mistral, Qwen2 and Qwen3, a few arguments apart."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from langwright.models.decoder import CausalLM
from langwright.models.family import Family, Fields, check_sizes
from langwright.models.initialise import normal
from langwright.models.keymap import Entry
from langwright.models.scoring import last_token_head
from langwright.parts.attention import Attention
from langwright.parts.bias import Bias
from langwright.parts.feedforward import GLU
from langwright.parts.heads import LanguageHead
from langwright.parts.norms import Norm
from langwright.parts.positions import Rope
from langwright.parts.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Scaling, YarnScaling
from langwright.parts.stack import Block, Branch, Embedding, Residual, Stack

ROPE_TYPES: dict[str, Any] = {
    "default": None,
    "linear": LinearScaling,
    "llama3": Llama3Scaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
}
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class LlamaConfig:
    """The honoured fields, under their names in config.json.

    rope: `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of older files.
    layer_types: which layers see a window of `sliding_window` positions, and which see everything.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_sizes(
            self,
            ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            ("num_key_value_heads", "head_dim", "sliding_window"),
        )
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if heads % kv_heads:
            raise ValueError(f"num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}")
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size = {self.hidden_size} is not a multiple of num_attention_heads = {heads}")
        if self.hidden_act not in ("silu", "gelu", "relu"):
            raise ValueError(f"hidden_act = {self.hidden_act!r} is not one of silu, gelu, relu")
        if self.layer_types is not None:
            if len(self.layer_types) != self.num_hidden_layers or not set(self.layer_types) <= {SLIDING, FULL}:
                raise ValueError(
                    f"layer_types must name {SLIDING} or {FULL} once for each of {self.num_hidden_layers} layers"
                )
            if SLIDING in self.layer_types and self.sliding_window is None:
                raise ValueError("layer_types names a sliding layer and sliding_window is not set")
        self.rope()

    def rope(self) -> Rope:
        """The rotary embedding that `rope_parameters` describe."""
        head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        return rotary(self.rope_parameters, head_dim, self.max_position_embeddings)

    def context(self) -> int:
        """How many positions the model reads: `max_position_embeddings`, and `factor` as many with dynamic scaling."""
        scaling = self.rope().scaling
        stretched = scaling.factor if isinstance(scaling, DynamicScaling) else 1
        return int(stretched * self.max_position_embeddings)

    def window(self, layer: int) -> int | None:
        """How many positions a layer sees; None for all."""
        sliding = self.layer_types is None or self.layer_types[layer] == SLIDING
        return self.sliding_window if sliding else None


def rotary(parameters: Fields | None, head_dim: int, context: int) -> Rope:
    """The rotary embedding that `rope_parameters` describe; ValueError for an unknown kind or key.

    context: `max_position_embeddings`, the original length where `rope_parameters` names none.
    """
    p = {"rope_type": "default", "rope_theta": 10_000.0, **(parameters or {})}
    kind, theta = p.pop("rope_type"), p.pop("rope_theta")
    if kind not in ROPE_TYPES:
        raise ValueError(f"rope_type = {kind!r} is not one of {', '.join(ROPE_TYPES)}")
    if head_dim % 2:
        raise ValueError(f"head_dim = {head_dim} is odd, and rotary positions turn pairs")
    return Rope(head_dim, float(theta), _scaling(kind, p, context))


def _scaling(kind: str, given: Fields, context: int) -> Scaling | None:
    """The scaling of a kind, each of its fields given, or left out where it has a default."""
    made = ROPE_TYPES[kind]
    fields = () if made is None else dataclasses.fields(made)
    names = {field.name for field in fields}
    values = dict.fromkeys(names & {"original_max_position_embeddings"}, context) | given
    needed = {field.name for field in fields if field.default is dataclasses.MISSING}
    for name in sorted((needed - set(values)) | (set(values) - names)):
        state = "missing" if name in needed else "not known"
        raise ValueError(f"rope_parameters of type {kind!r}: {name} is {state}")
    if kind == "dynamic" and values["original_max_position_embeddings"] != context:
        raise ValueError("rope_parameters of type 'dynamic': the original length is max_position_embeddings")
    return None if made is None else made(**values)


def gated(config: LlamaConfig) -> GLU:
    """The usual feed-forward."""
    return GLU(config.hidden_size, config.intermediate_size, config.hidden_act, config.mlp_bias)


def build(
    config: LlamaConfig,
    family: str,
    bias: str = "",
    qk_norm: bool = False,
    feedforward: Callable[[Any], Branch] = gated,
) -> CausalLM:
    """Pre-norm blocks with RMSNorm, RoPE, grouped-query attention and a gated feed-forward.

    bias: projections that carry one beyond what `attention_bias` asks for. qk_norm: Qwen3's norm of each head.
    feedforward: makes another one.
    """
    c = config

    def norm() -> Norm:
        return Norm(c.hidden_size, "rms", c.rms_norm_eps)

    def block(layer: int) -> Block:
        attention = Attention(
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            bias="qkvo" if c.attention_bias else bias,
            qk_norm=(lambda dim: Norm(dim, "rms", c.rms_norm_eps)) if qk_norm else None,
            dropout=c.attention_dropout,
        )
        who = Bias(causal=True, window=c.window(layer))
        return Block(Residual(attention, norm()), Residual(feedforward(c), norm()), who)

    embed = Embedding(c.vocab_size, c.hidden_size)
    body = Stack(embed, [block(i) for i in range(c.num_hidden_layers)], norm(), c.rope())
    tied = embed.tokens if c.tie_word_embeddings else None
    return CausalLM(family, c, c.context(), body, LanguageHead(c.vocab_size, c.hidden_size, tied))


def keys(config: LlamaConfig, bias: str = "", qk_norm: bool = False) -> list[Entry]:
    """Every projection is a tensor of its own, as ours are."""
    biased = "qkvo" if config.attention_bias else bias
    entries = [Entry("model.embed_tokens.weight", ("body.embed.tokens",))]
    for i in range(config.num_hidden_layers):
        disk, attention, glu = f"model.layers.{i}", f"body.blocks.{i}.attention", f"body.blocks.{i}.feedforward"
        for letter, ours in zip("qkvo", ("q", "k", "v", "output"), strict=True):
            for kind in ("weight", "bias") if letter in biased else ("weight",):
                entries.append(Entry(f"{disk}.self_attn.{letter}_proj.{kind}", (f"{attention}.fn.{ours}.{kind}",)))
        for name, ours in (("gate_proj", "gate"), ("up_proj", "input"), ("down_proj", "output")):
            for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
                entries.append(Entry(f"{disk}.mlp.{name}.{kind}", (f"{glu}.fn.{ours}.{kind}",)))
        entries.append(Entry(f"{disk}.input_layernorm.weight", (f"{attention}.in_norm.weight",)))
        entries.append(Entry(f"{disk}.post_attention_layernorm.weight", (f"{glu}.in_norm.weight",)))
        if qk_norm:
            entries += [Entry(f"{disk}.self_attn.{x}_norm.weight", (f"{attention}.fn.{x}_norm.weight",)) for x in "qk"]
    entries.append(Entry("model.norm.weight", ("body.final_norm.weight",)))
    return entries if config.tie_word_embeddings else [*entries, Entry("lm_head.weight", ("head.weight",))]


def read(raw: Fields) -> Fields:
    """The older spelling of RoPE (`rope_theta`, `rope_scaling`), and lists as tuples."""
    fields = dict(raw)
    theta, scaling = fields.pop("rope_theta", None), fields.pop("rope_scaling", None)
    if theta is not None or scaling is not None:
        older = {("rope_type" if name == "type" else name): value for name, value in (scaling or {}).items()}
        if theta is not None:
            older["rope_theta"] = theta
        fields["rope_parameters"] = {**older, **(fields.get("rope_parameters") or {})}
    if fields.get("layer_types") is not None:
        fields["layer_types"] = tuple(fields["layer_types"])
    return fields


def read_qwen(raw: Fields) -> Fields:
    """Qwen's windows: `use_sliding_window` switches them on, from layer `max_window_layers` upward."""
    fields = read(raw)
    used, first = fields.pop("use_sliding_window", False), fields.pop("max_window_layers", 28)
    if used:
        fields.setdefault("sliding_window", 4096)
    else:
        fields["sliding_window"] = None
    if fields.get("layer_types") is None and fields["sliding_window"] is not None:
        layers = fields.get("num_hidden_layers", 32)
        fields["layer_types"] = tuple(SLIDING if i >= first else FULL for i in range(layers))
    return fields


def write(fields: Fields) -> Fields:
    """RoPE in the spelling of transformers 5, and the older one beside it for other readers."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0, **(fields["rope_parameters"] or {})}
    older: Fields = {"rope_theta": rope["rope_theta"]}
    if rope["rope_type"] != "default":
        older["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {**fields, "rope_parameters": rope, **older}


def write_qwen(fields: Fields) -> Fields:
    """As `write`, with Qwen's switch for windows."""
    types = fields["layer_types"] or [FULL] * fields["num_hidden_layers"]
    first = types.index(SLIDING) if SLIDING in types else len(types)
    return {
        **write(fields),
        "use_sliding_window": SLIDING in types,
        "max_window_layers": first,
        "layer_types": list(types),
    }


def _family(name: str, architecture: str, bias: str = "", qk_norm: bool = False, **rest: Any) -> Family:
    return Family(
        name=name,
        architecture=architecture,
        config=LlamaConfig,
        build=partial(build, family=name, bias=bias, qk_norm=qk_norm),
        keys=partial(keys, bias=bias, qk_norm=qk_norm),
        initialise=lambda model: normal(model, model.config.initializer_range),
        ignored_keys=(".rotary_emb.inv_freq",),
        prefix="model.",
        heads={"sequence": last_token_head(architecture.replace("ForCausalLM", "ForSequenceClassification"))},
        **rest,
    )


LLAMA = _family(
    "llama",
    "LlamaForCausalLM",
    absent=("sliding_window", "layer_types"),
    default_only={"pretraining_tp": 1},
    read=read,
    write=write,
)
MISTRAL = _family(
    "mistral",
    "MistralForCausalLM",
    absent=("attention_bias", "mlp_bias", "layer_types"),
    defaults={
        "sliding_window": 4096,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    read=read,
    write=write,
)
QWEN2 = _family(
    "qwen2",
    "Qwen2ForCausalLM",
    bias="qkv",
    absent=("attention_bias", "mlp_bias", "head_dim"),
    default_only={"use_mrope": False},
    defaults={
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    read=read_qwen,
    write=write_qwen,
)
QWEN3 = _family(
    "qwen3",
    "Qwen3ForCausalLM",
    qk_norm=True,
    absent=("mlp_bias",),
    defaults={
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
    },
    read=read_qwen,
    write=write_qwen,
)
