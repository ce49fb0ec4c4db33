"""Cascades and routers behind the server: what `Cascade.answer` says in this process, and what it cost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from langwright.base.errors import UserError
from langwright.models.families.bert import BertConfig
from langwright.models.folder import new_model, save_model
from langwright.pipelines.cascade import Asking, Cascade, Costs, Settings, open_cascade, save_cascade
from langwright.pipelines.opening import Opening
from langwright.pipelines.scorers import Scorer
from langwright.serving.composed import open_served_cascade
from langwright.serving.served import Served, open_model
from langwright.text.training import raw_bytes
from serving.conftest import BATCH, QUEUE, Started  # type: ignore[import-not-found]

CPU = Opening(device="cpu")
PROMPTS = ["One cat", "Two dogs ran", "x"]


@pytest.fixture(scope="module")
def larger(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model by another name, with a shorter context."""
    model, tokenizer = CPU.open(talker)
    folder = tmp_path_factory.mktemp("larger") / "larger"
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def folders(talker: Path, larger: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Cascades: one that is never sure, one that is by turns, one that compares drawn answers; and a router."""
    root = tmp_path_factory.mktemp("cascades")
    models, costs = (str(talker), str(larger)), Costs("price", ("1:2", "10:20"))
    unsure = Settings("cascade", models, Scorer(), costs, Asking(6, ("\n",)), (0, 1), (2.0,), (1, 1))
    scored = Cascade(unsure, CPU.open)
    found = sorted(scored.answer(prompt).stages[0].score or 0 for prompt in PROMPTS)
    settings = {
        "unsure": unsure,
        "torn": Settings("cascade", models, Scorer(), costs, Asking(6), (0, 1), (found[1],), (1, 1)),
        "agreed": Settings("cascade", models, Scorer("agreement", samples=2), costs, Asking(6), (0, 1), (2.0,), (1, 1)),
        "sent": Settings("router", models, Scorer(), Costs("seconds"), Asking(6), mean_costs=(1, 1)),
    }
    tokenizer = raw_bytes()
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
        intermediate_size=24, max_position_embeddings=64,
    )  # fmt: skip
    save_model(new_model("bert", config, seed=1, head="sequence", labels=["0", "1"]), tokenizer, root / "c")
    for name, one in settings.items():
        save_cascade(root / name, one)
    (root / "c").rename(root / "sent/classifier")
    return {name: root / name for name in settings}


@pytest.fixture(scope="module")
def server(talker: Path, folders: dict[str, Path]) -> Iterator[Started]:
    def load() -> list[Any]:
        opened: dict[Path, Served] = {}

        def part(folder: Path, name: str) -> Served:
            if folder not in opened:
                opened[folder] = open_model(name, folder, CPU, BATCH, QUEUE, longest=256)
            return opened[folder]

        base = part(talker.resolve(), "talker")
        return [base, *(open_served_cascade(name, folder, CPU, part) for name, folder in folders.items())]

    started = Started(load)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(server: Started) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=30)


def test_models_are_listed_by_their_kind(client: openai.OpenAI) -> None:
    listed = {one.id: one for one in client.models.list()}
    assert list(listed) == ["talker", "cascade:unsure", "cascade:torn", "cascade:agreed", "router:sent"]
    assert listed["router:sent"].task == "router"  # type: ignore[attr-defined]
    assert listed["router:sent"].max_model_len == 1024  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["cascade:unsure", "cascade:torn", "cascade:agreed", "router:sent"])
def test_answers_are_those_of_the_pipeline(client: openai.OpenAI, folders: dict[str, Path], name: str) -> None:
    made = open_cascade(folders[name.partition(":")[2]], CPU.open)
    wanted = [made.answer(prompt) for prompt in PROMPTS]
    told = client.completions.create(model=name, prompt=PROMPTS, temperature=0, n=1)
    assert told.usage is not None
    spent = [(stage.answer.read, stage.answer.written) for reply in wanted for stage in reply.stages]
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == tuple(map(sum, zip(*spent, strict=True)))
    for choice, reply in zip(told.choices, wanted, strict=True):
        last = reply.stages[-1]
        assert choice.text == last.answer.text
        assert choice.finish_reason == {"end": "stop"}.get(last.answer.reason, last.answer.reason)
        row: dict[str, Any] = choice.cascade  # type: ignore[attr-defined]
        assert (row["model"], row["stage"], row["unit"]) == (
            Path(last.model).name,
            len(reply.stages),
            made.settings.costs.cost,
        )
        for stage, one in zip(row["stages"], reply.stages, strict=True):
            assert stage["score"] == (None if one.score is None else pytest.approx(one.score, rel=1e-4))
            assert (stage["tokens_read"], stage["tokens_written"]) == (one.answer.read, one.answer.written)
            assert stage["price"] == pytest.approx(one.answer.price)
            assert 0 < stage["seconds"] < 30
        assert row["cost"] == pytest.approx(sum(stage["cost"] for stage in row["stages"]))
    if name == "cascade:torn":
        assert {choice.cascade["stage"] for choice in told.choices} == {1, 2}  # type: ignore[attr-defined]


def test_a_conversation_and_streams(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Who?"}],
        "max_completion_tokens": 5,
        "temperature": 0,
    }
    alone = client.chat.completions.create(model="talker", stop="\n", **asked)
    whole = client.chat.completions.create(model="cascade:unsure", seed=3, **asked)
    assert whole.choices[0].message.content == alone.choices[0].message.content
    assert whole.usage is not None
    assert alone.usage is not None
    assert whole.usage.prompt_tokens == 2 * alone.usage.prompt_tokens
    chunks = list(
        client.chat.completions.create(
            model="cascade:unsure", **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == alone.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump()
    last = chunks[-2].choices[0]
    assert last.finish_reason == whole.choices[0].finish_reason
    assert len(last.cascade["stages"]) == 2  # type: ignore[attr-defined]
    routed = list(
        client.completions.create(model="router:sent", prompt="x", stop=["a", "b"], max_tokens=4, stream=True)
    )
    assert routed[-1].choices[0].finish_reason in ("length", "stop")


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("temperature", {"temperature": 1}), ("temperature", {"temperature": 0.5}), ("n", {"n": 2}),
    ("top_p", {"top_p": 0.5}), ("logprobs", {"logprobs": 1}), ("echo", {"echo": True}),
    ("best_of", {"best_of": 2}), ("logit_bias", {"logit_bias": {"65": 3}}),
    ("presence_penalty", {"presence_penalty": 1}), ("response_format", {"response_format": {"type": "json_object"}}),
    ("structured_outputs", {"structured_outputs": {"regex": "a"}}), ("prompt", {"prompt": [1, 2]}),
    ("prompt", {"prompt": [[1], [2]]}), ("prompt", {"prompt": ["a"] * 65}), ("does not fit", {"prompt": "a" * 3000}),
    ("characters", {"prompt": "a" * 300_000}), ("limit", {"limit": 3}), ("cascade", {"cascade": {}}),
]  # fmt: skip


def test_hostile_bodies(server: Started) -> None:
    """What several models cannot keep to is refused by its name, and nothing of it is left."""
    with httpx.Client(base_url=server.url, timeout=30) as http:
        for name, more in HOSTILE:
            answer = http.post("/v1/completions", json={"model": "cascade:unsure", "prompt": "a", **more})
            assert answer.status_code == 400, more
            assert name in answer.json()["error"]["message"], (name, answer.text)
        tools = [{"type": "function", "function": {"name": "f"}}]
        for name, more in (("tools", {"tools": tools}), ("top_logprobs", {"logprobs": True, "top_logprobs": 2})):
            body = {"model": "router:sent", "messages": [{"role": "user", "content": "a"}], **more}
            answer = http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 400
            assert name.removeprefix("top_") in answer.json()["error"]["message"]
        for path, more in (
            ("/v1/embeddings", {"input": "a"}), ("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]}),
        ):  # fmt: skip
            answer = http.post(path, json={"model": "router:sent", **more})
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].startswith("model")
        body = {"model": "cascade:nowhere", "prompt": "a"}
        assert http.post("/v1/completions", json=body).status_code == 404
        assert http.post("/v1/completions", json={**body, "model": "cascade:agreed"}).status_code == 200
        told = http.get("/metrics").text
        assert 'langwright_open_texts{model="talker"} 0.0' in told
        assert 'langwright_texts_total{model="cascade:agreed",reason="length"}' in told


def test_who_leaves_has_every_stage_broken_off(server: Started, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).completions.create(model="cascade:unsure", prompt=["a"] * 60, max_tokens=240)
    client.completions.create(model="cascade:unsure", prompt="a")
    with httpx.Client(base_url=server.url, timeout=30) as http:
        assert 'langwright_open_texts{model="talker"} 0.0' in http.get("/metrics").text


def test_a_broken_folder_is_refused(folders: dict[str, Path], bertha: Path, tmp_path: Path) -> None:
    settings = open_cascade(folders["unsure"], CPU.open).settings
    save_cascade(tmp_path / "vectors", Settings(**{**vars(settings), "models": (str(bertha),) * 2}))
    with pytest.raises(UserError, match="bertha"):
        open_served_cascade("x", tmp_path / "vectors", CPU, lambda path, name: open_model(name, path, CPU, 1, 1))
