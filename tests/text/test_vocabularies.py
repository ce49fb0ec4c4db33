"""Tokenizers in the files of their authors give the ids of their authors."""

import json
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langwright.text.opening import load_tokenizer
from langwright.text.special_tokens import SpecialTokens
from langwright.text.token_bytes import CHARACTER_OF_BYTE
from langwright.text.tokenizer import StreamDecoder, Tokenizer

from ..refusals import refused

TRICKY = st.sampled_from(
    ["[MASK]", "<s>", "</s>", "<0x41>", "\n\n", "   ", " un", "able", "naïve", "É", "e\u0301", "你好", "👩‍👧",
     "\x00", "\x85", "▁", "\u200b", "\xa0", "ﬁ", "it's", "un-able", "<mask>", "a" * 101]
)  # fmt: skip
TEXT = st.lists(st.text(max_size=6) | TRICKY | st.text("abelnu ▁.<>s/", max_size=8), max_size=8).map("".join)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##able", "##a", "a", "the", "naive", "e", "É", ".", "你",
         "-", "b", "'", "s", "it"]  # fmt: skip


def wordpiece(folder: Path, **config: Any) -> Tokenizer:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder)


@pytest.fixture(
    scope="module", params=[{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}]
)
def pieces(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    ours = wordpiece(tmp_path_factory.mktemp("pieces"), **request.param)
    return ours, transformers.BertTokenizer({word: i for i, word in enumerate(WORDS)}, **request.param)


@given(text=TEXT, second=TEXT.filter(bool))
@example(text="un Unable [MASK] naïve É", second="你a")
def test_wordpiece_agrees_with_transformers(pieces: tuple[Tokenizer, Any], text: str, second: str) -> None:
    ours, theirs = pieces
    assert ours.encode(text) == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    expected = theirs(text, second, split_special_tokens=True)
    assert ours.frame(text, second) == (expected["input_ids"], expected["token_type_ids"])
    assert ours.frame(text, named=True)[0] == theirs(text)["input_ids"]


def test_wordpiece_frames_decodes_and_streams(tmp_path: Path) -> None:
    tokenizer = wordpiece(tmp_path)
    assert tokenizer.special_tokens == SpecialTokens(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")
    assert (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id) == (2, 3, 4, 0)
    ids = tokenizer.encode("Unable the unable")
    assert tokenizer.decode(ids) == "unable the unable"
    stream = StreamDecoder(tokenizer)
    assert "".join(map(stream.feed, ids)) + stream.flush() == "unable the unable"
    assert tokenizer.frame("a", "the") == ([2, 8, 3, 9, 3], [0, 0, 0, 1, 1])
    assert tokenizer.frame("a [MASK]", named=True) == ([2, 8, 4, 3], [0] * 4)
    assert 4 not in tokenizer.frame("a [MASK]")[0]
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.special_tokens == tokenizer.special_tokens
    assert again.frame("a", "the") == tokenizer.frame("a", "the")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs("a", "the")["input_ids"] == tokenizer.frame("a", "the")[0]
    assert theirs.mask_token_id == 4


@settings(max_examples=200)
@given(text=TEXT)
def test_berts_own_vocabulary_agrees_with_transformers(text: str, data_folder: Path) -> None:
    ours, theirs = real(data_folder, "bert-base-uncased")
    assert ours.encode(text) == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_berts_known_ids(data_folder: Path) -> None:
    ours = real(data_folder, "bert-base-uncased")[0]
    assert ours.frame("Hello, world!")[0] == [101, 7592, 1010, 2088, 999, 102]
    masked = ours.frame("The capital of France is [MASK].", named=True)[0]
    assert masked == [101, 1996, 3007, 1997, 2605, 2003, 103, 1012, 102]
    assert ours.vocab_size == 30522


_REAL: dict[str, tuple[Tokenizer, Any]] = {}


def real(data_folder: Path, name: str) -> tuple[Tokenizer, Any]:
    if name not in _REAL:
        folder = data_folder / "tokenizers" / name
        theirs = None
        if (folder / "vocab.txt").exists():
            words = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
            theirs = transformers.BertTokenizer({word: i for i, word in enumerate(words)})
        _REAL[name] = load_tokenizer(folder), theirs
    return _REAL[name]


# vocab.json with merges.txt

MERGES = [("u", "n"), ("a", "b"), ("Ġ", "un"), ("l", "e"), ("ab", "le")]


def write_merges(folder: Path, tokens: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    ids = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]))
    return ids


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("roberta")
    joined = [a + b for a, b in MERGES]
    ids = write_merges(
        folder, ["<s>", "<pad>", "</s>", "<unk>", *CHARACTER_OF_BYTE.values(), *joined, "<mask>"], MERGES
    )
    return load_tokenizer(folder), transformers.RobertaTokenizer(ids, MERGES)


@given(text=TEXT, second=TEXT.filter(bool))
@example(text="un able <mask>.", second=" <s>")
def test_robertas_files_agree_with_transformers(roberta: tuple[Tokenizer, Any], text: str, second: str) -> None:
    ours, theirs = roberta
    assert ours.encode(text) == theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert ours.frame(text, second)[0] == theirs(text, second, split_special_tokens=True)["input_ids"]
    assert ours.decode(ours.encode(text)) == text


def test_roberta_frames_and_masks(roberta: tuple[Tokenizer, Any]) -> None:
    ours = roberta[0]
    assert (ours.cls_id, ours.sep_id, ours.pad_id, ours.mask_id) == (0, 2, 1, ours.vocab_size - 1)
    un, able = ours.encode("un")[0], ours.encode("able")[0]
    assert ours.frame("un", "able") == ([0, un, 2, 2, able, 2], [0] * 6)
    assert ours.frame("un <mask>", named=True)[0] == [0, un, ours.mask_id, 2]  # the space belongs to the mask


@pytest.fixture(scope="module")
def gpt1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("gpt1")
    merges = [("u", "n</w>"), ("u", "n"), ("a", "b"), ("l", "e</w>"), ("ab", "le</w>")]
    letters = [*"abelnu.'s", *(f"{letter}</w>" for letter in "abelnu.'s")]
    ids = write_merges(folder, ["<unk>", *letters, *(a + b for a, b in merges)], merges)
    return load_tokenizer(folder), transformers.OpenAIGPTTokenizer(ids, merges)


@given(text=TEXT)
@example(text="Un unable un. naïve")
def test_gpt1s_files_agree_with_transformers(gpt1: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = gpt1
    assert ours.encode(text) == theirs(text, split_special_tokens=True)["input_ids"]


def test_gpt1_decodes_words(gpt1: tuple[Tokenizer, Any]) -> None:
    assert gpt1[0].decode(gpt1[0].encode("Unable un")) == "unable un"
    assert gpt1[0].special_tokens == SpecialTokens(unk="<unk>")


# SentencePiece


def field(number: int, content: int | float | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, float):
        return varint(number << 3 | 5) + struct.pack("<f", content)
    if isinstance(content, int):
        return varint(number << 3) + varint(content & (1 << 64) - 1)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    low, high = number & 127, number >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])


NORMAL = {"▁": -3.0, "a": -4.0, "b": -4.5, "▁a": -2.0, "ab": -3.5, "▁ab": -5.0, "bb": -6.0, "abb": -6.5, "s": -4.0,
          "▁▁": -5.5}  # fmt: skip


def write_model(path: Path, kind: int, trainer: bytes = b"", **changes: Any) -> Path:
    """A small SentencePiece file. kind: 1 unigram, 2 bpe. changes: prefix, trims, byte_pieces, user, normal."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    if changes.get("byte_pieces", True):
        pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(text, score, 1) for text, score in NORMAL.items()]
    pieces += [(text, 0.0, 4) for text in changes.get("user", ())]
    data = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, k)) for t, s, k in pieces)
    data += field(2, field(3, kind) + field(43, -1) + trainer)
    data += field(
        3,
        field(1, b"identity") + field(3, int(changes.get("prefix", True))) + field(4, int(changes.get("trims", False))),
    )
    path.write_bytes(data)
    return path


def spelt(text: str, trims: bool) -> str:
    text = " ".join(part for part in text.split(" ") if part) if trims else text
    return f"▁{text}".replace(" ", "▁") if text else ""


def viterbi(text: str) -> list[str]:
    """The cut of a text whose pieces score best; characters in no piece score worst."""
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        found = [
            (best[i][0] + NORMAL[text[i:end]], [*best[i][1], text[i:end]]) for i in range(end) if text[i:end] in NORMAL
        ]
        if text[end - 1] not in NORMAL:
            found.append((best[end - 1][0] - 100, [*best[end - 1][1], text[end - 1]]))
        best.append(max(found, key=lambda pair: pair[0]))
    return best[-1][1]


def joined(text: str) -> list[str]:
    """Neighbours joined again and again, those that score best first, from the left."""
    parts = list(text)
    while True:
        pairs = [(NORMAL[a + b], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in NORMAL]
        if not pairs:
            return parts
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize("trims", [False, True])
@pytest.mark.parametrize(("kind", "cut"), [(1, viterbi), (2, joined)])
@given(
    text=st.lists(
        st.text("ab s▁<>/é🙂\n", max_size=9) | st.sampled_from(["<s>", "</s>", "<unk>", "<0x41>"]), max_size=4
    ).map("".join)
)
@example(text="  ab  abb a ")
def test_sentencepiece_by_hand(
    kind: int, cut: Callable[[str], list[str]], trims: bool, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = made(tmp_path_factory, kind, trims)
    ids = {**{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}, **{piece: 259 + i for i, piece in enumerate(NORMAL)}}
    expected = []
    for piece in cut(spelt(text, trims)):
        expected += [ids[piece]] if piece in NORMAL else [3 + byte for byte in piece.encode()]
    assert tokenizer.encode(text) == expected
    if not trims:
        assert tokenizer.decode(expected) == text.replace("▁", " ")


_MADE: dict[tuple[int, bool], Tokenizer] = {}


def made(factory: pytest.TempPathFactory, kind: int, trims: bool) -> Tokenizer:
    if (kind, trims) not in _MADE:
        path = write_model(factory.mktemp("spm") / "tokenizer.model", kind, trims=trims)
        _MADE[kind, trims] = load_tokenizer(path.parent)
    return _MADE[kind, trims]


def test_sentencepiece_without_bytes_has_unknowns(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "spiece.model", 1, byte_pieces=False).parent)
    a = tokenizer.encode("a")
    assert tokenizer.encode("aéé") == [*a, 0]
    assert tokenizer.special_tokens == SpecialTokens(bos="<s>", eos="</s>", unk="<unk>")


def test_sentencepiece_sentinels_and_user_defined_pieces(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 3}')
    tokenizer = load_tokenizer(write_model(tmp_path / "spiece.model", 1).parent)
    size = tokenizer.vocab_size
    assert [tokenizer.token(i) for i in range(size - 3, size)] == ["<extra_id_2>", "<extra_id_1>", "<extra_id_0>"]
    user = load_tokenizer(write_model(tmp_path / "spiece.model", 2, user=["<br>"], prefix=False).parent)
    assert [user.token(i) for i in user.encode("ab<br> a")] == ["ab", "<br>", " a"]
    write_model(tmp_path / "spiece.model", 2, user=["<br>"])
    with refused("spiece.model", "'<br>'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", [1, 2])
def test_sentencepiece_saved_opens_in_transformers(kind: int, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "tokenizer.model", kind).parent)
    tokenizer.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in ["ab abb", "  a é", "", "🙂\n"]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)
    assert load_tokenizer(tmp_path / "saved").fingerprint() == tokenizer.fingerprint()


KNOWN: list[tuple[str, list[int], list[int]]] = [
    ("Hello world", [15043, 3186], [8774, 296]),
    (" Hello  world ", [29871, 15043, 29871, 3186, 29871], [8774, 296]),
    (
        "na\xefve caf\xe9 \ufb01ne \xbd \uff21",
        [1055, 30085, 345, 274, 28059, 29871, 31017, 484, 29871, 30226, 29871, 242, 191, 164],
        [3, 29, 9, 2, 162, 11949, 1399, 209, 2, 357, 71],
    ),
    ("\u4f60\u597d\uff0c\u4e16\u754c\uff01", [29871, 30919, 31076, 30214, 30793, 30967, 30584], [3, 2, 6, 2, 55]),
    (
        "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f642",
        [29871, 243, 162, 148, 172, 30722, 243, 162, 148, 172, 30722, 243, 162, 148, 170, 29871, 243, 162, 156, 133],
        [3, 2, 3, 2, 3, 2, 3, 2],
    ),
    ("tab\there\nnew\r\n", [4434, 12, 4150, 13, 1482, 30004, 13], [3808, 270, 126]),
    ("\x00\x1b[31m", [29871, 3, 30, 29961, 29941, 29896, 29885], [3, 2, 6306, 3341, 51]),
    ("\u2581under\u2581bar", [29871, 1090, 2594], [365, 1207]),
    (
        "<s> </s> <unk> <pad> <0x41>",
        [529, 29879, 29958, 1533, 29879, 29958, 529, 2960, 29958, 529, 8305, 29958, 529, 29900, 29916, 29946, 29896,
         29958],
        [3, 2, 7, 3155, 3, 2, 87, 7, 3155, 3, 2, 6513, 3155, 3, 2, 5612, 3155, 3, 2, 632, 226, 4853, 3155],
    ),
    ("   ", [268], []),
    (
        "if x <= 10:\n        return x",
        [565, 921, 5277, 29871, 29896, 29900, 29901, 13, 4706, 736, 921],
        [3, 99, 3, 226, 3, 2, 2423, 335, 10, 1205, 3, 226],
    ),
    (
        "\u0939\u093f\u0928\u094d\u0926\u0940 e\u0301",
        [29871, 30714, 30436, 30424, 30296, 30694, 30580, 321, 30103],
        [3, 2, 3, 154],
    ),
    (
        "<extra_id_0> $5.00",
        [529, 17833, 29918, 333, 29918, 29900, 29958, 395, 29945, 29889, 29900, 29900],
        [3, 2, 25666, 834, 23, 26, 834, 632, 3155, 6422, 4200],
    ),
]  # fmt: skip
"""Texts, and their ids by sentencepiece 0.2 with the models of LLaMA 2 and T5."""


@pytest.mark.parametrize("row", range(len(KNOWN)))
def test_known_ids_of_real_models(row: int, data_folder: Path) -> None:
    text, llama, t5 = KNOWN[row]
    assert real(data_folder, "llama2")[0].encode(text) == llama
    assert real(data_folder, "t5-base")[0].encode(text) == t5


def test_roles_of_real_models(data_folder: Path) -> None:
    llama, t5 = (real(data_folder, name)[0] for name in ("llama2", "t5-base"))
    assert (llama.vocab_size, llama.bos_id, llama.eos_id, llama.unknown_id, llama.pad_id) == (32000, 1, 2, 0, None)
    assert (t5.vocab_size, t5.bos_id, t5.eos_id, t5.unknown_id, t5.pad_id) == (32000, None, 1, 2, 0)


# What is refused


REFUSED: list[tuple[Callable[[Path], object], tuple[str, ...]]] = [
    (lambda f: (f / "vocab.txt").write_text("a\nb\n"), ("vocab.txt", "[PAD], [UNK], [CLS]")),
    (lambda f: (f / "vocab.txt").write_bytes(b"\xe9\n"), ("vocab.txt", "offset 0")),
    (lambda f: cut(write_model(f / "tokenizer.model", 1)), ("tokenizer.model",)),
    (lambda f: (f / "tokenizer.model").write_bytes(b"hello there"), ("tokenizer.model",)),
    (lambda f: (f / "tokenizer.model").write_bytes(b""), ("tokenizer.model",)),
    (lambda f: write_model(f / "tokenizer.model", 1, field(3, b"x")), ("tokenizer.model",)),
    (lambda f: write_model(f / "tokenizer.model", 4), ("tokenizer.model", "unigram")),
    (lambda f: write_model(f / "tokenizer.model", 1, field(24, 1)), ("tokenizer.model", "spaces")),
    (lambda f: write_model(f / "tokenizer.model", 1, field(40, -1)), ("tokenizer.model", "unknown")),
    (lambda f: write_merges(f, ["a</w>"], []), ("vocab.json", "<unk>")),
]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(("spoil", "names"), REFUSED)
def test_files_that_are_refused(spoil: Callable[[Path], object], names: tuple[str, ...], tmp_path: Path) -> None:
    spoil(tmp_path)
    with refused(*names):
        load_tokenizer(tmp_path)
