"""Linear layers quantised: from one folder to another."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
from langwright.compression.calibration import CalibratedBlock, Windows, visit_blocks
from langwright.compression.folding import clipped, scale_by_activations, smooth
from langwright.compression.second_order import gptq
from langwright.models import tasks
from langwright.models.family import Fields
from langwright.models.folder import CONFIG, FORMAT_VERSION, GENERATION, RECORD, Deferred, OpenedFolder, refuse_out
from langwright.models.gguf.tensors import each_tensor
from langwright.models.keymap import to_disk
from langwright.models.surgery import quantise
from langwright.models.surgery.quantise import FIELD, OnPacked, Scheme, write_packed
from langwright.models.weights import Write, check_floats, tensor_writer
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
    refuses what cannot be opened. The other methods load, change and write one block after the other.

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
    sizes: list[tuple[int, int]] = []
    errors = {"": 0.0}
    groups: dict[int, list[str]] = {}
    written: set[str] = set()
    before, after, skipped = 0, 0, {"lm_head"}
    with writer(out) as write:

        def put(name: str, tensor: Tensor) -> None:
            nonlocal after
            write(name, tensor)
            written.add(name)
            after += tensor.nbytes

        def put_float(name: str, tensor: Tensor) -> None:
            put(name, tensor)
            if tensor.ndim == 2 and name.endswith(".weight"):
                skipped.add(name.removesuffix(".weight"))

        def keep(name: str, weight: Tensor, packed: Packed) -> None:
            tensors = write_packed(scheme, name, packed)
            stored = sum(tensor.nbytes for tensor in tensors.values())  # of three bits memory holds four
            sizes.append((weight.numel(), stored if scheme.kind in quantise.BITS else packed.bytes))
            whole = weight.float()
            errors[name] = float((packed.full_weight(torch.float32) - whole).norm() / whole.norm().clamp(min=1e-30))
            groups.setdefault(scheme.columns_a_scale(weight.shape[1]), []).append(name.removesuffix(".weight"))
            written.add(name)
            for key, tensor in tensors.items():
                put(key, tensor)

        if method == "rtn":
            source.model(bits=scheme, on_packed=keep)
        else:
            _calibrated(source, scheme, method, windows, keep, put_float)
        for name, tensor, where in each_tensor(source.path):
            if not name.endswith(source.family.ignored_keys):
                check_floats(tensor, where, finite=True)
            before += tensor.nbytes
            if method == "rtn" and name not in written:
                put_float(name, tensor)
        weights, packed = (sum(column) for column in zip(*sizes, strict=True))
    worst = max(errors, key=lambda name: errors[name])
    result = Compression(weights, 8 * packed / weights, before, after, errors[worst], worst)
    dtype = source.fields.get("dtype") or source.fields.get("torch_dtype") or "float32"
    fields = {**source.fields, FIELD: scheme.fields(skipped, dtype, groups)}
    told = {"from": str(source.path), "to": scheme.kind, "method": method, **asdict(result)}
    write_beside(source, out, fields, {"compressed": told})
    return result


def _calibrated(
    source: OpenedFolder, scheme: Scheme, method: Method, windows: Windows, keep: OnPacked, put: Write
) -> None:
    """Quantise block by block. put: takes the tensors that stay floats under their names on disk; folding changes some.

    One block is in memory at a time.
    """
    deferred = Deferred(source)
    model = deferred.model
    whole = tasks.entries(source.family, model.config, model.task)
    floats = [entry for entry in whole if not quantise.is_chosen(model, entry)]

    def put_floats(layer: int | None) -> None:
        """Those of a block, or those of none."""
        inside = "body.blocks." if layer is None else f"body.blocks.{layer}."
        own = [entry for entry in floats if entry.ours[0].startswith(inside) == (layer is not None)]
        for name, tensor in to_disk(own, dict(model.named_parameters())).items():
            put(name, tensor)

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
                keep(weight.name, weight.matrix, packed)
                weight.pack(packed)
        put_floats(block.layer)

    put_floats(None)
    visit_blocks(model, windows, visit, deferred.block)


@contextmanager
def writer(out: Path) -> Iterator[Write]:
    """What writes the tensors of a new folder one after the other; where that fails, the folder is not there."""
    made = not out.exists()
    try:
        with tensor_writer(out / SINGLE) as write:
            yield write
    except BaseException:
        if made and out.exists():
            out.rmdir()
        raise


def write_beside(source: OpenedFolder, out: Path, fields: Fields, record: Fields) -> None:
    """Write the small files of the source beside the tensors of a new folder; langwright.json, written last, keeps what
    the source's says of its training, and gains `record`.
    """
    (out / RECORD).unlink(missing_ok=True)
    write_json(out / CONFIG, fields)
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
    Deferred(source)  # refuses what cannot be opened
    before, after = 0, 0
    with writer(out) as write:
        for name, whole, where in each_tensor(source.path):
            tensor = whole.to(FLOATS[dtype])
            check_floats(tensor, f"{where}, in {dtype},", finite=True)
            write(name, tensor)
            before, after = before + whole.nbytes, after + tensor.nbytes
    fields = {name: value for name, value in source.fields.items() if name != "torch_dtype"}
    told = {"compressed": {"from": str(source.path), "to": dtype}}
    write_beside(source, out, {**fields, "dtype": dtype}, told)
    return {"bytes_before": before, "bytes_after": after}
