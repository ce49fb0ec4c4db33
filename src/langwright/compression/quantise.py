"""Linear layers quantised: from one folder to another."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from langwright.base.console import say
from langwright.base.errors import UserError
from langwright.base.files import checksums, write_json
from langwright.base.gguf import is_gguf
from langwright.base.hub import SMALL
from langwright.base.shards import SINGLE
from langwright.compression.calibration import CalibratedBlock, Weight, Windows, visit_blocks
from langwright.compression.folding import clipped, scale_by_activations, smooth
from langwright.compression.second_order import gptq
from langwright.models import tasks
from langwright.models.family import Fields
from langwright.models.folder import CONFIG, FORMAT_VERSION, GENERATION, RECORD, OpenedFolder, refuse_out
from langwright.models.gguf.tensors import open_weights
from langwright.models.keymap import to_disk
from langwright.models.surgery import quantise
from langwright.models.surgery.quantise import FIELD, OnPacked, Scheme, write_packed
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


Method = Literal["rtn", "gptq", "awq", "smoothquant"]


@torch.no_grad()
def compress_folder(
    source: OpenedFolder, out: Path, scheme: Scheme, method: Method = "rtn", windows: Windows = ()
) -> Compression:
    """Write a folder whose linear layers are quantised, and everything else is as in `source`.

    Rounded to nearest, tensors are quantised one at a time while the model is loaded, which says what these are and
    refuses what cannot be opened. The other methods load the model as it is, and change one block after the other.

    Args:
        source: the model.
        out: the new folder.
        scheme: to which numbers weights are rounded.
        method: how they are chosen.
        windows: tokens for methods that look at a text.

    Raises:
        UserError: as `refuse_folders`; a weight cannot be cut into groups, or a tensor holds NaN or infinity.
    """
    refuse_folders(source, out)
    quantised: dict[str, dict[str, Tensor]] = {}
    sizes: list[tuple[int, int]] = []
    errors = {"": 0.0}
    groups: dict[int, list[str]] = {}

    def keep(name: str, weight: Tensor, packed: Packed) -> None:
        quantised[name] = write_packed(scheme, name, packed)
        stored = sum(tensor.nbytes for tensor in quantised[name].values())  # of three bits memory holds four
        sizes.append((weight.numel(), stored if scheme.kind in quantise.BITS else packed.bytes))
        before = weight.float()
        errors[name] = float((packed.full_weight(torch.float32) - before).norm() / before.norm().clamp(min=1e-30))
        groups.setdefault(scheme.columns_a_scale(weight.shape[1]), []).append(name.removesuffix(".weight"))

    changed: dict[str, Tensor] = {}
    if method == "rtn":
        source.model(bits=scheme, on_packed=keep)
    else:
        changed = _calibrated(source, scheme, method, windows, keep)
    before, tensors, skipped = 0, dict[str, Tensor](), {"lm_head"}
    with open_weights(source.path) as opened:
        for name in opened.files:
            tensor = opened.read(name)
            if not name.endswith(source.family.ignored_keys):
                check_floats(tensor, opened.where(name), finite=True)
            before += tensor.nbytes
            if name not in quantised and not changed:
                tensors[name] = tensor.clone()
    tensors |= changed
    skipped |= {n.removesuffix(".weight") for n, t in tensors.items() if t.ndim == 2 and n.endswith(".weight")}
    for of in quantised.values():
        tensors |= of
    weights, packed = (sum(column) for column in zip(*sizes, strict=True))
    after, worst = sum(tensor.nbytes for tensor in tensors.values()), max(errors, key=lambda name: errors[name])
    result = Compression(weights, 8 * packed / weights, before, after, errors[worst], worst)
    dtype = source.fields.get("dtype") or source.fields.get("torch_dtype") or "float32"
    fields = {**source.fields, FIELD: scheme.fields(skipped, dtype, groups)}
    told = {"from": str(source.path), "to": scheme.kind, "method": method, **asdict(result)}
    write_beside(source, out, fields, tensors, {"compressed": told})
    return result


def _calibrated(
    source: OpenedFolder, scheme: Scheme, method: Method, windows: Windows, keep: OnPacked
) -> dict[str, Tensor]:
    """Quantise block by block; the tensors that stay floats, under their names on disk, since folding changes some."""
    model = source.model()
    whole = tasks.entries(source.family, model.config, model.task)
    floats = {entry.disk for entry in whole if not quantise.is_chosen(model, entry)}

    def pack(weight: Weight, packed: Packed) -> None:
        keep(weight.name, weight.matrix, packed)
        weight.pack(packed)

    def visit(block: CalibratedBlock) -> None:
        if method == "smoothquant":
            smooth(block)
        elif method == "awq":
            scale_by_activations(block, scheme)
        # GPTQ's groups read what the groups before them, already rounded, give; AWQ's are cut by what all read now
        found = block.moments(*block.groups) if method == "awq" else []
        for number, group in enumerate(block.groups):
            moments = found[number] if found else block.moments(group)[0] if method == "gptq" else None
            for weight in group.weights:
                matrix = weight.matrix
                if moments is not None and not moments.tokens:
                    say(f"{weight.name}: read no token of the text; rounded to the nearest")
                if method == "awq" and moments is not None:
                    matrix = clipped(weight, moments, scheme)
                packed = scheme.quantise(matrix)
                if method == "gptq" and moments is not None and moments.tokens:
                    packed = gptq(matrix, moments, packed)
                pack(weight, packed)

    visit_blocks(model, windows, visit)
    parameters = dict(model.named_parameters())
    return to_disk([entry for entry in whole if entry.disk in floats], parameters)


def write_beside(
    source: OpenedFolder, out: Path, fields: Fields, tensors: Mapping[str, Tensor], record: Fields
) -> None:
    """Write a new folder with the small files of the source; langwright.json, written last, keeps what the source's
    says of its training, and gains `record`.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    write_json(out / CONFIG, fields)
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
    write_json(
        out / RECORD,
        {**source.record, "format_version": FORMAT_VERSION, **record, **checksums(out, (CONFIG, SINGLE, *beside))},
    )


FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def cast_folder(source: OpenedFolder, out: Path, dtype: str) -> dict[str, int]:
    """Write a folder whose tensors are of another floating point type, and count the bytes before and after.

    Raises UserError where a number is too large for it.
    """
    refuse_folders(source, out)
    source.model()
    tensors, before = dict[str, Tensor](), 0
    with open_weights(source.path) as opened:
        for name in opened.files:
            whole = opened.read(name)
            before += whole.nbytes
            tensors[name] = whole.to(FLOATS[dtype], copy=True)
            check_floats(tensors[name], f"{opened.where(name)}, in {dtype},", finite=True)
    fields = {name: value for name, value in source.fields.items() if name != "torch_dtype"}
    write_beside(
        source, out, {**fields, "dtype": dtype}, tensors, {"compressed": {"from": str(source.path), "to": dtype}}
    )
    return {"bytes_before": before, "bytes_after": sum(tensor.nbytes for tensor in tensors.values())}
