"""The adapter folder: PEFT's two files, and a record of ours beside them; and models with an adapter on them."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from langwright.adaptation.attached import attached
from langwright.adaptation.method import DEFAULT, Method
from langwright.adaptation.methods import METHODS
from langwright.adaptation.settings import Holds, SettingError
from langwright.base.errors import UserError
from langwright.base.files import check_files, read_object, read_record, sha256_file, write_json
from langwright.base.hub import model_folder, parse_hub_name
from langwright.models.family import Fields
from langwright.models.folder import OpenedFolder
from langwright.models.model import Model
from langwright.models.weights import check_floats, read_tensors, weights_checksum, write_tensors

CONFIG = "adapter_config.json"
EXTRA, RECORD = "langwright_extra.safetensors", "langwright.json"
FORMAT_VERSION = 1
FEATURES = "FEATURE_EXTRACTION"
_TASKS = {"sequence": "SEQ_CLS", "token": "TOKEN_CLS", "span": "QUESTION_ANS", "masked": None}


def save_adapter(
    model: Model, folder: Path | str, name: str = DEFAULT, base: Path | str | None = None, record: Fields | None = None
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
    adapter, folder, record = attached(model).adapter(name), Path(folder), record or {}
    method: Method = adapter.settings
    hub = parse_hub_name(str(record.get("base_folder", "")))
    named = None if base is None else str(base)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (RECORD, EXTRA):
        (folder / old).unlink(missing_ok=True)
    fields = {
        **method.to_peft(model),
        "auto_mapping": None,
        "base_model_name_or_path": named if hub is None else hub.repository,
        "inference_mode": True,
        "peft_type": method.peft_type,
        "revision": None if hub is None else record.get("base_revision"),
        "task_type": _task_type(model),
    }
    write_json(folder / CONFIG, dict(sorted(fields.items())))
    tensors = {method.weights: method.tensors(model, name)}
    if extra := method.extra(adapter.modules):
        tensors[EXTRA] = {key: tensor.float().clone() for key, tensor in extra.items()}
    for file, content in tensors.items():
        write_tensors(folder / file, content)
    written: Fields = {"format_version": FORMAT_VERSION, "base_folder": named, **record}
    if base is not None:
        written["base"] = weights_checksum(Path(base))
    written["settings"] = asdict(method)  # type: ignore[call-overload]
    written["checksums"] = {file: sha256_file(folder / file) for file in (CONFIG, *tensors)}
    write_json(folder / RECORD, written)


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
    fields = read_object(folder / CONFIG, "the adapter's config")
    record: Fields = {}
    if (folder / RECORD).exists():
        record = {"checksums": {}, **read_record(folder / RECORD, "the record of the adapter", FORMAT_VERSION)}
        check_files(folder / RECORD, record)
    if base is not None and "base" in record and weights_checksum(model_folder(base)) != record["base"]:
        raise UserError(f"{folder}: this adapter was trained over {record.get('base_folder')}, not over {base}")
    _check_task(fields.get("task_type"), model, folder / CONFIG)
    kind = _kind(fields, folder / CONFIG)
    ours = isinstance(record.get("settings"), dict)
    tensors = _read_finite(folder / kind.weights)
    # With `save_embedding_layers` PEFT writes tables that train whole again, under the names of its wrapper.
    wrapped = {"modules_to_save", "original_module"}
    tensors = {key: tensor for key, tensor in tensors.items() if not wrapped & {*key.split(".")}}
    extra = _read_finite(folder / EXTRA) if (folder / EXTRA).exists() else {}
    try:
        method = kind.from_settings(record["settings"]) if ours else kind.from_peft(fields, model)
        method.attach(model, name, tensors=tensors)
    except SettingError as error:
        names = {row.setting: field for field, row in kind.peft_fields.items() if isinstance(row, Holds) and not ours}
        raise UserError(f"{folder / (RECORD if ours else CONFIG)}: {error.in_file(names)}") from None
    except UserError as error:
        raise UserError(f"{folder / (RECORD if ours else CONFIG)}: {error}") from None
    try:
        method.load(model, name, tensors, extra)
    except UserError as error:
        method.detach(model, name)
        raise UserError(f"{folder / method.weights}: {error}") from None
    return method


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).exists()


def load_model(
    folder: Path | str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    ignore_fields: Collection[str] = (),
    head: str | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    adapter: Path | str | None = None,
    bits: int | str | None = None,
) -> Model:
    """The model of a folder, in eval mode.

    Args:
        folder: a path, or `hf:owner/name[@revision]`.
        device: where its parameters are.
        dtype: of its parameters; that of the file unless given.
        ignore_fields: fields of config.json to pass over although the family does not understand them.
        head: "language", "masked", "sequence", "token", "span", "embedding" or "hidden", as far as the family has it;
            the one that `architectures` names unless given. Tensors of other heads are listed and dropped.
        labels: the classes of a new classifying head.
        seed: of the parameters of a new head, which are listed.
        adapter: a folder of an adapter, ours or PEFT's, that is put on the model.
        bits: 8, 4, "int8", "int4", "nf4" or "fp4" quantises the linear layers while loading, tensor by tensor; None
            for a folder that holds them so.

    Raises:
        UserError: naming the file and the field or tensor that is wrong.
    """
    opened = OpenedFolder(folder, ignore_fields)
    model = opened.model(device, dtype, head, labels, seed, bits, quiet=adapter is not None)
    return adapted(model, adapter, opened.path)


def adapted(model: Model, adapter: Path | str | None, base: Path | str) -> Model:
    """A model just loaded from the folder `base`, in eval mode, with an adapter on it where there is one."""
    if adapter is not None:
        load_adapter(model, adapter, base=base)
    return model.eval()


def tokenizer_folder(model: Path, adapter: Path | None) -> Path:
    """Where the tokenizer of a model is: with an adapter that came with one of its own, which may have more tokens."""
    return model if adapter is None or not (adapter / "tokenizer_config.json").exists() else adapter


def _kind(fields: Fields, where: Path) -> type[Method]:
    """The method of an adapter_config.json."""
    kind = fields.get("peft_type", "BOTTLENECK" if "config" in fields else None)  # AdapterHub's own lack it
    known = {row.peft_type: row for row in METHODS.values()}
    if not isinstance(kind, str) or kind not in known:
        raise UserError(f"{where}: peft_type {kind!r} is not supported, only {', '.join(known)}")
    return known[kind]


def _task_type(model: Model) -> str | None:
    """What PEFT calls a model with this head."""
    if not model.generates:
        return _TASKS.get(model.task, FEATURES)
    return "CAUSAL_LM" if model.continues else "SEQ_2_SEQ_LM"


def _check_task(asked: object, model: Model, where: Path) -> None:
    """UserError where a base with another head is asked for; null and features go with any.

    Files take the one of the two names of a model that writes for the other, and PEFT lets them.
    """
    known = {"language": ("CAUSAL_LM", "SEQ_2_SEQ_LM")}.get(model.task, (_TASKS.get(model.task),))
    if asked not in (None, FEATURES, *known):
        raise UserError(f'{where}: task_type = {asked!r} does not go with the head "{model.task}" of this model')


def _read_finite(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; UserError naming one that holds no floats, or a number that is none."""
    if not path.exists():
        raise UserError(f"{path}: missing; the weights of an adapter are read from this file alone, never from pickles")
    tensors = read_tensors(path)
    for name, tensor in tensors.items():
        check_floats(tensor, f'{path}: tensor "{name}"', finite=True)
    return tensors
