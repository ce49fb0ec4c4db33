"""Conversations in every format, and what is told of rows that are none."""

import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base.errors import UserError
from langwright.corpora.conversations import FIELDS, MARKS, Chat, open_chats, read_chat
from langwright.corpora.reading import Row

from ..refusals import refused

ASKED, SAID = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}
KEYS = ("role", "content", "from", "value", "text", "tool_calls", "function", "name", "arguments", *MARKS)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "[", "[1]", "{}", "Q"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
ROLE = st.sampled_from(["user", "assistant", "tool"]) | VALUES
TURN = st.fixed_dictionaries(
    {"role": ROLE, "content": st.just("Q") | VALUES},
    optional={"from": st.sampled_from(["human", "gpt", "function_call"]) | VALUES, "value": VALUES}
    | dict.fromkeys(KEYS[5:], VALUES),
)


def chat(**values: Any) -> Chat:
    return read_chat(Row(values, "file.jsonl:3"))


@pytest.mark.parametrize(
    ("values", "messages", "first"),
    [
        ({"messages": [SYSTEM, ASKED, SAID]}, [SYSTEM, ASKED, SAID], 0),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, [ASKED, SAID], 0),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"},
            [SYSTEM, ASKED, SAID],
            0,
        ),
        ({"conversations": [ASKED, SAID]}, [ASKED, SAID], 0),
        ({"instruction": "Q", "input": "", "output": "A"}, [ASKED, SAID], 0),
        (
            {"instruction": "Q", "input": "I", "output": "A"},
            [{"role": "user", "content": "Q\n\n### Input:\nI"}, SAID],
            0,
        ),
        (
            {"instruction": "Q", "output": "A", "system": "S", "history": [["Q", "A"]]},
            [SYSTEM, ASKED, SAID, ASKED, SAID],
            0,
        ),
        ({"prompt": "Q", "completion": "A"}, [ASKED, SAID], 1),
        ({"prompt": "[1]", "completion": "A"}, [{"role": "user", "content": "[1]"}, SAID], 1),
        ({"prompt": "Q", "response": "A"}, [ASKED, SAID], 1),
        ({"prompt": [ASKED, SAID, ASKED], "completion": [SAID]}, [ASKED, SAID, ASKED, SAID], 3),
        ({"prompt": "x", "messages": [ASKED, SAID], "system": 0, "input": 0}, [ASKED, SAID], 0),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, SAID]},
            [ASKED, SAID],
            0,
        ),
    ],
)
def test_each_format_becomes_messages(values: dict[str, Any], messages: list[Any], first: int) -> None:
    made = chat(**values)
    assert list(made.messages) == messages
    assert made.first == first
    again = read_chat(Row(json.loads(json.dumps(made.record())), "x"))
    assert again.key == made.key


def test_tools_and_calls_are_kept_as_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    made = chat(
        messages=[
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2"},
        ],
        tools='[{"name": "f"}]',
    )
    assert made.tools == ({"name": "f"},)
    assert made.messages[1]["content"] == ""
    assert made.messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    spoken = [{"from": "human", "value": "Q"}, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}]
    assert chat(conversations=spoken).messages[1]["tool_calls"] == [{"function": {"name": "f", "arguments": {}}}]


def test_prompt_and_answer_are_what_is_asked_and_what_is_learnt() -> None:
    made = chat(prompt=[SYSTEM, ASKED, SAID, ASKED], completion=[{"role": "assistant", "content": "B"}])
    assert made.prompt == "S\nQ\nA\nQ"
    assert made.answer == "B"


def test_text_that_happens_to_be_json_stays_text() -> None:
    asked = json.dumps([ASKED])
    made = chat(prompt=asked, completion=asked)
    assert [m["content"] for m in made.messages] == [asked, asked]
    made = chat(messages=[{"role": "user", "content": "[1]"}, {"role": "assistant", "content": "{}"}])
    assert [m["content"] for m in made.messages] == ["[1]", "{}"]


def test_several_calls_in_one_turn() -> None:
    calls = [{"name": "f", "arguments": {"a": None}}, {"name": "g", "arguments": {}}]
    made = chat(conversations=[{"from": "human", "value": "Q"}, {"from": "function_call", "value": json.dumps(calls)}])
    assert made.messages[1]["tool_calls"] == [{"function": call} for call in calls]


@pytest.mark.parametrize("mark", ["weight", "train", "loss_mask"])
@pytest.mark.parametrize("off", [0, False, 0.0])
def test_marked_messages_are_not_trained_on(mark: str, off: float) -> None:
    unmarked, on = {"role": "assistant", "content": "B"}, {**SAID, mark: 1}
    made = chat(messages=[ASKED, {**SAID, mark: off}, ASKED, unmarked, {**ASKED, mark: off}, on])
    assert made.answers == (3, 5)
    assert made.answer == "B\nA"
    assert read_chat(Row(made.record(), "x")).answers == (3, 5)
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", mark: off}, {"from": "gpt", "value": "B"}]
    assert chat(conversations=turns).answer == "B"
    for wrong in ([ASKED, {**SAID, mark: 0.5}], [ASKED, {**SAID, mark: "0"}], [{**ASKED, mark: 1}, SAID]):
        with refused("file.jsonl:3: message", mark):
            chat(messages=wrong)
    with refused("file.jsonl:3: "):
        chat(messages=[ASKED, {**SAID, mark: off}])


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"text": "a"}, "text"),
        ({"messages": [ASKED]}, "assistant"),
        ({"prompt": [ASKED, SAID], "completion": [ASKED]}, "assistant"),
        ({"messages": []}, "assistant"),
        ({"messages": [{"role": "cat", "content": "a"}]}, "message 1"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "message 1"),
        ({"messages": [{"role": "user"}]}, "message 1"),
        ({"messages": [ASKED, "A"]}, "message 2"),
        ({"messages": "Q"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, SAID]}, "message 1"),
        ({"conversations": [{"from": "cat", "value": "a"}]}, "turn 1"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "turn 1"),
        ({"conversations": [{"value": "a"}]}, "turn 1"),
        ({"conversations": [{"from": "human", "value": 1}]}, "message 1"),
        ({"instruction": 3, "output": "A"}, "instruction"),
        ({"instruction": "Q", "input": 0, "output": "A"}, "input"),
        ({"instruction": "Q", "output": "A", "history": [["Q"]]}, "history"),
        ({"prompt": "Q", "completion": None}, "message 2"),
        ({"messages": [ASKED, {**SAID, "tool_calls": [{}]}]}, "message 2"),
        ({"messages": [ASKED, {**SAID, "tool_calls": f"[{'9' * 5000}]"}]}, "digits"),
        ({"messages": [ASKED, SAID], "tools": "x"}, "tools"),
        ({"prompt": "Q", "completion": "\ud800"}, "\\ud800"),
    ],
)
def test_what_is_wrong_names_file_and_row(values: dict[str, Any], name: str) -> None:
    with refused("file.jsonl:3: ", name):
        chat(**values)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES | st.lists(TURN, max_size=3), min_size=1))
@settings(max_examples=300)
def test_any_row_is_a_conversation_or_one_line(values: dict[str, Any]) -> None:
    try:
        made = chat(**values)
    except UserError as error:
        assert str(error).startswith("file.jsonl:3: ")
        assert "\n" not in str(error)
    else:
        assert read_chat(Row(made.record(), "x")).key == made.key


def test_conversations_of_every_kind_of_file_are_equal(tmp_path: Path) -> None:
    rows = [{"instruction": f"Q{i},\n\t", "output": '"A"'} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "b.json.xz").write_bytes(lzma.compress(json.dumps(rows).encode()))
    for name, delimiter in (("c.csv", ","), ("d.tsv", "\t")):
        with open(tmp_path / name, "w", newline="") as file:
            table = csv.DictWriter(file, ["id", "instruction", "tools", "output"], delimiter=delimiter)
            table.writeheader()
            table.writerows({"id": "0", "tools": "", **row} for row in rows)
    write_parquet(tmp_path / "e.parquet", rows)
    expected = [chat(**row).key for row in rows]
    for path in sorted(tmp_path.iterdir()):
        items = open_chats(str(path)).items
        assert [item.key for item in items] == expected, path
        assert items[1].source.startswith(f"{path}:")
    assert len(open_chats(str(tmp_path)).items) == 7 * 3
    assert len(open_chats(str(tmp_path / "[ab].json*")).items) == 4 * 3


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_nested_parquet_holds_messages_without_the_nulls_of_its_schema(tmp_path: Path) -> None:
    calls = [{"role": "assistant", "tool_calls": [{"function": {"name": n, "arguments": {n: 1}}}]} for n in ("f", "g")]
    write_parquet(tmp_path / "a.parquet", [{"messages": [ASKED, call]} for call in calls])
    for item, call in zip(open_chats(str(tmp_path / "a.parquet")).items, calls, strict=True):
        assert list(item.messages) == [ASKED, {**call, "content": ""}]


def test_cells_of_tables_hold_lists_as_json(tmp_path: Path) -> None:
    rows = [{"messages": json.dumps([ASKED, SAID]), "tools": '[{"name": "f"}]'}]
    write_parquet(tmp_path / "a.parquet", rows)
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([rows[0].keys(), rows[0].values()])
    for item in open_chats(str(tmp_path / "a.*")).items:
        assert (list(item.messages), item.tools) == ([ASKED, SAID], ({"name": "f"},))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "folder").mkdir()
    for spec in ("a.jsonl", "folder", "x" * 5000, "a.txt", "empty.jsonl"):
        with refused(tmp_path / spec):
            open_chats(str(tmp_path / spec))


def write(path: Path, count: int) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Q{i}"}, SAID]} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_split_goes_by_content_or_by_order(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 200)
    chats = open_chats(str(tmp_path / "a.jsonl"))
    training, held_out = chats.split("10%")
    assert 8 <= len(held_out) <= 35
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.jsonl").write_text("".join(reversed(lines[50:])))
    moved = {c.key for c in open_chats(str(tmp_path / "b.jsonl")).split("10%")[1]}
    assert moved == {c.key for c in held_out} & {c.key for c in chats.items[50:]}
    training, held_out = chats.split("0.9")
    assert (len(training), [c.messages[0]["content"] for c in held_out[:1]]) == (180, ["Q180"])
    write(tmp_path / "c.jsonl", 1)
    with refused("c.jsonl", "0.5"):
        open_chats(str(tmp_path / "c.jsonl")).split("0.5")


def test_the_record_changes_with_the_content(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", 3)
    record = open_chats(str(tmp_path / "a.jsonl")).record()
    assert (record["documents"], record["bytes"], record["kind"]) == (3, 9, "chats")
    write(tmp_path / "a.jsonl", 4)
    assert open_chats(str(tmp_path / "a.jsonl")).record()["hash"] != record["hash"]


def test_who_says_nothing_is_silent() -> None:
    empty, call = {"role": "assistant", "content": " \n"}, {"function": {"name": "f", "arguments": {}}}
    for messages, first, silent in (
        ([ASKED, empty], 0, True),
        ([ASKED, empty, ASKED, empty], 0, True),
        ([ASKED, SAID, ASKED, empty], 0, False),
        ([ASKED, SAID, ASKED, empty], 2, True),
        ([ASKED, {**empty, "tool_calls": [call]}], 0, False),
        ([ASKED, {**empty, "reasoning_content": "Hm."}], 0, False),
        ([ASKED, {**empty, "name": "bob", "weight": 1}], 0, True),
    ):
        assert Chat(tuple(messages), "f:1", first=first).is_silent is silent
