"""Vocabularies are learnt the same way every time, and hold what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from langwright.text.opening import load_tokenizer
from langwright.text.training import SPECIALS, characters, raw_bytes, train_bpe, train_words

from ..refusals import refused

TEXTS = [f"value_{i} = compute(value_{i % 7}, {i})\n    # the cat sat on mat {i % 13}\n" for i in range(300)]


def test_bpe_joins_what_is_frequent() -> None:
    tokenizer = train_bpe(["the cat sat on the mat. " * 50], 262)
    assert tokenizer.vocab_size == 262
    assert [tokenizer.token(i) for i in range(3)] == SPECIALS
    assert [tokenizer.token(i) for i in tokenizer.encode("at")] == ["at"]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unknown_id) == (0, 1, 2, None)


def test_bpe_is_the_same_in_any_order_and_process() -> None:
    here = train_bpe(TEXTS, 500).fingerprint()
    assert train_bpe(TEXTS[::-1], 500).fingerprint() == here
    code = f"from langwright.text.training import train_bpe; print(train_bpe({TEXTS!r}, 500).fingerprint())"
    for threads in ("1", "4"):
        environment = {"RAYON_NUM_THREADS": threads, "PYTHONPATH": "src", "PYTHONHASHSEED": threads}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == here


def test_bpe_says_when_the_text_is_too_little(capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_bpe(["aa aa bb"], 1000)
    assert tokenizer.vocab_size == 260  # "aa"; what is seen only once is not joined
    assert "the text gives 260 tokens, not 1000" in capsys.readouterr().err


def test_bpe_refuses_a_vocabulary_without_room_for_the_bytes() -> None:
    with refused(258, 259):
        train_bpe(["text"], 258)


@given(texts=st.lists(st.text(), max_size=5))
def test_characters_have_one_token_each_in_order(texts: list[str]) -> None:
    tokenizer = characters(texts)
    seen = sorted(set("".join(texts)))
    assert tokenizer.vocab_size == 3 + 256 + len(seen)
    assert tokenizer.encode("".join(seen)) == list(range(259, 259 + len(seen)))


def test_characters_spell_what_they_do_not_know_in_bytes() -> None:
    tokenizer = characters(["ab"])
    assert tokenizer.encode("aé") == [259, 3 + 0xC3, 3 + 0xA9]


def test_words_are_what_stands_between_blanks(tmp_path: Path) -> None:
    """The most frequent ones, lower-cased; ends of lines are words, names of special tokens are not."""
    text = "The cat  sat\ton the mat \n the CAT <unk> , n't \n"
    tokenizer = train_words([text, "the cat sat"], 9)
    assert tokenizer.vocab_size == 9
    names = [tokenizer.token(i) for i in tokenizer.encode("The cat\nsat  rarely <|eos|> <unk>")]
    assert names == [" the", " cat", " \n", " sat", " <unk>", " <unk>", " <unk>"]
    assert tokenizer.decode(tokenizer.encode("the CAT\n sat")) == "the cat \n sat"
    assert sorted((tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)) == [6, 7, 8]  # type: ignore[type-var]
    assert tokenizer.prefix == (tokenizer.bos_id,)
    tokenizer.save(tmp_path)
    opened, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert opened.fingerprint() == tokenizer.fingerprint()
    ids = tokenizer.encode(text)
    assert opened.encode(text) == ids == theirs.encode(text, add_special_tokens=False)
    assert theirs.decode(ids) == tokenizer.decode(ids)
    with refused(4):
        train_words(["text"], 4)


@given(text=st.text())
def test_raw_bytes_are_the_bytes(text: str) -> None:
    assert raw_bytes().encode(text) == [byte + 3 for byte in text.encode()]
    assert raw_bytes().vocab_size == 259
