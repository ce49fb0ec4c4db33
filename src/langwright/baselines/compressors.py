"""General compressors as language models: the bits they need for a byte of text they have not seen.

A compressor starts empty and learns as it reads, so a short text costs it more a byte than a long one; a language
model has read its training text before. `xz_after_training` gives the compressor that advantage too.
"""

import gzip
import lzma
from collections.abc import Iterable

from langwright.base.errors import UserError

_XZ_PRESET = 9 | lzma.PRESET_EXTREME  # a window of 64 MiB; gzip's is 32 KiB


def gzip_bits_per_byte(documents: Iterable[bytes]) -> float:
    """Bits per byte of `gzip -9` on the documents joined into one text, headers included."""
    text = _join(documents)
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text)


def xz_bits_per_byte(documents: Iterable[bytes]) -> float:
    """Bits per byte of `xz -9e` on the documents joined into one text, headers included."""
    text = _join(documents)
    return 8 * _xz_size(text) / len(text)


def xz_after_training_bits_per_byte(training: Iterable[bytes], documents: Iterable[bytes]) -> float:
    """Bits per byte that `xz -9e` adds for the documents when it has just compressed the training text.

    It remembers at most the last 64 MiB. Takes two passes over the training text: about 10 s for 12 MB.
    """
    text, before = _join(documents), b"".join(training)
    return 8 * (_xz_size(before + text) - _xz_size(before)) / len(text)


def _join(documents: Iterable[bytes]) -> bytes:
    text = b"".join(documents)
    if not text:
        raise UserError("bits per byte need at least one byte of held-out text")
    return text


def _xz_size(text: bytes) -> int:
    return len(lzma.compress(text, preset=_XZ_PRESET))
