"""Tiny models behind a server on a thread: a chat model with an adapter, and one that makes vectors."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from langwright.adaptation.attached import attached
from langwright.adaptation.folder import save_adapter
from langwright.adaptation.methods import METHODS
from langwright.models.families.bert import BertConfig
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model, save_model
from langwright.pipelines.opening import Opening
from langwright.serving.app import Service
from langwright.serving.process import listen, run
from langwright.serving.served import Served, open_adapter, open_model
from langwright.text.chat_template import set_up_chat
from langwright.text.training import raw_bytes
from oracles import perturb

BATCH, QUEUE = 8, 24
ENDLESS = {"260": -100, "1": -100}
"""A bias against the ends of a text."""


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaMA folder with raw bytes as tokens and the template chatml."""
    folder = tmp_path_factory.mktemp("served") / "talker"
    tokenizer = set_up_chat(raw_bytes(), "chatml", may_grow=True, where="x").tokenizer
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
        num_key_value_heads=1, intermediate_size=48, max_position_embeddings=1024,
    )  # fmt: skip
    model = new_model("llama", config, seed=1)
    perturb(model)
    save_model(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tuned(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA over it."""
    folder = tmp_path_factory.mktemp("served") / "tuned"
    model, _ = Opening(device="cpu").open(talker)
    METHODS["lora"]().attach(model, "default")
    with torch.no_grad():
        for parameter in attached(model).adapter("default").trained:
            parameter.normal_(generator=torch.Generator().manual_seed(2))
    save_adapter(model, folder, base=talker)
    return folder


@pytest.fixture(scope="session")
def bertha(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT folder that makes vectors of texts."""
    folder = tmp_path_factory.mktemp("served") / "bertha"
    tokenizer = raw_bytes()
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
        intermediate_size=24, max_position_embeddings=64,
    )  # fmt: skip
    model = new_model("bert", config, seed=1, head="embedding")
    save_model(model, tokenizer, folder)
    return folder


class Up:
    """A server on a thread."""

    def __init__(self, service: Any, load: Callable[[], Any] = lambda: None):
        self.service, self.url, ready = service, "", threading.Event()

        def up(url: str) -> None:
            self.url = url
            ready.set()

        def serve() -> None:
            self._loop = asyncio.new_event_loop()
            bound = listen("127.0.0.1", 0)
            self._task = self._loop.create_task(run(self.service, bound, load, up, drain=5))
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(60)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self.thread.join(20)
        assert not self.thread.is_alive()


class Started(Up):
    """A server of models on a thread."""

    def __init__(
        self,
        load: Callable[[], Sequence[Served]],
        keys: Sequence[str] = (),
        deadline: float = 60.0,
        page: bool = False,
    ):
        super().__init__(Service(keys, deadline, page), load)


def models(talker: Path, tuned: Path) -> list[Served]:
    base = open_model("talker", talker, Opening(device="cpu"), BATCH, QUEUE, longest=256)
    return [base, open_adapter("tuned", tuned, base, talker)]


@pytest.fixture(scope="session")
def started(talker: Path, tuned: Path) -> Iterator[Started]:
    server = Started(lambda: models(talker, tuned))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(started: Started) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{started.url}/v1", api_key="none", max_retries=0, timeout=30)
