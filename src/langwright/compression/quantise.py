"""Linear layers quantised: from one folder to another."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import checksums, write_json
from langwright.base.hub import SMALL
from langwright.base.shards import SINGLE
from langwright.models.family import Fields
from langwright.models.folder import CONFIG, FORMAT_VERSION, RECORD, OpenedFolder, refuse_out
from langwright.models.surgery import quantise
from langwright.models.weights import check_floats, open_weights, write_tensors
from langwright.parts.quantised import Packed


@dataclass
class Compression:
    """What quantising a folder did.

    Args:
        weights: how many weights are quantised.
        packed: bytes of the quantised weights, scales included.
        before: bytes of all tensors before.
        after: bytes of all tensors after.
        error: the largest relative error of a tensor, |quantised - before| / |before| in Frobenius norms.
        worst: the name of that tensor.
    """

    weights: int = 0
    packed: int = 0
    before: int = 0
    after: int = 0
    error: float = 0.0
    worst: str = ""

    @property
    def bits(self) -> float:
        """Bits a quantised weight, scales included."""
        return 8 * self.packed / max(1, self.weights)

    def add(self, name: str, weight: Tensor, packed: Packed) -> None:
        """Count a weight [rows, columns] that was quantised."""
        before = weight.float()
        relative = float((packed.full_weight(torch.float32) - before).norm() / before.norm().clamp(min=1e-30))
        if relative > self.error:
            self.error, self.worst = relative, name
        self.weights += weight.numel()
        self.packed += packed.bytes

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


def refuse_folders(source: OpenedFolder, out: Path) -> None:
    """UserError for a source that is quantised already, or an `out` that cannot hold a new model."""
    if source.scheme is not None:
        raise UserError(f"{source.path}: the weights are quantised already; compress the model they were made from")
    refuse_out(out)


@torch.no_grad()
def compress_folder(source: OpenedFolder, out: Path, bits: int | str) -> Compression:
    """Write a folder whose linear layers are quantised, and everything else is as in `source`.

    The model is loaded with its layers quantised, which says what these are and refuses what cannot be opened.

    Raises:
        UserError: as `refuse_folders`; a weight cannot be cut into groups, or a tensor holds NaN or infinity.
    """
    refuse_folders(source, out)
    result, tensors = Compression(), dict[str, Tensor]()

    def keep(name: str, weight: Tensor, packed: Packed) -> None:
        result.add(name, weight, packed)
        tensors.update(quantise.write_packed(name, packed))

    source.model(bits=bits, on_packed=keep)
    skipped = {"lm_head"}
    with open_weights(source.path) as weights:
        for name in weights.files:
            tensor = weights.read(name)
            if not name.endswith(source.family.ignored_keys):
                check_floats(tensor, weights.where(name), finite=True)
            result.before += tensor.nbytes
            if name not in tensors:
                tensors[name] = tensor.clone()
                if tensor.ndim == 2 and name.endswith(".weight"):
                    skipped.add(name.removesuffix(".weight"))
    result.after = sum(tensor.nbytes for tensor in tensors.values())
    _write(source, out, tensors, quantise.scheme_of(bits), skipped, result)
    return result


def _write(
    source: OpenedFolder,
    out: Path,
    tensors: dict[str, Tensor],
    scheme: quantise.Scheme,
    skipped: set[str],
    result: Compression,
) -> None:
    """Write the new folder; langwright.json, written last, keeps what the source's record says of its training."""
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    dtype = source.fields.get("dtype") or source.fields.get("torch_dtype") or "float32"
    write_json(out / CONFIG, {**source.fields, quantise.FIELD: scheme.fields(skipped, dtype)})
    write_tensors(out / SINGLE, tensors)
    beside = [name for name in SMALL if name not in (CONFIG, RECORD) and (source.path / name).exists()]
    for name in beside:
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.path / name, out / name)
    compressed = {"to": scheme.kind, "from": str(source.path), **result.record()}
    sums = checksums(out, (CONFIG, SINGLE, *beside))
    write_json(out / RECORD, {**source.record, "format_version": FORMAT_VERSION, "compressed": compressed, **sums})
