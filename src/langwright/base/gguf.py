"""GGUF, the file of llama.cpp: fields and tensors in one file, read with every count, size and offset checked.

A file is "GGUF", a version, two counts, the fields (key, type, value), the tensors (name, shape, type, offset), and
after padding their numbers; everything is little-endian. The format is specified in ggml's docs/gguf.md.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langwright.base.errors import UserError

SUFFIX = ".gguf"
MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), "general.alignment"
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LONGEST_KEY, _LONGEST_NAME, _DIMENSIONS = 1024, 64, 4


@dataclass(frozen=True)
class Kind:
    """What numbers a tensor holds. code: in the file. block: numbers in a block. size: bytes of a block."""

    name: str
    code: int
    block: int
    size: int


KINDS = {
    kind.name: kind
    for kind in (
        Kind("f32", 0, 1, 4), Kind("f16", 1, 1, 2), Kind("bf16", 30, 1, 2), Kind("q4_0", 2, 32, 18),
        Kind("q8_0", 8, 32, 34), Kind("q4_k", 12, 256, 144), Kind("q6_k", 14, 256, 210),
    )
}  # fmt: skip
_OF_CODE = {kind.code: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class Stored:
    """A tensor in the file. shape: outermost dimension first. data: its bytes [blocks, bytes of a block]."""

    kind: Kind
    shape: tuple[int, ...]
    data: "np.ndarray[Any, np.dtype[np.uint8]]"


@dataclass(frozen=True)
class GGUF:
    """A file whose header was read; the numbers of its tensors stay on disk.

    Args:
        path: the file.
        fields: its fields by key: whole numbers, floats, booleans, texts, and lists or arrays of these.
        tensors: its tensors by name.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a field, `default` where there is none; UserError for one of another type."""
        value = self.fields.get(key, default)
        if value is not default and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise UserError(f'{self.path}: field "{key}" must be of type {kind.__name__}, not {value!r:.80}')
        return value


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its ending."""
    return path.suffix == SUFFIX and path.is_file()


def read_gguf(path: Path) -> GGUF:
    """The fields and tensors of a file.

    Raises:
        UserError: the file is truncated, or a count, size, offset, type, name or text in it is wrong; says where.
    """
    try:
        with open(path, "rb") as file:
            # Pages are read when they are used. Writes stay in memory: PyTorch wants arrays that could be written.
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a GGUF file: {error}") from None
    try:
        return _read(path, _Cursor(data))
    except BrokenError as error:
        raise UserError(f"{path}: not a whole GGUF file: {error}; download or export it again") from None


class BrokenError(Exception):
    """What is wrong with a file."""


class _Cursor:
    """A place in the bytes of a file."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    @property
    def left(self) -> int:
        """Bytes behind the place."""
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> memoryview:
        """The next `size` bytes."""
        if size > self.left:
            raise BrokenError(f"{what} at byte {self.at:,} reaches over the end of the file")
        self.at += size
        return memoryview(self.data)[self.at - size : self.at]

    def number(self, layout: str, what: str) -> Any:
        """The next number, in a layout of `struct`."""
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(layout), what))[0]

    def count(self, smallest: int, what: str) -> int:
        """The next count, of things of which each takes at least `smallest` bytes."""
        count: int = self.number("Q", what)
        if count * smallest > self.left:
            raise BrokenError(f"{what} at byte {self.at:,}: {count:,} do not fit into the file")
        return count

    def name(self, what: str, longest: int) -> str:
        """The next text, which must be short and printable."""
        name = self.text(what, longest)
        if not name.isprintable():
            raise BrokenError(f"{what} that ends at byte {self.at:,} is {name!r:.80}, which is no name")
        return name

    def text(self, what: str, longest: int | None = None) -> str:
        """The next text."""
        size = self.count(1, f"the length of {what}")
        if longest is not None and size > longest:
            raise BrokenError(f"{what} at byte {self.at:,} has {size:,} bytes, at most {longest:,} are allowed")
        try:
            return bytes(self.take(size, what)).decode()
        except UnicodeDecodeError:
            raise BrokenError(f"{what} that ends at byte {self.at:,} is not UTF-8 text") from None


def _read(path: Path, cursor: _Cursor) -> GGUF:
    if bytes(cursor.take(4, "the magic")) != MAGIC:
        raise BrokenError("it does not begin with GGUF")
    if (version := cursor.number("I", "the version")) not in VERSIONS:
        raise BrokenError(f"version {version} is not read, only {' and '.join(map(str, VERSIONS))}, little-endian")
    tensors, count = cursor.count(24, "the number of tensors"), cursor.count(12, "the number of fields")
    fields: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.name("a key", _LONGEST_KEY)
        if key in fields:
            raise BrokenError(f'field "{key}" is there twice')
        fields[key] = _value(cursor, cursor.number("I", f'the type of "{key}"'), f'field "{key}"')
    alignment = fields.get(ALIGNMENT, 32)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise BrokenError(f"{ALIGNMENT} = {alignment!r:.80} is no power of two of at least 8")
    found = {}
    for _ in range(tensors):
        name, *rest = _tensor(cursor)
        if name in found:
            raise BrokenError(f'tensor "{name}" is there twice')
        found[name] = rest
    begins = -(-cursor.at // alignment) * alignment
    return GGUF(path, fields, _placed(cursor, found, begins, alignment))


def _value(cursor: _Cursor, code: int, what: str) -> Any:
    """A value of a field; lists hold numbers, booleans or texts, not lists."""
    if code == _ARRAY:
        inner = cursor.number("I", f"the type of the list in {what}")
        if inner == _STRING:
            return [cursor.text(what) for _ in range(cursor.count(8, what))]
        if inner in _NUMBERS:
            numbers = np.dtype(_NUMBERS[inner])
            size = cursor.count(numbers.itemsize, what) * numbers.itemsize
            return np.frombuffer(cursor.take(size, what), numbers).tolist()
        if inner == _BOOL:
            return [_bool(byte, what) for byte in cursor.take(cursor.count(1, what), what)]
        raise BrokenError(f"{what} is a list of type {inner}, which is not read")
    if code == _STRING:
        return cursor.text(what)
    if code == _BOOL:
        return _bool(cursor.number("B", what), what)
    if code not in _NUMBERS:
        raise BrokenError(f"{what} has the unknown type {code}")
    layout = np.dtype(_NUMBERS[code])
    number = np.frombuffer(cursor.take(layout.itemsize, what), layout)[0]
    return float(str(number)) if layout.kind == "f" else int(number)  # 1e-06 of 32 bits is meant as 1e-06


def _bool(byte: int, what: str) -> bool:
    if byte > 1:
        raise BrokenError(f"{what} holds {byte} where true or false belongs")
    return bool(byte)


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], Kind, int]:
    """Name, shape, kind and offset of a tensor."""
    name = cursor.name("the name of a tensor", _LONGEST_NAME)
    what = f'tensor "{name}"'
    dimensions = cursor.number("I", what)
    if not 1 <= dimensions <= _DIMENSIONS:
        raise BrokenError(f"{what} has {dimensions} dimensions")
    shape = tuple(int(cursor.number("Q", what)) for _ in range(dimensions))[::-1]
    code, offset = cursor.number("I", what), cursor.number("Q", what)
    if code not in _OF_CODE:
        raise BrokenError(f"{what} has the type {code}, which is not read, only {', '.join(KINDS)}")
    kind = _OF_CODE[code]
    if 0 in shape or shape[-1] % kind.block:
        raise BrokenError(f"{what} has the shape {list(shape)}, which {kind.name} cannot have")
    return name, shape, kind, offset


def _placed(cursor: _Cursor, found: Mapping[str, Any], begins: int, alignment: int) -> dict[str, Stored]:
    """The tensors with their bytes; none reaches over the end of the file or into another."""
    placed, end, size = {}, begins, len(cursor.data)
    for name, (shape, kind, offset) in sorted(found.items(), key=lambda item: item[1][2]):
        start, length = begins + offset, math.prod(shape) // kind.block * kind.size  # whole numbers do not overflow
        if offset % alignment or start < end or length > size - start:
            raise BrokenError(f'tensor "{name}": {length:,} bytes at offset {offset:,} do not fit into the file')
        end = start + length
        placed[name] = Stored(kind, shape, np.frombuffer(cursor.data, np.uint8, length, start).reshape(-1, kind.size))
    return {name: placed[name] for name in found}
