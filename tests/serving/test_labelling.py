"""The labelling page's routes: what is given and taken, and what hostile callers get."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from langwright.corpora.judgements import LABELS, Judgements, json_lines
from langwright.corpora.labelling import Ask, open_items, sorted_out
from langwright.evaluation.people import report
from langwright.serving.labelling import PAGE, Labelling

PNG = b"\x89PNG\r\n\x1a\n"
ROWS: list[dict[str, Any]] = [
    {"prompt": "p", "answers": {"first": "x", "second": "y", "third": "z"}},
    {"prompt": "q", "answers": ["one"]},
    {"image": "bee.png"},
]
Opens = Callable[..., TestClient]


@pytest.fixture
def opens(tmp_path: Path) -> Opens:
    """Opens the application over some rows, in the folder out."""
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "data" / "bee.png").write_bytes(PNG)

    def opened(rows: list[dict[str, Any]] = ROWS, ask: Ask | None = None, host: str = "localhost", **more: Any) -> Any:
        (tmp_path / "data" / "rows.jsonl").write_text(json_lines(rows))
        asked = sorted_out(open_items(str(tmp_path / "data" / "rows.jsonl")), ask)
        page = Labelling(asked, Judgements(tmp_path / "out"), lambda said: report(said, 20), **more)
        page.open(None)
        return TestClient(page.app, base_url=f"http://{host}", raise_server_exceptions=False)

    return opened


def asks(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(path, json={"labeller": "anna", **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def labels(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / LABELS).read_text().splitlines()]


def test_blind(opens: Opens, tmp_path: Path) -> None:
    """No name of a model leaves the server, the order is by chance and kept, and marks are those of the answers."""
    client = opens(overlap=99)
    orders = set()
    for number in range(12):
        told = asks(client, "/next", labeller=f"anna {number}")
        assert not any(name in json.dumps(told) for name in ("first", "second", "third"))
        assert asks(client, "/next", labeller=f"anna {number}") == told  # loaded again
        item = told["item"]
        orders.add(tuple(item["answers"]))
        marks = ["xyz".index(answer) * 2 + 1 for answer in item["answers"]]  # x before y before z, with gaps
        asks(client, "/label", labeller=f"anna {number}", item=item["id"], shown=item["shown"], marks=marks)
        kept = labels(tmp_path)[-1]
        assert [kept["answers"][place] for place in kept["order"]] == item["answers"]
        assert (kept["marks"], kept["answers"], kept["seed"]) == ([1, 2, 3], ["x", "y", "z"], 0)
        assert kept["models"] == [["first"], ["second"], ["third"]]
    assert len(orders) > 3
    assert asks(opens(overlap=99), "/next", labeller="ben") == asks(opens(overlap=99), "/next", labeller="ben")
    seeds = {tuple(asks(opens(seed=n, overlap=99), "/next", labeller="ben")["item"]["answers"]) for n in range(12)}
    assert len(seeds) > 3


def test_work(opens: Opens, tmp_path: Path) -> None:
    """One after the other; back, changed, skipped; another server goes on there; others get what is left."""
    client = opens()
    first = asks(client, "/next")
    assert (first["done"], first["left"], first["item"]["ask"], first["item"]["again"]) == (0, 3, "rank", False)
    assert asks(client, "/next", labeller=" ben\u00a0 ")["item"]["ask"] == "thumbs"  # anna has the first
    kept = asks(client, "/label", item=first["item"]["id"], shown=first["item"]["shown"], marks=[1, 2, 2], seconds=2.25)
    assert (kept["done"], kept["left"], kept["item"]["ask"], kept["item"]["prompt"]) == (1, 2, "write", [])
    back = asks(client, "/next", back=True, before=kept["item"]["id"])
    assert back["item"] == {**first["item"], "marks": [1, 2, 2], "again": True}
    asks(client, "/next", 404, back=True, before=first["item"]["id"])
    skipped = asks(client, "/label", item=first["item"]["id"], shown=first["item"]["shown"])
    assert skipped == kept  # a skip leaves what was said, and goes on
    assert [row["marks"] for row in labels(tmp_path)] == [labels(tmp_path)[0]["marks"]]
    other = opens(seed=5)  # what was shown stays so
    back = asks(other, "/next", back=True)["item"]
    assert back["answers"] == first["item"]["answers"]
    asks(other, "/label", item=back["id"], shown=back["shown"], marks=[2, 1, 1])
    item = asks(other, "/next", labeller="carla")["item"]
    assert item["ask"] == "write"  # the first is labelled as often as asked for, and anna has the second
    asks(other, "/label", labeller="carla", item=item["id"], shown=item["shown"])  # skips
    item = asks(other, "/next")["item"]
    assert item["answers"] == ["one"]
    written = asks(other, "/label", item=item["id"], shown=item["shown"], marks=[0])["item"]
    assert written["media"] == [{"kind": "image", "name": "bee.png", "files": 1}]
    end = asks(other, "/label", item=written["id"], shown=written["shown"], text="A bee.\r\nIt sits.")
    assert (end["item"], end["done"], end["left"]) == (None, 3, 0)
    rows = labels(tmp_path)
    assert [(row["labeller"], row["ask"], row.get("marks"), row.get("text")) for row in rows[2:]] == [
        ("carla", "write", None, None), ("anna", "thumbs", [0], None), ("anna", "write", None, "A bee.\nIt sits."),
    ]  # fmt: skip
    assert rows[-1]["image"] == str(tmp_path / "data" / "bee.png")
    assert asks(opens(ask="write"), "/next")["item"]["answers"] == []  # something else is asked now: all anew
    assert asks(opens([*ROWS, {"prompt": "new"}]), "/next")["item"]["prompt"][0]["content"] == "new"


def test_results(opens: Opens) -> None:
    """Scores of models to nobody who has something left; the files hold what trainers take."""
    client = opens()
    for said in ({"marks": [1, 1, 2]}, {"marks": [1]}, {"text": "A bee."}):
        told = asks(client, "/report")
        assert not {"scores", "good"} & told.keys()
        assert "first" not in json.dumps(told)
        item = asks(client, "/next")["item"]
        asks(client, "/label", item=item["id"], shown=item["shown"], **said)
    told = asks(client, "/report")
    assert {row["model"] for row in told["scores"]["models"]} == {"first", "second", "third"}
    assert told["labellers"][0]["labelled"] == 3
    assert {file["name"]: file["rows"] for file in told["files"]} == {
        "preferences.jsonl": 2, "rankings.jsonl": 1, "thumbs.jsonl": 1, "demonstrations.jsonl": 0, "captions.jsonl": 1,
    }  # fmt: skip
    assert json.loads(client.get("/files/captions.jsonl").text)["text"] == "A bee."
    for name in ("labels.jsonl", "..%2Flabels.jsonl", "report.json"):
        assert client.get(f"/files/{name}").status_code == 404


def test_files(opens: Opens, tmp_path: Path) -> None:
    """A file is named by numbers, comes with its own type, and runs nothing by itself."""
    client = opens([{"image": "bee.png"}])
    item = asks(client, "/next")["item"]["id"]
    answer = client.get(f"/media/{item}/0/0")
    assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    for path in (
        f"{item}/0/1",
        f"{item}/1/0",
        f"{item}/-1/0",
        f"{item}/0/x",
        "x/0/0",
        f"{item}/0/..%2F..%2Frows.jsonl",
    ):
        assert client.get(f"/media/{path}").status_code == 404, path
    (tmp_path / "data" / "bee.png").unlink()
    assert client.get(f"/media/{item}/0/0").status_code == 404


def test_hostile(opens: Opens, tmp_path: Path) -> None:
    """What does not fit is refused by its field, and nothing of it is kept."""
    client = opens()
    item = asks(client, "/next")["item"]
    good = {"labeller": "anna", "item": item["id"], "shown": item["shown"], "marks": [1, 2, 3]}
    for change, field in (
        ({"labeller": ""}, "labeller"), ({"labeller": "a\nb\0"}, "labeller"), ({"labeller": "x" * 65}, "labeller"),
        ({"labeller": "\u202eanna"}, "labeller"), ({"marks": [1, 2]}, "marks"), ({"marks": [1, 2, -3]}, "marks"),
        ({"marks": [1, 2, True]}, "marks"), ({"marks": "123"}, "marks"), ({"text": "x"}, "rank"),
        ({"seconds": -1}, "seconds"), ({"seconds": "1"}, "seconds"), ({"model": "first"}, "model"),
    ):  # fmt: skip
        answer = client.post("/label", json={**good, **change})
        assert answer.status_code == 400, change
        assert field in answer.json()["error"]["message"], answer.text
    assert asks(client, "/label", 404, **{**good, "item": "x"})["error"]["code"] == "no_such_item"
    assert asks(client, "/label", 409, **{**good, "shown": "x"})["error"]["code"] == "shown_otherwise"
    assert client.post("/label", content=json.dumps(good)).status_code == 415
    for broken in ("{", '{"labeller": "\\ud800"}', '{"labeller": NaN}', "[" * 10_000):
        assert client.post("/next", content=broken, headers={"content-type": "application/json"}).status_code == 400
    assert client.post("/next", content=b" " * (5 << 20)).status_code == 413
    assert client.get("/next").status_code == 405
    assert client.get("/", headers={"host": "labels.example"}).status_code == 403
    assert not labels(tmp_path)
    thumbs, write = opens([ROWS[1]]), opens([{"prompt": "p"}])
    for other, said in ((thumbs, {"marks": [2]}), (write, {"marks": []}), (write, {"text": " \n"})):
        item = asks(other, "/next")["item"]
        asks(other, "/label", 400, item=item["id"], shown=item["shown"], **said)
    assert not labels(tmp_path)


def test_not_kept(opens: Opens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full is told, and the item stays open."""
    client = opens()
    item = asks(client, "/next")["item"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    told = asks(client, "/label", 507, item=item["id"], shown=item["shown"], marks=[1, 2, 3])
    assert "No space left" in told["error"]["message"]
    monkeypatch.undo()
    assert asks(client, "/next")["item"] == item
    assert not (tmp_path / "out" / LABELS).read_bytes()


def test_key(opens: Opens) -> None:
    """With a key the page alone, which holds nothing, is given to who shows none."""
    client = opens(keys=["secret"], host="labels.example")
    assert client.get("/").text == PAGE.text
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in PAGE.text.replace("http-equiv", "")
    assert "innerHTML" not in PAGE.text
    assert asks(client, "/next", 401)["error"]["code"] == "invalid_api_key"
    for path in ("/files/captions.jsonl", "/media/x/0/0", "/report"):
        assert client.get(path).status_code == 401
    client.headers["authorization"] = "Bearer secret"
    assert asks(client, "/next")["item"]
