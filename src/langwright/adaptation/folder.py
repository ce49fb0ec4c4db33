"""The adapter folder: PEFT's two files, and a record of ours beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from langwright.adaptation.attached import attached
from langwright.adaptation.config_fields import Holds
from langwright.adaptation.method import DEFAULT, Method
from langwright.adaptation.methods import METHODS
from langwright.adaptation.settings import SettingError
from langwright.base.errors import UserError
from langwright.base.files import check_files, read_json, read_record, sha256_file, write_json
from langwright.base.hub import parse_hub_name
from langwright.models.family import Fields
from langwright.models.model import Model
from langwright.models.weights import check_floats, read_tensors, weights_checksum, write_tensors

CONFIG = "adapter_config.json"
PICKLES = ("adapter_model.bin", "pytorch_adapter.bin")
EXTRA, RECORD = "langwright_extra.safetensors", "langwright.json"
FORMAT_VERSION = 1
_TASKS = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS", "masked": None}
_WRITING = {"CAUSAL_LM": "language", "SEQ_2_SEQ_LM": "language"}
"""Files take the one's name for the other, and PEFT lets them."""
FEATURES = "FEATURE_EXTRACTION"


def task_type(model: Model) -> str | None:
    """What PEFT calls a model with this head."""
    if not model.generates:
        return _TASKS.get(model.task, FEATURES)
    return "CAUSAL_LM" if model.continues else "SEQ_2_SEQ_LM"


def save_adapter(
    model: Model,
    folder: Path | str,
    name: str = DEFAULT,
    base: Path | str | None = None,
    record: Fields | None = None,
) -> None:
    """Write an adapter of a model as a folder that `peft` opens over the same base.

    A folder of ours without langwright.json, which is written last, is unfinished.

    Args:
        model: the model.
        folder: the folder to write.
        name: of the adapter.
        base: the folder of the model it belongs to, whose weights are remembered by their checksum.
        record: further entries of langwright.json.
    """
    attached(model).known([name])
    adapter, folder, record = attached(model).adapters[name], Path(folder), record or {}
    method: Method = adapter.settings
    hub = parse_hub_name(str(record.get("base_folder", "")))
    named = None if base is None else str(base)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    fields = {
        **method.to_peft(model),
        "auto_mapping": None,
        "base_model_name_or_path": named if hub is None else hub.repository,
        "inference_mode": True,
        "peft_type": method.peft_type,
        "revision": None if hub is None else record.get("base_revision"),
        "task_type": task_type(model),
    }
    write_json(folder / CONFIG, dict(sorted(fields.items())))
    tensors = {key: _alone(tensor) for key, tensor in method.tensors(model, name).items()}
    write_tensors(folder / method.weights, tensors)
    files, extra = [CONFIG, method.weights], method.extra(adapter.modules)
    (folder / EXTRA).unlink(missing_ok=True)
    if extra:
        write_tensors(folder / EXTRA, {key: _alone(tensor) for key, tensor in extra.items()})
        files.append(EXTRA)
    written: Fields = {"format_version": FORMAT_VERSION, "base_folder": named, **record}
    if base is not None:
        written["base"] = weights_checksum(Path(base))
    written["settings"] = method.settings()
    write_json(folder / RECORD, {**written, "checksums": {file: sha256_file(folder / file) for file in files}})


def load_adapter(model: Model, folder: Path | str, name: str = DEFAULT, base: Path | str | None = None) -> Method:
    """Attach the adapter of a folder, ours or PEFT's, to its base model, and choose it.

    Args:
        model: the base model.
        folder: the adapter's folder.
        name: a name for it on this model.
        base: the folder that the model came from; an adapter of ours that was trained over other weights is refused.

    Returns:
        The adapter's settings.

    Raises:
        UserError: naming the file and the field or tensor that does not fit.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise UserError(f"{folder}: there is no {CONFIG} here; is this an adapter folder?")
    fields = read_json(folder / CONFIG, "the adapter's config")
    if not isinstance(fields, dict):
        raise UserError(f"{folder / CONFIG}: the adapter's config is not a JSON object")
    record = _read_record(folder)
    if base is not None and "base" in record and weights_checksum(Path(base)) != record["base"]:
        raise UserError(
            f"{folder}: this adapter was trained over the weights of {record.get('base_folder')}, "
            f"which are not those of {base}"
        )
    _refuse_task(fields.get("task_type"), model, folder / CONFIG)
    kind = _kind(fields, folder / CONFIG)
    ours = "settings" in record
    where = folder / (RECORD if ours else CONFIG)
    names = {} if ours else {row.setting: name for name, row in kind.peft_fields.items() if isinstance(row, Holds)}
    try:
        if ours:
            method = kind.from_settings(record["settings"], str(where))
        else:
            method = kind.from_peft(fields, model, str(where))
    except SettingError as error:
        raise error.in_file(str(where), names) from None
    tensors = _read_finite(_weights(folder, method.weights))
    # With `save_embedding_layers` PEFT writes tables that train whole again, under the names of its wrapper.
    tensors = {key: t for key, t in tensors.items() if not {"modules_to_save", "original_module"} & {*key.split(".")}}
    extra = _read_finite(folder / EXTRA) if (folder / EXTRA).exists() else {}
    try:
        method.attach(model, name, tensors=tensors)
    except SettingError as error:
        raise error.in_file(str(where), names) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    try:
        method.load(model, name, tensors, str(folder / method.weights))
        method.load_extra(model, name, extra, str(folder / EXTRA))
    except UserError:
        method.detach(model, name)
        raise
    return method


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).exists()


def _kind(fields: Fields, where: Path) -> type[Method]:
    """The method of an adapter_config.json."""
    kind = fields.get("peft_type", "BOTTLENECK" if "config" in fields else None)  # AdapterHub's own lack it
    for row in METHODS.values():
        if row.peft_type == kind:
            return row
    known = ", ".join(dict.fromkeys(row.peft_type for row in METHODS.values()))
    raise UserError(f"{where}: peft_type {kind!r} is not supported, only {known}")


def _refuse_task(asked: Any, model: Model, where: Path) -> None:
    """UserError where a base with another head is asked for; null and features go with any."""
    head, known = model.task, {**_WRITING, **{task: head for head, task in _TASKS.items() if task}}
    if asked in (None, FEATURES):
        return
    if not isinstance(asked, str) or asked not in known:
        raise UserError(f"{where}: task_type = {asked!r} is none of {', '.join((*known, FEATURES))}")
    if head != known[asked]:
        raise UserError(
            f'{where}: task_type = {asked!r} is for a model with the head "{known[asked]}", and this one has "{head}"; '
            "load the model that the adapter was trained over"
        )


def _weights(folder: Path, name: str) -> Path:
    """The file of an adapter's tensors."""
    if not (folder / name).exists():
        pickles = [pickle for pickle in PICKLES if (folder / pickle).exists()]
        pickled = f" ({pickles[0]} is a pickle, which is never loaded)" if pickles else ""
        raise UserError(f"{folder}: there is no {name} here{pickled}")
    return folder / name


def _read_finite(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; UserError naming one that holds no floats, or a number that is none."""
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        check_floats(tensor, f'{path}: tensor "{name}"', finite=True)
    return tensors


def _alone(tensor: Tensor) -> Tensor:
    """In float32, in memory of its own."""
    return tensor.detach().float().clone().contiguous()


def _read_record(folder: Path) -> Mapping[str, Any]:
    """Our record in an adapter folder, if it has one; UserError where its files are not those it tells of."""
    if not (folder / RECORD).exists():
        return {}
    record = read_record(folder / RECORD, "the record of the adapter", FORMAT_VERSION)
    check_files(folder / RECORD, {"checksums": {}, **record})
    return record
