"""Bottleneck adapters against AdapterHub's equations, written out beside `transformers` models by hooks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from langwright import load_model
from langwright.adaptation.folder import load_adapter, save_adapter
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.base.errors import UserError
from oracles import CASES, Case, oracle, perturb, random_ids, sourced_oracle


def bert() -> transformers.PreTrainedModel:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(vocab_size=53, **shape)).eval()
    perturb(model)
    return model


BASES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "bert": bert,
    "gpt2": lambda: oracle(CASES["gpt2"]),
    "llama": lambda: oracle(CASES["llama"]),
    "t5": lambda: sourced_oracle(Case("t5")),
}
ACTIVATIONS = {"pfeiffer": torch.relu, "houlsby": nn.functional.silu, "parallel": torch.relu}


def bottleneck(tensors: dict[str, Tensor], site: str, x: Tensor, kind: str) -> Tensor:
    """AdapterHub's `Adapter.forward` without its residual."""
    own = {key.removeprefix(f"{site}.adapters.default."): t for key, t in tensors.items() if key.startswith(f"{site}.")}
    assert own, site
    narrow = ACTIVATIONS[kind](x @ own["adapter_down.0.weight"].T + own["adapter_down.0.bias"])
    return (4.0 if kind == "parallel" else 1.0) * (narrow @ own["adapter_up.weight"].T + own["adapter_up.bias"])


def adapt(tensors: dict[str, Tensor], site: str, kind: str, h: Tensor, x: Tensor, norm: Any) -> Tensor:
    """`BottleneckLayer.forward`: a branch's h, the stream x and the norm after them (or None) -> what follows."""
    after = norm or (lambda y: y)
    if kind == "parallel":
        return after(h + bottleneck(tensors, site, x, kind) + x)
    read = after(h + x) if kind == "pfeiffer" else h
    return after(h + bottleneck(tensors, site, read, kind) + x)


def hook(model: Any, tensors: dict[str, Tensor], kind: str) -> None:
    """Put the adapters of a file into a model of `transformers`."""
    names = [key.split(".adapters.")[0] for key in tensors]
    for site in dict.fromkeys(names):
        module, stream = site, {}
        if site.endswith("_adapters"):  # GPT-2 and LLaMA: in the block, after attention or feed-forward
            block, _, which = site.rpartition(".")
            attention = which == "attention_adapters"
            inner = ("attn", "mlp") if "transformer.h" in site else ("self_attn", "mlp")
            norms = ("ln_1", "ln_2") if "transformer.h" in site else ("input_layernorm", "post_attention_layernorm")
            norm, module = (model.get_submodule(f"{block}.{x[0 if attention else 1]}") for x in (norms, inner))
            norm.register_forward_pre_hook(lambda m, given, s=stream: s.update(x=given[0]))

            def answer(m: Any, given: Any, out: Any, site: str = site, s: dict[str, Tensor] = stream) -> Any:
                h = out[0] if isinstance(out, tuple) else out
                y = adapt(tensors, site, kind, h, s["x"], None) - s["x"]
                return (y, *out[1:]) if isinstance(out, tuple) else y

            module.register_forward_hook(answer)
        elif "layer." in site and ".block." in site:  # T5: the numbered layer, whose dropout is the last of the branch

            def answer_t5(m: Any, given: Any, out: Any, site: str = site) -> Any:
                x, whole = given[0], out[0] if isinstance(out, tuple) else out
                y = adapt(tensors, site, kind, whole - x, x, None)
                return (y, *out[1:]) if isinstance(out, tuple) else y

            model.get_submodule(module).register_forward_hook(answer_t5)
        else:  # BERT: dense, dropout, and the norm of the sum
            found = model.get_submodule(module.removeprefix("bert."))

            def forward(h: Tensor, x: Tensor, found: Any = found, site: str = site) -> Tensor:
                return adapt(tensors, site, kind, found.dense(h), x, found.LayerNorm)

            found.forward = forward


def out(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            logits: Tensor = model(input_ids=ids, decoder_input_ids=ids[:, :5]).logits
            return logits
        found = model(input_ids=ids)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


@pytest.mark.parametrize("kind", ["pfeiffer", "houlsby", "parallel"])
@pytest.mark.parametrize("family", BASES)
def test_a_folder_means_what_adapterhub_means_by_it(family: str, kind: Any, tmp_path: Path) -> None:
    theirs = BASES[family]()
    theirs.save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    method = Bottleneck(kind, reduction=4)
    method.attach(model)
    perturb(model, 1, trained=True)
    save_adapter(model, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter.safetensors")
    hook(theirs, tensors, kind)
    ids = random_ids(2, 7)
    with torch.no_grad():
        found = model(ids, ids[:, :5]) if family == "t5" else model(ids)
    torch.testing.assert_close(found, out(theirs, ids), rtol=0, atol=2e-5)

    # as a folder of AdapterHub's, which calls the adapter by a name of its own
    (tmp_path / "adapter" / "langwright.json").unlink()
    renamed = {key.replace(".default.", ".sst-2."): tensor for key, tensor in tensors.items()}
    save_file(renamed, tmp_path / "adapter" / "adapter.safetensors")
    path = tmp_path / "adapter" / "adapter_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({name: fields[name] for name in ("config", "hidden_size", "model_type", "name")}))
    method.detach(model)
    assert load_adapter(model, tmp_path / "adapter") == method.__class__(
        kind, 4.0, "silu" if kind == "houlsby" else "relu", method.scaling or (4.0 if kind == "parallel" else 1.0),
        "mam_adapter" if kind == "parallel" else "bert",
    )  # fmt: skip
    with torch.no_grad():
        assert torch.equal(found, model(ids, ids[:, :5]) if family == "t5" else model(ids))


def test_only_mam_begins_as_the_model_without(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    ids = random_ids(2, 7)
    plain = load_model(tmp_path)(ids)
    for method, equal in ((Bottleneck("parallel"), True), (Bottleneck("houlsby", init="mam_adapter"), True)):
        model = load_model(tmp_path)
        method.attach(model)
        assert torch.allclose(model(ids), plain, atol=1e-6) == equal
    spreads = {}
    for init in ("bert", "houlsby"):
        model = load_model(tmp_path)
        Bottleneck("houlsby", reduction=1, init=init).attach(model)
        weights = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad and p.ndim == 2])
        spreads[init] = (float(weights.std()), float(weights.abs().max()))
    assert spreads["bert"][0] == pytest.approx(0.02, rel=0.05)
    assert spreads["houlsby"] == (pytest.approx(0.0088, rel=0.05), pytest.approx(0.02, rel=0.01))


ODD: list[Any] = [5, -1, True, "01", {"a": []}]


def test_layers_may_be_left_out_and_odd_ones_are_refused(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    Bottleneck("pfeiffer", leave_out=(0,)).attach(model)
    assert {name.split(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {"1"}
    save_adapter(model, tmp_path / "adapter")
    (tmp_path / "adapter" / "langwright.json").unlink()
    path = tmp_path / "adapter" / "adapter_config.json"
    fields = json.loads(path.read_text())
    for field, value in (
        ("ln_after", True),
        ("scaling", "learned"),
        ("scaling", True),
        ("scaling", float("nan")),
        ("scaling", 10**40),
        *(("leave_out", value) for value in ODD),
        ("non_linearity", []),
        ("non_linearity", "sine"),
        ("non_linearity", ""),
        ("wings", 2),
        ("reduction_factor", 1e-30),
        ("reduction_factor", 0),
        ("reduction_factor", 10**4),
        ("init_weights", "odd"),
        ("mh_adapter", "yes"),
    ):
        path.write_text(json.dumps({**fields, "config": {**fields["config"], field: value}}))
        named = "pfeiffer" if field == "mh_adapter" else field
        with pytest.raises(UserError, match=rf"adapter_config\.json: .*{named}"):
            load_adapter(model, tmp_path / "adapter", "other")
    path.write_text(json.dumps(fields))
    save_adapter(model, tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "langwright.json").read_text())
    record["settings"]["scaling"] = 10**30  # an integer, as JSON may have it, that is none of torch's
    (tmp_path / "adapter" / "langwright.json").write_text(json.dumps(record))
    load_adapter(model, tmp_path / "adapter", "large")
    assert model(torch.ones(1, 3, dtype=torch.long)).shape[:2] == (1, 3)
    oracle(CASES["gptj"]).save_pretrained(tmp_path / "gptj")
    with pytest.raises(UserError, match="gptj"):
        Bottleneck().attach(load_model(tmp_path / "gptj"))


def test_a_bottleneck_of_no_width_is_refused(tmp_path: Path) -> None:
    oracle(CASES["gpt2"]).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    dim = model.config.n_embd
    Bottleneck("pfeiffer", reduction=dim).attach(model)
    with pytest.raises(UserError, match=f"--reduction {dim + 1}"):
        Bottleneck("pfeiffer", reduction=dim + 1).attach(load_model(tmp_path))
