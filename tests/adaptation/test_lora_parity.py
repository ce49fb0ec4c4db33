"""LoRA equal to `peft` over `transformers`, through adapter folders, both ways, and in the gradient of a step."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from langwright import load_model
from langwright.adaptation.attached import attached
from langwright.adaptation.folder import load_adapter, save_adapter
from langwright.adaptation.methods.lora import LoRA
from langwright.models.model import Model
from oracles import CASES, SOURCED, VOCABULARY, Case, oracle, perturb, random_ids, sourced_oracle

pytestmark = pytest.mark.filterwarnings("ignore")
NEAR = 1e-5
BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def bert(head: str, labels: int = 3) -> Callable[[], transformers.PreTrainedModel]:
    def make() -> transformers.PreTrainedModel:
        torch.manual_seed(0)
        made = getattr(transformers, head)(transformers.BertConfig(**BERT, num_labels=labels)).eval()
        perturb(made)
        return made

    return make


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "gpt2": lambda: oracle(CASES["gpt2"]),
    "llama": lambda: oracle(CASES["llama-biases"]),
    "llama-tied": lambda: oracle(Case("llama", {"tie_word_embeddings": True})),
    "gpt_neox": lambda: oracle(CASES["gpt_neox"]),
    "bloom": lambda: oracle(CASES["bloom"]),
    "t5": lambda: sourced_oracle(SOURCED["t5"]),
    "bart": lambda: sourced_oracle(SOURCED["bart-scaled"]),
    "bert": bert("BertModel"),
    "bert-sequence": bert("BertForSequenceClassification"),
    "bert-masked": bert("BertForMaskedLM"),
}


WORDS = {
    "target": "target_modules", "dora": "use_dora", "rslora": "use_rslora", "exclude": "exclude_modules",
    "layers": "layers_to_transform",
}  # fmt: skip
"""Settings in our words, and in theirs."""


def same(model: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return model, settings


GIVEN = {
    "gpt2": same("gpt2"),
    "gpt2-dora": same("gpt2", dora=True, target=("c_attn", "mlp.c_proj")),
    "gpt2-tables": same("gpt2", target=("wte", "lm_head", "c_fc")),
    "gpt2-biases": same("gpt2", bias="all"),
    "llama": same("llama", rslora=True),
    "llama-dora": same("llama", dora=True, target="all-linear"),
    "llama-pattern": same(
        "llama", target=r".*\.(q_proj|up_proj)", rank_pattern={"up_proj": 5}, alpha_pattern={r"1\.mlp\.up_proj": 9.0}
    ),
    "llama-layers": same("llama", target=("q_proj", "k_proj"), layers=(0, 2), exclude=("0.self_attn.k_proj",)),
    "llama-tables": same("llama", target=("embed_tokens", "lm_head", "v_proj"), dora=True),
    "llama-tied-tables": same("llama-tied", target=("embed_tokens", "lm_head", "v_proj")),
    "llama-whole": same("llama", modules_to_save=("lm_head", "norm"), bias="lora_only"),
    "gpt_neox": same("gpt_neox", dora=True),
    "bloom": same("bloom"),
    "t5": same("t5"),
    "t5-dora": same("t5", dora=True, target=("k", "wo", "lm_head")),
    "t5-tables": same("t5", target=("embed_tokens", "q")),
    "bart": same("bart", target=("embed_tokens", "q_proj", "fc1")),
    "bert": same("bert"),
    "bert-dora": same("bert", dora=True, target=("query", "output.dense", "word_embeddings")),
    "bert-sequence": same("bert-sequence", bias="lora_only"),
    "bert-masked": same("bert-masked", target="all-linear"),
}


@dataclass
class Pair:
    """A model folder, and the model of either, with the same adapter as yet untrained."""

    folder: Path
    theirs: peft.PeftModel
    ours: Model
    method: LoRA


@pytest.fixture(params=GIVEN)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    (model, settings), folder = GIVEN[request.param], tmp_path_factory.mktemp("adapted")
    theirs = MODELS[model]()
    theirs.save_pretrained(folder / "model")
    ours = load_model(folder / "model")
    method = LoRA(rank=3, alpha=5.0, **settings)
    method.attach(ours)
    lists = {WORDS.get(k, k): list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    config = peft.LoraConfig(r=3, lora_alpha=5, task_type="SEQ_CLS" if model == "bert-sequence" else None, **lists)
    torch.manual_seed(0)  # of the first numbers of peft, whatever ran before
    return Pair(folder, peft.get_peft_model(theirs, config).eval(), ours, method)


def of_ours(model: Model, ids: Tensor) -> Tensor:
    return model(ids, ids) if model.encoders else model(ids)


def of_theirs(model: torch.nn.Module, ids: Tensor) -> Tensor:
    encodes = model.config.is_encoder_decoder
    given = model(input_ids=ids, decoder_input_ids=ids) if encodes else model(input_ids=ids)
    return given.logits if "logits" in given else given.last_hidden_state


def near(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= NEAR * max(1.0, float(theirs.abs().max())))


IDS = random_ids(2, 12)


def test_what_peft_saves_is_loaded(pair: Pair, tmp_path: Path) -> None:
    perturb(pair.theirs, 1, trained=True)
    pair.theirs.save_pretrained(tmp_path)
    ours = load_model(pair.folder / "model")
    before = of_ours(ours, IDS)
    found = load_adapter(ours, tmp_path)
    expected = of_theirs(pair.theirs, IDS)
    assert near(of_ours(ours, IDS), expected)
    assert not near(before, expected)
    assert isinstance(found, LoRA)
    trained = sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert trained == pair.theirs.get_nb_trainable_parameters()[0]


def test_what_is_saved_peft_loads(pair: Pair, tmp_path: Path) -> None:
    perturb(pair.ours, 2, trained=True)
    save_adapter(pair.ours, tmp_path, base=pair.folder / "model")
    base = type(pair.theirs.get_base_model()).from_pretrained(pair.folder / "model").eval()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert not [w for w in told if "keys" in str(w.message)]
    assert near(of_ours(pair.ours, IDS), of_theirs(theirs, IDS))
    again = load_model(pair.folder / "model")
    load_adapter(again, tmp_path, base=pair.folder / "model")
    assert torch.equal(of_ours(again, IDS), of_ours(pair.ours, IDS))


def test_the_gradient_of_a_step_is_that_of_peft(pair: Pair) -> None:
    perturb(pair.theirs, 3, trained=True)
    tensors = {k: v.detach().clone() for k, v in peft.get_peft_model_state_dict(pair.theirs).items()}
    pair.method.load(pair.ours, "default", tensors)
    weights = torch.randn(of_ours(pair.ours, IDS).shape, generator=torch.Generator().manual_seed(4))
    for model in (pair.ours, pair.theirs):
        model.zero_grad()
    (of_ours(pair.ours, IDS) * weights).mean().backward()
    (of_theirs(pair.theirs, IDS) * weights).mean().backward()
    expected = {n: p.grad for n, p in pair.theirs.named_parameters() if p.grad is not None}
    given = gradients(pair)
    assert set(given) == {plain(name) for name in expected}
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert (given[plain(name)] - gradient).abs().max() <= NEAR * max(scale, 1.0), name


def plain(name: str) -> str:
    """A parameter of theirs under the name it has in the file."""
    name = name.replace(".modules_to_save.default", "").replace(".default", "")
    return name.removesuffix(".weight") if "magnitude" in name else name


def gradients(pair: Pair) -> dict[str, Tensor]:
    """Our gradients under PEFT's names: the values are replaced by the gradients and read as values are."""
    for parameter in attached(pair.ours).adapters["default"].trained:
        kept = parameter.grad
        assert kept is not None
        parameter.data = kept
    return {key: tensor.clone() for key, tensor in pair.method.tensors(pair.ours).items()}
