"""Encoder-decoders: equal logits, cache and gradients with `transformers`, through saved folders, both ways."""

import dataclasses
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from langwright import load_model
from langwright.base.errors import UserError
from langwright.models import tasks
from langwright.models.families import ENCODER_DECODERS, FAMILIES
from langwright.models.families.bart import BartConfig
from langwright.models.families.t5 import T5Config
from langwright.models.folder import OpenedFolder, new_model, save_model
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.objectives.losses import linear_cross_entropy
from langwright.parts.cache import KVCache
from langwright.parts.state import Taps
from oracles import (
    SMALL,
    SOURCED,
    VOCABULARY,
    classes,
    left_padding,
    perturb,
    published,
    random_ids,
    reopened_sourced,
    sourced_oracle,
)
from refusals import refused

NEAR = 1e-4
LONG = 150
"""Beyond distance 128, where the last bucket of T5 begins."""
LIKE_T5 = ("t5", "switch_transformers")


@dataclass(frozen=True)
class Pair:
    """The same model, theirs and ours; `back` is theirs again, read from the folder that ours saved."""

    theirs: PreTrainedModel
    ours: Model
    back: PreTrainedModel
    folder: Path

    @property
    def any_shift(self) -> bool:
        """Whether only distances count, so that padding may come first (theirs counts slots, ours real tokens)."""
        return self.ours.family in LIKE_T5 and not self.crowded

    @property
    def crowded(self) -> bool:
        """Whether experts turn tokens away, so that what a pass holds decides what it gives."""
        return bool(getattr(self.ours.config, "expert_capacity", LONG) < LONG)


@pytest.fixture(scope="module", params=SOURCED)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = sourced_oracle(SOURCED[request.param])
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    save_model(ours, None, folder / "ours")
    return Pair(theirs, ours, reopened_sourced(folder / "ours"), folder)


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Within 1e-4 of 4, where the logits are large enough for that to say something."""
    assert theirs.abs().max() > 1
    return bool((ours - theirs).abs().max() <= NEAR * max(1, float(theirs.abs().max()) / 4))


def logits(
    model: PreTrainedModel, source: Tensor, target: Tensor, masks: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    given = {} if masks is None else {"attention_mask": masks[0].long(), "decoder_attention_mask": masks[1].long()}
    return model(input_ids=source, decoder_input_ids=target, **given).logits


@torch.no_grad()
def test_plain(pair: Pair) -> None:
    source, target = random_ids(2, LONG), random_ids(2, LONG - 9, seed=5)
    expected = logits(pair.theirs, source, target)
    assert near(pair.ours(source, target), expected)
    assert near(logits(pair.back, source, target), expected)
    assert type(pair.back) is type(pair.theirs)


@torch.no_grad()
def test_padding_on_both_sides(pair: Pair) -> None:
    source, target = random_ids(4, 21), random_ids(4, 18, seed=5)
    for flip in (True, False) if pair.any_shift else (True,):
        masks = left_padding(4, 21).flip(0), left_padding(4, 18)
        masks = (masks[0].flip(1), masks[1].flip(1)) if flip else masks
        expected = logits(pair.theirs, source, target, masks)
        given = pair.ours(source, target, *masks)
        assert given.isfinite().all()
        assert near(given[masks[1]], expected[masks[1]])
        assert not near(pair.ours(source, target)[masks[1]], expected[masks[1]])


@torch.no_grad()
def test_cache(pair: Pair) -> None:
    """Pieces, and a token at a time near and far."""
    source, target = random_ids(3, 30), random_ids(3, LONG, seed=5)
    mask = left_padding(3, 30).flip(1)
    ends = [0, 4, 7, *range(8, 15), LONG - 12, *range(LONG - 11, LONG + 1)]
    pieces = [slice(start, stop) for start, stop in pairwise(ends)]
    expected = in_pieces(pair, source, target, mask, pieces)
    memory, state = pair.ours.encode(source, mask), KVCache(3)
    for piece in pieces:
        assert near(pair.ours.decode(target[:, piece], memory, state=state), expected[:, piece]), piece


def in_pieces(pair: Pair, source: Tensor, target: Tensor, mask: Tensor, pieces: list[slice]) -> Tensor:
    """Their logits: of the whole, or where that differs (an expert fills up in every pass anew) with their cache."""
    if not pair.crowded:
        return logits(pair.theirs, source, target, (mask, torch.ones_like(target)))
    read = pair.theirs.encoder(input_ids=source, attention_mask=mask.long())
    cache = transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())
    given = {"encoder_outputs": read, "attention_mask": mask.long(), "past_key_values": cache, "use_cache": True}
    return torch.cat([pair.theirs(decoder_input_ids=target[:, piece], **given).logits for piece in pieces], 1)


@torch.no_grad()
def test_weights_that_are_watched(pair: Pair) -> None:
    source, target, mask = random_ids(2, 12), random_ids(2, 6, seed=5), left_padding(2, 12).flip(1)
    taps = Taps("attention", "cross_attention")
    found = pair.ours.decode(target, pair.ours.encode(source, mask), taps=taps)
    assert near(found, pair.ours(source, target, mask))
    across = taps.get("cross_attention")
    assert [tuple(w.shape[2:]) for w in across] == [(6, 12)] * 3
    assert [tuple(w.shape[2:]) for w in taps.get("attention")] == [(6, 6)] * 3
    assert all(torch.allclose(w.sum(-1), torch.ones(())) and not w[1, ..., -7:].any() for w in across)


@pytest.mark.parametrize("name", ["t5", "t5-v1.1", "bart", "switch", "switch-all"])
def test_gradients_of_one_step(name: str, tmp_path: Path) -> None:
    theirs = sourced_oracle(SOURCED[name])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)  # in eval mode, where a router's noise is off
    source, target, weights = random_ids(2, 14), random_ids(2, 12, seed=5), torch.ones(2, 11)
    weights[0, 9:] = 0
    losses = F.cross_entropy(
        logits(theirs, source, target)[:, :-1].flatten(0, 1), target[:, 1:].flatten(), reduction="none"
    )
    ((losses * weights.flatten()).sum() / weights.sum()).backward()
    hidden = ours.body(target[:, :-1], memory=ours.encode(source))
    (linear_cross_entropy(ours.head.projection(hidden), target[:, 1:], weights) / weights.sum()).backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in ours.named_parameters()}
    named = dict(theirs.named_parameters())
    for disk, gradient in to_disk(tasks.entries(FAMILIES[ours.family], ours.config, ours.task), gradients).items():
        if disk == "final_logits_bias":
            assert not gradient.any()  # it is no parameter there, and training leaves it alone here
        else:
            assert (gradient - named.pop(disk).grad).abs().max() <= NEAR, disk
    assert not named


@pytest.mark.parametrize("family", [family.name for family in ENCODER_DECODERS])
def test_a_new_model_opens_in_transformers(family: str, tmp_path: Path) -> None:
    model = new_model(family, SMALL[family]).eval()
    perturb(model, 3)
    save_model(model, None, tmp_path)
    source, target = random_ids(2, 20), random_ids(2, 20, seed=5)
    with torch.no_grad():
        assert near(model(source, target), logits(reopened_sourced(tmp_path), source, target))


# Files as they are


def edited(pair: Pair, folder: Path, change: Any, **fields: Any) -> Path:
    """Their folder with `change(tensors)` on disk, and other fields."""
    folder.mkdir()
    save_file(change(load_file(pair.folder / "theirs" / "model.safetensors")), folder / "model.safetensors")
    config = json.loads((pair.folder / "theirs" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def test_copies_of_the_embeddings(pair: Pair, tmp_path: Path) -> None:
    prefix = "" if pair.ours.family in LIKE_T5 else "model."
    shared, name = f"{prefix}shared.weight", f"{prefix}decoder.embed_tokens.weight"
    folder = edited(pair, tmp_path / "equal", lambda t: t | {name: t[shared].clone()})
    assert torch.equal(load_model(folder).body.embed.tokens, pair.ours.body.embed.tokens)
    folder = edited(pair, tmp_path / "only", lambda t: {name if n == shared else n: x for n, x in t.items()})
    assert torch.equal(load_model(folder).encoder.embed.tokens, pair.ours.body.embed.tokens)
    folder = edited(pair, tmp_path / "other", lambda t: t | {name: t[shared] + 1})
    with pytest.raises(UserError, match=r'decoder.embed_tokens.weight" differs from ".*shared.weight", to which'):
        load_model(folder)


def test_what_old_files_hold_besides(pair: Pair, tmp_path: Path) -> None:
    """The table of relative positions that cross-attention never used, and sinusoids."""
    extra = {
        "t5": "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "switch_transformers": "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
        "bart": "encoder.version",
        "marian": "model.encoder.embed_positions.weight",
    }[pair.ours.family]
    loaded = load_model(edited(pair, tmp_path / "old", lambda t: t | {extra: torch.ones(2, 2)}))
    ours, theirs = dict(pair.ours.named_parameters()), dict(loaded.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("name", "architecture"), [("bart", "BartModel"), ("marian", "MarianModel")])
def test_a_body_without_a_head(name: str, architecture: str, tmp_path: Path) -> None:
    """BART is published as `BartModel`: no prefix, and no offset of the logits."""
    theirs = sourced_oracle(SOURCED[name])
    theirs.model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert "shared.weight" in names
    assert "final_logits_bias" not in names
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
    source, target = random_ids(2, 9), random_ids(2, 7, seed=5)
    with torch.no_grad():
        expected = logits(theirs, source, target) - theirs.final_logits_bias
        assert near(load_model(tmp_path)(source, target), expected)


def test_a_head_that_transformers_calls_tied(tmp_path: Path) -> None:
    """T5 v1.1 as `transformers` 5 makes it anew: no scale, and the embeddings for a head."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=24, d_kv=10, d_ff=40, num_layers=1, num_heads=3, tie_word_embeddings=False
    )
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    save_model(ours, None, tmp_path / "ours")
    source, target = random_ids(2, 9), random_ids(2, 7, seed=5)
    expected = logits(theirs, source, target)
    assert near(ours(source, target), expected)
    assert near(logits(reopened_sourced(tmp_path / "ours"), source, target), expected)


def untied_switch(folder: Path) -> PreTrainedModel:
    """A Switch Transformer with a head of its own, and one table of embeddings under the names of both stacks."""
    theirs = sourced_oracle(SOURCED["switch-untied"])
    theirs.save_pretrained(folder)
    return theirs


def test_embeddings_of_an_untied_switch(tmp_path: Path) -> None:
    """`transformers` knows no shared table there: what it would look for in vain is written."""
    theirs = untied_switch(tmp_path / "theirs")
    save_model(load_model(tmp_path / "theirs"), None, tmp_path / "ours")
    tensors = load_file(tmp_path / "ours/model.safetensors")
    for name in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"):
        assert torch.equal(tensors[f"{name}.weight"], theirs.shared.weight), name
    assert torch.equal(tensors["lm_head.weight"], theirs.lm_head.weight)
    assert not torch.equal(tensors["lm_head.weight"], tensors["shared.weight"])


def test_an_untied_head_that_is_missing(tmp_path: Path) -> None:
    """The embeddings do not stand for it."""
    untied_switch(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with refused('"lm_head.weight"'):
        load_model(tmp_path)


def test_commands_that_need_a_decoder(pair: Pair) -> None:
    with pytest.raises(UserError, match="is an encoder-decoder"):
        OpenedFolder(pair.folder / "ours").require(generates=True, one_stack=True)


# Configs


HUB = {name: published(name) for name in ("google-t5/t5-small", "facebook/bart-base", "Helsinki-NLP/opus-mt-en-vi")}
HUB["google/t5-v1_1-small"] = HUB["google-t5/t5-small"] | {
    "d_ff": 1024, "feed_forward_proj": "gated-gelu", "is_gated_act": True, "num_decoder_layers": 8, "num_heads": 6,
    "num_layers": 8, "tie_word_embeddings": False,
}  # fmt: skip
HUB["Helsinki-NLP/opus-mt-en-vi"]["bad_words_ids"] = [[53684]]  # as in those that older versions saved


@pytest.mark.parametrize("name", HUB)
def test_published_configs(name: str) -> None:
    raw = HUB[name]
    family = FAMILIES[raw["model_type"]]
    config = family.parse(raw, name)
    with torch.device("meta"):
        ours = family.build(config)
        config_class, model_class = classes(family.name)
        theirs = model_class(config_class(**raw))
    if name == "google/t5-v1_1-small":
        assert sum(p.numel() for p in ours.parameters()) == 76_961_152
    untied = raw.get("tie_word_embeddings") is False  # which transformers 5 counts as tied
    shapes = {name: tuple(p.shape) for name, p in theirs.named_parameters() if "embed_positions" not in name}
    held = to_disk(tasks.entries(family, config, family.task), dict(ours.named_parameters()))
    found = {disk: tuple(x.shape) for disk, x in held.items() if "embed_positions" not in disk}
    assert found.items() - shapes.items() == (
        {("final_logits_bias", (1, raw["vocab_size"]))} if family.name != "t5"
        else {("lm_head.weight", (32128, 512))} if untied else set()
    )  # fmt: skip
    assert not shapes.keys() - found.keys()


def test_what_published_models_say_of_their_texts() -> None:
    marian = FAMILIES["marian"].parse(HUB["Helsinki-NLP/opus-mt-en-vi"], "there")
    with torch.device("meta"):
        frame = FAMILIES["marian"].build(marian).frame
        bart = FAMILIES["bart"].build(FAMILIES["bart"].parse(HUB["facebook/bart-base"], "there")).frame
    assert (frame.start, frame.source_bos, frame.first, frame.last, frame.banned) == (53684, False, None, 0, (53684,))
    assert (bart.start, bart.source_bos, bart.first, bart.last, bart.banned) == (2, True, 0, 2, ())


@pytest.mark.parametrize("family", [family.name for family in ENCODER_DECODERS])
@pytest.mark.parametrize("written", [False, True])
def test_what_a_file_leaves_out_is_as_in_transformers(family: str, written: bool) -> None:
    theirs = classes(family)[0]()
    parsed = FAMILIES[family].parse(json.loads(theirs.to_json_string(use_diff=False)) if written else {}, "there")
    compared = {name: value for name, value in dataclasses.asdict(parsed).items() if hasattr(theirs, name)}
    assert len(compared) > 10
    derived = ("num_decoder_layers", "encoder_sparse_step", "decoder_sparse_step")
    compared = {name: value for name, value in compared.items() if name not in derived or value is not None}
    assert compared == {name: getattr(theirs, name) for name in compared}


@given(st.sampled_from(list(SMALL)), st.data())
def test_what_is_written_is_read_back(family: str, data: st.DataObject) -> None:
    changes: dict[str, Any] = (
        {
            "tie_word_embeddings": data.draw(st.booleans()),
            "feed_forward_proj": data.draw(st.sampled_from(["relu", "gated-gelu"])),
            "num_decoder_layers": data.draw(st.sampled_from([None, 3])),
            "relative_attention_max_distance": data.draw(st.integers(20, 200)),
        }
        if family == "t5"
        else {
            "encoder_sparse_step": data.draw(st.sampled_from([None, 2])),
            "router_bias": data.draw(st.booleans()),
            "tie_word_embeddings": data.draw(st.booleans()),
        }
        if family == "switch_transformers"
        else {
            "bad_words_ids": data.draw(st.sampled_from([None, ((3,),), ((3,), (4,))])),
            "forced_bos_token_id": data.draw(st.sampled_from([None, 5])),
            "scale_embedding": data.draw(st.booleans()),
        }
    )
    config = dataclasses.replace(SMALL[family], **changes)
    written = json.loads(json.dumps(FAMILIES[family].dump(config)))
    assert (written["model_type"], written["is_encoder_decoder"]) == (family, True)
    assert FAMILIES[family].parse(written, "there") == config


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("t5", {"feed_forward_proj": "swish"}),
        ("t5", {"relative_attention_num_buckets": 30}),
        ("t5", {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 16}),
        ("t5", {"is_encoder_decoder": False}),
        ("switch_transformers", {"expert_capacity": 0}),
        ("switch_transformers", {"dense_act_fn": "gated-gelu"}),
        ("switch_transformers", {"router_jitter_noise": 1}),
        ("switch_transformers", {"feed_forward_proj": "gated-gelu"}),
        ("switch_transformers", {"router_dtype": "bfloat16"}),
        ("bart", {"d_model": 1000}),
        ("bart", {"normalize_before": True}),
        ("bart", {"bad_words_ids": [[3, 4]]}),
        ("marian", {"decoder_vocab_size": 7}),
        ("marian", {"activation_function": "tanh"}),
    ],
)
def test_what_is_refused(family: str, fields: dict[str, Any]) -> None:
    with refused("there", next(iter(fields))):
        FAMILIES[family].parse(fields, "there")


# New parameters


def test_spreads_of_t5() -> None:
    config = T5Config(
        vocab_size=900, d_model=64, d_kv=9, d_ff=100, num_layers=2, num_heads=8, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, initializer_factor=0.5,
    )  # fmt: skip
    model, factor = new_model("t5", config), 0.5
    table = {
        "q": (64 * 9) ** -0.5, "k": 64**-0.5, "v": 64**-0.5, "output": (8 * 9) ** -0.5, "gate": 64**-0.5,
        "input": 64**-0.5, "table": 64**-0.5, "tokens": 1.0, "head": 1.0,
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.full_like(parameter, factor)), name
            continue
        kind = name.removesuffix(".weight").split(".")[-1]
        wanted = 100**-0.5 if name.endswith("feedforward.fn.output.weight") else table[kind]
        rough = 0.15 if kind == "table" else 0.06
        assert float(parameter.detach().std()) == pytest.approx(factor * wanted, rel=rough), name


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_spreads_of_bart(family: str) -> None:
    config = dataclasses.replace(SMALL[family], vocab_size=500, d_model=64, encoder_ffn_dim=90, init_std=0.05)
    for name, parameter in new_model(family, config).named_parameters():
        if name == "head.offset" or name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            wanted = 0.05
            if family == "marian":  # Glorot's, and tokens that are as large as sinusoids once they are scaled
                wanted = 64**-0.5 if name.endswith("tokens") else (2 / sum(parameter.shape)) ** 0.5
            assert float(parameter.detach().std()) == pytest.approx(wanted, rel=0.08), name


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_transformers_generates_from_our_folder_unasked(family: str, tmp_path: Path) -> None:
    """What begins and ends a text is in generation_config.json, besides which they read nothing."""
    small = {"d_model": 16, "vocab_size": 20, "decoder_start_token_id": 2}
    config: Any = T5Config(**small, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    if family == "bart":
        layers = {
            f"{half}_{what}": n for half in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 16))
        }
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        config = BartConfig(**small, **layers, **heads, max_position_embeddings=32, forced_eos_token_id=3)
    save_model(new_model(family, config), None, tmp_path)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    written = theirs.generate(torch.tensor([[4, 5, 6]]), max_new_tokens=4, do_sample=False)
    assert written[0, 0] == 2
    assert theirs.generation_config.forced_eos_token_id == (3 if family == "bart" else None)
