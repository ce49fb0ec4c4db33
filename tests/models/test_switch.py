"""Switch Transformer: where its experts are, what it is charged for them, how it begins, how large it was published."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from langwright import load_model
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.families.switch import SWITCH, SwitchConfig
from langwright.models.folder import new_model
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.state import Taps
from langwright.planning.cost import active_parameters, parameters
from oracles import SOURCED, left_padding, random_ids, sourced_oracle

TINY = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_heads": 2, "num_experts": 2, "vocab_size": 9}


@pytest.mark.parametrize("layers", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("sparse", [0, 1, 2, 3, 6])
def test_layers_with_experts_are_those_of_transformers(layers: int, sparse: int) -> None:
    raw: dict[str, Any] = {
        **TINY, "num_layers": layers, "num_decoder_layers": 4,
        "num_sparse_encoder_layers": sparse, "num_sparse_decoder_layers": 2,
    }  # fmt: skip
    for given in ({}, {"encoder_sparse_step": 2}, {"encoder_sparse_step": 0}):
        with torch.device("meta"):
            theirs = transformers.SwitchTransformersForConditionalGeneration(
                transformers.SwitchTransformersConfig(**raw, **given)
            )
        config = SWITCH.parse(raw | given, "there")
        for decoder, stack in ((False, theirs.encoder), (True, theirs.decoder)):
            expected = [block.layer[-1].is_sparse for block in stack.block]
            assert [config.is_sparse(decoder, i) for i in range(len(expected))] == expected


def auxiliary(model: Model, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of the target, and the auxiliary losses of the encoder and of the decoder."""
    taps = Taps("auxiliary"), Taps("auxiliary")
    hidden = model.body(target, memory=model.encode(source, taps=taps[0]), taps=taps[1])
    return hidden, *(torch.stack(tap.get("auxiliary")).mean() for tap in taps)


def test_one_step_with_the_losses_of_the_routers(tmp_path: Path) -> None:
    """Their total loss, and its gradient, with weights that make the routers' part of it count."""
    theirs = sourced_oracle(SOURCED["switch"])
    theirs.config.router_aux_loss_coef = theirs.router_aux_loss_coef = 0.5
    theirs.config.router_z_loss_coef = theirs.router_z_loss_coef = 0.25
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    source, target = random_ids(2, 14), random_ids(2, 12, seed=5)
    out = theirs(
        input_ids=source, decoder_input_ids=target[:, :-1], labels=target[:, 1:].contiguous(), output_router_logits=True
    )
    out.loss.backward()
    hidden, *losses = auxiliary(ours, source, target[:, :-1])
    for found, balance, z_loss in zip(
        losses, (out.encoder_aux_loss, out.decoder_aux_loss), (out.encoder_z_loss, out.decoder_z_loss), strict=True
    ):
        assert found.item() == pytest.approx(float(0.5 * balance + 0.25 * z_loss), rel=1e-5)
    weights = torch.ones(2, 11)
    entropy = linear_cross_entropy(ours.head.projection(hidden), target[:, 1:], weights) / weights.sum()
    total = entropy + losses[0] + losses[1]
    assert total.item() == pytest.approx(float(out.loss), rel=1e-5)
    total.backward()
    named = dict(theirs.named_parameters())
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in ours.named_parameters()}
    for disk, gradient in to_disk(tasks.entries(SWITCH, ours.config, ours.task), gradients).items():
        expected = named.pop(disk).grad  # none for an expert that nobody chose
        assert (gradient - (0 if expected is None else expected)).abs().max() <= 1e-4, disk
    assert not named


@torch.no_grad()
def test_padding_at_the_left_crowds_nobody_out(tmp_path: Path) -> None:
    """A text in a batch is what it is alone. (In `transformers` padding fills experts up.)"""
    sourced_oracle(SOURCED["switch"]).save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    source, target, mask = random_ids(3, 21), random_ids(3, 18, seed=5), left_padding(3, 21)
    together = ours(source, target, mask)
    for row in range(3):
        alone = ours(source[row : row + 1, mask[row]], target[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_spreads() -> None:
    """Section 2.4 of the paper: a truncated normal distribution with a tenth of the usual variance."""
    config = SwitchConfig(
        vocab_size=900, d_model=64, d_kv=9, d_ff=100, num_layers=2, num_decoder_layers=2, num_heads=8, num_experts=3,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, router_bias=True, initializer_factor=0.5,
    )  # fmt: skip
    cut = 0.8796  # of the deviation is left when nothing lies beyond two deviations
    for name, parameter in new_model("switch_transformers", config).named_parameters():
        if parameter.ndim == 1:
            wanted = 0.0 if name.endswith("router.bias") else 0.5
            assert torch.equal(parameter, torch.full_like(parameter, wanted)), name
            continue
        found = float(parameter.detach().std())
        if name.endswith("tokens"):
            assert found == pytest.approx(0.5, rel=0.06)
        elif name.endswith("table"):
            assert found == pytest.approx(0.5 * 64**-0.5, rel=0.15)
        else:
            std = 0.5 * (0.1 / parameter.shape[1]) ** 0.5 / (3 if name.endswith(".q.weight") else 1)
            assert found == pytest.approx(std * cut, rel=0.13 if "router" in name else 0.06), name
            assert float(parameter.detach().abs().max()) <= 2.001 * std, name


BASE = {
    "architectures": ["SwitchTransformersForConditionalGeneration"], "model_type": "switch_transformers",
    "d_ff": 3072, "d_kv": 64, "d_model": 768, "decoder_start_token_id": 0, "dense_act_fn": "relu", "dropout_rate": 0.1,
    "eos_token_id": 1, "expert_capacity": 64, "feed_forward_proj": "relu", "is_encoder_decoder": True,
    "is_gated_act": False, "layer_norm_epsilon": 1e-06, "num_decoder_layers": 12, "num_heads": 12, "num_layers": 12,
    "num_selected_experts": 1, "num_sparse_decoder_layers": 6, "num_sparse_encoder_layers": 6, "pad_token_id": 0,
    "router_dtype": "float32", "router_z_loss_coef": 0.001, "vocab_size": 32128,
}  # fmt: skip
"""Switch-Base as the authors' configuration has it (switch_classic_base.gin in flaxformer), in words of config.json."""
C = BASE | {"d_model": 2080, "d_ff": 6144, "num_heads": 30, "tie_word_embeddings": False}
"""Switch-C (switch_classic_c.gin), but for its 15 and 15 layers, which all have experts, and the 2048 of them."""


def on_paper(raw: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return SWITCH.build(SWITCH.parse(raw, "there"))


@pytest.mark.parametrize(("experts", "count"), [(8, 619_339_008), (128, 7_415_217_408)])
def test_switch_base(experts: int, count: int) -> None:
    """The paper calls the one with 128 experts 7B; a token passes what it passes in T5-Base, and the routers."""
    model = on_paper(BASE | {"num_experts": experts})
    assert parameters(model) == count
    t5 = FAMILIES["t5"].parse({**{k: BASE[k] for k in TINY if k in BASE}, "num_layers": 12}, "there")
    with torch.device("meta"):
        dense = parameters(FAMILIES["t5"].build(t5))
    assert active_parameters(model) == dense + 12 * 768 * experts


def test_switch_c_has_1571_billion_parameters() -> None:
    """Counted on few layers and experts, in both of which the number is linear: its 184 thousand modules take long."""
    layers = [f"num{kind}_layers" for kind in ("", "_decoder", "_sparse_encoder", "_sparse_decoder")]

    def count(number: int, experts: int) -> int:
        return parameters(on_paper(C | dict.fromkeys(layers, number) | {"num_experts": experts}))

    one = count(1, 1)
    assert round((one + 14 * (count(2, 1) - one) + 15 * 2047 * (count(1, 2) - one)) / 1e9) == 1571
