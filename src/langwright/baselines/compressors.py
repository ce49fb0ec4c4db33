"""General compressors as language models: the bits they need for a byte of text they have not seen.

A compressor starts empty and learns as it reads, so a short text costs it more a byte than a long one; a language
model has read its training text before. xz can have that advantage too.
"""

import gzip
import lzma

_XZ_PRESET = 9 | lzma.PRESET_EXTREME  # a window of 64 MiB; gzip's is 32 KiB


def gzip_bits_per_byte(text: bytes) -> float:
    """Bits per byte of `gzip -9`, headers included."""
    return 8 * len(gzip.compress(text, compresslevel=9, mtime=0)) / len(text)


def xz_bits_per_byte(text: bytes, training: bytes = b"") -> float:
    """Bits per byte of `xz -9e`, headers included, or what it adds when it has just compressed the training text.

    It remembers at most the last 64 MiB, and takes about 10 s for 12 MB.
    """
    before = len(lzma.compress(training, preset=_XZ_PRESET)) if training else 0
    return 8 * (len(lzma.compress(training + text, preset=_XZ_PRESET)) - before) / len(text)
