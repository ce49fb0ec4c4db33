"""The `openai` client's journeys, and what the engine writes in this process."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from langwright.inference.engine import Engine
from langwright.inference.prompts import prompt_ids
from langwright.inference.request import Completion, Request
from langwright.inference.sampling import Sampling
from langwright.pipelines.opening import Opening
from langwright.serving.served import open_model
from langwright.text.chat_template import own_template
from serving.conftest import Started  # type: ignore[import-not-found]

PROMPT = "One cat ate a tuna"
SETTINGS: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.3, "frequency_penalty": 0.2}


@pytest.fixture(scope="session")
def engine(talker: Path) -> Engine:
    return Engine(*Opening(device="cpu").open(talker), batch=4, longest=256)


def written(engine: Engine, prompt: str | list[int], **asked: Any) -> list[Completion]:
    return engine.finish([engine.add(Request(prompt, **asked))])[0]


def test_completion(client: openai.OpenAI, engine: Engine) -> None:
    sampling = Sampling(top_k=30, repetition_penalty=1.1, seed=5, **SETTINGS)
    expected = written(engine, PROMPT, sampling=sampling, max_new_tokens=20, n=3, logit_bias={65: 3.0})
    answer = client.completions.create(
        model="talker", prompt=PROMPT, max_tokens=20, seed=5, n=3, logit_bias={"65": 3}, **SETTINGS,
        extra_body={"top_k": 30, "repetition_penalty": 1.1},
    )  # fmt: skip
    assert [choice.text for choice in answer.choices] == [one.text for one in expected]
    assert [choice.finish_reason for choice in answer.choices] == [
        {"end": "stop"}.get(one.reason, one.reason) for one in expected
    ]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(len(one.ids) for one in expected)
    assert answer.usage.prompt_tokens == 1 + len(PROMPT)  # bos before it


def test_chat_and_its_stream(client: openai.OpenAI, engine: Engine) -> None:
    """What is streamed is what is said at once; the usage comes last, if asked for."""
    messages: Any = [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": [{"type": "text", "text": "Hm?"}]},
    ]
    assert engine.tokenizer is not None
    template = own_template(engine.tokenizer, "x")
    assert template is not None
    ids = template.prompt_ids([messages[0], {"role": "user", "content": "Hm?"}])
    (expected,) = written(engine, ids, sampling=Sampling(seed=7), max_new_tokens=24)
    asked: dict[str, Any] = {"model": "talker", "messages": messages, "seed": 7, "max_tokens": 24}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == expected.text
    assert whole.usage is not None
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected.text
    assert chunks[0].choices[0].delta.model_dump(exclude_unset=True) == {"role": "assistant", "content": ""}
    assert [c.choices[0].delta.role for c in chunks[1:] if c.choices] == [None] * (len(chunks) - 2)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump()
    assert whole.usage.prompt_tokens == len(ids)
    assert whole.usage.completion_tokens == 24


def test_streams_of_several_texts_and_prompts(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "talker", "prompt": [PROMPT, "ABC"], "n": 2, "max_tokens": 15, "seed": 3}
    whole = client.completions.create(**asked, logprobs=2)
    texts, tokens, probs = [""] * 4, [[] for _ in range(4)], [[] for _ in range(4)]  # type: ignore[var-annotated]
    for chunk in client.completions.create(**asked, logprobs=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            tokens[choice.index] += choice.logprobs.tokens if choice.logprobs else []
            probs[choice.index] += choice.logprobs.token_logprobs if choice.logprobs else []
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices if choice.logprobs]
    for streamed, choice in zip(probs, whole.choices, strict=True):
        assert streamed == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)  # type: ignore[union-attr]
    assert texts[0] != texts[1]


def test_without_a_seed_texts_differ_and_with_one_they_do_not(client: openai.OpenAI) -> None:
    def text(**asked: Any) -> str:
        return client.completions.create(model="talker", prompt=PROMPT, max_tokens=12, **asked).choices[0].text

    assert text() != text()
    assert text(seed=1) == text(seed=1)
    assert text(temperature=0) == text(temperature=0)


def test_logprobs_of_both_forms_and_echo(client: openai.OpenAI, engine: Engine) -> None:
    (expected,) = written(
        engine, PROMPT, sampling=Sampling(temperature=0), max_new_tokens=5, logprobs=3, prompt_logprobs=3
    )
    answer = client.completions.create(
        model="talker", prompt=PROMPT, max_tokens=5, temperature=0, logprobs=3, echo=True
    ).choices[0]
    assert answer.text == PROMPT + expected.text
    assert answer.logprobs is not None
    assert expected.prompt_logprobs is not None
    assert expected.logprobs is not None
    told = [m.logprob for m in (*expected.prompt_logprobs, *expected.logprobs)]
    assert answer.logprobs.token_logprobs == pytest.approx([None, *told], abs=1e-4)
    count = 1 + len(PROMPT)  # bos before it
    assert answer.logprobs.tokens[1:count] == list(PROMPT)  # type: ignore[index]
    assert answer.logprobs.text_offset[1:count] == list(range(len(PROMPT)))  # type: ignore[index]
    scored = client.completions.create(model="talker", prompt=PROMPT, max_tokens=0, logprobs=3, echo=True)
    assert scored.choices[0].text == PROMPT
    assert scored.choices[0].logprobs.token_logprobs == answer.logprobs.token_logprobs[:count]  # type: ignore[index,union-attr]
    assert scored.usage.completion_tokens == 0  # type: ignore[union-attr]
    chat = client.chat.completions.create(
        model="talker", messages=[{"role": "user", "content": "A"}], max_tokens=4, logprobs=True, top_logprobs=2, seed=1
    )
    rows = chat.choices[0].logprobs.content  # type: ignore[union-attr]
    assert rows is not None
    assert len(rows) == chat.usage.completion_tokens  # type: ignore[union-attr]
    assert all(len(row.top_logprobs) == 2 for row in rows)
    spelt = b"".join(bytes(row.bytes or []) for row in rows)
    assert spelt.decode("utf-8", "replace") == chat.choices[0].message.content


def test_stop_and_best_of(client: openai.OpenAI, engine: Engine) -> None:
    (free,) = written(engine, PROMPT, sampling=Sampling(temperature=0), max_new_tokens=30)
    stop = free.text[5:8]
    answer = client.completions.create(model="talker", prompt=PROMPT, max_tokens=30, temperature=0, stop=[stop, "\0\0"])
    assert answer.choices[0].text == free.text[: free.text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    best = written(engine, PROMPT, sampling=Sampling(seed=2), max_new_tokens=6, best_of=4)[0]
    told = client.completions.create(model="talker", prompt=PROMPT, max_tokens=6, seed=2, best_of=4)
    assert told.choices[0].text == best.text
    assert told.usage.completion_tokens == 24  # type: ignore[union-attr]


SCHEMA = {
    "type": "object", "properties": {"name": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "age": {"enum": [1, 2]}},
    "required": ["name", "age"], "additionalProperties": False,
}  # fmt: skip


def test_json_and_other_forms(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(
        model="talker", messages=[{"role": "user", "content": "Who?"}], response_format=form, max_tokens=60, seed=4
    ).choices[0]
    value = json.loads(answer.message.content or "")
    assert value.keys() == {"name", "age"}
    assert answer.finish_reason == "stop"
    free = client.completions.create(
        model="talker", prompt="", max_tokens=80, seed=4, extra_body={"response_format": {"type": "json_object"}}
    )
    assert free.choices[0].text.startswith("{")
    for form, expected in (
        ({"regex": "[ab]{3}"}, "aaa aab aba abb baa bab bba bbb"),
        ({"choice": ["yes", "no"]}, "yes no"),
    ):
        made = client.completions.create(
            model="talker", prompt="x", max_tokens=9, seed=1, extra_body={"structured_outputs": form}
        )
        assert made.choices[0].text in expected.split()


FUNCTION = {"name": "look_up", "description": "Look a word up.", "parameters": SCHEMA}
TOOLS: Any = [{"type": "function", "function": FUNCTION}, {"type": "function", "function": {"name": "wait"}}]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look_up"}}])
def test_forced_calls(client: openai.OpenAI, choice: Any) -> None:
    """Calls in the template's form, whose arguments fit their schema; streamed as whole."""
    asked: dict[str, Any] = {
        "model": "talker", "messages": [{"role": "user", "content": "Who?"}], "tools": TOOLS, "tool_choice": choice,
        "max_tokens": 200, "seed": 5, "parallel_tool_calls": False,
    }  # fmt: skip
    answer = client.chat.completions.create(**asked).choices[0]
    (call,) = answer.message.tool_calls or ()
    assert call.type == "function"
    names = {"look_up", "wait"} if choice == "required" else {"look_up"}
    assert call.function.name in names
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "wait" or arguments.keys() == {"name", "age"}
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    told = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert [(one.index, one.function.name, one.function.arguments) for one in told] == [  # type: ignore[union-attr]
        (0, call.function.name, call.function.arguments)
    ]
    assert chunks[-1].finish_reason == "tool_calls"
    followed = client.chat.completions.create(
        model="talker", max_tokens=3, tools=TOOLS,
        messages=[
            {"role": "user", "content": "Who?"}, answer.message.model_dump(exclude_none=True),  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": call.id, "content": "done"},
        ],
    )  # fmt: skip
    assert followed.choices[0].finish_reason in ("length", "stop")


def test_adapters_by_name(client: openai.OpenAI, talker: Path, tuned: Path) -> None:
    adapted = Engine(*Opening(device="cpu", adapter=tuned).open(talker), batch=4, longest=256)
    (expected,) = written(adapted, PROMPT, sampling=Sampling(temperature=0), max_new_tokens=10)
    texts = {
        name: client.completions.create(model=name, prompt=PROMPT, max_tokens=10, temperature=0).choices[0].text
        for name in ("talker", "tuned")
    }
    assert texts["tuned"] == expected.text != texts["talker"]
    rows = {row.id: row for row in client.models.list()}
    assert rows.keys() == {"talker", "tuned"}
    assert client.models.retrieve("tuned").id == "tuned"


def test_tokens(started: Started, engine: Engine) -> None:
    with httpx.Client(base_url=started.url) as http:
        told = http.post("/tokenize", json={"prompt": PROMPT}).json()
        assert told["tokens"] == prompt_ids(engine.tokenizer, PROMPT)  # type: ignore[arg-type]
        assert http.post("/detokenize", json={"tokens": told["tokens"][1:]}).json() == {"prompt": PROMPT}
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/ready").status_code == 200
        told = http.get("/metrics").text
    assert 'langwright_tokens_total{kind="written",model="talker"}' in told


def test_embeddings(bertha: Path) -> None:
    """Vectors as the model makes them, as floats and as the bytes that the client asks for by default."""
    server = Started(lambda: [open_model("bertha", bertha, Opening(device="cpu"), 2, 4)])
    model, tokenizer = Opening(device="cpu").open(bertha)
    texts = ["A cat", "A longer text about two dogs", "x"]
    expected = [model(torch.tensor([tokenizer.frame(text)[0]]))[0].tolist() for text in texts]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    for form in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="bertha", input=texts, **form)  # type: ignore[call-overload]
        for row, vector in zip(answer.data, expected, strict=True):
            assert row.embedding == pytest.approx(vector, abs=1e-5)
    assert answer.usage.prompt_tokens == sum(len(tokenizer.frame(text)[0]) for text in texts)
    for wrong, name in (({"input": "x" * 900}, "context"), ({"input": ""}, "input"), ({"input": [[]]}, "input")):
        told = httpx.post(f"{server.url}/v1/embeddings", json=wrong)
        assert told.status_code == 400
        assert name in told.json()["error"]["message"]
    told = httpx.post(f"{server.url}/v1/completions", json={"prompt": "a"})
    assert told.status_code == 400
    server.stop()


def test_lm_eval_scores_as_the_engine_does(started: Started, engine: Engine, talker: Path) -> None:
    pytest.importorskip("tenacity", reason="lm-eval's API models need lm-eval[api]")
    api = pytest.importorskip("lm_eval.models.openai_completions")
    instance = pytest.importorskip("lm_eval.api.instance")
    remote = api.LocalCompletionsAPI(
        base_url=f"{started.url}/v1/completions", model="talker", tokenizer=str(talker), tokenized_requests=True,
        batch_size=4, max_length=256,
    )  # fmt: skip
    pairs = [("One cat", " ate a tuna."), ("A dog", " ran"), ("Two", " and two are four"), ("x", "y")]
    asked = [instance.Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    scored = remote.loglikelihood(asked, disable_tqdm=True)
    for (context, rest), (total, greedy) in zip(pairs, scored, strict=True):
        whole, before = (remote.tok_encode(text) for text in (context + rest, context))
        (done,) = written(engine, whole, sampling=Sampling(temperature=0), max_new_tokens=1, prompt_logprobs=1)
        measured = (done.prompt_logprobs or [])[len(before) - 1 :]
        assert total == pytest.approx(sum(one.logprob for one in measured), abs=1e-3)
        assert greedy == all(one.token == one.top[0][0] for one in measured)
