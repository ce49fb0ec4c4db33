"""Preferences out of the formats that the world writes them in, and what is refused of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from langwright.corpora.preferences import Item, Judged, Preference, Preferences, Prompt, Ranking, open_preferences
from refusals import refused

USER, REPLY = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}
AGAIN = {"role": "user", "content": "Why?"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(folder: Path, *rows: Any, skip: bool = False) -> Preferences:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_preferences(str(folder / "rows.jsonl"), skip)


PAIR = Preference("Two and two is", " four", " five")
CHAT = Preference((USER, REPLY, AGAIN), "So.", "No.")
SHAPES: list[tuple[dict[str, Any], Item]] = [
    ({"prompt": "Two and two is", "chosen": " four", "rejected": " five", "margin": 0}, PAIR),
    ({"chosen": "Two and two is four", "rejected": "Two and two is five"}, PAIR),
    ({"chosen": "It is blue", "rejected": "It is black"}, Preference("It is", " blue", " black")),
    ({"chosen": "Really. A: yes", "rejected": "Really. A: yes sir"}, Preference("Really. A:", " yes", " yes sir")),
    ({"chosen": "Capital of France?\nParis", "rejected": "Capital of France?\nLondon"},
     Preference("Capital of France?", "\nParis", "\nLondon")),
    ({"chosen": "Capital of France? Paris", "rejected": "Capital of France?\nLondon"},
     Preference("Capital of France?", " Paris", "\nLondon")),
    ({"chosen": "法国的首都是巴黎。", "rejected": "法国的首都是伦敦。"},
     Preference("法国的首都是", "巴黎。", "伦敦。")),
    ({"prompt": "As JSON?", "chosen": '{"a": 1}', "rejected": '[{"a": 1}]'},
     Preference("As JSON?", '{"a": 1}', '[{"a": 1}]')),
    ({"prompt": '{"a": 1}', "chosen": "yes", "rejected": "no"}, Preference('{"a": 1}', "yes", "no")),
    ({"prompt": json.dumps([USER, REPLY, AGAIN]), "chosen": json.dumps([said("So.")]),
      "rejected": json.dumps({"from": "gpt", "value": "No."})}, CHAT),
    ({"prompt": "Why?", "answers": '["a", "b"]'}, Ranking("Why?", ("a", "b"))),
    ({"prompt": [USER, REPLY, AGAIN], "chosen": [said("So.")], "rejected": [said("No.")]}, CHAT),
    ({"chosen": [USER, REPLY, AGAIN, said("So.")], "rejected": [USER, REPLY, AGAIN, said("No.")]}, CHAT),
    ({"chosen": "\n\nHuman: Who?\n\nAssistant: Me.\n\nHuman: Why?\n\nAssistant: So.",
      "rejected": "\n\nHuman: Who?\n\nAssistant: Me.\n\nHuman: Why?\n\nAssistant: No."}, CHAT),
    ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."},
                        {"from": "human", "value": "Why?"}],
      "chosen": {"from": "gpt", "value": "So."}, "rejected": {"from": "gpt", "value": "No."}}, CHAT),
    ({"instruction": "Why?", "history": [["Who?", "Me."]], "output": "So.", "chosen": "So.", "rejected": "No."}, CHAT),
    ({"instruction": "Add.", "input": "2 2", "chosen": "4", "rejected": "5"},
     Preference(({"role": "user", "content": "Add.\n\n### Input:\n2 2"},), "4", "5")),
    ({"prompt": "Why?", "system": "Be kind.", "chosen": "So.", "rejected": "No.", "margin": 2},
     Preference(({"role": "system", "content": "Be kind."}, AGAIN), "So.", "No.", 2.0)),
    ({"prompt": "Why?", "answers": ["a", "b", "c"]}, Ranking("Why?", ("a", "b", "c"))),
    ({"prompt": "Why?", "completion": "So.", "label": True}, Judged("Why?", "So.", True)),
    ({"instruction": "Why?", "output": "So.", "kto_tag": "false"}, Judged((AGAIN,), "So.", False)),
    ({"messages": [AGAIN, said("So.")], "label": 1}, Judged((AGAIN,), "So.", True)),
    ({"prompt": "Why?"}, Prompt("Why?")),
    ({"question": "Why?", "answer": "So."}, Prompt("Why?", "So.")),
    ({"question": "6 * 7?", "answer": 42}, Prompt("6 * 7?", "42")),
    ({"messages": [USER, REPLY, AGAIN]}, Prompt((USER, REPLY, AGAIN))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "wanted"), SHAPES)
def test_every_shape_is_read_as_what_it_says(row: dict[str, Any], wanted: Item, tmp_path: Path) -> None:
    (found,) = read(tmp_path, row).items
    assert type(found) is type(wanted)
    assert found.content == wanted.content
    assert found.source == f"{tmp_path / 'rows.jsonl'}:1"


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, ["equal", "--skip"]),
        ({"prompt": "a", "chosen": " ", "rejected": "b"}, ["chosen", "--skip"]),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, ["prompt", "--skip"]),
        ({"chosen": "a", "rejected": "b"}, ["prompt", "--skip"]),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}, ["--skip"]),
        ({"chosen": "They went", "rejected": "Then"}, ["prompt", "--skip"]),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c", "rejected": "\n\nHuman: a\n\nAssistant: d"},
            ["--skip"],
        ),
        ({"prompt": "a", "answers": "[broken"}, ["answers"]),
        ({"prompt": "a", "answers": ["b", "c", "b"]}, ["answers", "--skip"]),
        ({"prompt": "a", "answers": ["b"]}, ["answers"]),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": -1}, ["margin", "-1"]),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, ["maybe"]),
        ({"prompt": "a", "label": True}, ["completion"]),
        ({"prompt": "a", "chosen": [AGAIN], "rejected": "c"}, ["chosen"]),
        ({"wish": "a", "better": "b", "worse": "c"}, ["wish", "prompt"]),
    ],
)
def test_what_cannot_be_learnt_is_named_by_file_and_row(row: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    with refused(f"{tmp_path / 'rows.jsonl'}:2", *names):
        read(tmp_path, {"prompt": "x", "chosen": "y", "rejected": "z"}, row)
    if "--skip" in names:
        assert len(read(tmp_path, {"prompt": "x", "chosen": "y", "rejected": "z"}, row, skip=True).items) == 1


def test_rows_become_what_a_method_learns_from(tmp_path: Path) -> None:
    rows = read(tmp_path, {"prompt": "a", "answers": ["1", "2", "3"]}, {"prompt": "b", "chosen": "4", "rejected": "5"})
    assert [(pair.chosen, pair.rejected) for pair in rows.pairs().items] == [
        ("1", "2"), ("1", "3"), ("2", "3"), ("4", "5")
    ]  # fmt: skip
    pairs = read(tmp_path, {"prompt": "b", "chosen": "4", "rejected": "5"})
    assert [(one.answer, one.good) for one in pairs.judged().items] == [("4", True), ("5", False)]
    judged = read(tmp_path, {"prompt": "b", "completion": "4", "label": 1})
    with refused("rows.jsonl:1", "chosen"):
        judged.pairs()
    assert [
        one.prompt for one in read(tmp_path, *[{"prompt": "b", "chosen": "4", "rejected": "5"}] * 2).prompts().items
    ] == ["b"]


def test_all_rows_of_a_prompt_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i // 3}", "chosen": f"{i}", "rejected": "x"} for i in range(60)]
    found = read(tmp_path, *rows)
    for split in ("30%", "0.71"):
        training, held_out = found.split(split)
        assert held_out
        assert not {item.prompt for item in training} & {item.prompt for item in held_out}
