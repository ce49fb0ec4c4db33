"""Models of series: equal to torch.nn on the same numbers, blind to padding, the same after a folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langwright import load_model
from langwright.models.families.series import SeriesConfig
from langwright.models.folder import new_model, save_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.parts.series import SeriesVectors
from oracles import perturb
from refusals import refused

LABELS = ["sit", "walk", "run"]
CHANNELS, SAMPLES, WINDOW = 3, 4, 24


def made(family: str) -> Model:
    body: Any = by_depth(family, 2, 1, WINDOW // SAMPLES, 0.0, width=64)
    model = new_model("series", SeriesConfig(CHANNELS, SAMPLES, WINDOW, family, body), head="sequence", labels=LABELS)
    perturb(model.eval())
    return model


def series_of(rows: int, time: int) -> Tensor:
    return torch.randn(rows, time, CHANNELS, generator=torch.Generator().manual_seed(time))


def vectors_of(model: Model, series: Tensor) -> Tensor:
    """What the first layer makes, as a convolution that is as wide as its stride."""
    layer = model.body.embed.vectors.input
    weight = layer.weight.unflatten(1, (SAMPLES, CHANNELS)).transpose(1, 2)
    return F.conv1d(series.transpose(1, 2), weight, layer.bias, stride=SAMPLES).transpose(1, 2)


def lstm(model: Model, series: Tensor) -> Tensor:
    theirs = nn.LSTM(64, 64, num_layers=2, batch_first=True)
    for number, block in enumerate(model.body.blocks):
        ours: Any = block.mixer
        values = {"weight_ih": ours.input.weight, "bias_ih": ours.input.bias, "weight_hh": ours.hidden_weight}
        for name, value in {**values, "bias_hh": ours.hidden_bias}.items():
            getattr(theirs, f"{name}_l{number}").data = value.data
    return theirs(vectors_of(model, series))[0][:, -1]


def cnn(model: Model, series: Tensor) -> Tensor:
    x = vectors_of(model, series).transpose(1, 2)

    def normed(norm: Any) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), (64,), norm.weight, norm.bias, norm.eps).transpose(1, 2)

    for block in model.body.blocks:
        branch: Any = block.mixer
        kernel = branch.fn.kernel
        theirs = nn.Conv1d(64, 128, kernel)
        theirs.weight.data = branch.fn.input.weight.data.unflatten(1, (kernel, 64)).transpose(1, 2)
        theirs.bias.data = branch.fn.input.bias.data  # type: ignore[union-attr]
        x = x + F.glu(theirs(F.pad(normed(branch.in_norm), (kernel - 1, 0))), dim=1)
    return normed(model.body.final_norm).amax(-1)


@pytest.mark.parametrize(("family", "theirs"), [("lstm", lstm), ("cnn", cnn)])
@torch.no_grad()
def test_they_equal_torch_nn(family: str, theirs: Any) -> None:
    model, series = made(family), series_of(5, WINDOW)
    wanted = F.linear(theirs(model, series), model.head.output.weight, model.head.output.bias)
    torch.testing.assert_close(model(series), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["cnn", "lstm", "bert", "llama", "gpt2"])
@torch.no_grad()
def test_padding_changes_nothing_and_folders_keep_everything(family: str, tmp_path: Path) -> None:
    model, series = made(family), series_of(2, WINDOW)
    mask = torch.ones(2, WINDOW // SAMPLES, dtype=torch.bool)
    mask[1, 3:] = False
    padded = series.clone()
    padded[1, 3 * SAMPLES :] = 7.0
    alone = torch.cat((model(series[:1]), model(series[1:, : 3 * SAMPLES])))
    torch.testing.assert_close(model(padded, mask), alone, rtol=0, atol=1e-5)
    save_model(model, None, tmp_path / "model")
    opened = load_model(tmp_path / "model")
    assert torch.equal(opened(padded, mask), model(padded, mask))
    assert opened.labels == tuple(LABELS)
    assert (opened.context, opened.config.width, opened.vocabulary) == (WINDOW, 64, 0)


def test_the_last_samples_make_a_vector_with_zeros() -> None:
    layer, series = SeriesVectors(2, 4, 8), torch.randn(1, 6, 2)
    nn.init.normal_(layer.input.weight)
    nn.init.zeros_(layer.input.bias)
    whole = torch.cat((series, torch.zeros(1, 2, 2)), 1)
    assert layer(series).shape == (1, 2, 8) == (1, layer.length(6), 8)
    assert torch.equal(layer(series), layer(whole))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"channels": 0}, "channels"), ({"family": "t5"}, "t5"), ({"body": 3}, "body"), ({"window": "x"}, "window")],
)
def test_configs_that_make_no_model_are_refused(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    save_model(made("cnn"), None, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with refused("config.json", named):
        load_model(tmp_path)
