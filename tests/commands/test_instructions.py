"""Instructions mined from source, and the answers of a base model and of its adapter."""

import json
from pathlib import Path

import pytest

from langwright.adaptation.folder import save_adapter
from langwright.adaptation.methods.lora import LoRA
from langwright.base.errors import UserError
from langwright.baselines.parsing import function_heads
from langwright.commands._demo.instructions import compare_answers, is_documented, mine, write_instructions
from langwright.corpora.conversations import open_chats
from langwright.corpora.document import Document
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model, save_model
from langwright.text.chat_template import set_up_chat
from langwright.text.training import raw_bytes

SOURCE = '''
def double(x):
    """Twice x."""
    return 2 * x


def plain(x):
    return x


class Cat:
    def name(self):
        """Its name."""
        text = "cat"
        return text
'''


def test_documented_functions_become_conversations() -> None:
    first, second = mine([Document(SOURCE, "a.py")])
    assert first.messages[0]["content"] == ('Write the body of this function.\n\ndef double(x):\n    """Twice x."""')
    assert first.answer == "    return 2 * x"
    assert second.answer == '    text = "cat"\n    return text'
    assert [is_documented(f) for f in function_heads(SOURCE)] == [True, False, True]


def test_the_held_out_ones_are_written_last(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    split = write_instructions(path, [Document(SOURCE, "a")], [Document(SOURCE.replace("cat", "dog"), "b")])
    training, held_out = open_chats(str(path)).split(split)
    assert (len(training), len(held_out)) == (2, 2)
    assert "dog" in json.dumps([chat.record() for chat in held_out])
    assert "dog" not in json.dumps([chat.record() for chat in training])
    with pytest.raises(UserError, match="documented function"):
        write_instructions(path, [Document("x = 1", "a")], [])


def test_both_models_answer_what_fits(tmp_path: Path) -> None:
    setup = set_up_chat(raw_bytes(), "zephyr", may_grow=False, where="x")
    size = setup.tokenizer.vocab_size
    config = LlamaConfig(vocab_size=size, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
                         num_key_value_heads=1, intermediate_size=24, max_position_embeddings=230)  # fmt: skip
    model = new_model("llama", config)
    save_model(model, setup.tokenizer, tmp_path / "base")
    LoRA(rank=2).attach(model, seed=0)
    setup.tokenizer.save(tmp_path / "adapter")
    save_adapter(model, tmp_path / "adapter", base=tmp_path / "base")
    heads = function_heads(SOURCE)
    asked = compare_answers(tmp_path / "base", tmp_path / "adapter", heads)
    assert asked == {"asked": 2, "before": 0, "after": 0}
