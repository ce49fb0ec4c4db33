"""Adapters on one model: several at once, mixed in a batch, combined, merged and unmerged; folders that do not fit."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from langwright import load_model
from langwright.adaptation.attached import attached, choose, mixed
from langwright.adaptation.folder import load_adapter, save_adapter
from langwright.adaptation.merging import combine, merge, settle, unmerge
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.adaptation.methods.lora import LoRA
from langwright.base.errors import UserError
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model, save_model
from langwright.models.model import Model
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.training.learner import Learner
from langwright.training.recipe import TrainingRecipe
from oracles import CASES, oracle, perturb, random_ids
from refusals import refused

pytestmark = pytest.mark.filterwarnings("ignore")
IDS = random_ids(4, 9)
SHAPE: dict[str, Any] = {
    "vocab_size": 53, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 40, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip


def llama(**changes: Any) -> Model:
    made: Model = new_model("llama", LlamaConfig(**SHAPE, **changes), seed=3)
    return made.eval()


def trained(model: Model, name: str, seed: int = 0, **settings: Any) -> LoRA:
    """An adapter whose numbers are noise."""
    method = LoRA(**{"rank": 3, "alpha": 5.0, **settings})
    method.attach(model, name, seed)
    perturb(model, seed, trained=True)
    return method


@torch.no_grad()
def logits(model: Model, ids: Tensor = IDS) -> Tensor:
    return model(ids)


def test_the_chosen_one_answers_and_none_is_the_base() -> None:
    model = llama()
    base = logits(model)
    a, b = trained(model, "a"), trained(model, "b", 1, target="all-linear", dora=True)
    with_b = logits(model)
    choose(model, "a")
    with_a = logits(model)
    choose(model, "base")
    assert torch.equal(logits(model), base)
    assert min(float((x - y).abs().max()) for x, y in ((base, with_a), (base, with_b), (with_a, with_b))) > 0.1
    choose(model, "a", "b")
    assert (logits(model) - with_a).abs().max() > 0.1
    with pytest.raises(UserError, match='no adapter "c"'):
        choose(model, "c")
    a.detach(model, "a")
    b.detach(model, "b")
    assert torch.equal(logits(model), base)
    assert not attached(model).adapters
    assert all(p.requires_grad for p in model.parameters())


def test_a_mixed_batch_is_each_row_alone() -> None:
    model = llama()
    trained(model, "a", target=("q_proj", "embed_tokens", "lm_head"))
    trained(model, "b", 1, target="all-linear", dora=True)
    names = ["b", "base", "a", "b"]
    with mixed(model, names):
        together = logits(model)
        with pytest.raises(ValueError, match="4 adapters were chosen for the rows of a batch of 2"):
            logits(model, IDS[:2])
    for row, name in enumerate(names):
        choose(model, name)
        assert (logits(model, IDS[row : row + 1])[0] - together[row]).abs().max() < 1e-5
    trained(model, "c", 2, rank=2, target="all-linear")
    names = ["c", "base", "a", "c"]
    for numbers in (1, 2):  # those of a batch that is answered again, after its adapter has changed
        perturb(model, numbers, trained=True)
        with mixed(model, names):
            together = logits(model)
        for row, name in enumerate(names):
            choose(model, name)
            assert (logits(model, IDS[row : row + 1])[0] - together[row]).abs().max() < 1e-4
        choose(model, "c")
    trained(model, "biased", 2, modules_to_save=("norm",))
    with refused('"biased"'), mixed(model, ["biased"] * 4):
        pass


def test_own_values_come_and_go_with_their_adapter() -> None:
    model = llama(attention_bias=True)
    base = logits(model)
    trained(model, "a", bias="all")
    with_a = logits(model)
    trained(model, "b", 1, modules_to_save=("lm_head",))
    assert not torch.equal(logits(model), with_a)
    choose(model, "a")
    assert torch.equal(logits(model), with_a)
    choose(model)
    assert torch.equal(logits(model), base)


@pytest.mark.parametrize(
    "settings", [{}, {"dora": True, "target": "all-linear"}, {"target": ("embed_tokens", "q_proj")}]
)
@pytest.mark.parametrize("tied", [False, True])
def test_merging_keeps_the_logits_and_is_undone_exactly(settings: dict[str, Any], tied: bool) -> None:
    model = llama(tie_word_embeddings=tied)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    trained(model, "a", **settings)
    adapted = logits(model)
    change = merge(model, ids=IDS)
    assert change is not None
    assert change == float((logits(model) - adapted).abs().max()) < 1e-4
    with pytest.raises(UserError, match="merged into the weights"):
        choose(model)
    unmerge(model)
    assert torch.equal(logits(model), adapted)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in weights.items())
    assert (model.head.weight is model.body.embed.tokens) == tied == model.config.tie_word_embeddings
    merge(model)
    settle(model)
    assert not [name for name, _ in model.named_parameters() if ".adapter." in name]
    assert (logits(model) - adapted).abs().max() < 1e-4


def test_what_does_not_go_together_is_refused() -> None:
    model = llama()
    for name in ("base", "two words"):
        with refused(f'"{name}"'):
            LoRA().attach(model, name)
    with refused("DoRA"):
        LoRA(target=("lm_head",), dora=True, dropout=0.1).attach(model)
    trained(model, "a", modules_to_save=("norm",))
    trained(model, "b", modules_to_save=("norm",))
    with refused("a, b", "norm"):
        choose(model, "a", "b")
    with refused('"a"'):
        combine(model, {"a": 1.0}, "c")
    Bottleneck(reduction=4).attach(model, "c")
    with refused("feedforward"):
        merge(model)


def test_what_cannot_be_merged_is_refused() -> None:
    model = new_model("gpt2", GPT2Config(vocab_size=53, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="no adapter to merge"):
        merge(model)
    trained(model, "a", target=("wte",))
    with pytest.raises(UserError, match="cannot hold the two apart"):
        merge(model)
    with pytest.raises(UserError, match="nothing is merged"):
        unmerge(model)


@pytest.mark.parametrize("how", ["linear", "cat", "svd"])
@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_combinations_are_those_of_peft(how: Literal["linear", "cat", "svd"], case: str, tmp_path: Path) -> None:
    oracle(CASES[case]).save_pretrained(tmp_path / "model")
    ours = load_model(tmp_path / "model")
    for seed, name in enumerate(("a", "b")):
        trained(ours, name, seed, alpha=3.0 + seed)
        save_adapter(ours, tmp_path / name, name)
    theirs = peft.PeftModel.from_pretrained(oracle(CASES[case]), tmp_path / "a", "a")
    theirs.load_adapter(tmp_path / "b", "b")
    theirs.add_weighted_adapter(["a", "b"], [0.7, -0.4], "c", how)
    theirs.set_adapter("c")
    combine(ours, {"a": 0.7, "b": -0.4}, "c", how)
    with torch.no_grad():
        assert (theirs.eval()(IDS).logits - logits(ours)).abs().max() < 1e-4
    with refused('"d"'):
        combine(ours, {"d": 1.0}, "e")


def test_a_cat_is_the_exact_sum() -> None:
    model = llama()
    trained(model, "a")
    trained(model, "b", 1, rank=2, target=("k_proj", "q_proj"))
    choose(model, "a", "b")
    both = logits(model)
    combine(model, {"a": 1.0, "b": 1.0}, "sum", "cat")
    assert (logits(model) - both).abs().max() < 1e-4
    with pytest.raises(UserError, match="linear needs adapters of one rank"):
        combine(model, {"a": 1.0, "b": 1.0}, "line", "linear")


def test_slices_come_back_as_slices_and_are_those_of_the_fused_layer_in_peft(tmp_path: Path) -> None:
    model, again = (new_model("gpt2", GPT2Config(vocab_size=53, n_embd=16, n_layer=1, n_head=2)).eval() for _ in "ab")
    save_model(model, None, tmp_path / "base")
    trained(model, "default", target=("c_attn.q", "c_attn.v"), rslora=True)
    before = logits(model)
    save_adapter(model, tmp_path / "adapter")
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(logits(again), before)
    assert again.body.blocks[0].attention.fn.k.adapter is None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()(input_ids=IDS).logits
    torch.testing.assert_close(found, before, rtol=0, atol=1e-5)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, other = llama(), llama()
    save_model(model, None, tmp_path / "model")
    with torch.no_grad():
        other.body.embed.tokens.add_(1)
    save_model(other, None, tmp_path / "other")
    trained(model, "default")
    save_adapter(model, tmp_path / "adapter", base=tmp_path / "model")
    fresh = load_model(tmp_path / "other")
    with refused(tmp_path / "model", tmp_path / "other"):
        load_adapter(fresh, tmp_path / "adapter", base=tmp_path / "other")
    tensors = LoRA(rank=3).tensors(model)
    key = next(iter(tensors))
    wide = LoRA(rank=3)
    wide.attach(fresh)
    with pytest.raises(UserError, match=f'"{key}" is missing'):
        wide.load(fresh, "default", {k: v for k, v in tensors.items() if k != key})
    with pytest.raises(UserError, match=r'"base_model.odd" of the adapter matches nothing'):
        wide.load(fresh, "default", {**tensors, "base_model.odd": torch.ones(1)})
    with pytest.raises(UserError, match=r"has shape \[1\]"):
        wide.load(fresh, "default", {**tensors, key: torch.ones(1)})
    with refused("adapter_config.json"):
        load_adapter(fresh, tmp_path / "model", "more")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="broken or replaced"):
        load_adapter(fresh, tmp_path / "adapter", "more")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: missing, and langwright\.json beside it"):
        load_adapter(fresh, tmp_path / "adapter", "more")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("r", value) for value in ("8", 8.5, True, 0, -8, 10**30)),
        *(("lora_alpha", value) for value in ("x", float("nan"), 10**400)),
        *(("lora_dropout", value) for value in ("a", 1.0)),
        *(("alpha_pattern", {"q_proj": value}) for value in (None, float("inf"), float("nan"))),
        *(("rank_pattern", value) for value in ([1], {"q_proj": 0}, {"q_proj": 10**30})),
        ("bias", "x"),
        *(("target_modules", value) for value in (3, [3])),
        ("layers_to_transform", "x"),
        ("modules_to_save", "lm_head"),
        ("use_rslora", "yes"),
        *(("init_lora_weights", value) for value in ([], "pissa")),
        *(("task_type", value) for value in ("SEQ_CLS", [], {}, "ODD")),
        ("use_qalora", True),
        ("wings", 2),
    ],
)
def test_a_field_of_peft_that_is_not_understood_is_named(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"adapter_config\.json: .*\b{field}\b"):
        _load_with(field, value, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("rank_pattern", {"(q": 2}, "(q"),
        ("target_modules", "(q_proj", "(q_proj"),
        ("exclude_modules", "(x", "(x"),
        ("target_modules", "a", '"a"'),
        ("layers_to_transform", -1, "nothing to train"),
        ("modules_to_save", ["nope"], "nope"),
    ],
)
def test_a_module_that_is_not_there_is_named(field: str, value: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"adapter_config\.json: .*{re.escape(named)}"):
        _load_with(field, value, tmp_path)


def _load_with(field: str, value: Any, folder: Path) -> None:
    """Open an adapter of PEFT's with another value in a field of its config."""
    model = llama()
    trained(model, "default")
    save_adapter(model, folder)
    (folder / "langwright.json").unlink()
    fields = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(fields | {field: value}))
    load_adapter(llama(), folder)


@pytest.mark.parametrize("task", ["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", None])
def test_a_task_that_peft_takes_for_a_causal_model_passes(task: str | None, tmp_path: Path) -> None:
    model = llama()
    trained(model, "default")
    save_adapter(model, tmp_path)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert fields["task_type"] == "CAUSAL_LM"
    (tmp_path / "langwright.json").unlink()
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields | {"task_type": task}))
    again = llama()
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda t: t.fill_(torch.nan), "holds NaN or infinity"),
        (lambda t: t.index_fill_(0, torch.tensor([1]), -torch.inf), "holds NaN or infinity"),
        (lambda t: t.long(), "holds int64 numbers; only float32, bfloat16, float16, float64 are read"),
    ],
)
def test_numbers_that_are_none_are_refused_by_name(
    spoil: Callable[[Tensor], Tensor], told: str, tmp_path: Path
) -> None:
    model = llama()
    trained(model, "default")
    save_adapter(model, tmp_path)
    (tmp_path / "langwright.json").unlink()
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    key = list(tensors)[1]
    save_file({**tensors, key: spoil(tensors[key].clone())}, file)
    fresh = llama()
    with pytest.raises(UserError, match=rf'adapter_model\.safetensors: tensor "{key}" {told}'):
        load_adapter(fresh, tmp_path)
    assert not attached(fresh).adapters


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": {"wings": 1}}, "wings"),
        *(({"settings": {"rank": value}}, "rank") for value in ("x", 0, 10**30)),
        ({"settings": {"target": 5}}, "target"),
        ({"settings": {"target": "nope"}}, "nope"),
        ({"checksums": [1]}, "checksums"),
        ({"checksums": {"../other": "x"}}, "../other"),
    ],
)
def test_a_broken_record_of_an_adapter_is_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    model = llama()
    trained(model, "default")
    save_adapter(model, tmp_path)
    record = json.loads((tmp_path / "langwright.json").read_text())
    (tmp_path / "langwright.json").write_text(json.dumps(record | change))
    with pytest.raises(UserError, match=rf"langwright\.json: .*{re.escape(named)}"):
        load_adapter(llama(), tmp_path)


def test_training_moves_the_adapter_alone_with_its_own_rates() -> None:
    model = llama()
    frozen = {name: p.clone() for name, p in model.named_parameters()}
    method = LoRA(rank=2, plus=16.0, target=("q_proj", "lm_head"), dropout=0.1)
    method.attach(model)
    learner = Learner(
        {"model": model}, TokenPrediction(), torch.bfloat16, TrainingRecipe(learning_rate=1e-3), method.rate
    )
    peaks = {g["peak"] for optimizer in learner.optimizers for g in optimizer.param_groups}
    assert peaks == {1e-3, 1.6e-2}
    batch = TokenBatch(IDS[:, :-1].contiguous(), IDS[:, 1:].contiguous(), torch.ones(4, 8))
    losses = []
    for _ in range(12):
        losses.append(float(learner.backward(batch).loss))
        learner.step(1.0)
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(model.get_parameter(n), v.bfloat16()) for n, v in frozen.items())
    assert all(name.endswith(("down", "up")) for name in learner.masters.named)


def test_the_loss_of_an_adapted_head_is_that_of_its_logits() -> None:
    model = llama()
    trained(model, "a", target=("lm_head",), dora=True)
    batch = TokenBatch(IDS[:, :-1].contiguous(), IDS[:, 1:].contiguous(), torch.ones(4, 8))
    with torch.no_grad():
        given = TokenPrediction()({"model": model}, batch)["tokens"]
    expected = torch.nn.functional.cross_entropy(logits(model, batch.ids).flatten(0, 1), batch.targets.flatten())
    assert (given / 32 - expected).abs() < 1e-5


def test_a_rank_above_the_weights_is_for_files_of_others(tmp_path: Path) -> None:
    """k and v are 16 x 32 here. PEFT makes such adapters."""
    with refused("--rank 17", "layers.0.self_attn.v_proj", "16 x 32"):
        LoRA(rank=17).check_new(llama())
    LoRA(rank=17, target="all-linear").check_new(llama())
    LoRA(rank=17, target=("q_proj",)).check_new(llama())
    fused = new_model("gpt2", GPT2Config(vocab_size=53, n_embd=16, n_layer=1, n_head=2))
    LoRA(rank=16, target=("c_attn.q",)).check_new(fused)
    with refused("--rank 17", "16"):
        LoRA(rank=17, target=("c_attn.q",)).check_new(fused)
    save_model(llama(), None, tmp_path / "base")
    theirs = peft.LoraConfig(r=64, target_modules=["v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    made = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), theirs).eval()
    made.save_pretrained(tmp_path / "adapter")
    ours = load_model(tmp_path / "base")
    load_adapter(ours, tmp_path / "adapter")
    with torch.no_grad():
        assert (logits(ours) - made(input_ids=IDS).logits).abs().max() < 1e-5
