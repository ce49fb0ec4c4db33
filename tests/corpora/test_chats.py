"""Conversations in every format, and what is told of rows that are none."""

import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from langwright.base.errors import UserError
from langwright.corpora.conversations import Chat, open_chats, read_chat
from langwright.corpora.rows import Row, read_rows

ASKED, SAID = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
SYSTEM = {"role": "system", "content": "S"}


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
        ({"prompt": "x", "messages": [ASKED, SAID]}, [ASKED, SAID], 0),
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


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text": "a"}, r'no conversation in the fields "text"; needed are messages'),
        ({"messages": [ASKED]}, "without an assistant turn"),
        ({"prompt": [ASKED, SAID], "completion": [ASKED]}, "without an assistant turn"),
        ({"messages": []}, "without an assistant turn"),
        ({"messages": [{"role": "cat", "content": "a"}]}, 'message 1 has the role "cat"; known are system, user'),
        ({"messages": [{"role": "user"}]}, 'the "content" of message 1 is NoneType'),
        ({"messages": [ASKED, "A"]}, "message 2 must be an object"),
        ({"messages": "Q"}, '"messages" must be a list'),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, SAID]}, "parts that are no text"),
        ({"conversations": [{"from": "cat", "value": "a"}]}, 'turn 1 is from "cat"; known are system, human'),
        ({"conversations": [{"value": "a"}]}, 'turn 1 must be an object with "from"'),
        ({"instruction": 3, "output": "A"}, 'the field "instruction" is int'),
        ({"instruction": "Q", "output": "A", "history": [["Q"]]}, '"history" must be a list of pairs'),
        ({"prompt": "Q", "completion": None}, 'the field "completion" is NoneType'),
        ({"messages": [ASKED, {**SAID, "tool_calls": [{}]}]}, "tool call without a function's"),
        ({"messages": [ASKED, SAID], "tools": "x"}, '"tools" must be a list'),
    ],
)
def test_what_is_wrong_names_file_and_row(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        chat(**values)
    assert str(error.value).startswith("file.jsonl:3: ")


def test_rows_of_every_kind_of_file_are_equal(tmp_path: Path) -> None:
    rows = [{"instruction": f"Q{i},\n\t", "output": '"A"'} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "b.json.xz").write_bytes(lzma.compress(json.dumps(rows).encode()))
    for name, delimiter in (("c.csv", ","), ("d.tsv", "\t")):
        with open(tmp_path / name, "w", newline="") as file:
            table = csv.DictWriter(file, ["instruction", "output"], delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "e.parquet")
    for path in sorted(tmp_path.iterdir()):
        read = list(read_rows(str(path)))
        assert [row.values for row in read] == rows, path
        assert read[1].source.startswith(f"{path}:")
    assert len(list(read_rows(str(tmp_path)))) == 7 * 3
    assert len(list(read_rows(str(tmp_path / "[ab].json*")))) == 4 * 3


def test_nested_parquet_holds_messages(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": [ASKED, SAID]}]), tmp_path / "a.parquet")
    assert list(open_chats(str(tmp_path / "a.parquet")).items[0].messages) == [ASKED, SAID]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"a": 1}\n{"a"', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1: a row must be an object"),
        ("a.json", '{"a": 1}', "must be a JSON list of objects"),
        ("a.json", "[1]", "row 1: a row must be an object"),
        ("a.csv", "a,b\n1,2\n1\n", "a.csv:3: 1 cells under 2 columns"),
        ("a.csv", 'a,b\n"1,2\n', "not a valid table"),
        ("a.parquet", "x", "not a whole Parquet file"),
        ("a.txt", "x", "unknown ending '.txt'"),
        ("a.jsonl.gz", "x", "damaged"),
    ],
)
def test_broken_files_are_named(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        list(read_rows(str(tmp_path / name)))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_chats(str(tmp_path / "a.jsonl"))
    with pytest.raises(UserError, match="no file of rows"):
        open_chats(str(tmp_path))
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match="there is no conversation in it"):
        open_chats(str(tmp_path / "a.jsonl"))


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
    with pytest.raises(UserError, match="leaves 0 of 1"):
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
