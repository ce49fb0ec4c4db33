"""Two LSTMs and attention between them: the parts against `torch.nn`, padding, folders, and text written with it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from langwright import load_model, save_model
from langwright.adaptation.methods import METHODS
from langwright.inference.sampling import Search
from langwright.models.families import FAMILIES
from langwright.models.families.lstm_attention import LSTMAttentionConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.parts import Attention
from langwright.parts.state import Taps
from oracles import perturb, random_ids
from refusals import refused
from writers import written

CONFIG = LSTMAttentionConfig(vocab_size=53, hidden_size=16, encoder_layers=2, decoder_layers=1)


@pytest.fixture
def model() -> Model:
    made = new_model("lstm-attention", CONFIG).eval()
    perturb(made)
    return made


def weights(mixer: nn.Module, suffix: str = "") -> dict[str, torch.Tensor]:
    ours = dict(mixer.named_parameters())
    names = {
        "weight_ih": "input.weight",
        "weight_hh": "hidden_weight",
        "bias_ih": "input.bias",
        "bias_hh": "hidden_bias",
    }
    return {f"{name}_l0{suffix}": ours[own] for name, own in names.items()}


@torch.no_grad()
def test_it_is_made_of_the_layers_of_torch(model: Model) -> None:
    """Two LSTMs that read both ways, one that writes, and attention whose answer is added."""
    source, target = random_ids(3, 9), random_ids(3, 6, seed=2)
    x = model.encoder.embed.tokens[source]
    for block in model.encoder.blocks:
        theirs = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        theirs.load_state_dict({**weights(block.mixer.ahead), **weights(block.mixer.behind, "_reverse")})
        x = theirs(x)[0]
    torch.testing.assert_close(model.encode(source).hidden, x)
    decoder = nn.LSTM(16, 16, batch_first=True)
    decoder.load_state_dict(weights(model.body.blocks[0].mixer))
    h, a = decoder(model.body.embed.tokens[target])[0], model.body.blocks[1].mixer.fn
    assert isinstance(a, Attention)
    scores = a.q(h) @ a.k(x).mT / 4
    hidden = h + a.output(scores.softmax(-1) @ a.v(x))
    torch.testing.assert_close(model(source, target), hidden @ model.head.weight.T + model.head.bias)
    taps = Taps("cross_attention")
    model.body(target, memory=model.encode(source), taps=taps)
    torch.testing.assert_close(taps.get("cross_attention")[0][:, 0], scores.softmax(-1))


@torch.no_grad()
def test_padding_and_packing_change_nothing(model: Model) -> None:
    """Sources padded at the right and at the left, and two in one row."""
    source, target = random_ids(2, 7), random_ids(2, 5, seed=2)
    expected = model(source, target)
    for left, right in ((0, 3), (4, 0)):
        padded = nn.functional.pad(source, (left, right))
        mask = nn.functional.pad(torch.ones_like(source, dtype=torch.bool), (left, right))
        torch.testing.assert_close(model(padded, target, mask), expected)
    segments = torch.tensor([[0] * 7 + [1] * 7])
    packed = model.encoder(source.view(1, 14), segments=segments).view(2, 7, 16)
    torch.testing.assert_close(packed, model.encode(source).hidden)


@torch.no_grad()
def test_it_writes_with_its_memory(model: Model) -> None:
    sources = [random_ids(1, n)[0].tolist() for n in (9, 4)]
    for search in (Search(), Search(beams=3)):
        cached, whole = (written(model, sources, 6, search=search, cache=cache) for cache in (True, False))
        assert cached == whole == [written(model, [one], 6, search=search)[0] for one in sources]


def test_folders_adapters_and_refusals(model: Model, tmp_path: Path) -> None:
    source, target = random_ids(2, 9), random_ids(2, 6, seed=2)
    save_model(model, None, tmp_path)
    assert torch.equal(load_model(tmp_path)(source, target), model(source, target))
    METHODS["lora"](rank=2, target=("q_proj", "v_proj", "input")).attach(model)
    assert sum(".adapter." in name for name, _ in model.named_parameters()) == 2 * (2 + 4 + 1)
    with refused("there", "hidden_size"):
        FAMILIES["lstm-attention"].parse({"hidden_size": 7}, "there")
