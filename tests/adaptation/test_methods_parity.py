"""IA3, soft prompts, prefixes and tuned norms against `peft`, both ways through adapter folders, on four families."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from langwright import load_model
from langwright.adaptation.folder import load_adapter, save_adapter
from langwright.adaptation.method import Method
from langwright.adaptation.methods import LayerNorm, PromptTuning, PTuning
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from oracles import CASES, VOCABULARY, Case, oracle, perturb, random_ids, sourced_oracle

BERT = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 60,
}  # fmt: skip


def bert(kind: Any) -> transformers.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(transformers.BertConfig(**BERT, num_labels=3)).eval()
    perturb(model)
    return model


def t5(layers: int) -> transformers.PreTrainedModel:
    return sourced_oracle(Case("t5", {"num_layers": layers, "num_decoder_layers": layers}))


BASES: dict[str, tuple[Callable[[], transformers.PreTrainedModel], str]] = {
    "gpt2": (lambda: oracle(CASES["gpt2"]), "CAUSAL_LM"),
    "llama": (lambda: oracle(CASES["llama"]), "CAUSAL_LM"),
    "t5": (lambda: t5(2), "SEQ_2_SEQ_LM"),
    "t5-odd": (lambda: t5(3), "SEQ_2_SEQ_LM"),
    "bert": (lambda: bert(transformers.BertModel), "FEATURE_EXTRACTION"),
    "bert-labels": (lambda: bert(transformers.BertForSequenceClassification), "SEQ_CLS"),
}


@dataclass(frozen=True)
class Kind:
    """A method: ours, and what makes PEFT's config of it for a task."""

    ours: Method
    theirs: Callable[..., Any]
    leads: bool = False


TOKENS = {"num_virtual_tokens": 3}
KINDS = {
    "ia3": Kind(IA3(), lambda **more: peft.IA3Config(**more)),
    "prompt": Kind(PromptTuning(3, "random"), lambda **more: peft.PromptTuningConfig(**TOKENS, **more), leads=True),
    "p-tuning": Kind(
        PTuning(3, hidden=12), lambda **more: peft.PromptEncoderConfig(**TOKENS, encoder_hidden_size=12, **more), True
    ),
    "p-tuning-lstm": Kind(
        PTuning(3, "lstm", hidden=12),
        lambda **more: peft.PromptEncoderConfig(
            **TOKENS, encoder_hidden_size=12, encoder_reparameterization_type="LSTM", **more
        ),
        True,
    ),
    "prefix": Kind(PrefixTuning(3), lambda **more: peft.PrefixTuningConfig(**TOKENS, **more), leads=True),
    "prefix-projected": Kind(
        PrefixTuning(3, projection=True, hidden=10),
        lambda **more: peft.PrefixTuningConfig(**TOKENS, prefix_projection=True, encoder_hidden_size=10, **more),
        leads=True,
    ),
    "layernorm": Kind(LayerNorm(), lambda **more: peft.LNTuningConfig(**more)),
}
PAIRS = [
    (base, kind)
    for base in BASES
    for kind in KINDS
    if (base, kind) not in {("bert-labels", k) for k in ("prompt", "p-tuning", "p-tuning-lstm")}
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def base(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            BASES[name][0]().save_pretrained(made[name])
        return made[name]

    return base


def padded(side: str, time: int = 9) -> Tensor:
    lengths = torch.tensor([time, time - 4, time - 1])
    real = torch.arange(time)[None] < lengths[:, None]
    return real if side == "right" else real.flip(1)


def ours_out(model: nn.Module, ids: Tensor, mask: Tensor | None) -> Tensor:
    with torch.no_grad():
        if hasattr(model, "encoder"):
            return model(ids, ids[:, :5], mask)
        return model(ids, mask)


def theirs_out(model: Any, ids: Tensor, mask: Tensor | None, positions: bool) -> Tensor:
    """Logits, or hidden states, of the real tokens."""
    more: dict[str, Any] = {}
    if mask is not None:
        more["attention_mask"] = mask.long()
        if positions:
            more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model.config.is_encoder_decoder:
            more["decoder_input_ids"] = ids[:, :5]
        out = model(input_ids=ids, **more)
    found: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found


def compare(base: str, model: nn.Module, peft_model: Any, lead: int) -> None:
    peft_model.double()  # rounding in float32 would hide in the bound, or break it
    model.double()
    ids = random_ids(3, 9)
    causal = base in ("gpt2", "llama")
    for side in ("none", "right", "left"):
        if side == "left" and (not causal or (lead and peft_model.active_peft_config.peft_type != "PREFIX_TUNING")):
            continue  # PEFT counts padding at the left as positions, except where it takes them from the caller
        mask = None if side == "none" else padded(side)
        expected = theirs_out(peft_model, ids, mask, positions=causal and side == "left")
        found = ours_out(model, ids, mask)
        if found.ndim == 3:
            expected = expected[:, expected.shape[1] - found.shape[1] :]  # PEFT gives the virtual tokens' too
        if mask is not None and base not in ("t5", "t5-odd", "bert-labels"):
            expected, found = expected[mask], found[mask]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def open_base(folder: Path, base: str) -> Any:
    kind = {
        "CAUSAL_LM": transformers.AutoModelForCausalLM,
        "SEQ_2_SEQ_LM": transformers.AutoModelForSeq2SeqLM,
        "FEATURE_EXTRACTION": transformers.AutoModel,
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    }[BASES[base][1]]
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(("base", "kind"), PAIRS)
def test_what_we_save_peft_opens_with_equal_logits(
    base: str, kind: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    model = load_model(bases(base))
    KINDS[kind].ours.attach(model)
    perturb(model, 3, trained=True)
    save_adapter(model, tmp_path, base=bases(base))
    theirs = open_base(bases(base), base)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    assert not [str(w.message) for w in told if "missing" in str(w.message) or "nexpected" in str(w.message)]
    compare(base, model, opened, 3 if KINDS[kind].leads else 0)


@pytest.mark.parametrize(("base", "kind"), PAIRS)
def test_what_peft_saves_we_open_with_equal_logits(
    base: str, kind: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    more = {"task_type": BASES[base][1]}
    if base.startswith("t5") and kind.startswith("prefix"):
        more["token_dim"] = 30  # d_kv * heads, which PEFT takes to be d_model
    if kind == "layernorm" and base.startswith("bert"):
        more["target_modules"] = ["LayerNorm"]
    theirs = peft.get_peft_model(open_base(bases(base), base), KINDS[kind].theirs(**more)).eval()
    perturb(theirs, 3, trained=True)
    theirs.save_pretrained(tmp_path)
    model = load_model(bases(base))
    load_adapter(model, tmp_path, base=bases(base))
    compare(base, model, theirs, 3 if KINDS[kind].leads else 0)
    again = tmp_path / "again"
    save_adapter(model, again)
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_model_without_its_adapter_is_what_it_was(bases: Callable[[str], Path]) -> None:
    for base, kind in PAIRS:
        model = load_model(bases(base))
        ids, mask = random_ids(3, 9), padded("right")
        before, context, names = ours_out(model, ids, mask), model.context, [n for n, _ in model.named_parameters()]
        KINDS[kind].ours.attach(model)
        perturb(model, 3, trained=True)
        assert not torch.equal(before, ours_out(model, ids, mask))
        KINDS[kind].ours.detach(model)
        assert torch.equal(before, ours_out(model, ids, mask))
        assert (model.context, [n for n, _ in model.named_parameters()]) == (context, names)
