"""Corpora become shards that hold every document whole and in order, and are made once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langwright.base.errors import UserError
from langwright.corpora.document import Corpus, Document
from langwright.corpora.splits import split_documents
from langwright.data import texts as texts_module
from langwright.data.texts import prepare, tokenise
from langwright.text.special_tokens import SpecialTokens
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import characters, raw_bytes, train_bpe
from refusals import refused

from .conftest import documents_of

TEXTS = [f"Document {i} says: naïve {'cats and dogs ' * (i % 9)}\n" for i in range(200)]


class Source:
    """A corpus in memory that counts how often it is read."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.passes = 0

    def read(self) -> Iterator[Document]:
        self.passes += 1
        yield from (Document(text, f"memory {i}") for i, text in enumerate(self.texts))

    def corpus(self) -> Corpus:
        return Corpus("memory", "files", self.read)


@pytest.mark.parametrize("batch_characters", [1, 100, 1 << 20])
@pytest.mark.parametrize("piece_characters", [3, 1 << 14])
def test_each_document_is_whole_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_characters: int, piece_characters: int
) -> None:
    monkeypatch.setattr(texts_module, "BATCH_CHARACTERS", batch_characters)
    pieces = Tokenizer.pieces
    monkeypatch.setattr(Tokenizer, "pieces", lambda self, text: pieces(self, text, piece_characters))
    for tokenizer in (train_bpe(TEXTS, 300), characters(TEXTS), raw_bytes()):
        tokens = tokenise(Source(TEXTS).read(), tokenizer, tmp_path / "a.tokens")
        assert documents_of(tokens) == [[0, *tokenizer.encode_batch([text])[0], 1] for text in TEXTS]
        assert tokens.bytes.tolist() == [len(text.encode()) for text in TEXTS]
        assert tokens.tokenizer == tokenizer.fingerprint()


def test_only_the_roles_a_tokenizer_has_are_added(tmp_path: Path) -> None:
    texts = ["a", "b"]
    for roles, begins, expected in [
        (SpecialTokens(), True, [[100], [101]]),
        (SpecialTokens(bos="<|bos|>"), True, [[0, 100], [0, 101]]),
        (SpecialTokens(bos="<|bos|>", eos="<|eos|>"), False, [[100, 1], [101, 1]]),
        (SpecialTokens(bos="<|eos|>", eos="<|eos|>"), False, [[1, 100, 1], [1, 101, 1]]),
    ]:
        backend = raw_bytes()._backend
        backend.post_processor = None
        tokenizer = Tokenizer(backend, roles, {"add_bos_token": begins})
        tokens = tokenise(Source(texts).read(), tokenizer, tmp_path / "a.tokens")
        assert documents_of(tokens) == expected


def test_both_sides_of_a_split(tmp_path: Path) -> None:
    tokenizer = raw_bytes()
    corpus = Source(TEXTS).corpus()
    for split in ("5%", "0.9"):
        parts = split_documents(corpus, split)
        for tokens, part in zip(prepare(corpus, tokenizer, split, tmp_path), parts, strict=True):
            shown = [tokenizer.decode(ids, skip_special=True) for ids in documents_of(tokens)]
            assert shown == [document.text for document in part]


def test_shards_are_made_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    tokenizer = raw_bytes()
    source = Source(TEXTS)
    corpus = source.corpus()
    first = prepare(corpus, tokenizer, "5%", tmp_path)
    passes = source.passes
    again = prepare(corpus, tokenizer, "5%", tmp_path)
    assert source.passes == passes
    assert [tokens.digest for tokens in again] == [tokens.digest for tokens in first]

    def folders() -> int:
        return len([path for path in tmp_path.iterdir() if path.is_dir()])

    changes: list[tuple[Corpus, Tokenizer, Any]] = [
        (corpus, tokenizer, "6%"),
        (corpus, tokenizer, "0.9"),
        (corpus, characters(TEXTS), "5%"),
        (Source(TEXTS[:-1]).corpus(), tokenizer, "5%"),
        (Source(TEXTS[::-1]).corpus(), tokenizer, "5%"),
    ]
    for number, change in enumerate(changes, start=1):
        prepare(*change, tmp_path)
        assert folders() == 1 + number
    prepare(Source(list(TEXTS)).corpus(), raw_bytes(), "0.9", tmp_path)  # equal content from elsewhere is found
    assert folders() == 1 + len(changes)


def test_a_failed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with refused("memory"):
        prepare(Source(["t"]).corpus(), raw_bytes(), "5%", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shard_is_not_used(tmp_path: Path) -> None:
    corpus = Source(TEXTS).corpus()
    prepare(corpus, raw_bytes(), "5%", tmp_path)
    [path] = tmp_path.glob("*/training.tokens")
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    with refused(path):
        prepare(corpus, raw_bytes(), "5%", tmp_path)


def test_an_error_in_the_corpus_comes_through(tmp_path: Path) -> None:
    def read() -> Iterator[Document]:
        yield Document("fine", "1")
        raise UserError("line 2: broken")

    with refused("line 2: broken"):
        tokenise(read(), raw_bytes(), tmp_path / "a.tokens")
    assert list(tmp_path.iterdir()) == []
