"""The families whose memory has a fixed size, through folders, verbs and adapters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from langwright import load_model, save_model
from langwright.adaptation.methods import METHODS
from langwright.inference.sampling import Search
from langwright.models.families import CARRYING
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth, preset
from langwright.planning.cost import training_flops_per_token
from oracles import VOCABULARY, perturb, random_ids
from refusals import refused
from tiny import quantise_model
from writers import written

families = pytest.mark.parametrize("family", [row.name for row in CARRYING])


def made(family: str, tied: bool = True) -> Model:
    config = replace(by_depth(family, 2, VOCABULARY, 32, 0.0, width=64), tie_word_embeddings=tied)  # type: ignore[type-var]
    model = new_model(family, config).eval()
    perturb(model)
    return model


@families
@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_holds_the_model(family: str, tied: bool, tmp_path: Path) -> None:
    model, ids = made(family, tied), random_ids(2, 9)
    save_model(model, None, tmp_path)
    assert f'"langwright-{family}"' in (tmp_path / "config.json").read_text()
    opened = load_model(tmp_path)
    assert (opened.family, opened.config) == (family, model.config)
    assert (opened.head.weight is opened.body.embed.tokens) == tied
    assert torch.equal(opened(ids), model(ids))


@families
@torch.no_grad()
def test_labels_of_a_text_do_not_depend_on_its_padding(family: str, tmp_path: Path) -> None:
    model, ids = (
        new_model(family, made(family).config, head="sequence", labels=["good", "bad"]).eval(),
        random_ids(2, 9),
    )
    perturb(model)
    save_model(model, None, tmp_path)
    assert torch.equal(load_model(tmp_path)(ids), model(ids))
    padded = torch.nn.functional.pad(ids, (0, 5))
    given = model(padded, torch.arange(14).expand(2, -1) < 9)
    assert given.shape == (2, 2)
    torch.testing.assert_close(given, model(ids))


@families
@torch.no_grad()
def test_written_token_by_token_it_is_what_it_is_at_once(family: str) -> None:
    """Prompts of several lengths, one of which leaves early, and the places of beams."""
    model = made(family)
    prompts = [random_ids(1, n, seed=n)[0].tolist() for n in (3, 7, 1)]
    for search in (Search(), Search(beams=3)):
        cached, whole = (written(model, prompts, [6, 1, 6], search=search, cache=cache) for cache in (True, False))
        assert cached == whole


def test_the_last_layer_is_as_wide_as_a_tied_head() -> None:
    """The layers of AWD-LSTM: 400 -> 1150 -> 1150 -> 400, with weights dropped."""
    _, config = preset("awd-lstm", 30, None, 0.0)
    with torch.device("meta"):
        mixers = [block.mixer for block in new_model("lstm", config).body.blocks]
    assert [(m.input.inputs, m.outputs, m.weight_dropout) for m in mixers] == [
        (400, 1150, 0.5), (1150, 1150, 0.5), (1150, 400, 0.5),
    ]  # fmt: skip


@families
def test_its_linear_layers_are_adapted_quantised_and_counted(family: str) -> None:
    model, ids = made(family), random_ids(2, 9)
    counted = training_flops_per_token(model, 32) / 6 - model.head.weight.numel()
    assert counted == 2 * 64 * 64 * {"lstm": 8, "gru": 6, "rnn": 2, "cnn": 8}[family]
    METHODS["lora"](rank=2).attach(model)
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 4
    before = model(ids)
    perturb(model, trained=True)
    assert not torch.equal(model(ids), before)
    packed, plain = made(family), made(family)
    quantise_model(packed, "int8")
    with torch.no_grad():
        assert 0 < (packed(ids) - plain(ids)).abs().max() < 0.2 * plain(ids).std()


@families
def test_what_needs_attention_is_refused(family: str) -> None:
    for name in ("prefix", "bottleneck"):
        with refused("attention"):
            METHODS[name]().attach(made(family))
