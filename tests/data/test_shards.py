"""A shard gives back what was written, and no damage goes unseen."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.data import shards
from langwright.data.shards import Tokens, open_shard, write_shard
from refusals import refused

from .conftest import documents_of

FIXTURE = Path(__file__).parent / "fixtures" / "shard-v1.tokens"
TOKENIZER = hashlib.sha256(b"a tokenizer").hexdigest()


def write(path: Path, documents: list[list[int]], vocab_size: int = 1000) -> Tokens:
    with write_shard(path, vocab_size, TOKENIZER) as writer:
        for document in documents:
            writer.add(document[:2], text_bytes=3)
            writer.add(document[2:], text_bytes=len(document))
            writer.end_document()
    return open_shard(path)


@given(
    documents=st.lists(st.lists(st.integers(0, 65535), max_size=9), max_size=9),
    vocab_size=st.sampled_from([65536, 65537]),
)
def test_documents_come_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], vocab_size: int
) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.tokens"
    tokens = write(path, documents, vocab_size)
    assert documents_of(tokens) == documents
    assert tokens.ids.dtype == (np.uint16 if vocab_size == 65536 else np.uint32)
    assert tokens.bytes.tolist() == [3 + len(document) for document in documents]
    assert tokens.text_bytes == sum(3 + len(document) for document in documents)
    assert len(tokens) == sum(map(len, documents))
    assert tokens.tokenizer == TOKENIZER
    assert [p.name for p in path.parent.iterdir()] == ["a.tokens"]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [[1, 2], [3]])
    assert write(tmp_path / "b", [[1, 2], [3]]).digest == first.digest
    assert write(tmp_path / "c", [[1], [2, 3]]).digest != first.digest
    assert write(tmp_path / "d", [[1, 2], [4]]).digest != first.digest


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of several blocks."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 64)
    write(tmp_path / "a.tokens", [list(range(50)), list(range(37))])
    return tmp_path / "a.tokens"


def test_no_flipped_byte_and_no_cut_goes_unseen(shard: Path) -> None:
    good = shard.read_bytes()
    flipped = [good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :] for place in range(len(good))]
    for damaged in [*flipped, *(good[:size] for size in range(0, len(good), 7)), good[:-1], good + b"x"]:
        shard.write_bytes(damaged)
        with refused(shard):
            open_shard(shard)
    shard.write_bytes(good)
    open_shard(shard)
    shard.unlink()
    with refused(shard):
        open_shard(shard)


@pytest.mark.parametrize(("place", "named"), [(300, 256), (330, 320), (200, "header"), (8, "version")])
def test_damage_is_named_with_its_place(place: int, named: object, shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[place] ^= 3
    shard.write_bytes(data)
    with refused(shard, named):
        open_shard(shard)


def test_large_files_are_checked_on_request(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes(data)
    monkeypatch.setattr(shards, "VERIFIED_AT_OPEN", 100)
    open_shard(shard)
    with refused(shard, 256):
        open_shard(shard, verify=True)


class Interrupted(list[list[int]]):
    """Documents that Ctrl-C stops after the first."""

    def __iter__(self) -> Iterator[list[int]]:
        yield self[0]
        raise KeyboardInterrupt


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write(path, [[1, 2, 3]])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write(path, Interrupted([[4, 5, 6], [7]]))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tokens"]
    assert path.read_bytes() == before


def test_an_id_that_does_not_fit_is_never_stored(tmp_path: Path) -> None:
    with pytest.raises(OverflowError), write_shard(tmp_path / "a", 1000, TOKENIZER) as writer:
        writer.add([70_000])


def test_a_shard_of_the_first_version_opens(tmp_path: Path) -> None:
    documents = [[0, 5, 6, 1], [0, 65535, 1], [0, 1]]
    tokens = open_shard(FIXTURE)
    assert documents_of(tokens) == documents
    assert tokens.tokenizer == TOKENIZER
    write(tmp_path / "a", documents)
    assert (tmp_path / "a").read_bytes() == FIXTURE.read_bytes()
