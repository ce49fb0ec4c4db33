"""The token shard: tokenised documents in one checksummed, memory-mapped file (docs/formats.md has the layout)."""

import hashlib
import os
import secrets
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

import numpy as np
from numpy.typing import NDArray

from langwright.base.errors import UserError

MAGIC = b"LWTOKENS"
VERSION = 1
BLOCK_BYTES = 1 << 20
"""Each block of this size has its own checksum, so that an error can say where."""

VERIFIED_AT_OPEN = 1 << 33
"""Files up to this size (8 GiB) are checked block by block whenever they are opened, as fast as the disk reads."""

_HEADER = struct.Struct("<8sIIQQQII32s")  # then zeros, and the checksum of the header and the table of checksums
_HEADER_BYTES = 256
_CHECKSUM_AT = _HEADER_BYTES - 4

_MEND = "delete it and run again"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenised documents, one after the other.

    ids: the token ids, uint16 or uint32; each document is `opening` + text + [eos], as far as the tokenizer has these.
    offsets: where each document begins in `ids`, and at the end the number of ids (documents + 1 entries).
    bytes: the UTF-8 bytes of each document's text.
    tokenizer: the fingerprint of the tokenizer that made the ids.
    digest: identifies the content; equal files have equal digests.
    """

    ids: NDArray[np.uint16] | NDArray[np.uint32]
    offsets: NDArray[np.int64]
    bytes: NDArray[np.int64]
    tokenizer: str
    digest: str

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.ids)

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.bytes)

    @property
    def text_bytes(self) -> int:
        """The UTF-8 bytes of all texts together, which bits per byte are counted by."""
        return int(self.bytes.sum())


@final
class ShardWriter:
    """Takes documents piece by piece and writes them as they come; sixteen bytes a document stay in memory.

    Made by `write_shard`.
    """

    def __init__(self, file: BinaryIO, vocab_size: int, tokenizer: str) -> None:
        self._file = file
        self._dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._tokenizer = tokenizer
        self._offsets = array("q", [0])
        self._bytes = array("q")
        self._tokens = 0
        self._open_bytes = 0
        self._checksums = array("I")
        self._checksum = 0
        self._filled = 0
        file.write(bytes(_HEADER_BYTES))

    def add(self, ids: Sequence[int], text_bytes: int = 0) -> None:
        """Append ids that stand for `text_bytes` of text to the document at hand."""
        piece = np.array(ids, self._dtype)
        self._tokens += len(piece)
        self._open_bytes += text_bytes
        self._write(piece.tobytes())

    def end_document(self) -> None:
        """Close the document at hand; the next `add` begins another."""
        self._offsets.append(self._tokens)
        self._bytes.append(self._open_bytes)
        self._open_bytes = 0

    def finish(self) -> None:
        """Write the tables and the header. Nothing may be added after this."""
        self._write(bytes(_padding(self._tokens * self._dtype.itemsize)))
        self._write(np.asarray(self._offsets, "<i8").tobytes())
        self._write(np.asarray(self._bytes, "<i8").tobytes())
        if self._filled:
            self._checksums.append(self._checksum)
        table = np.asarray(self._checksums, "<u4").tobytes()
        self._file.write(table)
        layout = _Layout(self._dtype.itemsize, self._tokens, len(self._bytes), sum(self._bytes), self._tokenizer)
        header = layout.pack()
        self._file.seek(0)
        self._file.write(header + struct.pack("<I", zlib.crc32(table, zlib.crc32(header))))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        view = memoryview(data)
        while view:
            part = view[: BLOCK_BYTES - self._filled]
            self._checksum = zlib.crc32(part, self._checksum)
            self._filled += len(part)
            if self._filled == BLOCK_BYTES:
                self._checksums.append(self._checksum)
                self._checksum = self._filled = 0
            view = view[len(part) :]


@contextmanager
def write_shard(path: Path, vocab_size: int, tokenizer: str) -> Iterator[ShardWriter]:
    """Write a shard; it appears at `path` whole, when the block ends without an error.

    vocab_size: decides the width of the ids, two bytes up to 65,536.
    tokenizer: the fingerprint of the tokenizer, 64 hexadecimal digits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("xb") as file:
            writer = ShardWriter(file, vocab_size, tokenizer)
            yield writer
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_shard(path: Path, *, verify: bool | None = None) -> Tokens:
    """Open a shard memory-mapped.

    verify: check every block against its checksum; by default for files up to `VERIFIED_AT_OPEN` bytes. The header, the
        table of checksums and the file's length are always checked.
    Raises UserError naming the file, and the offset where it is cut short or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise UserError(f"{path}: the token shard cannot be read: {error.strerror}; {_MEND}") from None
    layout = _Layout.unpack(header, path)
    if size < layout.size:
        raise UserError(f"{path}: the token shard is cut short at offset {size} of {layout.size}; {_MEND}")
    if size > layout.size:
        raise UserError(f"{path}: the token shard should end at offset {layout.size}, not {size}; {_MEND}")
    content = np.memmap(path, np.uint8, "r").view(np.ndarray)
    table = content[layout.table_at :]
    if zlib.crc32(table.data, zlib.crc32(header[:_CHECKSUM_AT])) != int.from_bytes(header[_CHECKSUM_AT:], "little"):
        raise UserError(f"{path}: the header, or the table at offset {layout.table_at}, is damaged; {_MEND}")
    if verify or (verify is None and size <= VERIFIED_AT_OPEN):
        _verify(path, layout.table_at, table.view("<u4"))
    return Tokens(
        ids=content[_HEADER_BYTES : layout.ids_end].view(f"<u{layout.itemsize}"),
        offsets=content[layout.offsets_at : layout.bytes_at].view("<i8"),
        bytes=content[layout.bytes_at : layout.table_at].view("<i8"),
        tokenizer=layout.tokenizer,
        digest=hashlib.sha256(header + table.tobytes()).hexdigest(),
    )


@dataclass(frozen=True)
class _Layout:
    """What the header says, and where everything lies."""

    itemsize: int
    tokens: int
    documents: int
    text_bytes: int
    tokenizer: str

    @property
    def ids_end(self) -> int:
        return _HEADER_BYTES + self.tokens * self.itemsize

    @property
    def offsets_at(self) -> int:
        return self.ids_end + _padding(self.tokens * self.itemsize)

    @property
    def bytes_at(self) -> int:
        return self.offsets_at + 8 * (self.documents + 1)

    @property
    def table_at(self) -> int:
        return self.bytes_at + 8 * self.documents

    @property
    def size(self) -> int:
        return self.table_at + 4 * -(-(self.table_at - _HEADER_BYTES) // BLOCK_BYTES)

    def pack(self) -> bytes:
        """The header without its checksum."""
        counts = (self.tokens, self.documents, self.text_bytes)
        fields = (MAGIC, VERSION, self.itemsize, *counts, BLOCK_BYTES, 0, bytes.fromhex(self.tokenizer))
        return _HEADER.pack(*fields).ljust(_CHECKSUM_AT, b"\0")

    @classmethod
    def unpack(cls, header: bytes, path: Path) -> "_Layout":
        if header[: len(MAGIC)] != MAGIC:
            raise UserError(f"{path}: not a token shard: it does not begin with {MAGIC.decode()}")
        if len(header) < _HEADER_BYTES:
            raise UserError(f"{path}: the token shard is cut short at offset {len(header)}; {_MEND}")
        _, version, itemsize, tokens, documents, text_bytes, block, _, tokenizer = _HEADER.unpack_from(header)
        if version != VERSION:
            raise UserError(f"{path}: token shard version {version}, but this release reads {VERSION}; {_MEND}")
        if itemsize not in (2, 4) or block != BLOCK_BYTES:
            raise UserError(f"{path}: the header of the token shard is damaged; {_MEND}")
        return cls(itemsize, tokens, documents, text_bytes, tokenizer.hex())


def _verify(path: Path, end: int, checksums: NDArray[np.uint32]) -> None:
    """Check the payload, read block by block rather than through the map, which would all become resident memory."""
    with path.open("rb") as file:
        file.seek(_HEADER_BYTES)
        for number, checksum in enumerate(checksums):
            start = _HEADER_BYTES + number * BLOCK_BYTES
            stop = min(start + BLOCK_BYTES, end)
            if zlib.crc32(file.read(stop - start)) != checksum:
                raise UserError(f"{path}: the token shard is damaged between offsets {start} and {stop}; {_MEND}")


def _padding(size: int) -> int:
    """Zeros that bring a size to a multiple of eight."""
    return -size % 8
