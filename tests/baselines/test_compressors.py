"""Sizes as the programs themselves give them."""

import gzip
import lzma

import numpy as np
import pytest

from langwright.base.errors import UserError
from langwright.baselines.compressors import (
    gzip_bits_per_byte,
    xz_after_training_bits_per_byte,
    xz_bits_per_byte,
)

NOISE = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()


def test_sizes_are_the_compressors_own() -> None:
    documents = [b"to be, or not to be, ", b"that is the question " * 9]
    text = b"".join(documents)
    assert gzip.decompress(gzip.compress(text, 9, mtime=0)) == text
    assert gzip_bits_per_byte(documents) == 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)
    assert xz_bits_per_byte(documents) == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def test_noise_does_not_shrink_and_repetition_does() -> None:
    for measure in (gzip_bits_per_byte, xz_bits_per_byte):
        assert 8 <= measure([NOISE]) < 8.1
        assert measure([b"again " * 10_000]) < 0.1


def test_xz_remembers_its_training_text() -> None:
    assert xz_after_training_bits_per_byte([NOISE], [NOISE[:50_000]]) < 0.1
    assert xz_after_training_bits_per_byte([], [NOISE]) == pytest.approx(8, abs=0.1)


def test_nothing_to_measure_is_a_mistake() -> None:
    for measure in (gzip_bits_per_byte, xz_bits_per_byte):
        with pytest.raises(UserError, match="at least one byte"):
            measure([b""])
