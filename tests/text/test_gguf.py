"""Tokenizers in GGUF files: read back with equal ids, and llama.cpp's ids are ours."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from langwright.models.folder import new_model
from langwright.models.gguf.writing import write_gguf
from langwright.models.shapes import by_depth
from langwright.text.gguf import RULES, tokenizer_fields
from langwright.text.opening import load_tokenizer
from langwright.text.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, sentencepiece_backend
from langwright.text.special_tokens import BERT, SpecialTokens
from langwright.text.token_bytes import CHARACTER_OF_BYTE
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import characters, raw_bytes, train_bpe, train_words
from langwright.text.vocabularies import wordpiece_backend
from llama_cpp import LlamaCpp

from ..refusals import refused

TEXTS = [
    "Hello world, it's 2026: 12345 cats!",
    "a  b   c\n\n\td ",
    " naïve café 你好 👩‍👧 it'll",
    "x=1;\r\ny = [2]",
    "",
]
CORPUS = [*TEXTS, "the cat and the dog, the cats and the dogs; 1234 12 3456"] * 3
TRICKY = st.sampled_from(
    ["<s>", "<|bos|>", "\n\n", "   ", "it's", "IT'S", "123456", "é", "你好", "▁", "\t", "[MASK]", "un"]
)
TEXT = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | TRICKY, max_size=8)


def byte_level(rule: str, whole: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer that cuts words by a rule of llama.cpp."""
    backend = Backend(BPE(ignore_merges=whole))
    steps: list[pre_tokenizers.PreTokenizer] = []
    for step in RULES[rule]:
        match step["type"]:
            case "Digits":
                steps.append(pre_tokenizers.Digits(individual_digits=True))
            case "ByteLevel":
                steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step["use_regex"]))
            case _:
                steps.append(pre_tokenizers.Split(Regex(step["pattern"]["Regex"]), "isolated"))
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    alphabet = list(CHARACTER_OF_BYTE.values())
    trainer = BpeTrainer(vocab_size=330, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_tokens([AddedToken("<user>", normalized=False)])
    return Tokenizer(backend, SpecialTokens(bos="<|end|>", eos="<|end|>"))


def sentencepiece(unigram: bool, prefix: bool) -> Tokenizer:
    """A SentencePiece model, whose scores are those of pieces learnt in this order."""
    words = [
        "▁t",
        "▁th",
        "▁the",
        "at",
        "▁c",
        "▁cat",
        "ca",
        "cat",
        "s",
        "▁",
        "a",
        "b",
        "c",
        "t",
        "h",
        "e",
        "1",
        "2",
        ".",
    ]
    pieces = [Piece("<unk>", 0, UNKNOWN), Piece("<s>", 0, CONTROL), Piece("</s>", 0, CONTROL)]
    pieces += [] if unigram else [Piece(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256)]
    pieces += [Piece(word, -float(i + 1), NORMAL) for i, word in enumerate(words)]
    backend = sentencepiece_backend(pieces, 0, unigram=unigram, charsmap=b"", prefix=prefix, trims=unigram)
    config = {"add_bos_token": not unigram}
    return Tokenizer(backend, SpecialTokens(bos="<s>", eos="</s>", unk="<unk>"), config)


def wordpiece() -> Tokenizer:
    words = [*BERT.config().values(), "un", "##able", "##a", "a", "the", "cat", "##s", ",", "1", "##2", "你"]
    return Tokenizer(wordpiece_backend({word: i for i, word in enumerate(words)}, {}), BERT)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "trained": lambda: train_bpe(CORPUS, 300),
    "bytes": raw_bytes,
    "characters": lambda: characters(CORPUS),
    "gpt-2": lambda: byte_level("gpt-2"),
    "llama-bpe": lambda: byte_level("llama-bpe", whole=True),
    "smaug-bpe": lambda: byte_level("llama-bpe"),
    "qwen2": lambda: byte_level("qwen2"),
    "bloom": lambda: byte_level("bloom"),
    "smollm": lambda: byte_level("smollm"),
    "bpe": lambda: sentencepiece(unigram=False, prefix=True),
    "bpe-bare": lambda: sentencepiece(unigram=False, prefix=False),
    "unigram": lambda: sentencepiece(unigram=True, prefix=True),
    "wordpiece": wordpiece,
}


@dataclass
class Made:
    name: str
    ours: Tokenizer
    back: Tokenizer
    path: Path


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tokenizer, and what is read of the file it was written to."""
    ours, path = KINDS[request.param](), tmp_path_factory.mktemp("made") / "m.gguf"
    config = replace(by_depth("llama", 1, ours.vocab_size + 3, 64, 0.0, width=64), tie_word_embeddings=True)
    model = new_model("llama", config)
    write_gguf(path, model, dict(model.named_parameters()), tokenizer_fields(ours, ours.vocab_size + 3), "f16")
    return Made(request.param, ours, load_tokenizer(path), path)


@settings(max_examples=30)
@given(parts=TEXT)
@example(parts=TEXTS)
def test_what_is_read_has_the_same_ids_and_texts(made: Made, parts: list[str]) -> None:
    text = "".join(parts)
    if made.name == "characters":
        text = text.replace("▁", "_")  # which is the space in the file
    ids = made.ours.encode(text)
    assert made.back.encode(text) == ids
    assert made.back.decode(ids) == made.ours.decode(ids)
    assert made.back.frame(text) == made.ours.frame(text)


def test_the_roles_are_the_same(made: Made) -> None:
    roles = ("bos_id", "eos_id", "pad_id", "unknown_id", "cls_id", "sep_id", "mask_id", "ends", "prefix", "vocab_size")
    assert [getattr(made.back, role) for role in roles] == [getattr(made.ours, role) for role in roles]


def test_llama_cpp_has_the_same_ids(made: Made) -> None:
    server = LlamaCpp(made.path)
    for text in TEXTS:
        assert server.tokens(text, special=True) == made.ours.frame(text)[0], text


def test_what_llama_cpp_cannot_have_is_refused() -> None:
    with refused("WordLevel"):
        tokenizer_fields(train_words(CORPUS, 20), 20)
    backend = Backend.from_str(byte_level("gpt-2")._backend.to_str())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with refused("tokenizer.ggml.pre", "ByteLevel"):
        tokenizer_fields(Tokenizer(backend, SpecialTokens()), 400)
    pieces = [Piece("<unk>", 0, UNKNOWN), *(Piece(f"<0x{byte:02X}>", 0, BYTE) for byte in range(256))]
    pieces += [Piece(text, -float(i), NORMAL) for i, text in enumerate(("a", "b", "c", "ab", "bc", "abc"))]
    backend = sentencepiece_backend(pieces, 0, unigram=False, charsmap=b"", prefix=False, trims=False)
    layout = json.loads(backend.to_str())
    layout["model"]["merges"].pop()
    with refused("abc"):
        tokenizer_fields(Tokenizer(Backend.from_str(json.dumps(layout)), SpecialTokens()), 300)


@pytest.mark.parametrize("name", ["gpt2", "llama2", "t5-base", "bert-base-uncased"])
def test_real_tokenizers(name: str, data_folder: Path, tmp_path: Path) -> None:
    ours = load_tokenizer(data_folder / "tokenizers" / name)
    model = new_model("llama", replace(by_depth("llama", 1, ours.vocab_size, 64, 0.0, width=64)))
    path = tmp_path / "m.gguf"
    write_gguf(path, model, dict(model.named_parameters()), tokenizer_fields(ours, ours.vocab_size), "q8_0")
    server, back = LlamaCpp(path), load_tokenizer(path)
    for text in filter(None, TEXTS):
        ids = ours.frame(text)[0]
        assert back.frame(text)[0] == ids
        assert server.tokens(text, special=True) == ids, text
