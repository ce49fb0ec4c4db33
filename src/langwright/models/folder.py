"""The model folder: the Hugging Face layout plus langwright.json, written last."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import read_json, sha256_file, write_json
from langwright.models.decoder import CausalLM
from langwright.models.families import FAMILIES
from langwright.models.family import Family, Fields, Model
from langwright.models.keymap import Entry, to_disk
from langwright.models.weights import SINGLE, open_weights, write_tensors
from langwright.text.tokenizer import Tokenizer

CONFIG, GENERATION, RECORD = "config.json", "generation_config.json", "langwright.json"
FORMAT_VERSION = 1
TIED_COPY = "lm_head.weight"
"""A head that is the embedding table needs no tensor of its own; some files hold a copy all the same."""
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def new_model(family: str, config: Any, seed: int = 0) -> Any:
    """A model of the family's kind with fresh parameters in float32 on the CPU, filled as its paper says."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family].build(config)
        FAMILIES[family].initialise(model)
    return model


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
) -> Model:
    """The model of a folder, in eval mode.

    dtype: that of the file unless given. ignore_fields: fields of config.json to pass over although the family does
    not understand them. Raises UserError naming the file and the field or tensor that is wrong; nothing is skipped.
    """
    folder = Path(folder)
    family, config = load_config(folder, ignore_fields)
    _check_record(folder)
    model = family.build(config)
    _fill(model, family, folder, device, dtype)
    return model.eval()


def load_decoder(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
) -> CausalLM:
    """As `load_model`, for those who need a decoder-only model: any other is a UserError."""
    model = load_model(folder, device, dtype, ignore_fields)
    if not isinstance(model, CausalLM):
        raise UserError(f"{folder}: {model.family} is an encoder-decoder, and a decoder-only model is needed here")
    return model


def load_config(folder: Path, ignore_fields: Collection[str] = ()) -> tuple[Family, Any]:
    """The family of a model folder and its config."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the path of a model folder")
    path = folder / CONFIG
    raw = read_json(path, "the model's config")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: the model's config is not a JSON object")
    name = raw.get("model_type")
    if name not in FAMILIES:
        near = get_close_matches(str(name), FAMILIES, 1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise UserError(f'{path}: model_type "{name}" is not supported, only {", ".join(FAMILIES)}{hint}')
    family = FAMILIES[name]
    for architecture in raw.get("architectures") or []:
        if architecture not in (family.architecture, *family.also):
            raise UserError(
                f"{path}: architecture {architecture} is not supported for {name}, only {family.architecture}"
            )
    return family, family.parse(raw, str(path), ignore_fields)


def _check_record(folder: Path) -> None:
    """Where a folder has a record of ours: its version is one we read, and the weights are those it was saved with."""
    path = folder / RECORD
    if not path.exists():
        return
    record = read_json(path, "the record of the model")
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version} is not the version {FORMAT_VERSION} that is read here")
    checksums = record.get("checksums")
    if not isinstance(checksums, dict):
        raise UserError(f"{path}: there are no checksums of the files; save the model again")
    for name, checksum in checksums.items():
        if name.endswith(".safetensors") and (folder / name).exists() and sha256_file(folder / name) != checksum:
            raise UserError(f"{folder / name}: broken or replaced, its checksum differs from that in {RECORD}")


def _fill(model: Model, family: Family, folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> None:
    """Read every parameter from disk, one tensor at a time; a missing or extra tensor or a wrong shape is an error."""
    parameters = dict(model.named_parameters())
    with open_weights(folder) as (names, read):
        left = {name for name in names if not name.endswith(family.ignored_keys or ("\0",))}
        for entry in family.keys(model.config):
            ours, found = [parameters.pop(name) for name in entry.ours], _names_in(left, entry, family.prefix)
            if not found and entry.fallback in names:
                found = [entry.fallback]
            if not found and entry.zero_if_missing:
                for parameter in ours:
                    parameter.data = torch.zeros(parameter.shape, dtype=dtype or torch.float32, device=device)
                continue
            if not found:
                raise UserError(f'{folder}: tensor "{entry.disk}" is missing from the weights')
            disk, tensor = found[0], read(found[0])
            for copy in found[1:]:
                if not torch.equal(read(copy), tensor):
                    raise UserError(f'{folder}: tensor "{copy}" differs from "{disk}", to which {CONFIG} ties it')
            left.difference_update(found)
            shape = entry.shape([p.shape for p in ours])
            if list(tensor.shape) != shape:
                raise UserError(
                    f'{folder}: tensor "{disk}" has shape {list(tensor.shape)}, the config asks for {shape}'
                )
            for parameter, piece in zip(ours, entry.split(tensor, [p.shape[0] for p in ours]), strict=True):
                parameter.data = torch.empty(piece.shape, dtype=dtype or piece.dtype, device=device).copy_(piece)
        if TIED_COPY in left and model.head.weight is model.body.embed.tokens:
            left.remove(TIED_COPY)
            if not torch.equal(read(TIED_COPY).to(model.head.weight), model.head.weight):
                raise UserError(
                    f'{folder}: tensor "{TIED_COPY}" differs from the embeddings, to which {CONFIG} ties it'
                )
        if left:
            raise UserError(f'{folder}: tensor "{min(left)}" in the weights is not known for {family.name}')
        assert not parameters, f"the key map of {family.name} misses {sorted(parameters)}"


def _names_in(names: Collection[str], entry: Entry, prefix: str) -> list[str]:
    """The names under which a file holds an entry's tensor, with or without the family's prefix."""
    wanted = [name for full in (entry.disk, *entry.copies) for name in dict.fromkeys((full, full.removeprefix(prefix)))]
    return [name for name in wanted if name in names]


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
) -> None:
    """As `save_model`, with `parameters` in place of the model's own (fp32 masters of a bf16 model, say)."""
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
    fields = family.dump(model.config)
    fields |= {name: value for name, value in roles.items() if value is not None or name not in fields}
    write_json(folder / CONFIG, {**fields, "dtype": dtype})
    write_json(folder / GENERATION, {name: value for name, value in roles.items() if value is not None})
    write_tensors(folder / SINGLE, to_disk(family.keys(model.config), parameters))
    files = [CONFIG, GENERATION, SINGLE] + [
        n for n in ("tokenizer.json", "tokenizer_config.json") if (folder / n).exists()
    ]
    checksums = {name: sha256_file(folder / name) for name in files}
    write_json(folder / RECORD, {"format_version": FORMAT_VERSION, **(record or {}), "checksums": checksums})
