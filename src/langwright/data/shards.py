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
    def text_bytes(self) -> int:
        """The UTF-8 bytes of all texts together, which bits per byte are counted by."""
        return int(self.bytes.sum())


@final
class ShardWriter:
    """Takes documents piece by piece and writes them as they come; sixteen bytes a document stay in memory.

    Made by `write_shard`.
    """

    def __init__(self, file: BinaryIO, vocab_size: int, tokenizer: str) -> None:
        self._file, self._tokenizer = file, bytes.fromhex(tokenizer)
        self._dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._offsets, self._bytes = array("q", [0]), array("q", [0])
        self._tokens = 0
        file.write(bytes(_HEADER_BYTES))

    def add(self, ids: Sequence[int], text_bytes: int = 0) -> None:
        """Append ids that stand for `text_bytes` of text to the document at hand."""
        self._tokens += len(ids)
        self._bytes[-1] += text_bytes
        self._file.write(np.array(ids, self._dtype).tobytes())

    def end_document(self) -> None:
        """Close the document at hand; the next `add` begins another."""
        self._offsets.append(self._tokens)
        self._bytes.append(0)

    def finish(self) -> None:
        """Write the tables and the header. Nothing may be added after this."""
        self._file.write(bytes(-self._file.tell() % 8))
        self._file.write(np.asarray(self._offsets, "<i8").tobytes() + np.asarray(self._bytes[:-1], "<i8").tobytes())
        end = self._file.tell()
        table = b"".join(checksum.to_bytes(4, "little") for checksum in _checksums(self._file, end))
        self._file.write(table)
        counts = (self._tokens, len(self._offsets) - 1, sum(self._bytes))
        fields = (MAGIC, VERSION, self._dtype.itemsize, *counts, BLOCK_BYTES, 0, self._tokenizer)
        header = _HEADER.pack(*fields).ljust(_CHECKSUM_AT, b"\0")
        self._file.seek(0)
        self._file.write(header + zlib.crc32(table, zlib.crc32(header)).to_bytes(4, "little"))


@contextmanager
def write_shard(path: Path, vocab_size: int, tokenizer: str) -> Iterator[ShardWriter]:
    """Write a shard; it appears at `path` whole, when the block ends without an error.

    Args:
        path: the file.
        vocab_size: decides the width of the ids, two bytes up to 65,536.
        tokenizer: the fingerprint of the tokenizer, 64 hexadecimal digits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("x+b") as file:
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

    Args:
        path: the file.
        verify: check every block against its checksum; by default for files up to `VERIFIED_AT_OPEN` bytes. The
            header, the table of checksums and the file's length are always checked.

    Raises:
        UserError: Names the file, and the offset where it is cut short or damaged.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
            if not header.startswith(MAGIC) or len(header) < _HEADER_BYTES:
                raise UserError(f"{path}: not a token shard, or cut short at offset {len(header)}; {_MEND}")
            _, version, itemsize, tokens, documents, _, block, _, tokenizer = _HEADER.unpack_from(header)
            if version != VERSION:
                raise UserError(f"{path}: token shard version {version}, but this release reads {VERSION}; {_MEND}")
            offsets = _HEADER_BYTES + -(-tokens * itemsize // 8) * 8
            texts = offsets + 8 * (documents + 1)
            end = texts + 8 * documents
            if size != (wanted := end + 4 * -(-(end - _HEADER_BYTES) // BLOCK_BYTES)):
                raise UserError(f"{path}: the token shard should end at offset {wanted}, not {size}; {_MEND}")
            content = np.memmap(path, np.uint8, "r").view(np.ndarray)
            table = content[end:].tobytes()
            known = int.from_bytes(header[_CHECKSUM_AT:], "little")
            if block != BLOCK_BYTES or zlib.crc32(table, zlib.crc32(header[:_CHECKSUM_AT])) != known:
                raise UserError(f"{path}: the header, or the table at offset {end}, is damaged; {_MEND}")
            if verify or (verify is None and size <= VERIFIED_AT_OPEN):
                for number, checksum in enumerate(_checksums(file, end)):
                    if checksum != int.from_bytes(table[4 * number : 4 * number + 4], "little"):
                        start = _HEADER_BYTES + number * BLOCK_BYTES
                        raise UserError(f"{path}: the token shard is damaged after offset {start}; {_MEND}")
    except OSError as error:
        raise UserError(f"{path}: the token shard cannot be read: {error.strerror}; {_MEND}") from None
    return Tokens(
        ids=content[_HEADER_BYTES : _HEADER_BYTES + tokens * itemsize].view(f"<u{itemsize}"),
        offsets=content[offsets:texts].view("<i8"),
        bytes=content[texts:end].view("<i8"),
        tokenizer=tokenizer.hex(),
        digest=hashlib.sha256(header + table).hexdigest(),
    )


def _checksums(file: BinaryIO, end: int) -> Iterator[int]:
    """Of each block before `end`, read one by one: through the map they would all become resident memory."""
    file.seek(_HEADER_BYTES)
    for start in range(_HEADER_BYTES, end, BLOCK_BYTES):
        yield zlib.crc32(file.read(min(BLOCK_BYTES, end - start)))
