"""Linear layers quantised: of a model in memory, or from one folder to another, tensor by tensor."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import checksums, make_folder, read_object, refuse_file, write_json
from langwright.base.hub import SMALL
from langwright.base.shards import INDEX, SINGLE
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.family import Fields
from langwright.models.folder import CONFIG, FORMAT_VERSION, RECORD, load_config
from langwright.models.keymap import Entry
from langwright.models.model import Model
from langwright.models.surgery import quantise
from langwright.models.surgery.quantise import Scheme
from langwright.models.weights import check_floats, open_weights, write_tensors

BESIDE = tuple(name for name in SMALL if name not in (CONFIG, RECORD))
"""Files of a model folder that hold no weights: they are copied."""


@dataclass(frozen=True)
class Compression:
    """What quantising a folder did.

    Args:
        weights: how many weights are quantised.
        bits: bits a quantised weight, scales included.
        before: bytes of all tensors before.
        after: bytes of all tensors after.
        error: the largest relative error of a tensor, |quantised - before| / |before| in Frobenius norms.
        worst: the name of that tensor.
    """

    weights: int
    bits: float
    before: int
    after: int
    error: float
    worst: str

    def record(self) -> Fields:
        """All numbers, for langwright.json and programs."""
        return {
            "weights": self.weights,
            "bits_per_weight": self.bits,
            "bytes_before": self.before,
            "bytes_after": self.after,
            "largest_relative_error": self.error,
            "worst_tensor": self.worst,
        }


@torch.no_grad()
def quantise_model(model: Model, bits: int | str) -> None:
    """Quantise the linear layers of a model in memory, as `load_model(..., bits=bits)` does.

    Raises:
        UserError: a weight cannot be cut into groups.
    """
    scheme = quantise.scheme_of(bits)
    for entry in _chosen(model):
        upright = replace(entry, transposed=False).join([model.get_parameter(name) for name in entry.ours])
        try:
            quantise.place(model, entry, scheme.quantise(upright), upright.device)
        except ValueError as error:
            raise UserError(f'tensor "{entry.disk}": {error}') from None


def _chosen(model: Model) -> list[Entry]:
    entries = tasks.entries(FAMILIES[model.family], model.config, model.task)
    return [entry for entry in entries if quantise.is_chosen(model, entry)]


def refuse_folders(source: Path, out: Path) -> None:
    """UserError for a source that is quantised already, or an `out` that cannot hold a new model."""
    raw = read_object(source / CONFIG, "the model's config")
    if quantise.read_scheme(raw, str(source / CONFIG)) is not None:
        raise UserError(f"{source}: the weights are quantised already; compress the model that they were made from")
    refuse_file(out)
    if out.resolve() == source.resolve():
        raise UserError(f"{out}: the new model needs a folder of its own")
    if any((out / name).exists() for name in (SINGLE, INDEX, "adapter_model.safetensors")):
        raise UserError(f"{out}: holds a model or an adapter already; choose another folder")


def compress_folder(source: Path, out: Path, bits: int | str, ignore_fields: tuple[str, ...] = ()) -> Compression:
    """Write a folder whose linear layers are quantised, and everything else is as in `source`.

    Memory holds the quantised tensors and one other.

    Raises:
        UserError: as `refuse_folders`, or a weight cannot be cut into groups.
    """
    scheme = quantise.scheme_of(bits)
    family, config = load_config(source, ignore_fields)
    refuse_folders(source, out)
    raw = read_object(source / CONFIG, "the model's config")
    # A model on the meta device says which tensors are linear layers; labels only give its head a size.
    task = tasks.task_in_file(family, raw, str(source / CONFIG))
    labels = tasks.labels_in_file(raw, str(source / CONFIG)) if tasks.is_labelled(family, task) else ()
    with torch.device("meta"):
        model = tasks.build(family, config, task, labels)
    spellings = {
        spelling: entry
        for entry in _chosen(model)
        for full in (entry.disk, *entry.copies)
        for spelling in (full, full.removeprefix(family.prefix))
    }
    tensors: dict[str, Tensor] = {}
    tally = _Tally()
    skipped: set[str] = set()
    with open_weights(source) as (names, read):
        for name in names:
            tensor = read(name)
            entry = spellings.get(name)
            if not name.endswith(family.ignored_keys):
                _check(tensor, name, source, None if entry is None else _shape(entry, model))
            written = {name: tensor} if entry is None else _quantised(scheme, entry, name, tensor, source, tally)
            if entry is None and tensor.ndim == 2 and name.endswith(".weight"):
                skipped.add(name.removesuffix(".weight"))
            tally.before += tensor.nbytes
            tally.after += sum(part.nbytes for part in written.values())
            tensors |= {key: part.clone() for key, part in written.items()}
    result = tally.result()
    dtype = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    _write(source, out, {**raw, quantise.FIELD: scheme.fields({*skipped, "lm_head"}, dtype)}, tensors, scheme, result)
    return result


class _Tally:
    """What has been quantised so far."""

    def __init__(self) -> None:
        self.weights = self.packed = self.before = self.after = 0
        self.error, self.worst = 0.0, ""

    def result(self) -> Compression:
        bits = 8 * self.packed / max(1, self.weights)
        return Compression(self.weights, bits, self.before, self.after, self.error, self.worst)


def _shape(entry: Entry, model: Model) -> list[int]:
    return entry.shape([model.get_parameter(ours).shape for ours in entry.ours])


def _check(tensor: Tensor, name: str, folder: Path, shape: list[int] | None) -> None:
    """UserError for a tensor with which no model could be opened; shape: what the config asks for, if known."""
    try:
        check_floats(tensor)
    except ValueError as error:
        raise UserError(f'{folder}: tensor "{name}": {error}') from None
    if shape is not None and list(tensor.shape) != shape:
        raise UserError(f'{folder}: tensor "{name}" has shape {list(tensor.shape)}, the config asks for {shape}')
    if not tensor.isfinite().all():
        raise UserError(f'{folder}: tensor "{name}" holds NaN or infinity, which cannot be quantised')


def _quantised(
    scheme: Scheme, entry: Entry, name: str, tensor: Tensor, folder: Path, tally: _Tally
) -> dict[str, Tensor]:
    upright = tensor.t().contiguous() if entry.transposed else tensor
    try:
        packed = scheme.quantise(upright)
    except ValueError as error:
        raise UserError(f'{folder}: tensor "{name}": {error}') from None
    before = upright.float()
    relative = float((packed.full_weight(torch.float32) - before).norm() / before.norm().clamp(min=1e-30))
    if relative > tally.error:
        tally.error, tally.worst = relative, name
    tally.weights += upright.numel()
    tally.packed += packed.bytes
    return quantise.write_packed(name, packed)


def _write(
    source: Path, out: Path, config: Fields, tensors: dict[str, Tensor], scheme: Scheme, result: Compression
) -> None:
    """Write the new folder; langwright.json, written last, keeps what the source's record says of its training."""
    make_folder(out)
    (out / RECORD).unlink(missing_ok=True)
    write_json(out / CONFIG, config)
    write_tensors(out / SINGLE, tensors)
    copied = list(_copy_beside(source, out))
    record = read_object(source / RECORD, "the record of the model", optional=True)
    compressed = {"to": scheme.kind, "from": str(source), **result.record()}
    sums = checksums(out, (CONFIG, SINGLE, *copied))
    write_json(out / RECORD, {**record, "format_version": FORMAT_VERSION, "compressed": compressed, **sums})


def _copy_beside(source: Path, out: Path) -> Iterator[str]:
    for name in BESIDE:
        if (source / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, out / name)
            yield name
