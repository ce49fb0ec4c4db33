"""Conversations as batches: what weighs, what is cut, and that packing changes nothing but speed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from langwright.corpora.conversations import Chat
from langwright.data.conversations import ChatExample, answer_bytes, chat_rows, fit_examples
from langwright.data.order import Layout
from langwright.data.supply import Batches, evaluation_batches
from langwright.models.families.bloom import BloomConfig
from langwright.models.families.gpt2 import GPT2Config
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.objectives.batch import TokenBatch
from langwright.objectives.language import TokenPrediction
from langwright.text.chat_template import ChatTemplate, set_up_chat
from langwright.text.tokenizer import Tokenizer
from langwright.text.training import raw_bytes
from refusals import refused


@pytest.fixture(scope="module")
def setup() -> ChatTemplate:
    return set_up_chat(raw_bytes(), "chatml", may_grow=True, where="x")


def chat(*texts: str, source: str = "f:1", first: int = 0) -> Chat:
    roles = ("user", "assistant")
    return Chat(tuple({"role": roles[i % 2], "content": t} for i, t in enumerate(texts)), source, None, first)


def examples(lengths: list[int], seed: int = 0, vocabulary: int = 50) -> list[ChatExample]:
    rng = np.random.default_rng(seed)
    made = []
    for n in lengths:
        trained = rng.random(n + 1) < 0.5
        trained[-1] = True
        made.append(ChatExample(rng.integers(0, vocabulary, n + 1).astype(np.int32), trained, f"f:{n}"))
    return made


def predicted(batch: TokenBatch, tokenizer: Tokenizer, row: int = 0) -> str:
    return tokenizer.decode(batch.targets[row][batch.weights[row] > 0].tolist())


def test_only_the_assistants_words_and_the_stop_weigh(setup: ChatTemplate) -> None:
    marked = Chat(({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0},
                   {"role": "user", "content": "R"}, {"role": "assistant", "content": "B"}), "f:1")  # fmt: skip
    for said, words in (
        (marked, "B<|im_end|>"),
        (chat("Q", "A", "R", "B", first=2), "B<|im_end|>"),
        (chat("Q", "A one", "R", "B"), "A one<|im_end|>B<|im_end|>"),
    ):
        fitted, counts = fit_examples([said], setup, 200)
        (batch,) = evaluation_batches(chat_rows(fitted, 200), 1)
        assert predicted(batch, setup.tokenizer) == words
    assert batch.positions is None
    assert batch.ids.shape == (1, 56)
    assert counts["assistant_tokens"] == 8
    assert answer_bytes(fitted, setup.tokenizer) == 6


def test_what_is_cut_off_is_counted(setup: ChatTemplate) -> None:
    chats = [chat("Q", "A"), chat("Q", "A" * 40, source="f:2"), chat("Q" * 60, "A", source="f:3")]
    whole, counts = fit_examples(chats, setup, 500)
    assert (counts["shortened"], counts["tokens_cut_off"], counts["left_out"]) == (0, 0, 0)
    fitted, counts = fit_examples(chats, setup, 40)
    assert (counts["shortened"], counts["left_out"]) == (2, 1)
    assert [e.inputs for e in fitted] == [whole[0].inputs, 40]
    assert counts["tokens_cut_off"] == sum(e.inputs - 40 for e in whole[1:])
    with refused("f:3", "40 tokens", "--context"):
        fit_examples(chats[2:], setup, 40)


def test_errors_name_file_and_row(setup: ChatTemplate) -> None:
    silent = ChatTemplate(
        "{% for m in messages %}{{ m['content'] }}{% generation %}{% endgeneration %}{% endfor %}",
        setup.tokenizer,
        "x",
    )
    with refused("f:1", "chat template"):
        fit_examples([chat("Q", "A")], silent, 50)
    strict = ChatTemplate("{{ raise_exception('no') }}", setup.tokenizer, "folder")
    with refused("f:1", "folder", "no"):
        fit_examples([chat("Q", "A")], strict, 50)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "bloom"])
@pytest.mark.parametrize("micro", [None, 1])
def test_packed_and_unpacked_losses_are_equal(family: str, micro: int | None) -> None:
    """Learned positions, RoPE, a window, and ALiBi; gradients too."""
    rows = examples([9, 5, 7, 3, 2, 12, 1])
    config = {
        "gpt2": GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2),
        "llama": LlamaConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, num_hidden_layers=2,
                             num_key_value_heads=1, intermediate_size=24, max_position_embeddings=16),
        "mistral": LlamaConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, num_hidden_layers=2,
                               num_key_value_heads=1, intermediate_size=24, max_position_embeddings=16,
                               sliding_window=4),
        "bloom": BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2),
    }[family]  # fmt: skip
    model = new_model(family, config, seed=3).eval()  # no dropout
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    packed = Batches(chat_rows(rows, 16, packing=True), Layout(3, 0))
    assert packed.windows == 3
    batches = [packed.batch(0)], list(evaluation_batches(chat_rows(rows, 16), 2))
    losses, gradients = [], []
    for several in batches:
        model.zero_grad()
        total = torch.zeros(())
        for batch in several:
            size = micro or batch.ids.shape[0]
            for start in range(0, batch.ids.shape[0], size):
                loss = TokenPrediction()({"model": model}, batch.rows(start, start + size))["tokens"]
                loss.backward()
                total = total + loss.detach()
        losses.append(float(total))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert sum(float(batch.weights.sum()) for batch in several) == sum(int(e.trained[1:].sum()) for e in rows)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)
    naive = [replace(batch, segments=None, positions=None) for batch in batches[0]]
    assert float(TokenPrediction()({"model": model}, naive[0])["tokens"].detach()) != pytest.approx(losses[1], rel=1e-4)


def test_a_batch_is_a_function_of_its_step() -> None:
    made = [
        Batches(chat_rows(examples([5] * 20), 16, p), Layout(4, 1, fixed=f))
        for p in (True, False)
        for f in (True, False)
    ]
    for batches in made:
        first = batches.batch(3)
        batches.batch(0)
        again = batches.batch(3)
        assert torch.equal(first.ids, again.ids)
        assert torch.equal(first.weights, again.weights)
    assert [batches.batch(0).ids.shape[1] for batches in made] == [16, 16, 16, 8]
    seen = [tuple(row) for step in range(5) for row in made[2].batch(step).samples[:, None].tolist()]
    assert len(set(seen)) == 20


def test_rows_are_as_wide_as_they_must_be() -> None:
    for lengths, context, fixed, width in (
        ([5, 70], 200, False, 72),
        ([5, 6], 200, False, 8),
        ([5, 6], 200, True, 200),
        ([5, 70], 70, False, 70),
    ):
        assert Batches(chat_rows(examples(lengths), context), Layout(2, 0, fixed)).batch(0).ids.shape[1] == width


def test_an_epoch_holds_every_example_once() -> None:
    rows = examples([3, 4, 5, 6, 7, 8, 9, 10])
    batches = Batches(chat_rows(rows, 16, packing=True), Layout(2, 5))
    steps = batches.windows // 2
    weight = sum(float(batches.batch(step).weights.sum()) for step in range(steps))
    assert batches.windows % 2 == 0
    assert weight == sum(int(e.trained[1:].sum()) for e in rows)
    assert batches.tokens_per_step == round(sum(e.inputs for e in rows) / batches.windows * 2)


def test_the_record_tells_apart_what_would_train_differently() -> None:
    rows = examples([5, 6, 7])
    usual = Batches(chat_rows(rows, 16), Layout(1, 0)).record()
    others = [
        Batches(chat_rows(rows, 16, packing=True), Layout(1, 0)),
        Batches(chat_rows(rows, 16), Layout(1, 1)),
        Batches(chat_rows(rows, 17), Layout(1, 0)),
        Batches(chat_rows(rows, 16), Layout(2, 0)),
        Batches(chat_rows([*rows[:2], replace(rows[2], trained=~rows[2].trained)], 16), Layout(1, 0)),
    ]
    assert all(other.record() != usual for other in others)


def test_evaluation_is_spread_evenly_over_what_is_held_out() -> None:
    rows = examples([5] * 10)
    batches = evaluation_batches(chat_rows(rows, 16), 2, limit=3)
    assert [n for batch in batches for n in batch.samples.tolist()] == [0, 3, 6]
