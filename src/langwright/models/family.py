"""What a family is: a config, a builder, a key map, and the list of config fields it understands."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from langwright.base.errors import UserError, suggest
from langwright.base.value_types import check_types
from langwright.models.config import Fields as Fields
from langwright.models.config import field_types
from langwright.models.gguf.layout import Layout
from langwright.models.initialise import by_range
from langwright.models.keymap import Entry
from langwright.models.model import Model

INERT = frozenset((
    "_attn_implementation", "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "eos_token_id", "gradient_checkpointing", "id2label", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "task_specific_params", "tokenizer_class",
    "torch_dtype", "transformers_version", "unk_token_id", "use_cache",
))  # fmt: skip
"""Fields of config.json that never change the logits of a language model."""

SUMMARY = tuple(f"summary_{field}" for field in ("activation", "first_dropout", "proj_to_labels", "type", "use_proj"))
"""Fields of a head that language models lack."""

DEFAULT_ONLY: Fields = {
    "add_cross_attention": False, "is_decoder": False, "is_encoder_decoder": False, "pruned_heads": {},
}  # fmt: skip
"""Fields that are understood at one value only, in every family here."""


READ_TYPES: Fields = {
    **dict.fromkeys(("_num_labels", "decoder_vocab_size", "num_labels"), int | None),
    **dict.fromkeys(("attn_config", "id2label", "rope_parameters", "rope_scaling"), Mapping[str, Any] | None),
    **dict.fromkeys(("max_window_layers", "n_embed"), int),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), float),
    **dict.fromkeys(("rope_theta", "rotary_emb_base"), float | None),
    **dict.fromkeys(("scale_decoder_outputs", "use_sliding_window"), bool | None),
    "architectures": tuple[str, ...] | None,
    "attention_types": tuple[tuple[tuple[str, ...] | int, ...], ...] | None,
}
"""Types of fields that are read into others or tell the head. The type of an honoured field is its annotation."""


def _frozen(value: Any) -> Any:
    """A value of JSON as configs hold it: lists as tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Head:
    """A head that a family may carry instead of the one it is built with.

    architecture: `architectures[0]` of files with it.
    make: (config, token table, number of labels) -> the head, its parameters uninitialised.
    keys: its names on disk, as templates of `keymap.expand`; our names begin with "head.".
    labelled: whether its last layer has a row a label.
    copies: tensors that some files hold beside those they repeat, ours by our names.
    prefix: of the names of the body in files with it, where it is not the family's.
    encoder_only: an encoder-decoder leaves its decoder out.
    beside: makes further heads, by name, given the config; their names on disk stand in `keys` too.
    """

    architecture: str
    make: Callable[[Any, nn.Parameter, int], nn.Module]
    keys: list[Entry]
    labelled: bool = False
    copies: Mapping[str, str] = field(default_factory=dict)
    prefix: str | None = None
    encoder_only: bool = False
    beside: Callable[[Any], Mapping[str, nn.Module]] = lambda config: {}


@dataclass(frozen=True)
class AdapterTargets:
    """The modules that adapters of a family usually act on, by the endings of their names in `transformers`.

    As in PEFT, also where it departs from the papers. Families that PEFT does not list follow their closest relative.

    Args:
        lora: the linear layers that LoRA adapts.
        ia3: the linear layers whose output IA3 rescales; none where the family has no usual choice.
        ia3_inputs: those whose input IA3 rescales.
        norms: the norms that norm tuning trains; none for all of them.
    """

    lora: tuple[str, ...] = ("q_proj", "v_proj")
    ia3: tuple[str, ...] = ()
    ia3_inputs: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """A row of the table of families.

    name: `model_type` in config.json. own: `transformers` has no class for it; its name in the file begins with
    "langwright-". architecture: `architectures[0]` there; `also` are others that are read.
    config: its class, a dataclass. builder: config -> model with uninitialised parameters; call `build`.
    keys: config -> names of the checkpoint, as templates of `keymap.expand`.
    reads: what its models take: texts, for which they have a tokenizer, or series.
    carries: it remembers a text in a fixed size, and reads texts in order with that carried from step to step.
    task: what the head of `builder` is for. heads: the other heads, by what they are for.
    dropped_keys: beginnings of tensors of further heads, which are not built here.
    renamed: endings of tensor names in older files, and what they are now.
    initialise: fills a new model's parameters, by default from N(0, initializer_range²).
    absent: honoured fields of `config` that this family's files lack.
    defaults: values of fields that the files leave out, where they differ from the dataclass.
    fresh: values that fields of new models have, where they differ from those.
    inert, default_only: beyond the common ones. ignored_keys: suffixes of tensors on disk that hold no weight.
    prefix: of tensor names, which files on the Hub may lack.
    adapters: the modules that adapters usually act on. tied_head: the name of a head that is the token table.
    adapterhub: where AdapterHub hangs a bottleneck: in the last linear layer of a branch (module), in the numbered
    layer around it (layer), or in a module of its own in the block (block).
    presets: published shapes, by name, as fields of the config.
    rate: what multiplies the usual learning rate of pretraining, 1 / width.
    gguf: how llama.cpp's files hold it; none where llama.cpp has no such family.
    read, write: rename between the spellings of config.json and the dataclass.
    """

    name: str
    architecture: str
    config: type[Any]
    builder: Callable[[Any], Model]
    keys: Callable[[Any], list[Entry]]
    initialise: Callable[[Any], None] = by_range
    also: tuple[str, ...] = ()
    own: bool = False
    reads: Literal["text", "series"] = "text"
    carries: bool = False
    task: str = "language"
    heads: Mapping[str, Head] = field(default_factory=dict)
    dropped_keys: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    absent: Collection[str] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fresh: Mapping[str, Any] = field(default_factory=dict)
    inert: Collection[str] = ()
    default_only: Mapping[str, Any] = field(default_factory=dict)
    ignored_keys: tuple[str, ...] = ()
    prefix: str = ""
    adapters: AdapterTargets = AdapterTargets()
    tied_head: str = "lm_head"
    adapterhub: Literal["module", "layer", "block"] = "block"
    presets: Mapping[str, Fields] = field(default_factory=dict)
    rate: float = 1.0
    gguf: Layout | None = None
    read: Callable[[Fields], Fields] = dict
    write: Callable[[Fields], Fields] = dict

    @property
    def model_type(self) -> str:
        """What config.json calls it."""
        return f"langwright-{self.name}" if self.own else self.name

    @property
    def prefixes(self) -> list[str]:
        """With what the tensor names of a body may begin, in files with one head or another; the longest first."""
        found = {self.prefix, "", *(head.prefix for head in self.heads.values() if head.prefix)}
        return sorted(found, key=len, reverse=True)

    @property
    def is_decoder(self) -> bool:
        """Whether its models read from the left to the right, and nothing else."""
        return self.task == "language" and not self.is_encoder_decoder

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether its models have an encoder beside the body."""
        return self.default_only.get("is_encoder_decoder") is True

    def build(self, config: Any) -> Model:
        """A model with uninitialised parameters."""
        model = self.builder(config)
        model.family = self.name
        return model

    def honoured(self) -> dict[str, Any]:
        """The fields of config.json that make the model, with their types."""
        return {name: kind for name, kind in field_types(self.config).items() if name not in self.absent}

    def make(self, **fields: Any) -> Any:
        """A config; what is not given is as in a file without it."""
        return self.config(**{**self.defaults, **fields})

    def parse(self, raw: Fields, where: str, ignore: Collection[str] = ()) -> Any:
        """config.json -> config. A field that is not understood is refused by name unless it is in `ignore`."""
        honoured, only = self.honoured(), {**DEFAULT_ONLY, **self.default_only}
        given = {name: value for name, value in raw.items() if name not in ignore}
        try:
            check_types(given, READ_TYPES | honoured)
            given = self.read(given)
            check_types(given, honoured)  # those that lay in an object, or under another name
            for name, value in given.items():
                if name in honoured or name in INERT or name in self.inert:
                    continue
                if name not in only:
                    hint = suggest(name, honoured) or f"; --ignore-field {name} loads it all the same"
                    raise ValueError(f'field "{name}" is not known for {self.name}{hint}')
                if value != only[name] and (value is not None or only[name]):  # null means no
                    raise ValueError(f"{name} = {value!r} is not supported for {self.name}, only {only[name]!r}")
            return self.make(**{name: _frozen(value) for name, value in given.items() if name in honoured})
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None

    def dump(self, config: Any) -> Fields:
        """config -> the fields of config.json."""
        values = {name: value for name, value in dataclasses.asdict(config).items() if name not in self.absent}
        return {"architectures": [self.architecture], "model_type": self.model_type, **self.write(values)}
