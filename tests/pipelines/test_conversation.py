"""A conversation: what the model is given, what is forgotten, when an answer stops."""

import pytest
import torch

from langwright.base.errors import UserError
from langwright.inference.generate import complete
from langwright.inference.sampling import Sampling
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model
from langwright.models.model import Model
from langwright.pipelines.conversation import Conversation
from langwright.text.chat_template import ChatTemplate, set_up_chat
from langwright.text.tokenizer import CONTROL
from langwright.text.training import raw_bytes

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def setup() -> ChatTemplate:
    return set_up_chat(raw_bytes(), "chatml", may_grow=True, where="x")


def model(size: int, context: int = 120) -> Model:
    return new_model(
        "llama",
        LlamaConfig(vocab_size=size, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
                    num_key_value_heads=1, intermediate_size=24, max_position_embeddings=context),
    ).eval()  # fmt: skip


@pytest.fixture
def conversation(setup: ChatTemplate) -> Conversation:
    return Conversation(model(setup.tokenizer.vocab_size), setup, room=8)


def saying(conversation: Conversation, text: str) -> None:
    """Make the model say this text again and again, whatever it reads, by a head that looks at the last token."""
    ids, _ = conversation.template.tokenizer.encode_marked(text.replace("<|", f"{CONTROL}<|"))
    size = conversation.model.vocabulary
    after = torch.zeros(size, size)
    newline = conversation.template.tokenizer.encode("\n")[0]
    for now, then in zip([newline, *ids], ids, strict=False):
        after[now, then] = 50.0

    class Table(torch.nn.Module):
        adapter, rope, cache = None, None, "full"

        def forward(self, ids: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
            return torch.nn.functional.one_hot(ids, size).float()

        def own_slots(self) -> dict[int, object]:
            return {}

    body = Table()
    body.blocks, body.embed = torch.nn.ModuleList(), conversation.model.body.embed  # type: ignore[assignment]
    conversation.model.body = body  # type: ignore[assignment]
    conversation.model.head.weight = torch.nn.Parameter(after.T.contiguous())


def test_an_answer_ends_at_each_of_the_stop_tokens(conversation: Conversation) -> None:
    for stop in ("<|im_end|>", "<|eos|>"):
        conversation.reset()
        saying(conversation, f"yes{stop}")
        heard: list[str] = []
        done, forgotten = conversation.ask("Is it?", GREEDY, heard.append)
        assert (done.text, done.reason, forgotten) == ("yes", "end", 0)
        assert "".join(heard) == "yes"
        assert conversation.messages[-1] == {"role": "assistant", "content": "yes"}


def test_the_answer_is_what_the_model_writes_after_the_rendered_history(conversation: Conversation) -> None:
    conversation.system = "S"
    conversation.ask("One?", GREEDY)
    first = conversation.messages[-1]["content"]
    history = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Two?"},
    ]
    rendered = conversation.template.marked(history, None, add_generation_prompt=True)
    ids = conversation.template.tokenizer.encode_marked(rendered)[0]
    expected = complete(conversation.model, conversation.template.tokenizer, [ids], GREEDY, 8)[0]
    assert conversation.ask("Two?", GREEDY)[0] == expected


def test_the_oldest_turns_are_forgotten_and_the_system_stays(conversation: Conversation) -> None:
    conversation.system = "Be a cat."
    saying(conversation, "no<|im_end|>")
    forgotten = [conversation.ask(f"Number {n}?", GREEDY)[1] for n in range(5)]
    assert forgotten[0] == 0
    assert sum(forgotten) == 10 - len(conversation.messages)
    assert sum(forgotten) > 0
    assert all(count % 2 == 0 for count in forgotten)
    assert conversation.messages[0]["role"] == "user"
    assert conversation.messages[-2]["content"] == "Number 4?"
    conversation.reset()
    assert not conversation.messages
    assert conversation.system == "Be a cat."


def test_a_message_that_cannot_fit_is_refused_and_not_kept(conversation: Conversation) -> None:
    with pytest.raises(UserError, match="do not fit the model's context of 120"):
        conversation.ask("x" * 200, GREEDY)
    assert not conversation.messages


def test_what_is_broken_off_stays_as_far_as_it_came(conversation: Conversation) -> None:
    saying(conversation, "yes indo<|im_end|>")

    def interrupt(text: str) -> None:
        if text == "s":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.ask("Is it?", GREEDY, interrupt)
    assert conversation.messages[-1] == {"role": "assistant", "content": "yes"}
