"""Soft prompts and prefixes: what they begin as, what they keep, and what they are like."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from langwright import load_model
from langwright.adaptation.attached import attached, choose, mixed
from langwright.adaptation.folder import load_adapter, save_adapter
from langwright.adaptation.method import Method
from langwright.adaptation.methods import HeadOnly, PTuning
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.adaptation.methods.prompt_tuning import PromptTuning, nearest_words
from langwright.base.errors import UserError
from langwright.models.families import bert
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.objectives.language import TokenPrediction
from langwright.parts.state import Taps
from langwright.text.training import train_bpe
from oracles import CASES, oracle, random_ids
from tiny import batch_of, tiny_model

TEXT = "the cat sat on the mat and the dog sat on the cat " * 8
VIRTUAL: list[Method] = [PromptTuning(3, "random"), PTuning(3, hidden=8), PrefixTuning(3)]
NAMES = ["prompt", "p-tuning", "prefix"]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    oracle(CASES["llama"]).save_pretrained(tmp_path)
    return load_model(tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_a_prefix_that_begins_as_a_text_is_a_model_that_has_read_it(family: str, tmp_path: Path) -> None:
    oracle(CASES[family]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids, before = random_ids(2, 6), tuple(random_ids(1, 4, seed=9)[0].tolist())
    whole = torch.cat((torch.tensor([before, before]), ids), 1)
    with torch.no_grad():
        expected = model(whole)[:, 4:]
        PrefixTuning(4, init="text", text="ignored here", ids=before).attach(model)
        torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-5)


def test_a_prompt_that_begins_as_a_text_is_that_text(model: Model) -> None:
    ids, before = random_ids(2, 6), (7, 8)
    whole = torch.cat((torch.tensor([[7, 8, 7], [7, 8, 7]]), ids), 1)  # repeated to the number of virtual tokens
    with torch.no_grad():
        expected = model(whole)[:, 3:]
        PromptTuning(3, "text", text="ignored here", ids=before).attach(model)
        torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-5)


def test_a_prompt_may_begin_as_words_of_the_vocabulary(model: Model) -> None:
    PromptTuning(3, "vocabulary").attach(model)
    lead = model.body.adapter.virtual_tokens()
    assert all((row == model.body.embed.tokens).all(1).any() for row in lead.vectors)


def test_a_prefix_of_zeros_only_draws_attention_away(model: Model) -> None:
    PrefixTuning(3, init="zero").attach(model)
    assert not any(part.any() for pair in model.body.adapter.virtual_tokens().layers for part in pair)
    PrefixTuning(3, init="zero", projection=True).attach(model, "projected")
    assert not any(part.any() for pair in model.body.adapter.virtual_tokens().layers for part in pair)


@pytest.mark.parametrize("method", VIRTUAL, ids=NAMES)
def test_packed_documents_see_the_virtual_tokens_each_by_itself(method: Method, model: Model) -> None:
    method.attach(model, seed=2)
    first, second = random_ids(1, 5), random_ids(1, 7, seed=4)
    packed = torch.cat((first, second), 1)
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    segments = torch.tensor([[0] * 5 + [1] * 7])
    with torch.no_grad():
        found = model.head(model.body(packed, positions=positions, segments=segments))
        torch.testing.assert_close(found[:, :5], model(first), rtol=0, atol=1e-5)
        torch.testing.assert_close(found[:, 5:], model(second), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", VIRTUAL, ids=NAMES)
def test_gradients_reach_the_virtual_tokens_alone_checkpointed_or_not(method: Method) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = tiny_model()
        method.attach(model, seed=2)
        if checkpointed:
            for block in model.body.blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        TokenPrediction()({"model": model}, rows := batch_of(0, time=12))["tokens"].backward()
        assert rows.ids.shape == (8, 12)
        named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert set(named) == {name for name, p in model.named_parameters() if p.requires_grad}
        assert all(".adapter." in name and gradient.any() for name, gradient in named.items())
        gradients.append(list(named.values()))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "method", [PTuning(3, "lstm", hidden=8), PTuning(3, hidden=8), PrefixTuning(3, projection=True, hidden=8)]
)
def test_the_encoder_lies_beside_what_peft_reads_and_trains_on(method: Method, model: Model, tmp_path: Path) -> None:
    method.attach(model, seed=2)
    ids, out = random_ids(2, 6), tmp_path / "adapter"
    expected, trained = model(ids).detach(), sorted(tuple(p.shape) for p in attached(model).adapters["default"].trained)
    save_adapter(model, out)
    method.detach(model)
    load_adapter(model, out)
    assert sorted(tuple(p.shape) for p in attached(model).adapters["default"].trained) == trained
    torch.testing.assert_close(model(ids), expected)
    (out / "langwright.json").unlink()
    (out / "langwright_extra.safetensors").rename(out / "elsewhere.safetensors")
    method.detach(model)
    load_adapter(model, out)  # as PEFT keeps it: the table that the encoder made
    assert [p.shape[0] for p in attached(model).adapters["default"].trained] == [3]
    torch.testing.assert_close(model(ids), expected)


def test_an_encoder_that_does_not_give_the_table_beside_it_is_refused(model: Model, tmp_path: Path) -> None:
    for seed, name in ((1, "one"), (2, "two")):
        PTuning(3, hidden=8).attach(model, name, seed)
        save_adapter(model, tmp_path / name, name)
        (tmp_path / name / "langwright.json").unlink()
    (tmp_path / "two" / "langwright_extra.safetensors").replace(tmp_path / "one" / "langwright_extra.safetensors")
    with pytest.raises(UserError, match="does not give"):
        load_adapter(model, tmp_path / "one")


def test_the_nearest_words_of_a_prompt_are_those_it_was_made_of() -> None:
    tokenizer = train_bpe([TEXT], 280)
    model = _model(tokenizer.vocab_size)
    method = PromptTuning(4, "text", text="the cat sat").prepared(tokenizer)
    method.attach(model)
    found = nearest_words(model, tokenizer, top=2)
    ids = [*method.ids, *method.ids, *method.ids][:4]
    assert [words[0][0] for words in found] == [tokenizer.token(i) for i in ids]
    assert all(words[0][1] == pytest.approx(1) and words[1][1] < 0.99 for words in found)
    PrefixTuning(3).attach(model, "prefix")
    with pytest.raises(UserError, match="no soft prompt"):
        nearest_words(model, tokenizer, "prefix")


def _model(vocabulary: int) -> Model:
    return new_model("gpt2", GPT2Config(vocabulary, 32, 16, 2, 2), seed=0)


def test_virtual_tokens_take_room_in_the_context() -> None:
    model = tiny_model()
    PrefixTuning(4).attach(model)
    assert (model.context, attached(model).tokens) == (12, 4)
    model(batch_of(0, time=12).ids)
    with pytest.raises(ValueError, match="17 tokens do not fit the 16"):
        model(batch_of(0, time=13).ids)
    PrefixTuning(4).detach(model)
    assert (model.context, attached(model).tokens) == (16, 0)
    with pytest.raises(UserError, match="no room is left"):
        PromptTuning(16, "random").attach(model)


def test_one_adapter_at_a_time_stands_before_the_text(model: Model) -> None:
    ids = random_ids(2, 6)
    plain = model(ids).detach()
    PromptTuning(3, "random").attach(model, "first")
    first = model(ids).detach()
    PrefixTuning(3).attach(model, "second")
    LoRA().attach(model, "third")
    choose(model, "first")
    torch.testing.assert_close(model(ids), first)
    choose(model, "first", "second")
    with pytest.raises(UserError, match="only one adapter"):
        model(ids)
    choose(model)
    torch.testing.assert_close(model(ids), plain)
    choose(model, "first")
    with mixed(model, ["third", "base"]):
        torch.testing.assert_close(model(ids)[1], plain[1])
    with pytest.raises(UserError, match="only one adapter"), mixed(model, ["first", "base"]):
        model(ids)
    with mixed(model, ["first", "first"]):
        torch.testing.assert_close(model(ids), first)


def test_observers_see_the_tokens_and_what_they_attend_to(model: Model) -> None:
    for method, queries in ((PrefixTuning(3), 6), (PromptTuning(3, "random"), 9)):
        method.attach(model)
        taps = Taps("attention", "hidden")
        model(random_ids(2, 6), taps=taps)
        assert taps.get("attention")[0].shape[-2:] == (queries, 9)
        method.detach(model)


def test_token_types_go_with_their_tokens() -> None:
    model = new_model("bert", bert.BertConfig(53, 16, 1, 2, 16, max_position_embeddings=20), seed=0).eval()
    PromptTuning(3, "random").attach(model)
    ids = random_ids(1, 4)
    types = torch.tensor([[0, 0, 1, 1]])
    assert model(ids, types=types).shape == (1, 4, 16)
    assert torch.equal(model(ids, types=torch.zeros_like(ids)), model(ids))
    assert not torch.allclose(model(ids, types=types), model(ids), atol=1e-3)


def test_what_does_not_go_is_refused(tmp_path: Path, model: Model) -> None:
    labelled = new_model("bert", bert.BertConfig(53, 16, 1, 2, 16, max_position_embeddings=20), 0, "sequence", "ab")
    with pytest.raises(UserError, match="first token"):
        PromptTuning(3).attach(labelled)
    for make, told in (
        (lambda: PromptTuning(0), "--virtual-tokens 0"),
        (lambda: PromptTuning(10**30), "--virtual-tokens 10+"),
        (lambda: PromptTuning(3, submodules=10**30), "submodules 10+"),
        (lambda: PTuning(3, hidden=10**30), "--encoder-width 10+"),
        (lambda: PTuning(3, "lstm", layers=10**30), "layers 10+"),
        (lambda: PromptTuning(3, "text"), "--prompt-init text"),
        (lambda: PrefixTuning(3, init="text", text="x", projection=True), "projected"),
        (lambda: HeadOnly().attach(tiny_model()), "token table"),
    ):
        with pytest.raises(UserError, match=told):
            make()
    PrefixTuning(3).attach(model)
    save_adapter(model, tmp_path / "one")
    (tmp_path / "one" / "langwright.json").unlink()
    path = tmp_path / "one" / "adapter_config.json"
    fields = json.loads(path.read_text())
    PrefixTuning(3).detach(model)
    for field, value in (
        ("num_layers", 5),
        *(("num_virtual_tokens", value) for value in (0, 10**6, 10**30)),
        *(("encoder_hidden_size", value) for value in (10**30, -1)),
        ("task_type", "QUESTION_ANS"),
    ):
        path.write_text(json.dumps(fields | {field: value}))
        with pytest.raises(UserError, match=rf"adapter_config\.json: .*\b{field}\b"):
            load_adapter(model, tmp_path / "one")


@pytest.mark.parametrize("method", VIRTUAL, ids=NAMES)
def test_experts_see_virtual_tokens_and_padding_apart(method: Method) -> None:
    """What a mixture is told of padding is as long as what runs through the layers."""
    mixture = new_model("mixtral", by_depth("mixtral", 1, 53, 32, dropout=0.0)).train()
    method.attach(mixture)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, :3] = False
    taps = Taps("auxiliary")
    hidden = mixture.body(random_ids(2, 8), mask, taps=taps)
    assert hidden.shape[:2] == (2, 8)
    assert all(loss.isfinite().all() for loss in taps.get("auxiliary"))
