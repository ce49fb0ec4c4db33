"""Encoders and heads: equal to `transformers` through saved folders, both ways; and which head a folder gets."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from langwright import load_model
from langwright.models import tasks
from langwright.models.families import FAMILIES
from langwright.models.families.bert import BertConfig
from langwright.models.folder import OpenedFolder, new_model, save_model
from langwright.models.keymap import to_disk
from langwright.models.model import Model
from langwright.models.shapes import by_depth
from langwright.models.weights import read_tensors
from oracles import CASES, SOURCED, VOCABULARY, oracle, perturb, random_ids, sourced_oracle
from refusals import refused

NEAR = 1e-4
PAD = 1
LABELS = ["good", "bad", "so so"]
_SHAPE = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
_ODD = {"hidden_act": "relu", "layer_norm_eps": 1e-2, "type_vocab_size": 3}
CHANGES: dict[str, dict[str, Any]] = {
    "bert": {}, "bert-odd": _ODD, "roberta": {"type_vocab_size": 1}, "roberta-odd": {**_ODD, "pad_token_id": 3},
}  # fmt: skip
FIELDS = {"hidden": "last_hidden_state"}


@dataclass(frozen=True)
class Pair:
    """The same model, theirs and ours; `back` is theirs again, read from the folder that ours saved."""

    task: str
    theirs: PreTrainedModel
    ours: Model
    back: PreTrainedModel


def encoder_oracle(case: str, task: str, **changes: Any) -> PreTrainedModel:
    """The model of `transformers` with a head, all parameters perturbed, in eval mode."""
    family = FAMILIES[case.split("-")[0]]
    name = family.architecture.removesuffix("Model")
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        **{"id2label": dict(enumerate(LABELS[: 2 if task == "span" else 3])), "pad_token_id": PAD}
        | _SHAPE
        | CHANGES[case]
        | changes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, tasks.architecture(family, task))(config).eval()
    perturb(made)
    return made


def answer(model: PreTrainedModel, *arguments: Any, **named: Any) -> Tensor:
    """What their head gives, as one tensor."""
    out = model(*arguments, **named)
    if "start_logits" in out:
        return torch.stack((out.start_logits, out.end_logits), -1)
    if "prediction_logits" in out:
        return out.prediction_logits
    return out.logits if "logits" in out else out.last_hidden_state


def near(ours: Tensor, theirs: Tensor) -> bool:
    """Within 1e-4, where the numbers are large enough for that to say something."""
    assert theirs.abs().max() > 0.3
    return bool((ours - theirs).abs().max() <= NEAR)


@pytest.fixture(
    scope="module",
    params=[(case, task) for case in CHANGES for task in ("hidden", *FAMILIES[case.split("-")[0]].heads)],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case, task = request.param
    folder = tmp_path_factory.mktemp(f"{case}-{task}")
    theirs = encoder_oracle(case, task)
    theirs.save_pretrained(folder / "theirs")
    ours = load_model(folder / "theirs")
    save_model(ours, None, folder / "ours")
    back = type(theirs).from_pretrained(folder / "ours", dtype=torch.float32).eval()
    return Pair(task, theirs, ours, back)


def padded(rows: int, time: int, pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask with 0, 7, 2 and 9 tokens of padding at the right."""
    mask = torch.arange(time)[None] < time - torch.tensor([0, 7, 2, 9])[:rows, None]
    return random_ids(rows, time, seed=2).clamp(min=4).masked_fill(~mask, pad), mask


@torch.no_grad()
def test_plain(pair: Pair) -> None:
    ids = random_ids(2, 20).clamp(min=4)
    expected = answer(pair.theirs, ids)
    assert near(pair.ours(ids), expected)
    assert near(answer(pair.back, ids), expected)
    assert pair.ours.task == pair.task
    if pair.task == "pretraining":
        expected = pair.theirs(ids).seq_relationship_logits
        assert near(pair.ours.next(pair.ours.body(ids)), expected)
        assert near(pair.back(ids).seq_relationship_logits, expected)


@torch.no_grad()
def test_padding_and_token_types(pair: Pair) -> None:
    ids, mask = padded(4, 21, pair.theirs.config.pad_token_id)
    types = torch.randint(0, pair.theirs.config.type_vocab_size, ids.shape, generator=torch.Generator().manual_seed(4))
    expected = answer(pair.theirs, ids, attention_mask=mask.long(), token_type_ids=types)
    given = pair.ours(ids, mask, types=types)
    back = answer(pair.back, ids, attention_mask=mask.long(), token_type_ids=types)
    if pair.task != "sequence":  # one row of logits a text has no places of padding
        expected, given, back = expected[mask], given[mask], back[mask]
    assert near(given, expected)
    assert near(back, expected)


@torch.no_grad()
def test_padding_at_the_left_changes_nothing(pair: Pair) -> None:
    ids = random_ids(2, 9).clamp(min=4)
    mask = torch.arange(12)[None].expand(2, -1) >= 3
    left = torch.cat((torch.full((2, 3), pair.theirs.config.pad_token_id), ids), 1)
    given, expected = pair.ours(left, mask), pair.ours(ids)
    assert near(given if pair.task == "sequence" else given[:, 3:], expected)


@torch.no_grad()
def test_every_token_sees_every_other(pair: Pair) -> None:
    ids = random_ids(1, 9).clamp(min=4)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % VOCABULARY
    before, after = pair.ours(ids), pair.ours(other)
    first = (before - after)[0] if pair.task == "sequence" else (before - after)[0, 0]
    assert first.abs().max() > 1e-3


@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_gradients_of_one_step_of_masked_language_modelling(case: str, tmp_path: Path) -> None:
    theirs = encoder_oracle(case, "masked")
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).train()
    ids, mask = padded(3, 14, PAD)
    hidden = (random_ids(3, 14, 5) % 3 == 0) & mask
    labels = ids.masked_fill(~hidden, -100)
    expected = theirs(ids, attention_mask=mask.long(), labels=labels).loss
    expected.backward()
    loss = F.cross_entropy(ours(ids, mask)[hidden], ids[hidden])
    loss.backward()
    assert abs(loss - expected) <= NEAR
    gradients = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in ours.named_parameters()}
    named = {name.replace("decoder.bias", "bias"): p.grad for name, p in theirs.named_parameters()}
    compared = to_disk(tasks.entries(FAMILIES[case], ours.config, "masked"), gradients)
    assert compared.keys() == named.keys()
    for disk, gradient in compared.items():
        assert gradient.abs().max() > 0, disk
        assert (gradient - named[disk]).abs().max() <= NEAR, disk


# Vectors of texts


SENTENCES = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 17, "do_lower_case": False},
}  # fmt: skip
"""The files of sentence-transformers/all-MiniLM-L6-v2, in another size."""


def sentence_folder(folder: Path, case: str = "bert", **changes: Any) -> PreTrainedModel:
    """A folder of sentence-transformers. changes: to the files, by the first letter of their names."""
    theirs = encoder_oracle(case, "hidden")
    theirs.save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    for name, content in SENTENCES.items():
        changed = changes.get(name[0])
        merged = isinstance(changed, dict) and isinstance(content, dict)
        (folder / name).write_text(json.dumps(content | changed if merged else changed or content))  # type: ignore[operator]
    return theirs


MEAN = "pooling_mode_mean_tokens"
POOLED: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "mean": (MEAN, lambda hidden, mask: torch.stack([h[m].mean(0) for h, m in zip(hidden, mask, strict=True)])),
    "first": ("pooling_mode_cls_token", lambda hidden, mask: hidden[:, 0]),
    "last": (
        "pooling_mode_lasttoken",
        lambda hidden, mask: torch.stack([h[m][-1] for h, m in zip(hidden, mask, strict=True)]),
    ),
    "max": (
        "pooling_mode_max_tokens",
        lambda hidden, mask: torch.stack([h[m].amax(0) for h, m in zip(hidden, mask, strict=True)]),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("mode", POOLED)
@pytest.mark.parametrize("case", ["bert", "roberta"])
@pytest.mark.parametrize("normalise", [False, True])
def test_sentence_folders(mode: str, case: str, normalise: bool, tmp_path: Path) -> None:
    field, pooled = POOLED[mode]
    modules = SENTENCES["modules.json"][: 3 if normalise else 2]  # type: ignore[index]
    theirs = sentence_folder(tmp_path / "theirs", case, **{"m": modules, "1": {MEAN: False, field: True}})
    ours = load_model(tmp_path / "theirs")
    assert (ours.task, ours.context) == ("embedding", 17)
    ids, mask = padded(4, 16, PAD)
    expected = pooled(theirs(ids, attention_mask=mask.long()).last_hidden_state, mask)
    expected = expected / expected.norm(dim=-1, keepdim=True) if normalise else expected
    assert near(ours(ids, mask), expected)
    save_model(ours, None, tmp_path / "ours")
    again = load_model(tmp_path / "ours")
    assert (again.task, again.context) == ("embedding", 17)
    assert torch.equal(again(ids, mask), ours(ids, mask))
    back = transformers.AutoModel.from_pretrained(tmp_path / "ours")
    assert near(back(ids, attention_mask=mask.long()).last_hidden_state[mask], ours.body(ids, mask)[mask])
    assert (tmp_path / "ours/2_Normalize").exists() == normalise


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"1": {MEAN: False}}, "pooling_mode_cls_token"),
        ({"1": {"pooling_mode_cls_token": True}}, "pooling_mode_cls_token and pooling_mode_mean_tokens"),
        ({"1": {MEAN: False, "pooling_mode_mean_sqrt_len_tokens": True}}, "pooling_mode_mean_sqrt_len_tokens"),
        ({"m": [{"type": "x.Transformer", "path": ""}]}, "Transformer"),
        ({"m": {"type": "x"}}, "type and path"),
        ({"m": [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "../p"}]}, "'../p'"),
        ({"m": ["x"]}, "type and path"),
        ({"s": {"do_lower_case": True}}, "do_lower_case"),
    ],
)
def test_sentence_folders_that_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    sentence_folder(tmp_path / "it", **changes)
    with refused(tmp_path / "it", named):
        load_model(tmp_path / "it")


# Decoders and encoder-decoders with heads


HEADS = [
    *((case, task) for case in CASES for task in FAMILIES[CASES[case].family].heads if "-" not in case),
    *((case, task) for case in SOURCED for task in FAMILIES[SOURCED[case].family].heads),
]
END = 1
"""The token that ends a text for T5 and BART, which `transformers` looks for."""


def with_head(case: str, task: str) -> PreTrainedModel:
    """The model of `transformers` for a case with another head."""
    sourced = case in SOURCED
    config = (sourced_oracle(SOURCED[case]) if sourced else oracle(CASES[case])).config
    family = FAMILIES[(SOURCED if sourced else CASES)[case].family]
    config.id2label = dict(enumerate(LABELS[: 2 if task == "span" else 3]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, tasks.architecture(family, task))(config).eval()
    if hasattr(made, "shared") or hasattr(getattr(made, "transformer", None), "shared"):
        getattr(made, "transformer", made).shared.weight.data *= 0.5  # see `sourced_oracle`
    perturb(made)
    return made


@torch.no_grad()
@pytest.mark.parametrize(("case", "task"), HEADS, ids="-".join)
def test_heads_of_decoders_and_encoder_decoders(case: str, task: str, tmp_path: Path) -> None:
    theirs = with_head(case, task)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    assert (ours.task, ours.labels) == (task, () if task == "span" else tuple(LABELS))
    ids, mask = padded(4, 21, 0)
    last = mask & ~mask.roll(-1, 1).masked_fill(torch.arange(21) == 20, value=False)
    ids = ids.masked_fill(last, END)
    expected, given = answer(theirs, ids, attention_mask=mask.long()), ours(ids, mask)
    save_model(ours, None, tmp_path / "ours")
    back = type(theirs).from_pretrained(tmp_path / "ours", pad_token_id=0, dtype=torch.float32).eval()
    again = answer(back, ids, attention_mask=mask.long())
    if task != "sequence":
        expected, given, again = expected[mask], given[mask], again[mask]
    assert near(given, expected)
    assert near(again, expected)
    if case != "gpt1":  # its positions are slots in theirs and ours count tokens; ours alone are compared
        left = ours(torch.cat((torch.zeros(4, 3, dtype=torch.long), ids), 1), F.pad(mask, (3, 0)))
        assert near(left if task == "sequence" else left[:, 3:][mask], given)
    with refused(f'"{task}"'):
        OpenedFolder(tmp_path / "theirs").require(generates=True)


@torch.no_grad()
@pytest.mark.parametrize(("case", "task"), [("llama", "span"), ("t5", "token"), ("t5", "sequence"), ("bart", "span")])
def test_a_new_head_takes_the_body_of_any_other(case: str, task: str, tmp_path: Path) -> None:
    sourced = case in SOURCED
    language = sourced_oracle(SOURCED[case]) if sourced else oracle(CASES[case])
    language.save_pretrained(tmp_path / "language")
    first = load_model(tmp_path / "language", head=task, labels=None if task == "span" else LABELS)
    save_model(first, None, tmp_path / "first")
    ids = random_ids(2, 9)
    assert torch.equal(load_model(tmp_path / "first")(ids), first(ids))
    second = load_model(tmp_path / "first", head="sequence", labels=["a", "b"]) if task == "span" else first
    hidden = language(ids, decoder_input_ids=ids, output_hidden_states=True) if sourced else None
    if hidden is not None:
        encoder = second.encoder if second.encoders else second.body
        assert near(encoder(ids), hidden.encoder_last_hidden_state)
    else:
        assert near(second.body(ids), language.model(ids).last_hidden_state)


def test_heads_without_a_class_are_refused_with_those_that_have_one() -> None:
    for family, task in (("bart", "token"), ("gemma", "span"), ("nanochat", "sequence"), ("marian", "span")):
        with refused(f'"{task}"', family, "llama"):
            new_model(family, by_depth(family, 1, VOCABULARY, 16, 0.0), head=task)


# Which head a folder gets


def save_tiny(folder: Path, task: str = "masked", **changes: Any) -> PreTrainedModel:
    theirs = encoder_oracle("bert", task, **changes)
    theirs.save_pretrained(folder)
    return theirs


@torch.no_grad()
def test_another_head_is_new_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = save_tiny(tmp_path)
    with refused('"token"', "labels"):
        load_model(tmp_path, head="token")
    capsys.readouterr()
    ours = load_model(tmp_path, head="token", labels=LABELS)
    said = capsys.readouterr().err
    assert "dropped" in said
    assert "cls.predictions.transform.dense.weight" in said
    assert 'new, and to be trained, in the head "token": classifier.weight, classifier.bias' in said
    assert (ours.task, ours.labels) == ("token", tuple(LABELS))
    ids = random_ids(2, 9)
    assert near(ours.body(ids), theirs.bert(ids).last_hidden_state)
    assert float(ours.head.output.weight.std()) == pytest.approx(0.02, rel=0.3)
    assert ours.head.output.bias.eq(0).all()
    again, other = (load_model(tmp_path, head="token", labels=LABELS, seed=seed) for seed in (0, 1))
    assert torch.equal(again.head.output.weight, ours.head.output.weight)
    assert not torch.equal(other.head.output.weight, ours.head.output.weight)


@torch.no_grad()
def test_a_new_classifier_takes_the_pooler_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = save_tiny(tmp_path, "hidden")
    ours = load_model(tmp_path, head="sequence", labels=["yes", "no"])
    assert torch.equal(ours.head.dense.weight, theirs.pooler.dense.weight)
    assert "classifier.weight, classifier.bias\n" in capsys.readouterr().err


@torch.no_grad()
def test_other_labels_make_a_new_last_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = save_tiny(tmp_path, "sequence")
    same = load_model(tmp_path, labels=LABELS)
    assert torch.equal(same.head.output.weight, theirs.classifier.weight)
    assert "new" not in capsys.readouterr().err
    other = load_model(tmp_path, labels=["a", "b", "c"])
    assert not torch.equal(other.head.output.weight, theirs.classifier.weight)
    assert torch.equal(other.head.dense.weight, theirs.bert.pooler.dense.weight)
    assert "new, and to be trained" in capsys.readouterr().err
    assert load_model(tmp_path, labels=["a", "b"]).head.output.weight.shape == (2, 24)


def test_labels_that_a_file_leaves_out(tmp_path: Path) -> None:
    save_tiny(tmp_path, "sequence", id2label={0: "x", 1: "y"})
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    for name in ("id2label", "label2id"):
        raw.pop(name, None)
    path.write_text(json.dumps(raw))
    assert load_model(tmp_path).labels == ("LABEL_0", "LABEL_1")
    path.write_text(json.dumps(raw | {"id2label": {"0": "x", "2": "y"}}))
    with refused("id2label"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"head": "mask"}, ['"mask"', "bert", "hidden, masked, sequence, token, span"]),
        ({"labels": ["a"]}, ['"masked"', "labels"]),
        ({"head": "language"}, ['"language"', "bert"]),
    ],
)
def test_heads_that_are_refused(arguments: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    save_tiny(tmp_path)
    with refused(*names):
        load_model(tmp_path, **arguments)


def test_a_class_that_is_not_built_here(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["BertForNextSentencePrediction"]}))
    with refused("BertForNextSentencePrediction", "head="):
        load_model(tmp_path)
    assert load_model(tmp_path, head="masked").task == "masked"


@pytest.mark.parametrize(
    ("task", "lost"),
    [("masked", "cls.predictions.bias"), ("sequence", "classifier.bias"), ("hidden", "bert.embeddings.LayerNorm.bias")],
)
def test_a_missing_tensor_is_named(task: str, lost: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, task)
    tensors = read_tensors(tmp_path / "model.safetensors")
    tensors.pop(lost if lost in tensors else lost.removeprefix("bert."))
    save_file(tensors, tmp_path / "model.safetensors")
    with refused(f'"{lost}"'):
        load_model(tmp_path)


@torch.no_grad()
def test_bert_as_it_is_on_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """gamma and beta, copies of what is tied, the head for pairs of sentences, a pooler, a buffer."""
    theirs = save_tiny(tmp_path)
    ids = random_ids(2, 9)
    expected = theirs(ids).logits
    tensors = read_tensors(tmp_path / "model.safetensors")
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert "bert.embeddings.LayerNorm.gamma" in tensors
    tensors |= {
        "cls.seq_relationship.weight": torch.ones(2, 24),
        "cls.seq_relationship.bias": torch.ones(2),
        "bert.pooler.dense.weight": torch.ones(24, 24),
        "bert.pooler.dense.bias": torch.ones(24),
        "bert.embeddings.position_ids": torch.arange(40)[None],
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone(),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert near(load_model(tmp_path)(ids), expected)
    said = capsys.readouterr().err
    assert "bert.pooler.dense.bias, bert.pooler.dense.weight, cls.seq_relationship.bias" in said
    assert "decoder" not in said
    for name in ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"):
        spoilt = {n: t.clone() for n, t in tensors.items()}
        spoilt[name][3] += 1
        save_file(spoilt, tmp_path / "model.safetensors")
        with refused(f'"{name}"'):
            load_model(tmp_path)
    save_file(tensors | {"cls.other": torch.ones(2)}, tmp_path / "model.safetensors")
    with refused('"cls.other"'):
        load_model(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_files_without_the_prefix(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = encoder_oracle(case, "masked")
    theirs.save_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "model.safetensors")
    bare = {name.removeprefix(f"{case}."): tensor for name, tensor in tensors.items()}
    bare["pooler.dense.weight"] = torch.ones(24, 24)
    save_file(bare, tmp_path / "model.safetensors")
    ids = random_ids(2, 9).clamp(min=4)
    assert near(load_model(tmp_path)(ids), theirs(ids).logits)
    assert "pooler.dense.weight" in capsys.readouterr().err


# New models


@pytest.mark.parametrize(("family", "task"), [("bert", "masked"), ("roberta", "masked"), ("bert", "sequence")])
def test_new_encoders_have_the_spread_of_the_paper(family: str, task: str) -> None:
    config = BertConfig(
        vocab_size=500, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.05, pad_token_id=1 if family == "roberta" else None,
    )  # fmt: skip
    model = new_model(family, config, head=task, labels=LABELS if task == "sequence" else ())
    for name, parameter in model.state_dict().items():
        if parameter.ndim > 1:
            assert float(parameter.std()) == pytest.approx(0.05, rel=0.2), name
            assert abs(float(parameter.mean())) < 0.01, name
        else:
            norm = name.endswith("norm.weight")
            assert torch.equal(parameter, torch.full_like(parameter, float(norm))), name


@torch.no_grad()
def test_a_new_encoder_opens_in_transformers(tmp_path: Path) -> None:
    for family in ("bert", "roberta"):
        model = new_model(family, by_depth(family, 1, VOCABULARY, 32, dropout=0.1), head="masked").eval()
        perturb(model, 3)
        save_model(model, None, tmp_path / family)
        ids = random_ids(2, 20).clamp(min=4)
        back = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / family)
        assert near(model(ids), back(ids).logits)
        assert model.context == 32
        with pytest.raises(ValueError, match="33 tokens do not fit the 32 learned positions"):
            model(random_ids(1, 33))
