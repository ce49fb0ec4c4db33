"""The model folder: the Hugging Face layout plus langwright.json, written last."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import check_files, checksums, read_json, read_record, write_json
from langwright.base.hub import model_folder
from langwright.base.shards import SINGLE
from langwright.models import tasks
from langwright.models.families import ENCODER_DECODERS, FAMILIES
from langwright.models.family import Family, Fields
from langwright.models.folder import sentences
from langwright.models.folder.reading import read_weights
from langwright.models.initialise import normal
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.models.surgery import quantise
from langwright.models.weights import write_tensors
from langwright.text.tokenizer import Tokenizer

CONFIG, GENERATION, RECORD = "config.json", "generation_config.json", "langwright.json"
ADAPTER_CONFIG = "adapter_config.json"
"""What a folder that holds an adapter alone has instead."""
FORMAT_VERSION = 1
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


def new_model(family: str, config: Any, seed: int = 0, head: str | None = None, labels: Sequence[str] = ()) -> Model:
    """A model with fresh parameters in float32 on the CPU, filled as the family's paper says.

    head, labels: as for `load_model`; the family's own head unless given.
    """
    row = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = tasks.build(row, config, head or row.task, labels)
        row.initialise(model)
    return model


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
    head: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    bits: int | str | None = None,
) -> Model:
    """The model of a folder, in eval mode; an `Model` where the head is not one that writes texts.

    folder: a path, or `hf:owner/name[@revision]`, which is fetched into the cache of the Hub; see `base/hub.py`.

    dtype: that of the file unless given. ignore_fields: fields of config.json to pass over although the family does
    not understand them. head: "language", "masked", "sequence", "token", "span", "embedding" or "hidden", as far as
    the family has it; the one that `architectures` names unless given. labels: of a new classifying head. What is new
    is filled from `seed` and told; tensors of other heads are listed and dropped. bits: 8, 4, "int8", "int4", "nf4" or
    "fp4" rounds the linear maps while loading, tensor by tensor; a folder that holds them so needs no word.
    Raises UserError naming the file and the field or tensor that is wrong; nothing else is skipped.
    """
    folder = model_folder(folder)
    raw, family, config = _read_config(folder, ignore_fields)
    where = str(folder / CONFIG)
    layout = sentences.read(folder)
    own = _own_head(raw, family, head, where)
    if own == family.task and layout is not None:
        own = tasks.EMBEDDING
    task = head or own or family.task
    known = tasks.labels_in_file(raw, where) if tasks.is_labelled(family, task) and task == own else ()
    fresh = task != own or (labels is not None and tuple(labels) != known)
    filler = _filler(raw, where, bits, device, dtype)
    with _checked(folder):
        model = tasks.build(family, config, task, labels or known)
        if layout is not None and task == tasks.EMBEDDING:
            sentences.apply(layout, model)
        if fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                if model.encoders:
                    family.initialise(model)
                elif model.head is not None:
                    normal(model.head, config.initializer_range)
        read_weights(model, family, folder, device, dtype, fresh, labels is not None, filler)
    return model.eval()


def _filler(
    raw: Fields, where: str, bits: int | str | None, device: torch.device | str, dtype: torch.dtype | None
) -> quantise.Filler | None:
    """What fills linear layers with quantised weights; None where the file holds floats and none are asked for."""
    stored = quantise.read_scheme(raw, where)
    if stored is None or bits is None:
        scheme = stored or (None if bits is None else quantise.scheme_of(bits))
        return None if scheme is None else quantise.Filler(scheme, stored is not None, dtype, device)
    if quantise.scheme_of(bits).kind != stored.kind:
        raise UserError(
            f"{where}: the weights are in {stored.kind} already, and bits = {bits!r} would round them again; "
            "leave it out"
        )
    return quantise.Filler(stored, True, dtype, device)


def load_generative(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
    bits: int | str | None = None,
) -> Model:
    """As `load_model`, for what writes texts; UserError in one line for a model with any other head."""
    folder = model_folder(folder)
    raw, family, _ = _read_config(folder, ignore_fields)
    task = tasks.task_in_file(family, raw, str(folder / CONFIG))
    if task != "language":
        raise UserError(
            f'{folder}: a {family.name} model with the head "{task}" does not continue texts; '
            "this needs a causal language model such as gpt2 or llama"
        )
    return load_model(folder, device, dtype, ignore_fields, bits=bits)


def load_one_stack(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
    bits: int | str | None = None,
) -> Model:
    """As `load_model`, for what reads one text; UserError in one line for an encoder-decoder."""
    _refuse_two_stacks(folder, ignore_fields)
    return load_model(folder, device, dtype, ignore_fields, bits=bits)


def load_language_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
    bits: int | str | None = None,
) -> Model:
    """As `load_model`, for what continues a text: a model of one stack that writes."""
    _refuse_two_stacks(folder, ignore_fields)
    return load_generative(folder, device, dtype, ignore_fields, bits)


def _refuse_two_stacks(folder: Path | str, ignore_fields: Collection[str]) -> None:
    family, _ = load_config(folder, ignore_fields)
    if family in ENCODER_DECODERS:
        raise UserError(f"{folder}: {family.name} is an encoder-decoder, and a model of one stack is needed here")


def load_config(folder: Path | str, ignore_fields: Collection[str] = ()) -> tuple[Family, Any]:
    """The family of a model folder and its config."""
    return _read_config(model_folder(folder, weights=False), ignore_fields)[1:]


def _read_config(folder: Path, ignore_fields: Collection[str]) -> tuple[Fields, Family, Any]:
    """config.json as it is, the family it names, and the family's config."""
    path = folder / CONFIG
    if (folder / ADAPTER_CONFIG).exists() and not path.exists():
        raise UserError(f"{folder}: is an adapter, not a model; name the model it belongs to, and --adapter {folder}")
    raw = read_json(path, "the model's config")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: the model's config is not a JSON object")
    name = raw.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        near = get_close_matches(str(name), FAMILIES, 1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise UserError(f'{path}: model_type "{name}" is not supported, only {", ".join(FAMILIES)}{hint}')
    family = FAMILIES[name]
    plain = {field: value for field, value in raw.items() if field != quantise.FIELD}  # read by whoever fills the model
    return raw, family, family.parse(plain, str(path), ignore_fields)


def _own_head(raw: Fields, family: Family, wanted: str | None, where: str) -> str | None:
    """What the head in the file is for; None where it is not built here and another is asked for."""
    try:
        return tasks.task_in_file(family, raw, where)
    except UserError:
        if wanted is None:
            raise
        return None


@contextmanager
def _checked(folder: Path) -> Iterator[None]:
    """Check the record while the block reads the weights; what is wrong with it is told before the block's error."""
    with ThreadPoolExecutor(1) as beside:
        checking = beside.submit(_check_record, folder)
        try:
            yield
        finally:
            checking.result()


def _check_record(folder: Path) -> None:
    """Where a folder has a record of ours: its version is one we read, and the weights are those it was saved with."""
    path = folder / RECORD
    if not path.exists():
        return
    check_files(path, read_record(path, "the record of the model", FORMAT_VERSION), only=".safetensors")


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
