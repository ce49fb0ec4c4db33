"""Sizes as the programs themselves give them."""

import gzip
import lzma

import numpy as np

from langwright.baselines.compressors import gzip_bits_per_byte, xz_bits_per_byte

NOISE = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()


def test_sizes_are_the_compressors_own() -> None:
    text = b"to be, or not to be, that is the question " * 9
    assert gzip_bits_per_byte(text) == 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)
    assert xz_bits_per_byte(text) == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def test_noise_does_not_shrink_and_repetition_does() -> None:
    for measure in (gzip_bits_per_byte, xz_bits_per_byte):
        assert 8 <= measure(NOISE) < 8.1
        assert measure(b"again " * 10_000) < 0.1


def test_xz_remembers_its_training_text() -> None:
    assert xz_bits_per_byte(NOISE[:50_000], NOISE) < 0.1
