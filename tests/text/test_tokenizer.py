"""Tokenizers round-trip any string, stream what they decode, and live in folders that transformers opens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, normalizers
from tokenizers.models import BPE

from langwright.text.opening import load_tokenizer
from langwright.text.special_tokens import SpecialTokens
from langwright.text.token_bytes import CHARACTER_OF_BYTE
from langwright.text.tokenizer import StreamDecoder, Tokenizer, _without_prefix_space
from langwright.text.training import characters, raw_bytes, train_bpe

from ..refusals import refused

LEARNT_FROM = [
    "One cat ate a tuna, one cat ate a chicken.\n" * 20,
    "def f(x):\n        return x + 1\n" * 20,
    "naïve café ✓",
]


def gpt2_like_folder(folder: Path) -> Path:
    """A vocabulary in GPT-2's two files: the bytes, a few merges, and <|endoftext|>."""
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "Ġ")]
    tokens = [*CHARACTER_OF_BYTE.values(), *(a + b for a, b in merges), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]))
    return folder


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {
        "bpe": train_bpe(LEARNT_FROM, 300),
        "characters": characters(LEARNT_FROM),
        "bytes": raw_bytes(),
        "gpt2": load_tokenizer(gpt2_like_folder(tmp_path_factory.mktemp("gpt2"))),
    }


KINDS = ["bpe", "characters", "bytes", "gpt2"]
TRICKY = st.sampled_from(
    ["<|bos|>", "<|endoftext|>", "<0x41>", "\n\n", "   ", " cat", "'re", "▁", "Ġ", "\u200d", "👩‍👩‍👧", "é", "\x00",
     "\x1c", "\x85", "\r\n"]
)  # fmt: skip
TEXT = st.lists(st.text(max_size=8) | TRICKY, max_size=8).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
def test_any_string_round_trips_as_plain_text(all_kinds: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = all_kinds[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=True) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not tokenizer.special_ids.intersection(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT, size=st.integers(1, 6))
def test_pieces_have_the_ids_of_the_whole(all_kinds: dict[str, Tokenizer], kind: str, text: str, size: int) -> None:
    tokenizer = all_kinds[kind]
    pieces = list(tokenizer.pieces(text, size))
    assert "".join(pieces) == text
    assert [i for ids in tokenizer.encode_batch(pieces) for i in ids] == tokenizer.encode_batch([text])[0]


def test_long_texts_are_cut(all_kinds: dict[str, Tokenizer]) -> None:
    text = "the cat sat. " * 1000
    for tokenizer in all_kinds.values():
        pieces = list(tokenizer.pieces(text, 100))
        assert len(pieces) > 100
        assert all(piece[0] == " " for piece in pieces[1:])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_streaming_equals_decoding(all_kinds: dict[str, Tokenizer], kind: str, data: st.DataObject) -> None:
    tokenizer = all_kinds[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    stream = StreamDecoder(tokenizer)
    parts = [stream.feed(i) for i in ids]
    assert "".join(parts) + stream.flush() == tokenizer.decode(ids, skip_special=True)


@given(text=TEXT)
def test_streaming_gives_each_character_with_its_last_byte(text: str) -> None:
    tokenizer = raw_bytes()
    stream = StreamDecoder(tokenizer)
    given_out = [stream.feed(i) for i in tokenizer.encode(text)]
    expected = [part for character in text for part in [""] * (len(character.encode()) - 1) + [character]]
    assert given_out == expected


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
def test_decoding_agrees_with_the_library(all_kinds: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = all_kinds[kind]
    backend = tokenizers.Tokenizer.from_str(tokenizer._backend.to_str())
    assert tokenizer.decode(tokenizer.encode(text)) == backend.decode(tokenizer.encode(text), skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", [None, "gpt2", "llama"])
def test_the_folder_opens_in_transformers(
    all_kinds: dict[str, Tokenizer], kind: str, model_type: str | None, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = all_kinds[kind]
    tokenizer.save(tmp_path)
    if model_type:  # as in a model folder
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ["One weird cat  ate a human.\n\n\tyes, naïve 你好 🙂", "don't <0x41>", " cat"]:
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == [*tokenizer.prefix, *ids]
        assert theirs.decode(ids) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert theirs.pad_token_id == tokenizer.pad_id
    assert len(theirs) == tokenizer.vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_changes_nothing(all_kinds: dict[str, Tokenizer], kind: str, tmp_path: Path) -> None:
    tokenizer = all_kinds[kind]
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    assert again.special_tokens == tokenizer.special_tokens
    assert again.specials == tokenizer.specials
    assert again.encode("a <|bos|> cat 🙂") == tokenizer.encode("a <|bos|> cat 🙂")


def test_the_fingerprint_sees_vocabulary_and_roles(all_kinds: dict[str, Tokenizer]) -> None:
    backend = all_kinds["bpe"]._backend
    prints = {tokenizer.fingerprint() for tokenizer in all_kinds.values()}
    prints.add(Tokenizer(backend, SpecialTokens(bos="<|bos|>")).fingerprint())
    prints.add(Tokenizer(backend, SpecialTokens(eos="<|bos|>")).fingerprint())
    assert len(prints) == 6


def test_special_tokens_show_their_names_unless_skipped() -> None:
    tokenizer = raw_bytes()
    assert tokenizer.bos_id is not None
    ids = [tokenizer.bos_id, *tokenizer.encode("hi")]
    assert tokenizer.decode(ids) == "<|bos|>hi"
    assert tokenizer.decode(ids, skip_special=True) == "hi"
    assert tokenizer.token_bytes(tokenizer.bos_id) == b""


def test_tokens_are_readable() -> None:
    tokenizer = raw_bytes()
    assert [tokenizer.token(i) for i in tokenizer.encode("a é")] == ["a", " ", r"\xc3", r"\xa9"]
    assert tokenizer.token(0) == "<|bos|>"


@pytest.mark.parametrize("id", [-1, 259])
def test_an_id_outside_the_vocabulary_is_an_error(id: int) -> None:
    with refused(id, 258):
        raw_bytes().decode([id])


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_is_no_text(all_kinds: dict[str, Tokenizer], kind: str) -> None:
    with refused("character 2"):
        all_kinds[kind].encode("ab\ud800")


def sentencepiece_like() -> tokenizers.Tokenizer:
    """LLaMA 2's layout: a space becomes ▁ and one is put in front; unknown characters are spelt in bytes."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *pieces, "▁", "c", "a", "t", "▁c", "at", "▁cat"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [("▁", "c"), ("a", "t"), ("▁c", "at")]
    backend = tokenizers.Tokenizer(BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


@given(text=TEXT.filter(lambda text: "▁" not in text))
@example(text=" cat cat")
def test_sentencepiece_folders_load_decode_and_stream(text: str) -> None:
    tokenizer = Tokenizer(sentencepiece_like(), SpecialTokens(bos="<s>", eos="</s>", unk="<unk>"))
    ids = tokenizer.encode(text)
    assert list(tokenizer.pieces(text, 1)) == [text]
    assert tokenizer.decode(ids) == text == sentencepiece_like().decode(ids)
    stream = StreamDecoder(tokenizer)
    assert "".join(map(stream.feed, ids)) + stream.flush() == text
    assert tokenizer.unknown_id == 0


def test_roles_are_read_in_every_form(tmp_path: Path) -> None:
    raw_bytes().save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": {"content": "<|bos|>", "lstrip": False}, "eos_token": None, "extra": 7}))
    assert load_tokenizer(tmp_path).special_tokens == SpecialTokens(bos="<|bos|>")

    load_tokenizer(tmp_path).save(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert saved == {"extra": 7, "bos_token": "<|bos|>", "add_bos_token": True}

    config.unlink()
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<|pad|>"}))
    assert load_tokenizer(tmp_path).pad_id == 2


def test_gpt2_has_one_token_for_beginning_and_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(gpt2_like_folder(tmp_path))
    assert tokenizer.bos_id == tokenizer.eos_id == tokenizer.vocab_size - 1
    assert tokenizer.pad_id is None
    assert [tokenizer.token(i) for i in tokenizer.encode("cat cat  cat")] == ["cat", " cat", " ", " cat"]


def roles(folder: Path, config: str) -> None:
    raw_bytes().save(folder)
    (folder / "tokenizer_config.json").write_text(config)


def merges(folder: Path, more: str) -> None:
    path = gpt2_like_folder(folder) / "merges.txt"
    path.write_text(path.read_text() + more)


def vocabulary(folder: Path) -> None:
    path = gpt2_like_folder(folder) / "vocab.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "A"}))


BROKEN: list[tuple[Callable[[Path], object], tuple[str, ...]]] = [
    (lambda folder: folder.rmdir(), ()),
    (lambda folder: None, ("tokenizer.json", "merges.txt", "vocab.txt", "tokenizer.model")),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), ("tokenizer.json:1",)),
    (lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0"}'), ("tokenizer.json",)),
    (lambda folder: roles(folder, '{"eos_token": "</s>"}'), ("</s>",)),
    (lambda folder: roles(folder, '{"eos_token": 5}'), ("tokenizer_config.json", "eos_token")),
    (lambda folder: roles(folder, "[]"), ("tokenizer_config.json",)),
    (lambda folder: merges(folder, "a b c\n"), ("merges.txt",)),
    (lambda folder: merges(folder, "q q\n"), ("merges.txt",)),
    (vocabulary, ("vocab.json", "'A'")),
]


@pytest.mark.parametrize(("spoil", "names"), BROKEN)
def test_a_broken_folder_is_named(spoil: Callable[[Path], object], names: tuple[str, ...], tmp_path: Path) -> None:
    spoil(tmp_path)
    with refused(tmp_path, *names):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], {"cls_token": "[CLS]", "mask_token": "[MASK]"}),
        (["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a"], {"bos_token": "<s>", "eos_token": "</s>"}),
        (["<|endoftext|>", "a"], {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
        (["a", "b"], {}),
    ],
)
def test_where_no_special_tokens_are_named_conventions_hold(
    tokens: list[str], named: dict[str, str], tmp_path: Path
) -> None:
    model = tokenizers.models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0])
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    tokenizer = load_tokenizer(tmp_path)
    found = tokenizer.special_tokens.config()
    assert named.items() <= found.items()
    assert bool(found) == bool(named)
    assert tokenizer.decode([tokens.index("a")]) == "a"  # without a decoder a token is its text


WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "split": True}]}
LOWER, PREPEND = {"type": "Lowercase"}, {"type": "Prepend", "prepend": "▁"}


@pytest.mark.parametrize(
    ("step", "left"),
    [
        (None, None),
        (LOWER, LOWER),
        (WORDS, WORDS),  # T5: a ▁ for every word
        (PREPEND, None),
        ({"type": "ByteLevel", "add_prefix_space": True}, {"type": "ByteLevel", "add_prefix_space": False}),
        ({"type": "Sequence", "normalizers": [PREPEND, LOWER]}, {"type": "Sequence", "normalizers": [LOWER]}),
    ],
)
def test_only_what_stands_before_a_text_goes(step: Any, left: Any) -> None:
    assert _without_prefix_space(step) == left


@settings(max_examples=200)
@given(text=TEXT)
@example(text="I'd say:\n\n\n   they're  3rd-party №5  ok \t\n x")
def test_gpt2s_own_vocabulary_agrees_with_transformers(text: str, data_folder: Path) -> None:
    ours, theirs = real_gpt2(data_folder)
    ids = ours.encode(text)
    # Specials are the one difference: transformers reads them out of plain text unless told otherwise.
    assert ids == theirs(text, split_special_tokens=True)["input_ids"]
    assert ours.decode(ids) == text
    assert [i for piece in ours.pieces(text, 2) for i in ours.encode(piece)] == ids


_REAL: list[tuple[Tokenizer, object]] = []


def real_gpt2(data_folder: Path):  # type: ignore[no-untyped-def]
    from transformers import GPT2TokenizerFast

    if not _REAL:
        folder = data_folder / "tokenizers" / "gpt2"
        theirs = GPT2TokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
        _REAL.append((load_tokenizer(folder), theirs))
    return _REAL[0]


def test_gpt2s_known_ids(data_folder: Path) -> None:
    tokenizer = real_gpt2(data_folder)[0]
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.vocab_size == 50257
    assert tokenizer.eos_id == 50256
    text = (data_folder / "text" / "tinyshakespeare.txt").read_text()
    assert len(tokenizer.encode(text)) == 338025  # as nanoGPT reports: 301,966 + 36,059
