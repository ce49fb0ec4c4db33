"""Requests of many adapters on one model: each has the tokens that it has alone."""

import pytest
import torch

from langwright import Engine, Request
from langwright.adaptation.attached import attached, choose
from langwright.adaptation.method import Method
from langwright.adaptation.methods.bottleneck import Bottleneck
from langwright.adaptation.methods.ia3 import IA3
from langwright.adaptation.methods.lora import LoRA
from langwright.adaptation.methods.prefix_tuning import PrefixTuning
from langwright.adaptation.methods.prompt_tuning import PromptTuning
from langwright.inference.sampling import Sampling, Search
from langwright.models.families.llama import LlamaConfig
from langwright.models.families.t5 import T5Config
from langwright.models.folder import new_model
from langwright.models.model import Model
from oracles import perturb, random_ids
from refusals import refused
from writers import GREEDY

METHODS: dict[str, Method] = {
    "small": LoRA(rank=2, target="all-linear"), "large": LoRA(rank=5, target=("q_proj", "lm_head")),
    "lengths": LoRA(rank=2, dora=True), "scales": IA3(), "other_scales": IA3(), "prompt": PromptTuning(3, "random"),
    "prefix": PrefixTuning(5), "inner": Bottleneck(), "bias": LoRA(rank=2, bias="all"),
}  # fmt: skip
SOURCED: dict[str, Method] = {"small": LoRA(rank=2), "scales": IA3(), "prompt": PromptTuning(3, "random")}
PROMPTS = [random_ids(1, length, seed=length)[0].tolist() for length in (9, 3, 14, 9)]


def carrying(model: Model, methods: dict[str, Method]) -> Model:
    """The model with adapters whose numbers are noise; none is chosen."""
    for number, (name, method) in enumerate(methods.items()):
        method.attach(model, name)
        perturb(model, number, trained=True)
    choose(model)
    return model.eval()


def decoder() -> Model:
    config = LlamaConfig(
        vocab_size=53, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, max_position_embeddings=128, initializer_range=0.2, attention_bias=True,
    )  # fmt: skip
    return carrying(new_model("llama", config, seed=3), METHODS)


def encoder_decoder() -> Model:
    config = T5Config(vocab_size=53, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
    return carrying(new_model("t5", config, seed=3), SOURCED)


def requests(names: list[str]) -> list[Request]:
    return [
        Request(prompt, GREEDY if number % 2 else Sampling(seed=number), 8, adapter=name, n=1 + number % 3)
        for number, (name, prompt) in enumerate(zip(names, PROMPTS * len(names), strict=False))
    ]


@pytest.mark.parametrize(("make", "methods"), [(decoder, METHODS), (encoder_decoder, SOURCED)])
def test_in_a_mixed_batch_as_alone(make: object, methods: dict[str, Method]) -> None:
    model = make()  # type: ignore[operator]
    names = ["base", *methods, *methods]
    asked = [*requests(names), Request(PROMPTS[0], GREEDY, 6, search=Search(beams=2), adapter="small")]
    alone = []
    for request in asked:
        choose(model, request.adapter or "base")
        engine = Engine(model, cache="none")
        alone.append(engine.finish([engine.add(Request(**{**vars(request), "adapter": None}))])[0])
    choose(model)
    assert len({tuple(found[0].ids) for found in alone}) > len(methods)  # they do differ
    for options in ({}, {"cache": "none"}, {"blocks": 40, "block_size": 4}, {"batch": 5, "prompt_tokens": 4}):
        engine = Engine(model, **options)  # type: ignore[arg-type]
        room = engine.free_blocks
        assert engine.finish([engine.add(request) for request in asked]) == alone
        assert engine.free_blocks == room


def test_a_beginning_is_shared_within_an_adapter_alone() -> None:
    model = decoder()
    engine, prompt = Engine(model, block_size=4), PROMPTS[2]
    first = {name: engine.finish([engine.add(Request(prompt, GREEDY, 4, adapter=name))])[0][0] for name in METHODS}
    for name, expected in first.items():  # its blocks are found
        assert engine.finish([engine.add(Request(prompt, GREEDY, 4, adapter=name))])[0][0].ids == expected.ids


def test_a_prompt_is_measured_by_its_own_adapter() -> None:
    model = decoder()
    asked = [Request(PROMPTS[1], GREEDY, 2, prompt_logprobs=0, adapter=name) for name in ("large", "small", "base")]
    alone = []
    for request in asked:
        engine = Engine(model)
        alone.append(engine.finish([engine.add(request)])[0][0].prompt_logprobs)
    engine = Engine(model)
    together = engine.finish([engine.add(request) for request in asked])
    for (found,), expected in zip(together, alone, strict=True):
        assert found.prompt_logprobs is not None
        assert [one.logprob for one in found.prompt_logprobs] == pytest.approx([one.logprob for one in expected or []])


def test_another_adapter_of_the_same_name_is_another() -> None:
    model = decoder()
    engine, asked = Engine(model), [Request(PROMPTS[0], GREEDY, 8, adapter=name) for name in ("small", "large")]
    engine.finish([engine.add(request) for request in asked])
    attached(model).remove("small")
    METHODS["small"].attach(model, "small")
    perturb(model, 77, trained=True)
    choose(model)
    engine.forget()
    together = engine.finish([engine.add(request) for request in asked])
    fresh = Engine(model)
    assert together[0] == fresh.finish([fresh.add(asked[0])])[0]


def test_what_is_chosen_answers_where_nothing_is_named() -> None:
    model = decoder()
    asked = [Request(PROMPTS[0], GREEDY, 6), Request(PROMPTS[0], GREEDY, 6, adapter="base")]
    choose(model, "small", "scales")
    engine = Engine(model)
    both, base = engine.finish([engine.add(request) for request in asked])
    expected = model.head(model.body(torch.tensor([PROMPTS[0]])))[0, -1].argmax()
    assert both[0].ids[0] == expected
    choose(model)
    assert base[0].ids[0] == model.head(model.body(torch.tensor([PROMPTS[0]])))[0, -1].argmax()
    with refused('"nobody"'):
        engine.add(Request(PROMPTS[0], adapter="nobody"))
