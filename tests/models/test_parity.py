"""Equal logits, cache and gradients with `transformers`, through saved folders, both ways."""

import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from langwright import load_model
from langwright.models import tasks
from langwright.models.families import DECODERS, FAMILIES
from langwright.models.folder import new_model, save_model
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.cache import KVCache
from oracles import CASES, VOCABULARY, WINDOW, left_padding, oracle, perturb, random_ids, reopened

NEAR = 1e-4


@dataclass(frozen=True)
class Pair:
    """The same model, theirs and ours; `back` is theirs again, read from the folder that ours saved."""

    theirs: PreTrainedModel
    ours: Model
    back: PreTrainedModel


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = oracle(CASES[request.param])
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    save_model(ours, None, folder / "ours")
    return Pair(theirs, ours, reopened(folder / "ours"))


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Within 1e-4, where the logits are large enough for that to say something."""
    assert theirs.abs().max() > 1
    return bool((ours - theirs).abs().max() <= NEAR)


def positions(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def placed(pair: Pair, where: Tensor) -> dict[str, Tensor]:
    """Positions as an argument of theirs, where it takes any."""
    taken = inspect.signature(pair.theirs.forward).parameters
    return {"position_ids": where} if "position_ids" in taken else {}


@torch.no_grad()
def test_plain(pair: Pair) -> None:
    ids = random_ids(2, 4 * WINDOW)
    expected = pair.theirs(ids).logits
    assert near(pair.ours(ids), expected)
    assert near(pair.back(ids).logits, expected)
    assert type(pair.back) is type(pair.theirs)


@torch.no_grad()
def test_left_padding(pair: Pair) -> None:
    ids, mask = random_ids(4, 21), left_padding(4, 21)
    expected = pair.theirs(ids, attention_mask=mask.long(), **placed(pair, positions(mask))).logits
    given = pair.ours(ids, mask)
    assert given.isfinite().all()
    assert near(given[mask], expected[mask])
    assert near(pair.ours(ids, mask, positions(mask))[mask], expected[mask])


@torch.no_grad()
def test_positions_that_are_passed_count(pair: Pair) -> None:
    if not placed(pair, torch.zeros(1)):
        pytest.skip("theirs takes no positions")
    windowed = any(block.bias.window for block in pair.ours.body.blocks)
    step = 1 if windowed else 3  # our windows are measured in positions, theirs in tokens
    ids, scattered = random_ids(2, 12), torch.arange(12) * step + torch.tensor([[0], [4]])
    assert near(pair.ours(ids, positions=scattered), pair.theirs(ids, position_ids=scattered).logits)


@torch.no_grad()
def test_padding_at_the_right_needs_no_mask(pair: Pair) -> None:
    ids, mask = random_ids(4, 21), left_padding(4, 21).flip(1)
    expected = pair.theirs(ids, attention_mask=mask.long()).logits
    assert near(pair.ours(ids)[mask], expected[mask])


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_cache(pair: Pair, padded: bool) -> None:
    """A prompt, pieces, and one token at a time past the window and past the cache's first growth."""
    ids = random_ids(3, 72)
    mask = left_padding(3, 72) if padded else torch.ones(3, 72, dtype=torch.bool)
    expected = pair.theirs(ids, attention_mask=mask.long(), **placed(pair, positions(mask))).logits
    state, start = KVCache(len(pair.ours.body.blocks)), 0
    for stop in (12, 15, *range(16, 24), 60, *range(61, 73)):
        feed = slice(start, stop)
        given = pair.ours(ids[:, feed], mask[:, feed] if padded and start == 0 else None, state=state)
        assert near(given[mask[:, feed]], expected[:, feed][mask[:, feed]]), (start, stop)
        start = stop


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "gptj", "gpt_neox", "bloom"])
def test_gradients_of_one_step(name: str, tmp_path: Path) -> None:
    theirs = oracle(CASES[name])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).train()
    ids, weights = random_ids(2, 14), torch.ones(2, 13)
    weights[0, 9:] = 0
    losses = F.cross_entropy(theirs(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    expected = (losses * weights.flatten()).sum() / weights.sum()
    expected.backward()
    total = linear_cross_entropy(ours.head.projection(ours.body(ids[:, :-1])), ids[:, 1:], weights)
    loss = total / weights.sum()
    loss.backward()
    assert abs(loss - expected) <= NEAR
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    named = dict(theirs.named_parameters())
    for disk, gradient in to_disk(tasks.entries(FAMILIES[ours.family], ours.config, ours.task), gradients).items():
        disk = disk.replace("embed_out", "lm_head")  # its name in memory
        assert (gradient - named.pop(disk).grad).abs().max() <= NEAR, disk
    assert not named


@pytest.mark.parametrize("family", [family.name for family in DECODERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_model_opens_in_transformers(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = new_model(family, by_depth(family, 1, VOCABULARY, 32, dropout=0.1)).eval()
    perturb(model, 3)
    model.to(dtype)
    save_model(model, None, tmp_path)
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert near(model.float()(ids), reopened(tmp_path)(ids).logits)
