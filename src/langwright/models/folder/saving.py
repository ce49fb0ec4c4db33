"""A model folder written: the Hugging Face layout, and langwright.json, which is written last."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import checksums, refuse_file, write_json
from langwright.base.shards import INDEX, SINGLE
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.family import Fields
from langwright.models.folder import sentences
from langwright.models.folder.opened import ADAPTER_CONFIG, CONFIG, FORMAT_VERSION, GENERATION, RECORD
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.models.weights import write_tensors
from langwright.text.tokenizer import Tokenizer

IN_GENERATION = (
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
"""Fields of config.json that generation_config.json repeats."""
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def refuse_out(out: Path) -> None:
    """UserError where no new model can be written: a file is in the way, or a model or an adapter is there already."""
    refuse_file(out)
    if any((out / name).exists() for name in (SINGLE, INDEX, ADAPTER_CONFIG)):
        raise UserError(f"{out}: holds a model or an adapter already; choose another folder")


def save_model(model: Model, tokenizer: Tokenizer | None, folder: Path | str, record: Fields | None = None) -> None:
    """Write a model folder that `transformers` opens with equal logits.

    record: what langwright.json should tell besides format version and checksums (recipe, corpus, metrics).
    A folder without langwright.json, which is written last, was not finished.
    """
    save_parameters(dict(model.named_parameters()), model, tokenizer, folder, record)


def save_parameters(
    parameters: Mapping[str, Tensor],
    model: Model,
    tokenizer: Tokenizer | None,
    folder: Path | str,
    record: Fields | None = None,
    generation: Fields | None = None,
) -> None:
    """As `save_model`, with `parameters` in place of the model's own (fp32 masters of a bf16 model, say).

    generation: fields for generation_config.json, before those that the tokenizer gives.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    family = FAMILIES[model.family]
    dtype = _DTYPES[next(iter(parameters.values())).dtype]
    roles: Fields = {}
    if tokenizer is not None:
        roles = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.pad_id,
        }
        tokenizer.save(folder)
    task = model.task
    labels = tasks.label_fields(model.labels)
    fields = family.dump(model.config) | {"architectures": [tasks.architecture(family, task)]} | labels
    kept = [name for name in fields if not model.generates or roles.get(name) is None]
    write_json(folder / CONFIG, {**fields, **{k: v for k, v in roles.items() if k not in kept}, "dtype": dtype})
    files = [CONFIG, SINGLE]
    if task == "language":
        # `transformers` reads these from nowhere else once the file is there
        told = {name: fields[name] for name in IN_GENERATION if fields.get(name) is not None}
        told |= {name: value for name, value in roles.items() if value is not None}
        told |= {} if tokenizer is None else tokenizer.generation()
        write_json(folder / GENERATION, told | (generation or {}))
        files.append(GENERATION)
    write_tensors(folder / SINGLE, to_disk(tasks.entries(family, model.config, task), parameters))
    if task == tasks.EMBEDDING:
        files += sentences.write(folder, model)
    files += [n for n in ("tokenizer.json", "tokenizer_config.json") if (folder / n).exists()]
    write_json(folder / RECORD, {"format_version": FORMAT_VERSION, **(record or {}), **checksums(folder, files)})
