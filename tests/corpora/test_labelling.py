"""What people are asked about, what they say, and the files that trainers read from it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langwright.corpora.conversations import open_chats
from langwright.corpora.judgements import LABELS, Judgement, Judgements, json_lines, training_files
from langwright.corpora.labelling import MOST_ANSWERS, open_items, sorted_out
from langwright.corpora.preferences import Judged, Preference, Ranking, open_preferences
from refusals import refused  # type: ignore[import-not-found]

PNG = b"\x89PNG\r\n\x1a\n"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who sings?"}]


def written(path: Path, *rows: Any) -> Path:
    path.write_text(json_lines(rows), "utf-8")
    return path


def test_rows(tmp_path: Path) -> None:
    """Prompts as texts and conversations, answers in each form; equal answers are one, with all their models."""
    rows = written(
        tmp_path / "rows.jsonl",
        {"prompt": "p", "answers": {"a": "x", "b": "y", "c": "x"}},
        {"prompt": CHAT, "answers": ["x", "y"]},
        {"messages": [*CHAT, {"role": "assistant", "content": "Bees."}]},
        {"prompt": "p", "completion": "x"},
        {"prompt": "p", "text": "x", "tokens": [1], "reason": "stop"},  # of generate --out; the same as before
        {"prompt": "p"},
        {"messages": CHAT},
    )
    first, second, third, fourth, fifth, sixth = open_items(str(rows))
    assert (first.prompt, first.answers, first.models) == ("p", ("x", "y"), (("a", "c"), ("b",)))
    assert (second.prompt, second.answers, second.models) == (tuple(CHAT), ("x", "y"), ((), ()))
    assert (third.prompt, third.answers) == (tuple(CHAT), ("Bees.",))
    assert (fourth.prompt, fourth.answers) == ("p", ("x",))
    assert [one.usual for one in (first, second, third, fourth, fifth, sixth)] == [
        "rank", "rank", "thumbs", "thumbs", "write", "write",
    ]  # fmt: skip
    assert sixth.prompt == tuple(CHAT)
    items = [first, fourth, fifth]
    assert [ask for _, ask in sorted_out(items, None).values()] == ["rank", "thumbs", "write"]
    assert [item.answers for item, _ in sorted_out(items, "thumbs").values()] == [("x", "y"), ("x",)]
    equal = open_items(str(written(rows, {"prompt": "p", "answers": ["x", "x"]})))
    assert equal[0].usual == "rank"  # but nobody can
    assert sorted_out(equal, None) == {}
    assert len(sorted_out(equal, "thumbs")) == 1
    written(rows, {"prompt": "new"}, {"answers": {"other": "x", "b": "y"}, "prompt": "p"})
    assert open_items(str(rows))[1].id == first.id  # names are not what an item is


def test_joined(tmp_path: Path) -> None:
    """What several models wrote for the same prompts; a prompt that one of them alone answered is left out."""
    written(tmp_path / "a.jsonl", {"prompt": "p", "text": "x"}, {"prompt": "q", "text": "y"})
    written(tmp_path / "b.jsonl", {"prompt": "r", "text": "x"}, {"prompt": "p", "text": "z"})
    (item,) = open_items(f"small={tmp_path}/a.jsonl,large={tmp_path}/b.jsonl")
    assert (item.prompt, item.answers, item.models) == ("p", ("x", "z"), (("small",), ("large",)))
    written(tmp_path / "c.jsonl", {"prompt": "s", "text": "x"})
    with refused("c.jsonl"):
        open_items(f"small={tmp_path}/a.jsonl,large={tmp_path}/c.jsonl")
    written(tmp_path / "c.jsonl", {"prompt": "p"})
    with refused("c.jsonl:1", "large"):
        open_items(f"small={tmp_path}/a.jsonl,large={tmp_path}/c.jsonl")


def test_media(tmp_path: Path) -> None:
    """A folder of pictures is what is asked about; rows name files of their folder, and a folder of frames."""
    folder = tmp_path / "photos"
    (folder / "clip").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "clip/2.png", "clip/1.png", "bees.wav", ".hidden.png"):
        (folder / name).write_bytes(PNG)
    written(folder / "rows.jsonl", {"video": "clip"}, {"image": "a.JPG", "prompt": "p", "answers": ["x", "y"]})
    found = [(item.media[0].kind, item.media[0].name, item.usual) for item in open_items(str(folder))]
    names = ("a.JPG", "b.png", "bees.wav", "clip/1.png", "clip/2.png")
    assert found == [("audio" if name == "bees.wav" else "image", name, "write") for name in names]
    frames, picture = open_items(str(folder / "rows.jsonl"))
    assert [file.name for file in frames.media[0].files] == ["1.png", "2.png"]
    assert (picture.prompt, picture.usual, picture.media[0].path) == ("p", "rank", folder / "a.JPG")
    (one,) = open_items(str(folder / "b.png"))
    assert one.id == open_items(str(folder))[1].id


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"image": "../secret.png"}, "image"),
        ({"image": "/etc/passwd"}, "image"),
        ({"image": "a/../../secret.png"}, "image"),
        ({"image": "link.png"}, "image"),
        ({"video": "linked"}, "video"),
        ({"image": "page.svg"}, ".svg"),
        ({"image": "none.png"}, "none.png"),
        ({"video": "empty"}, "empty"),
        ({"image": 3}, "image"),
        ({"image": "nul\0.png"}, "image"),
        ({"prompt": "p", "answers": "x"}, "answers"),
        ({"prompt": "p", "answers": [1]}, "answers"),
        ({"prompt": "p", "answers": [str(n) for n in range(MOST_ANSWERS + 1)]}, "answers"),
        ({"prompt": "", "answers": ["x", "y"]}, "prompt"),
        ({"answers": ["x", "y"]}, "prompt"),
        ({"prompt": 3}, '"prompt" is int'),
    ],
)
def test_refused(tmp_path: Path, row: dict[str, Any], named: str) -> None:
    """The file, the row and the field are named; no name leads out of the folder, by links neither."""
    folder = tmp_path / "data"
    (folder / "empty").mkdir(parents=True)
    (folder / "page.svg").write_text("<svg/>")
    (tmp_path / "outside").mkdir()
    for name in ("secret.png", "outside/1.png"):
        (tmp_path / name).write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path / "outside")
    rows = written(folder / "rows.jsonl", {"prompt": "p"}, row)
    with refused("rows.jsonl:2", named):
        open_items(str(rows))


def said(item: str, labeller: str, **more: Any) -> Judgement:
    """By default that the first of two answers is better."""
    usual = {
        "ask": "rank", "prompt": "p", "answers": ("x", "y"), "models": (("a",), ("b",)), "media": {},
        "order": (1, 0), "marks": (1, 2), "text": None, "seconds": 2.5, "time": "2026-01-01T00:00:00+00:00", "seed": 0,
    }  # fmt: skip
    return Judgement(item=item, labeller=labeller, **{**usual, **more})


def test_kept(tmp_path: Path) -> None:
    """All that was added is read back, the last word of each; a line that was cut off is written over, and no other."""
    judgements = Judgements(tmp_path)
    first, second = said("1", "anna"), said("1", "ben", prompt=tuple(CHAT), marks=None)
    for one in (first, second, replace(first, marks=(1, 1))):
        judgements.add(one)
    written_so_far = (tmp_path / LABELS).read_bytes()
    (tmp_path / LABELS).write_bytes(written_so_far + b'{"item": "2", "lab')
    again = Judgements(tmp_path)
    assert list(again) == list(judgements) == [replace(first, marks=(1, 1)), second]
    assert [one.skipped for one in again] == [False, True]
    assert again.find("1", "rank", "ben") == second
    assert again.find("1", "thumbs", "ben") is None
    again.add(said("2", "ben"))
    assert len(Judgements(tmp_path)._latest) == 3
    assert (tmp_path / LABELS).read_bytes().startswith(written_so_far)
    for broken in (
        b"{}\n",
        b"[]\n",
        b"\xff\n",
        b'{"item": 3}\n',
        json_lines([{**first.row(), "order": [0, 0]}]).encode(),
    ):
        (tmp_path / LABELS).write_bytes(written_so_far + broken)
        with refused(f"{LABELS}:4"):
            Judgements(tmp_path)
    for broken, line in ((b"\x93\x00 of something else", 1), (written_so_far + b"\r{}", 4)):
        (tmp_path / LABELS).write_bytes(broken)
        with refused(f"{LABELS}:{line}"):
            Judgements(tmp_path)
        assert (tmp_path / LABELS).read_bytes() == broken
    (tmp_path / LABELS).write_bytes(written_so_far.replace(b"\n", b"\r\n"))  # of an editor of Windows
    Judgements(tmp_path).add(said("2", "ben"))
    assert len(Judgements(tmp_path)._latest) == 3
    (tmp_path / LABELS).write_bytes(written_so_far[:-1].replace(b"\n", b"\r") + b"\n" + written_so_far)
    with refused(f"{LABELS}:1"):  # no line is passed over, and none behind it cut off
        Judgements(tmp_path)


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line on a full disk is taken back, and the next label stands where it should."""
    import os

    judgements, whole = Judgements(tmp_path), os.pwrite
    judgements.add(said("1", "anna"))
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:20], at))
    with pytest.raises(OSError, match="space"):
        judgements.add(said("2", "anna"))
    monkeypatch.undo()
    judgements.add(said("3", "anna"))
    assert [one.item for one in Judgements(tmp_path)] == ["1", "3"]


def test_training_files(tmp_path: Path) -> None:
    """By hand, and read back by the readers of the trainers."""
    chat: Any = {"prompt": tuple(CHAT)}
    three: Any = {"answers": ("x", "y", "z"), "models": ((), (), ()), "order": (0, 1, 2)}
    one: Any = {"answers": ("x",), "models": ((),), "order": (0,), "ask": "thumbs"}
    written_by: Any = {"answers": (), "models": (), "order": (), "marks": None, "ask": "write"}
    files = training_files([
        said("1", "anna"), said("1", "ben"), said("1", "carla", marks=(2, 1)),  # two of three
        said("2", "anna", prompt="q"), said("2", "ben", prompt="q", marks=(2, 1)),  # apart
        said("3", "anna", marks=(1, 3, 2), **three, **chat), said("3", "ben", marks=(2, 2, 1), **three, **chat),
        said("4", "anna", marks=(1, 2), answers=("x", " ")),  # an empty answer is no example
        said("5", "anna", marks=None),  # skipped
        said("6", "anna", marks=(1,), **one), said("7", "ben", marks=(0,), **{**one, **chat}),
        said("8", "anna", marks=(1,), **one), said("8", "ben", marks=(0,), **one),
        said("9", "anna", text="Bees.\n", **{**written_by, **chat}), said("9", "ben", text="I do.", **written_by),
        said("a", "anna", text="A bee.", **{**written_by, "prompt": "", "media": {"image": "/photos/bee.png"}}),
    ])  # fmt: skip
    assert files["preferences.jsonl"] == [
        {"prompt": "p", "chosen": "x", "rejected": "y"},
        {"prompt": tuple(CHAT), "chosen": "x", "rejected": "y"},  # sums 3, 5, 3
        {"prompt": tuple(CHAT), "chosen": "z", "rejected": "y"},
    ]
    assert files["rankings.jsonl"] == [
        {"prompt": "p", "answers": ["x", "y"]},
        {"prompt": tuple(CHAT), "answers": ["x", "y"]},
    ]
    assert files["captions.jsonl"] == [{"image": "/photos/bee.png", "text": "A bee."}]
    for name, rows in files.items():
        written(tmp_path / name, *rows)
    assert [replace(one, source="") for one in open_preferences(str(tmp_path / "preferences.jsonl")).items] == [
        Preference("p", "x", "y"), Preference(tuple(CHAT), "x", "y"), Preference(tuple(CHAT), "z", "y"),
    ]  # fmt: skip
    assert [replace(one, source="") for one in open_preferences(str(tmp_path / "rankings.jsonl")).items] == [
        Ranking("p", ("x", "y")), Ranking(tuple(CHAT), ("x", "y")),
    ]  # fmt: skip
    assert [replace(one, source="") for one in open_preferences(str(tmp_path / "thumbs.jsonl")).items] == [
        Judged("p", "x", True), Judged(tuple(CHAT), "x", False),
    ]  # fmt: skip
    chats = open_chats(str(tmp_path / "demonstrations.jsonl")).items
    assert [chat.messages for chat in chats] == [
        (*CHAT, {"role": "assistant", "content": "Bees.\n"}),
        ({"role": "user", "content": "p"}, {"role": "assistant", "content": "I do."}),
    ]
    assert json.loads((tmp_path / "captions.jsonl").read_text()) == files["captions.jsonl"][0]
