"""Dynamic NTK and YaRN as in `transformers`, through saved folders, past the original length."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langwright import load_model
from langwright.models.folder import OpenedFolder, save_model
from langwright.parts.cache import KVCache
from langwright.parts.positions import Rope, rotate
from langwright.parts.rope_scaling import DynamicScaling, YarnScaling
from oracles import Case, left_padding, oracle, random_ids, reopened
from refusals import refused

ORIGINAL = 16
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 3.0}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
SHARP = {"beta_fast": 2.0, "beta_slow": 0.5}
"""With these, heads of 8 have pairs that are kept, blended and stretched."""

CASES: dict[str, dict[str, Any]] = {
    "dynamic": DYNAMIC,
    "yarn": YARN,
    "yarn-betas": YARN | SHARP,
    "yarn-not-rounded": YARN | SHARP | {"truncate": False},
    "yarn-attention-factor": YARN | SHARP | {"attention_factor": 1.7},
    "yarn-mscale": YARN | SHARP | {"mscale": 2.0, "mscale_all_dim": 0.5},
    "yarn-mscale-alone": YARN | SHARP | {"mscale": 2.0},
    "yarn-one-end": YARN | {"rope_theta": 3.0, "beta_fast": 5.0, "beta_slow": 4.9},
}


def folder_of(parameters: dict[str, Any], folder: Path, family: str = "llama") -> Any:
    """A tiny model of theirs with these parameters, saved; in its first state, for theirs remember the longest text."""
    context = ORIGINAL if parameters["rope_type"] == "dynamic" else 64
    changes = {"rope_parameters": dict(parameters), "max_position_embeddings": context}
    theirs = oracle(Case(family, changes))
    theirs.save_pretrained(folder)
    return theirs


def near(ours: Tensor, theirs: Tensor) -> bool:
    assert theirs.abs().max() > 1
    return bool((ours - theirs).abs().max() <= 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_past_the_original_length(name: str, tmp_path: Path) -> None:
    theirs = folder_of(CASES[name], tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    save_model(ours, None, tmp_path / "ours")
    for time in (ORIGINAL // 2, 3 * ORIGINAL, 4 * ORIGINAL):
        ids = random_ids(2, time)
        expected = theirs(ids).logits
        assert near(ours(ids), expected)
        assert near(reopened(tmp_path / "ours")(ids).logits, expected)
    assert ours.context == (48 if name == "dynamic" else 64)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma", "gpt_neox", "phi", "nanochat"])
def test_dynamic_scaling_in_other_families(family: str, tmp_path: Path) -> None:
    """Whole heads and parts of them."""
    part = {"partial_rotary_factor": 0.5} if family in ("gpt_neox", "phi") else {}
    theirs = folder_of(DYNAMIC | part, tmp_path, family)
    ours, ids = load_model(tmp_path), random_ids(2, 3 * ORIGINAL)
    assert ours.context == 3 * ORIGINAL
    assert near(ours(ids), theirs(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("name", ["dynamic", "yarn-betas"])
def test_with_a_cache(name: str, tmp_path: Path) -> None:
    """Growing token by token over the original length; earlier keys stay as they were turned, in both."""
    theirs = folder_of(CASES[name], tmp_path)
    ours, ids = load_model(tmp_path), random_ids(1, 40)
    state, past, start = KVCache(len(ours.body.blocks)), None, 0
    for stop in (10, *range(11, 41)):
        piece = ids[:, start:stop]
        out = theirs(piece, past_key_values=past, use_cache=True)
        past, start = out.past_key_values, stop
        assert near(ours(piece, state=state), out.logits), stop


@torch.no_grad()
def test_rows_of_a_batch_do_not_stretch_each_other(tmp_path: Path) -> None:
    """Each row has its own length: padding and neighbours change nothing (in `transformers` the longest counts)."""
    folder_of(DYNAMIC, tmp_path)
    ours, ids, mask = load_model(tmp_path), random_ids(4, 30), left_padding(4, 30)
    together = ours(ids, mask)
    for row in range(4):
        real = mask[row]
        assert torch.allclose(together[row, real], ours(ids[row : row + 1, real])[0], atol=1e-5)


@torch.no_grad()
def test_the_older_spelling(tmp_path: Path) -> None:
    folder_of(YARN | SHARP, tmp_path)
    expected = load_model(tmp_path)(random_ids(1, 40))
    config = json.loads((tmp_path / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = {"type": parameters.pop("rope_type"), **parameters}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_model(tmp_path)(random_ids(1, 40)), expected)


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"rope_type": "yarn"}, ["'yarn'", "factor"]),
        (YARN | {"beta": 1}, ["'yarn'", "beta"]),
        (DYNAMIC | {"beta_fast": 1}, ["'dynamic'", "beta_fast"]),
        (DYNAMIC | {"original_max_position_embeddings": 9}, ["max_position_embeddings"]),
        ({"rope_type": "longrope"}, ["'longrope'", "default, linear, llama3, dynamic, yarn"]),
    ],
)
def test_what_is_not_understood_is_named(parameters: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": parameters}))
    with refused(*names):
        OpenedFolder(tmp_path)


def test_the_ends_of_dynamic_scaling() -> None:
    """At twice the length with factor 3: the fastest pair is as before, the slowest 3 * 2 - 2 times slower."""
    frequencies = torch.tensor([1.0, 0.1, 0.01])
    scaled = DynamicScaling(3.0, 8)(frequencies, 1000.0, torch.tensor([[8], [16]]))
    scaled = scaled[:, 0]
    assert scaled[0].tolist() == pytest.approx([1.0, 0.1, 0.01])
    assert scaled[1].tolist() == pytest.approx([1.0, 0.1 / 2, 0.01 / 4])


def test_yarn_sharpens_the_scores() -> None:
    """Rotation keeps lengths; YaRN's makes them larger by 0.1 ln(factor) + 1."""
    x = torch.ones(1, 1, 5, 8)
    for scaling, larger in ((None, 1.0), (YarnScaling(4.0, 16), 1.1386), (YarnScaling(0.5, 16), 1.0)):
        turned = rotate(x, Rope(8, scaling=scaling).tables(torch.arange(5)[None], torch.float32))
        assert turned.norm(dim=-1).flatten().tolist() == pytest.approx([larger * 8**0.5] * 5, rel=1e-4)
