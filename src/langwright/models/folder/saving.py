"""A model folder written: the Hugging Face layout, and langwright.json, which is written last."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import checksums, refuse_file, write_json
from langwright.base.shards import INDEX, SINGLE
from langwright.models import tasks
from langwright.models.families import ROWS
from langwright.models.family import Fields
from langwright.models.folder import sentences
from langwright.models.folder.opened import ADAPTER_CONFIG, CONFIG, FORMAT_VERSION, GENERATION, RECORD
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.models.weights import write_tensors
from langwright.text.tokenizer import Tokenizer

IN_GENERATION = (
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids",
    "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
"""Fields of config.json that generation_config.json repeats."""


def refuse_out(out: Path) -> None:
    """UserError where no new model can be written: a file is in the way, or a model or an adapter is there already."""
    refuse_file(out)
    if any((out / name).exists() for name in (SINGLE, INDEX, ADAPTER_CONFIG)):
        raise UserError(f"{out}: holds a model or an adapter already; choose another folder")


def save_model(
    model: Model,
    tokenizer: Tokenizer | None,
    folder: Path | str,
    record: Fields | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    generation: Fields | None = None,
) -> None:
    """Write a model folder that `transformers` opens with equal logits.

    A folder without langwright.json, which is written last, was not finished.

    Args:
        model: what is saved.
        tokenizer: is saved beside it, where there is one.
        folder: the folder to write.
        record: what langwright.json should tell besides format version and checksums (recipe, corpus, metrics).
        parameters: in place of the model's own (float32 masters of a bfloat16 model, say).
        generation: fields for generation_config.json, before those that the tokenizer gives.
    """
    folder, family, task = Path(folder), ROWS[model.family], model.task
    parameters = parameters or dict(model.named_parameters())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    fields = family.dump(model.config) | {"architectures": [tasks.architecture(family, task)]}
    if model.labels:
        fields["id2label"] = {str(i): label for i, label in enumerate(model.labels)}
        fields["label2id"] = {label: i for i, label in enumerate(model.labels)}
    roles: Fields = {}
    if tokenizer is not None:
        roles = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad")}
        tokenizer.save(folder)
    overridden = {name: id for name, id in roles.items() if name not in fields or (model.generates and id is not None)}
    dtype = str(next(iter(parameters.values())).dtype).removeprefix("torch.")
    write_json(folder / CONFIG, {**fields, **overridden, "dtype": dtype})
    files = [CONFIG, SINGLE]
    if task == "language":
        # `transformers` reads these from nowhere else once the file is there
        told = {name: fields[name] for name in IN_GENERATION if fields.get(name) is not None}
        told |= {name: id for name, id in roles.items() if id is not None}
        told |= {} if tokenizer is None else tokenizer.generation()
        write_json(folder / GENERATION, told | (generation or {}))
        files.append(GENERATION)
    write_tensors(folder / SINGLE, to_disk(tasks.entries(family, model.config, task), parameters))
    if task == tasks.EMBEDDING:
        files += sentences.write(folder, model)
    files += [n for n in ("tokenizer.json", "tokenizer_config.json") if (folder / n).exists()]
    write_json(folder / RECORD, {"format_version": FORMAT_VERSION, **(record or {}), **checksums(folder, files)})
