"""What a family's row says of its GGUF files: names of fields, and how llama.cpp lays tensors out."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layout:
    """How llama.cpp's files hold the models of a family. Names of tensors are gguf-py's for those of the key map.

    Args:
        architecture: `general.architecture`, with which the keys of the fields below begin.
        fields: of the config, by key.
        only: what fields of the config may be for llama.cpp to compute the same; other values are refused by name.
        constants: fields that every file of the family has.
        marks: fields of the config that are true where the file has a tensor, by its name.
        sizes: fields of the config that are the first size of a tensor, by its name.
        checks: gives the name of another field of a config that llama.cpp does not compute so; None where it does.
        complete: adds to the fields of a config that a file has those that llama.cpp derives from them.
        windows: llama.cpp knows the windows of layers; where it does not, a file says that texts are no longer than
            the smallest.
        pairs: the two numbers that a rotation turns lie side by side in q and k; else half a head apart, as ours.
        plus_one: norms hold 1 + the weight.
        own_head: llama.cpp wants a head even where it is the token table.
        experts: a tensor of a feed-forward holds that of all experts.
    """

    architecture: str
    fields: Mapping[str, str]
    only: Mapping[str, Collection[Any]] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=lambda: {"vocab_size": "token_embd.weight"})
    checks: Callable[[Any], str | None] = lambda config: None
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
    windows: bool = False
    pairs: bool = False
    plus_one: bool = False
    own_head: bool = False
    experts: bool = False


TIED = "tie_word_embeddings"
GELU = ("gelu", "gelu_new", "gelu_pytorch_tanh")
"""What llama.cpp computes by the tanh form."""
