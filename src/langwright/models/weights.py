"""Tensors on disk: one safetensors file, or shards with an index. Reading and atomic writing."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import atomic_file
from langwright.base.gguf import is_gguf
from langwright.base.shards import INDEX, SINGLE, read_index

READ = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored in. Narrower numbers mean little without scales, which lie elsewhere."""


@dataclass(frozen=True)
class Weights:
    """The tensors of a model folder.

    Args:
        files: the file that holds each, by name.
        read: the tensor of a name; UserError where it is missing.
    """

    files: Mapping[str, Path]
    read: Callable[[str], Tensor]

    def floats(self, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor; UserError where it holds no floats or has another shape."""
        tensor = self.read(name)
        check_floats(tensor, self.where(name))
        if list(tensor.shape) != list(shape):
            raise self.refusal(name, f"has shape {list(tensor.shape)}, the config asks for {list(shape)}")
        return tensor

    def where(self, name: str) -> str:
        """A tensor and its file, for the beginning of a message."""
        return f'{self.files[name]}: tensor "{name}"'

    def refusal(self, name: str, why: object) -> UserError:
        """The error of a tensor that cannot be taken."""
        return UserError(f"{self.where(name)} {why}")


@contextmanager
def open_weights(folder: Path) -> Iterator[Weights]:
    """The tensors of a model folder, while its files are open.

    Raises UserError naming the file that is missing, truncated or no safetensors file, or an index that names a
    file outside the folder, or a tensor that its shard lacks.
    """
    where = _shards(folder)
    with ExitStack() as stack:
        opened = {file: stack.enter_context(_open(folder / file)) for file in dict.fromkeys(where.values())}
        if where == {"": SINGLE}:
            where = dict.fromkeys(opened[SINGLE].keys(), SINGLE)
        held = {file: set(handle.keys()) for file, handle in opened.items()}
        for name, file in where.items():
            if name not in held[file]:
                raise UserError(f'{folder / INDEX}: tensor "{name}" is not in {file}')

        def read(name: str) -> Tensor:
            if name not in where:
                raise UserError(f'{folder}: tensor "{name}" is missing from the weights')
            return opened[where[name]].get_tensor(name)

        yield Weights({name: folder / file for name, file in where.items()}, read)


def _shards(folder: Path) -> dict[str, str]:
    """The file that holds each tensor; {"": SINGLE} when one file holds them all."""
    if (folder / SINGLE).exists():
        return {"": SINGLE}
    if not (folder / INDEX).exists():
        raise UserError(f"{folder}: there is no {SINGLE} here (pytorch_model.bin is a pickle, which is never loaded)")
    files = read_index(folder / INDEX)
    for file in dict.fromkeys(files.values()):
        if not (folder / file).exists():
            raise UserError(f"{folder / INDEX}: the shard {file} is missing")
    return files


def _open(path: Path) -> "safe_open":
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); download or save it again") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically and durably."""
    with atomic_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # the library makes files that only their owner reads
        try:
            save_file({name: t.detach().contiguous().cpu() for name, t in tensors.items()}, temporary, {"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written: {error}") from None
        temporary.chmod(mode)


KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The names of dtypes in a safetensors file."""
Write = Callable[[str, Tensor], None]
"""Takes a tensor and its name; the tensor may then be forgotten."""


@contextmanager
def tensor_writer(path: Path) -> Iterator[Write]:
    """What writes tensors one after the other; the file is there, whole and durable, when the block ends well.

    A safetensors file begins with what it holds, which is known at the end. Until then the numbers lie in files beside
    it, those of each width together, so that every tensor begins at a multiple of its width.
    """
    rows: dict[int, list[tuple[str, Tensor]]] = {}  # by width: names, and tensors without numbers
    with atomic_file(path) as temporary, ExitStack() as stack:
        files: dict[int, Any] = {}

        def write(name: str, tensor: Tensor) -> None:
            width = tensor.element_size()
            if width not in files:
                files[width] = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            files[width].write(numbers.numpy().data)
            rows.setdefault(width, []).append((name, torch.empty_like(tensor, device="meta")))

        yield write
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        widths = sorted(rows, reverse=True)
        for name, tensor in (row for width in widths for row in rows[width]):
            told = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape)}
            header[name] = told | {"data_offsets": [at, at + tensor.nbytes]}
            at += tensor.nbytes
        said = json.dumps(header).encode()
        said += b" " * (-len(said) % 8)
        with temporary.open("wb") as file:
            file.write(len(said).to_bytes(8, "little") + said)
            for width in widths:
                files[width].seek(0)
                shutil.copyfileobj(files[width], file, 1 << 20)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, in memory of their own: the file may be replaced while they live."""
    with _open(path) as file:
        return {name: torch.clone(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (not a dict)


def check_floats(tensor: Tensor, where: str, finite: bool = False) -> None:
    """UserError for a tensor of numbers that are not of `READ`, or, where `finite`, one that holds NaN or infinity."""
    if tensor.dtype not in READ:
        kind, known = (", ".join(str(t).removeprefix("torch.") for t in ts) for ts in ((tensor.dtype,), READ))
        raise UserError(f"{where} holds {kind} numbers; only {known} are read")
    if finite and not tensor.isfinite().all():
        raise UserError(f"{where} holds NaN or infinity: the training that wrote it came apart")


def weights_checksum(folder: Path) -> str:
    """Identifies the weights of a model folder or GGUF file: the SHA-256 of those of its files, in hexadecimal."""
    digest, files = hashlib.sha256(), [folder] if is_gguf(folder) else sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: there are no weights here; is this a model folder?")
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
