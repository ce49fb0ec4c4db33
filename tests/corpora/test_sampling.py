"""A sample is capped, chosen by content, and the same in any order."""

from hypothesis import given
from hypothesis import strategies as st

from langwright.corpora import sampling
from langwright.corpora.document import Document
from langwright.corpora.sampling import sample_texts

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), max_size=12)


def sample(texts: list[str], max_bytes: int, seed: int = 0) -> list[str]:
    return sample_texts((Document(text, "") for text in texts), max_bytes, seed)


@given(texts=TEXTS, max_bytes=st.integers(1, 60), data=st.data())
def test_capped_and_independent_of_order(texts: list[str], max_bytes: int, data: st.DataObject) -> None:
    chosen = sample(texts, max_bytes)
    assert sum(len(text.encode()) for text in chosen) <= max_bytes
    assert sample(data.draw(st.permutations(texts)), max_bytes) == chosen
    if sum(len(text.encode()) for text in texts) <= max_bytes:
        assert sorted(chosen) == sorted(texts)


@given(texts=TEXTS, max_bytes=st.integers(1, 60))
def test_a_larger_cap_keeps_what_a_smaller_one_chose(texts: list[str], max_bytes: int) -> None:
    smaller, larger = sample(texts, max_bytes), sample(texts, 2 * max_bytes)
    assert larger[: len(smaller)] == smaller


def test_seeds_differ() -> None:
    texts = [f"text {i}" for i in range(100)]
    assert sample(texts, 200) != sample(texts, 200, seed=1)


def test_long_documents_are_cut_at_line_ends(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sampling, "CHUNK_CHARACTERS", 10)
    text = "".join(f"line {i}\n" for i in range(30)) + "x" * 35
    chunks = sample([text], 10_000)
    assert sorted(chunks) == sorted(sampling._chunks(text))
    assert "".join(sampling._chunks(text)) == text
    assert all(len(chunk) <= 20 for chunk in chunks)
    assert sum(chunk.endswith("\n") for chunk in chunks) > 10
