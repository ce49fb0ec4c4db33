"""langwright show on a model with two stacks: what the page tells is what the model did."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSeq2SeqLM

from langwright import load_model
from langwright.cli import main
from langwright.commands.show import WRITTEN
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.models.families.bart import BartConfig
from langwright.models.families.t5 import T5Config
from langwright.models.folder import new_model, save_model
from langwright.text.training import raw_bytes
from langwright.viewing.attention import CROSS_CAUTIONS
from oracles import perturb
from refusals import Fails
from viewing.markup import cells, check_self_contained, parse, words

BYTES = raw_bytes()


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of two layers, a decoder of one."""
    config = T5Config(
        vocab_size=BYTES.vocab_size, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_decoder_layers=1, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, eos_token_id=1, pad_token_id=2,
        decoder_start_token_id=2,
    )  # fmt: skip
    return save(new_model("t5", config), tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = BartConfig(
        vocab_size=BYTES.vocab_size, max_position_embeddings=12, encoder_layers=1, encoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_layers=1, decoder_ffn_dim=16, decoder_attention_heads=2, d_model=16,
        decoder_start_token_id=1, forced_bos_token_id=0,
    )  # fmt: skip
    return save(new_model("bart", config), tmp_path_factory.mktemp("bart"))


def save(model: torch.nn.Module, folder: Path) -> Path:
    perturb(model)
    save_model(model, BYTES, folder)
    return folder


def shown(folder: Path, page: Path, *options: str) -> str:
    assert main(["show", str(folder), "--attention", "ab c", "--out", str(page), *options]) == 0
    return page.read_text()


def drawn(markup: str, kind: str, head: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The weights of a head that is shown large, from the strength of its colours."""
    weights = np.zeros(shape)
    for place, opacity in cells(
        next(g for g in parse(markup).iter("g") if g.get("id") == f"{kind}-heat-{head}")
    ).items():
        weights[place] = opacity**2
    return weights


def test_the_weights_are_those_of_transformers(t5: Path, tmp_path: Path) -> None:
    page = shown(t5, tmp_path / "a.html", "--target", "xyz", "--layer", "0")
    check_self_contained(page)
    oracle = AutoModelForSeq2SeqLM.from_pretrained(t5, dtype=torch.float32, attn_implementation="eager").eval()
    source, target = [*BYTES.encode("ab c"), 1], [2, *BYTES.encode("xyz")]
    with torch.no_grad():
        told = oracle(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target]), output_attentions=True
        )
    for kind, theirs in (
        ("cross", told.cross_attentions), ("decoder", told.decoder_attentions), ("encoder", told.encoder_attentions),
    ):  # fmt: skip
        for head in range(2):
            expected = theirs[0][0, head].numpy()
            assert drawn(page, kind, head, expected.shape) == pytest.approx(expected, abs=0.06)  # steps of colour
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert headings == [
        f"{kind}: {what}" for kind in ("Cross-attention", "Decoder", "Encoder") for what in ("all heads", "one layer")
    ]
    assert page.count("bias from layer 0") == 2  # both stacks of T5 learn one, and cross-attention has none
    assert "<h3>bias from layer" not in page[: page.index("Decoder: all heads</h2>")]
    _, decoder, encoder = page.split("all heads</h2>")[1:]
    assert '"hidden-key"' in decoder
    assert '"hidden-key"' not in encoder
    assert CROSS_CAUTIONS[0] in words(page)
    assert "the decoder “xyz”, which was given." in words(page)


def test_without_a_target_the_model_writes_it(t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(t5, tmp_path / "a.html")
    (written,) = complete(load_model(t5), BYTES, ["ab c"], Sampling(temperature=0), WRITTEN)
    said = capsys.readouterr()
    assert "no --target: the decoder reads" in said.out + said.err
    assert "which the model wrote itself, greedily" in words(page)
    assert ("cut off after 64 tokens" in words(page)) is (len(written.ids) == WRITTEN)
    rows = [BYTES.token(i) for i in [2, *written.ids] if i != 1]
    assert drawn(page, "cross", 0, (len(rows), 5)).sum(-1) == pytest.approx(np.ones(len(rows)), abs=0.2)


def test_a_layer_that_one_stack_lacks_is_said(t5: Path, tmp_path: Path) -> None:
    page = shown(t5, tmp_path / "a.html", "--target", "x", "--layer", "1")
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", page)[-1] == "Encoder: one layer"
    assert "Decoder: one layer" not in page
    assert words(page).count("There is no layer 1.") == 2


def test_a_target_begins_as_the_model_begins_it(bart: Path, tmp_path: Path) -> None:
    page = shown(bart, tmp_path / "a.html", "--target", "x")
    drawing = page[page.index("Cross-attention: one layer</h2>") : page.index("Decoder: all heads</h2>")]
    labels = re.findall(r">([^<>]+)</text>", drawing)
    assert labels[2:10] == ["&lt;|eos|&gt;", "&lt;|bos|&gt;", "x", "&lt;|bos|&gt;", "a", "b", "·", "c"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--attention", "a", "--layer", "2"], ("--layer 2", "decoder", "encoder")),
        (["--attention", "a" * 12], ("14", "12")),
        (["--attention", "a", "--target", "b" * 12], ("target", "14", "12")),
    ],
)
def test_bad_values(bart: Path, options: list[str], names: str | tuple[str, ...], fails: Fails) -> None:
    fails("show", bart, *options, names=names)
