"""Mixtures: the shares drawn are the weights, every row has its turn, and a mixed batch means what its rows do."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from langwright.corpora.opening import named_corpora
from langwright.data.mixture import DECK, UNIT, Mixture, Together, Weights, parse_mix
from langwright.data.order import Layout
from langwright.data.supply import Batches, evaluation_batches
from langwright.data.windows import Windows
from langwright.models.folder import new_model
from langwright.models.shapes import by_depth
from langwright.objectives.language import TokenPrediction
from processes import survives_kills
from refusals import Fails, refused

from .conftest import tokens_of
from .test_pieces import rows_of, tokens

NAMES = ("web", "code", "rare")
SIZES = (70, 40, 3)


def mixture(text: str | None, batch_size: int = 4, seed: int = 1, rank: int = 0, world: int = 1) -> Mixture:
    """Three corpora, whose ids say which they are and whose rows hold 4, 2 and 4 inputs."""
    corpora = {
        name: Windows(tokens_of([[100 * c + 1 + i] * length for i in range(size)]), 4)
        for c, (name, size, length) in enumerate(zip(NAMES, SIZES, (5, 3, 5), strict=True))
    }
    return Mixture(corpora, Layout(batch_size, seed, False, rank, world), text and parse_mix(text, NAMES))


def shares(corpora: Any) -> np.ndarray:
    return np.bincount(corpora, minlength=len(NAMES)) / len(corpora)


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda weights: sum(weights) > 0.1))
def test_every_deck_holds_the_weights(weights: Sequence[float]) -> None:
    mixed = mixture(None)
    edges = np.rint(np.cumsum(weights) / sum(weights) * UNIT).astype(np.int64)
    if (np.diff(edges, prepend=0)[np.array(weights) > 0] == 0).any():
        return
    mixed = mixture(",".join(f"{name}={weight}" for name, weight in zip(NAMES, weights, strict=True)))
    for deck in (0, 1, 777):
        found = shares(mixed.draw(np.arange(DECK) + deck * DECK)[0])
        assert np.abs(found - np.array(weights) / sum(weights)).max() < 1 / DECK + 1e-6


def test_over_all_decks_the_shares_are_exact() -> None:
    mixed = mixture("web=0.9,code=0.09996,rare=0.00004", batch_size=UNIT)
    assert mixed.drawn(1)["mix"]["rows"] == {"web": 0.9, "code": 0.09996, "rare": 0.00004}
    drawn = [mixed.draw(np.arange(DECK) + deck * DECK)[0] for deck in range(100)]
    assert shares(np.concatenate(drawn))[2] == pytest.approx(0.00004, abs=0.00002)  # not in one deck of twenty
    deck = drawn[0]
    assert np.abs(np.cumsum(deck == 1) - 0.1 * np.arange(1, DECK + 1)).max() < 40  # shuffled, not in blocks


def test_every_row_is_seen_once_in_an_epoch_of_its_corpus() -> None:
    mixed = mixture("web=2,code=1,rare=1")
    seen: dict[int, list[int]] = {c: [] for c in range(3)}
    for step in range(200):
        for first in mixed.batch(step).ids[:, 0].tolist():
            seen[first // 100].append(first % 100)
    for corpus, size in enumerate(SIZES):
        epochs = [seen[corpus][i : i + size] for i in range(0, len(seen[corpus]) - size, size)]
        assert len(epochs) > 3
        assert all(sorted(epoch) == list(range(1, size + 1)) for epoch in epochs)
        assert size < 4 or epochs[0] != epochs[1]


def test_without_weights_every_corpus_counts_by_its_rows() -> None:
    found = mixture(None).drawn(10 * DECK)["mix"]["rows"]
    assert list(found.values()) == pytest.approx(np.array(SIZES) / sum(SIZES), abs=1e-3)
    assert mixture(None).windows == sum(SIZES)


def test_weights_change_at_the_sample_nearest_to_the_token() -> None:
    # 3 inputs a row on average, then 2: 3,000 tokens are 1,000 rows, 3,999 more 2,000.
    mixed = mixture("web=1,code=1,rare=0; 3000 tokens: web=0,code=1,rare=0; 6999 tokens: web=0,code=0,rare=3")
    corpora, numbers = mixed.draw(np.arange(3100))
    assert np.bincount(corpora[:1000]).tolist() == [500, 500]
    assert (corpora[1000:3000] == 1).all()
    assert (corpora[3000:] == 2).all()
    assert sorted(numbers[corpora == 1].tolist()) == list(range(2500))
    assert mixed.tokens_per_step == 12
    assert [row[0] for row in mixed.record()["mix"]] == [0, 1000, 3000]


@given(st.integers(0, 1200))
def test_the_log_counts_what_was_drawn(step: int) -> None:
    mixed = mixture("web=5,code=4,rare=1; 3k tokens: web=1,code=0,rare=0")
    if step:
        mixed.drawn(step // 2)  # what was summed before changes nothing
        mixed.drawn(step - 1)
    corpora = mixed.draw(np.arange(step * 4))[0]
    rows = np.bincount(corpora, minlength=3)
    inputs = rows * np.array([4, 2, 4])
    found = mixed.drawn(step)["mix"]
    assert list(found["rows"].values()) == pytest.approx(rows / max(1, rows.sum()), abs=1e-6)
    assert list(found["tokens"].values()) == pytest.approx(inputs / max(1, inputs.sum()), abs=1e-6)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_batch_is_a_function_of_its_step_and_ranks_share_it(world: int) -> None:
    text = "web=1,code=1,rare=1; 100 tokens: web=3,code=1,rare=0"
    whole, parts = mixture(text), [mixture(text, rank=rank, world=world) for rank in range(world)]
    for step in (0, 5, 6, 300, 5):
        batches = [part.batch(step) for part in parts]
        for name in ("ids", "samples"):
            assert torch.equal(torch.cat([getattr(b, name) for b in batches]), getattr(whole.batch(step), name))
    assert whole.batch(5).samples.tolist() == [20, 21, 22, 23]  # type: ignore[union-attr]
    assert parts[-1].record() == whole.record()
    assert json.loads(json.dumps(whole.record())) == whole.record()


def test_the_record_changes_with_what_decides_the_samples() -> None:
    ways = [mixture("web=1,code=1,rare=1"), mixture("web=1,code=2,rare=1"), mixture(None), mixture(None, seed=2)]
    assert len({str(way.record()) for way in ways}) == 4


@pytest.mark.parametrize(
    ("name", "family", "packing"),
    [
        *product(["causal"], ["llama", "bloom"], [False, True]),
        *product(["masked"], ["bert", "roberta"], [False, True]),
        ("span", "t5", False), ("span", "t5", True), ("denoise", "bart", True), ("prefix", "t5", True),
    ],
)  # fmt: skip
def test_rows_of_several_corpora_in_one_batch_keep_their_losses(name: str, family: str, packing: bool) -> None:
    """One corpus has long rows, one short ones, one a single row that nothing is packed into."""
    context = 128
    lengths = [[150, 9, 60], [5, 7, 3], [100]]
    corpora = [rows_of(name, tokens(each), context, packing) for each in lengths]
    assert not packing or len(corpora[1]) == 1
    model = new_model(
        family, by_depth(family, 1, 50, context, 0.0, width=64), 3, "masked" if name == "masked" else None
    )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    loss = TokenPrediction()

    def total(batches: Any) -> tuple[float, float]:
        each = [(loss({"model": model}, batch)["tokens"], loss.counts(batch)["tokens"]) for batch in batches]
        return sum(float(s) for s, _ in each), sum(float(c) for _, c in each)

    with torch.no_grad():
        alone = [total(rows.batch(np.array([i]), np.array([i])) for i in range(len(rows))) for rows in corpora]
        together = Together(corpora)
        assert together.inputs == sum(rows.inputs for rows in corpora)
        found = total([*evaluation_batches(together, 2), *evaluation_batches(together, 100)])
        mixed = Mixture(
            {f"{i}": rows for i, rows in enumerate(corpora)},
            Layout(len(together), 5),
            [Weights(0, tuple(len(rows) for rows in corpora))],
        )
        assert mixed.batch(0).ids.shape == mixed.batch(0).targets.shape or name == "masked"
        assert np.isfinite(total([mixed.batch(0)])[0])
    assert found == pytest.approx([2 * sum(each) for each in zip(*alone, strict=True)], rel=1e-5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("web=1,code=1", ["--mix", "rare"]),
        ("web=1,code=1,rare=1,cod=1", ["--mix", "cod", '"code"']),
        ("web=1,code=1,rare=1,web=2", ["--mix", "web"]),
        ("web=1,code=-1,rare=1", ["--mix", "code", "-1"]),
        ("web=1,code=x,rare=1", ["--mix", "code", "x"]),
        ("web=1,code=nan,rare=1", ["--mix", "code", "nan"]),
        ("web=1,code=,rare=1", ["--mix", "code"]),
        ("web=inf,code=1,rare=1", ["--mix", "web", "inf"]),
        ("web=0,code=0,rare=0", ["--mix", "0"]),
        ("", ["--mix"]),
        ("web=1,code=1,rare=1; web=1,code=2,rare=1", ["--mix", "tokens"]),
        ("web=1,code=1,rare=1; 5 steps: web=1,code=2,rare=1", ["--mix", "5 steps"]),
        ("1k tokens: web=1,code=1,rare=1", ["--mix", "1k tokens"]),
        ("web=1,code=1,rare=1; 2k tokens: web=1,code=2,rare=1; 1k tokens: web=1,code=1,rare=1", ["--mix", "later"]),
    ],
)
def test_weights_that_mean_nothing_are_refused(text: str, named: list[str]) -> None:
    with refused(*named):
        parse_mix(text, NAMES)


def test_what_cannot_be_drawn_is_refused() -> None:
    with refused("--mix", "rare", "millionth"):
        mixture("web=1,code=1,rare=0.0000001")
    with refused("empty"):
        Mixture({"web": Windows(tokens_of([[1, 2]]), 4), "empty": Windows(tokens_of([[1]]), 4)}, Layout(1, 0))


def test_corpora_with_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_corpora("web=a/*.txt, code=python-stdlib") == {"web": "a/*.txt", "code": "python-stdlib"}
    assert named_corpora("one=hf:owner/name") == {"one": "hf:owner/name"}
    for single in ("python-stdlib", "a=b,c", "s3://bucket/x?a=b", "a=", "=b"):
        assert named_corpora(single) == {}
    with refused("web"):
        named_corpora("web=a,web=b")
    monkeypatch.chdir(tmp_path)
    Path("a=b,c=d").touch()
    assert named_corpora("a=b,c=d") == {}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two corpora of short documents, as they are written on the command line."""
    folder = tmp_path_factory.mktemp("corpora")
    for name, words in (("web", ("cat", "sees", "dog")), ("code", ("def", "return", "lambda"))):
        rng = np.random.default_rng(0)
        documents = [" ".join(rng.choice(words, rng.integers(3, 30))) for _ in range(120)]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(documents))
    return ",".join(f"{name}={folder / name}.txt" for name in ("web", "code"))


TINY = ["--depth", "1", "--width", "64", "--context", "32", "--batch-size", "4", "--vocabulary", "270"]
RUN = ["--dtype", "float32", "--sample-every", "0", "--log-every", "1", "--save-every", "3", "--steps", "14"]


@pytest.mark.parametrize("objective", ["causal", "span"])
def test_a_killed_run_of_a_mixture_ends_with_the_same_bytes(objective: str, corpora: str, tmp_path: Path) -> None:
    mix = "web=0.5,code=0.5; 700 tokens: web=0,code=1"  # in the middle
    common = ["--objective", objective, "--mix", mix, *TINY, *RUN]
    record = survives_kills(lambda out: ["pretrain", corpora, str(tmp_path / out), *common], tmp_path, [7])
    rows = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    web = [row["mix"]["rows"]["web"] * row["step"] * 4 for row in rows if "mix" in row]
    assert len(web) == 14
    assert web[-1] == pytest.approx(web[9], abs=1e-3)  # no more of it after the change
    assert web[9] > web[0]
    assert record["mix"] == rows[-2]["mix"]
    last = rows[-1]
    assert min(last["validation_loss_web"], last["validation_loss_code"]) < last["validation_loss"]
    assert set(record["held_out"]["corpora"]) == set(record["corpus"]["corpora"]) == {"web", "code"}


def test_what_does_not_go_with_a_mixture_is_refused(corpora: str, tmp_path: Path, fails: Fails) -> None:
    out, one = tmp_path / "out", corpora.split(",")[0].split("=")[1]
    fails("pretrain", one, out, "--mix", "web=1", names=("--mix", one))
    fails("pretrain", corpora, out, "--mix", "web=1,cod=1", names=("--mix", "cod", '"code"'))
    fails("pretrain", corpora, out, "--family", "lstm", names=("web=",))
    fails("pretrain", corpora, out, "--objective", "seq2seq", names=("seq2seq",))
    fails("pretrain", corpora, out, "--objective", "seq2seq", "--mix", "web=1,code=1", names=("--mix",))
    fails("pretrain", f"{corpora},more={tmp_path / 'none'}", out, names=("none",))


def test_a_mixture_of_one_corpus_sees_its_rows_in_their_order() -> None:
    rows = Windows(tokens_of([[i] * 5 for i in range(1, 30)]), 4)
    mixed, plain = Mixture({"one": rows}, Layout(4, 3)), Batches(rows, Layout(4, 3))
    for step in range(20):
        assert torch.equal(mixed.batch(step).ids, plain.batch(step).ids)
