"""A shard gives back what was written, and no damage goes unseen."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.data import shards
from langwright.data.shards import Tokens, open_shard, write_shard

FIXTURE = Path(__file__).parent / "fixtures" / "shard-v1.tokens"
TOKENIZER = hashlib.sha256(b"a tokenizer").hexdigest()


def write(path: Path, documents: list[list[int]], vocab_size: int = 1000) -> Tokens:
    with write_shard(path, vocab_size, TOKENIZER) as writer:
        for document in documents:
            writer.add(document[:2], text_bytes=3)
            writer.add(document[2:], text_bytes=len(document))
            writer.end_document()
    return open_shard(path)


def documents_of(tokens: Tokens) -> list[list[int]]:
    bounds = tokens.offsets.tolist()
    return [tokens.ids[a:b].tolist() for a, b in itertools.pairwise(bounds)]


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
    assert tokens.documents == len(documents)
    assert tokens.tokenizer == TOKENIZER
    assert [p.name for p in path.parent.iterdir()] == ["a.tokens"]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [[1, 2], [3]])
    assert write(tmp_path / "b", [[1, 2], [3]]).digest == first.digest
    assert write(tmp_path / "c", [[1], [2, 3]]).digest != first.digest
    assert write(tmp_path / "d", [[1, 2], [4]]).digest != first.digest


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", 64)


@pytest.mark.usefixtures("small_blocks")
def test_no_flipped_byte_and_no_cut_goes_unseen(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write(path, [list(range(50)), list(range(37))])
    good = path.read_bytes()
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.tokens: "):
            open_shard(path)
    for size in [*range(0, len(good), 7), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(UserError, match=r"a\.tokens: "):
            open_shard(path)
    path.write_bytes(good)
    open_shard(path)


@pytest.mark.usefixtures("small_blocks")
def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tokens"
    write(path, [list(range(50))])
    good = path.read_bytes()

    def complaint(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            open_shard(path)
        return str(error.value).removeprefix(f"{path}: ").removesuffix("; delete it and run again")

    def flipped(place: int) -> bytes:
        return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]

    assert complaint(flipped(300)) == "the token shard is damaged between offsets 256 and 320"
    assert complaint(flipped(330)) == "the token shard is damaged between offsets 320 and 384"
    assert complaint(flipped(len(good) - 1)).startswith("the header, or the table at offset 384, is damaged")
    assert complaint(flipped(200)).startswith("the header, or the table at offset 384, is damaged")
    assert complaint(good[:300]) == f"the token shard is cut short at offset 300 of {len(good)}"
    assert complaint(good[:100]) == "the token shard is cut short at offset 100"
    assert complaint(good + b"x") == f"the token shard should end at offset {len(good)}, not {len(good) + 1}"
    assert complaint(b"PK" + good) == "not a token shard: it does not begin with LWTOKENS"
    assert complaint(good[:8] + b"\x02" + good[9:]) == "token shard version 2, but this release reads 1"
    path.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        open_shard(path)


@pytest.mark.usefixtures("small_blocks")
def test_large_files_are_checked_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tokens"
    write(path, [list(range(50))])
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(shards, "VERIFIED_AT_OPEN", 100)
    open_shard(path)
    with pytest.raises(UserError, match="damaged between offsets 256 and 320"):
        open_shard(path, verify=True)


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
