"""The layout of sentence-transformers: which vectors of a text are pooled, and whether the result has length 1.

`modules.json` lists the model itself, `1_Pooling` with a config.json, and perhaps `2_Normalize`, which is empty;
`sentence_bert_config.json` says how many tokens of a text are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langwright.base.errors import UserError
from langwright.base.files import read_json, read_object, write_json
from langwright.base.value_types import check_types
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.heads import EmbeddingHead, Pooling

MODULES, POOLING, LIMITS = "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"
KINDS = ["Transformer", "Pooling", "Normalize"]
MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Layout:
    """How a folder makes one vector of a text. longest: the most tokens that are read; None for all."""

    pooling: Pooling
    normalise: bool
    longest: int | None = None


def read(folder: Path) -> Layout | None:
    """The layout of a folder, None where there is none; UserError for a module or a mode that is not built here."""
    path = folder / MODULES
    if not path.exists():
        return None
    modules = read_json(path, "the list of modules")
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        places = [module["path"] for module in modules]
    except (TypeError, KeyError):
        raise UserError(f"{path}: the list of modules must be a JSON list of objects with type and path") from None
    if kinds not in (KINDS, KINDS[:2]) or places[:2] != ["", POOLING.split("/")[0]]:
        raise UserError(f"{path}: {kinds} in {places} is not supported, only {KINDS}, the second in 1_Pooling")
    config = _read(folder / POOLING, "the way of pooling", dict.fromkeys(MODES, bool))
    on = [field for field, value in config.items() if field.startswith("pooling_mode_") and value]
    if len(on) != 1 or on[0] not in MODES:
        told = " and ".join(on) or "no mode"
        raise UserError(f"{folder / POOLING}: {told} is not supported, only one of {', '.join(MODES)}")
    types = {"do_lower_case": Literal[False] | None, "max_seq_length": int | None}
    limits = _read(folder / LIMITS, "the limits of the encoder", types)
    return Layout(MODES[on[0]], "Normalize" in kinds, limits.get("max_seq_length"))


def _read(path: Path, what: str, types: Fields) -> Fields:
    fields = read_object(path, what, optional=path.name == LIMITS)
    try:
        check_types(fields, types)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return fields


def write(folder: Path, model: Model) -> list[str]:
    """Write the layout of a model with an embedding head; the names of its files."""
    head = model.head
    assert isinstance(head, EmbeddingHead)
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(KINDS if head.normalise else KINDS[:2])
    ]
    for module in modules:
        (folder / str(module["path"])).mkdir(exist_ok=True)
    pooling: Fields = {"word_embedding_dimension": model.body.embed.tokens.shape[1]}
    pooling |= {field: mode == head.pooling for field, mode in MODES.items()}
    write_json(folder / MODULES, modules)
    write_json(folder / POOLING, pooling)
    write_json(folder / LIMITS, {"max_seq_length": model.context, "do_lower_case": False})
    return [MODULES, POOLING, LIMITS]
