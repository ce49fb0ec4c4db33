"""Linear layers quantised: from one folder to another."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import checksums, write_json
from langwright.base.gguf import is_gguf
from langwright.base.hub import SMALL
from langwright.base.shards import SINGLE
from langwright.models.folder import CONFIG, FORMAT_VERSION, GENERATION, RECORD, OpenedFolder, refuse_out
from langwright.models.gguf.tensors import open_weights
from langwright.models.surgery import quantise
from langwright.models.weights import check_floats, write_tensors
from langwright.parts.quantised import Packed
from langwright.text.opening import load_tokenizer


@dataclass(frozen=True)
class Compression:
    """What quantising a folder did, as langwright.json and `--json` tell it.

    Args:
        weights: how many weights are quantised.
        bits_per_weight: bits a quantised weight, scales included.
        bytes_before: of all tensors.
        bytes_after: of all tensors.
        largest_relative_error: of a tensor, |quantised - before| / |before| in Frobenius norms.
        worst_tensor: the name of that tensor.
    """

    weights: int
    bits_per_weight: float
    bytes_before: int
    bytes_after: int
    largest_relative_error: float
    worst_tensor: str


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
    tensors: dict[str, Tensor] = {}
    sizes: list[tuple[int, int]] = []
    errors = {"": 0.0}

    def keep(name: str, weight: Tensor, packed: Packed) -> None:
        tensors.update(quantise.write_packed(name, packed))
        sizes.append((weight.numel(), packed.bytes))
        before = weight.float()
        errors[name] = float((packed.full_weight(torch.float32) - before).norm() / before.norm().clamp(min=1e-30))

    source.model(bits=bits, on_packed=keep)
    before, skipped = 0, {"lm_head"}
    with open_weights(source.path) as opened:
        for name in opened.files:
            tensor = opened.read(name)
            if not name.endswith(source.family.ignored_keys):
                check_floats(tensor, opened.where(name), finite=True)
            before += tensor.nbytes
            if name not in tensors:
                tensors[name] = tensor.clone()
                if tensor.ndim == 2 and name.endswith(".weight"):
                    skipped.add(name.removesuffix(".weight"))
    weights, packed = (sum(column) for column in zip(*sizes, strict=True))
    after, worst = sum(tensor.nbytes for tensor in tensors.values()), max(errors, key=lambda name: errors[name])
    result = Compression(weights, 8 * packed / weights, before, after, errors[worst], worst)
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
    if is_gguf(source.path):
        tokenizer = load_tokenizer(source.path)
        tokenizer.save(out)
        write_json(out / GENERATION, tokenizer.generation())
    for name in SMALL:
        if name not in (CONFIG, RECORD) and (source.path / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.path / name, out / name)
    beside = [name for name in SMALL if name not in (CONFIG, RECORD) and (out / name).exists()]
    compressed = {"to": scheme.kind, "from": str(source.path), **asdict(result)}
    sums = checksums(out, (CONFIG, SINGLE, *beside))
    write_json(out / RECORD, {**source.record, "format_version": FORMAT_VERSION, "compressed": compressed, **sums})
