"""Instructions mined from source, and the answers of a base model and of its adapter."""

import json
from pathlib import Path

import pytest

from langwright.adaptation.folder import load_model, save_adapter
from langwright.adaptation.methods.lora import LoRA
from langwright.base.errors import UserError
from langwright.baselines.parsing import function_heads
from langwright.commands._demo import compare_answers, is_documented, mine, write_instructions
from langwright.corpora.conversations import open_chats
from langwright.corpora.document import Document
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


def test_both_models_answer_what_fits(untrained: Path, tmp_path: Path) -> None:
    set_up_chat(raw_bytes(), "zephyr", may_grow=False, where="x").tokenizer.save(tmp_path)
    model = load_model(untrained)
    LoRA(rank=2).attach(model, seed=0)
    save_adapter(model, tmp_path, base=untrained)
    assert compare_answers(untrained, tmp_path, function_heads(SOURCE)) == {"asked": 2, "before": 0, "after": 0}
