"""What is put before a text, and what before every word."""

from typing import Any

import pytest
import tokenizers
from tokenizers import normalizers, pre_tokenizers
from tokenizers.models import BPE

from langwright.text.prefix_space import without_prefix_space
from langwright.text.special_tokens import SpecialTokens
from langwright.text.tokenizer import Tokenizer


def layout(normalizer: Any, pre_tokenizer: Any) -> dict[str, Any]:
    return {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": 1}


WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "split": True}]}
SPACED = {"type": "ByteLevel", "add_prefix_space": True}
PLAIN = {"type": "ByteLevel", "add_prefix_space": False}
LOWER, PREPEND = {"type": "Lowercase"}, {"type": "Prepend", "prepend": "▁"}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (layout(None, None), layout(None, None)),
        (layout(LOWER, PLAIN), layout(LOWER, PLAIN)),
        (layout(None, WORDS), layout(None, WORDS)),  # T5: a ▁ for every word
        (layout(PREPEND, SPACED), layout(None, PLAIN)),
        (
            layout({"type": "Sequence", "normalizers": [PREPEND, LOWER]}, None),
            layout({"type": "Sequence", "normalizers": [LOWER]}, None),
        ),
    ],
)
def test_only_what_stands_before_a_text_goes(given: dict[str, Any], left: dict[str, Any]) -> None:
    assert without_prefix_space(given) == left


def test_the_library_reads_what_is_left() -> None:
    backend = tokenizers.Tokenizer(BPE({"▁": 0, "a": 1, "b": 2}, []))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace("▁", "first")])
    backend.decoder = tokenizers.decoders.Metaspace("▁", "first")
    tokenizer = Tokenizer(backend, SpecialTokens())
    assert tokenizer.encode_marked("a b")[0] == [0, 1, 0, 2]
    assert tokenizer.encode_marked("a b", inside=True) == ([1, 0, 2], [(0, 1), (1, 2), (2, 3)])
    assert tokenizer.encode_marked("", inside=True) == ([], [])
