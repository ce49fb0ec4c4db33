"""The layout of sentence-transformers: which vectors of a text are pooled, and whether the result has length 1.

`modules.json` lists the model itself, `1_Pooling` with a config.json, and perhaps `2_Normalize`, which is empty;
`sentence_bert_config.json` says how many tokens of a text are read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError
from langwright.base.files import read_json, read_object, write_json
from langwright.models.checks import check_types
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.parts.heads import EmbeddingHead, Pooling

MODULES, LIMITS = "modules.json", "sentence_bert_config.json"
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
    if not isinstance(modules, list) or not all(isinstance(m, dict) and {"type", "path"} <= m.keys() for m in modules):
        raise UserError(f"{path}: the list of modules must be a JSON list of objects with type and path")
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]) or modules[0]["path"]:
        raise UserError(f"{path}: {', '.join(kinds)} is not supported, only Transformer, Pooling and perhaps Normalize")
    name = str(modules[1]["path"])
    if Path(name).name != name:
        raise UserError(f"{path}: the module {name!r} is not in this folder")
    return Layout(_mode(folder / name / "config.json"), "Normalize" in kinds, _longest(folder / LIMITS))


def _mode(path: Path) -> Pooling:
    config = _read(path, "the way of pooling", dict.fromkeys(MODES, bool))
    on = [field for field, value in config.items() if field.startswith("pooling_mode_") and value]
    if len(on) != 1 or on[0] not in MODES:
        raise UserError(f"{path}: {' and '.join(on) or 'no mode'} is not supported, only one of {', '.join(MODES)}")
    return MODES[on[0]]


def _longest(path: Path) -> int | None:
    if not path.exists():
        return None
    limits = _read(path, "the limits of the encoder", {"do_lower_case": bool | None, "max_seq_length": int | None})
    if limits.get("do_lower_case"):
        raise UserError(f"{path}: do_lower_case = true is not supported; the tokenizer decides about case")
    return limits.get("max_seq_length")


def _read(path: Path, what: str, types: Fields) -> Fields:
    fields = read_object(path, what)
    try:
        check_types(fields, types)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return fields


def apply(layout: Layout, model: Model) -> None:
    """Give a model the pooling and the length of a folder."""
    model.head = EmbeddingHead(layout.pooling, layout.normalise)
    model.context = min(model.context, layout.longest or model.context)


def write(folder: Path, model: Model) -> list[str]:
    """Write the layout of a model with an embedding head; the names of its files."""
    head = model.head
    assert isinstance(head, EmbeddingHead)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")][: 3 if head.normalise else 2]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    for path, _ in kinds:
        (folder / path).mkdir(exist_ok=True)
    pooling: dict[str, Any] = {"word_embedding_dimension": model.body.embed.tokens.shape[1]}
    pooling |= {field: mode == head.pooling for field, mode in MODES.items()}
    write_json(folder / MODULES, modules)
    write_json(folder / "1_Pooling/config.json", pooling)
    write_json(folder / LIMITS, {"max_seq_length": model.context, "do_lower_case": False})
    return [MODULES, "1_Pooling/config.json", LIMITS]
