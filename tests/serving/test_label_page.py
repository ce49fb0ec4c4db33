"""The labelling page in headless Chromium: keys, what is kept, what is shown, and who may see it."""

import base64
import json
import os
import re
import struct
import wave
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langwright.corpora.judgements import LABELS, Judgements, json_lines
from langwright.corpora.labelling import open_items, sorted_out
from langwright.evaluation.people import report
from langwright.serving.labelling import Labelling
from serving.conftest import Up  # type: ignore[import-not-found]

api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists() and not os.environ.get("CI"), reason=f"{CHROMIUM} is not installed"),
]
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": HOSTILE}]
ROWS: list[dict[str, Any]] = [
    {"prompt": "two", "answers": {"m1": "x", "m2": HOSTILE}},
    {"prompt": CHAT, "answers": {"m1": "w", "m2": "x", "m3": "y", "m4": "z" * 300}},
    {"prompt": "one", "answers": ["x"]},
    {"prompt": CHAT},
]


def picture(red: int) -> bytes:
    """A PNG of 80 x 80 in one colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + bytes([red, 90, 60]) * 80) * 80
    return b"\x89PNG\r\n\x1a\n" + b"".join((
        chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 80, 8, 2, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ))  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Opens = Callable[..., Any]


@pytest.fixture
def opens(browser: Any, tmp_path: Path) -> Iterator[Opens]:
    """Opens the page over rows, as a person of this name. No console may hold a complaint."""
    said: list[str] = []
    open_now: list[Any] = []
    (tmp_path / "out").mkdir()

    def served(rows: list[dict[str, Any]] = ROWS, **more: Any) -> Any:
        (tmp_path / "rows.jsonl").write_text(json_lines(rows))
        asked = sorted_out(open_items(str(tmp_path / "rows.jsonl")), None)
        up = Up(Labelling(asked, Judgements(tmp_path / "out"), lambda all_said: report(all_said, 50), **more))
        open_now.append(up.stop)
        return up

    def opened(rows: list[dict[str, Any]] = ROWS, name: str = "anna", at: Any = None, **how: Any) -> Any:
        more = {key: how.pop(key) for key in ("overlap", "keys") if key in how}
        context = browser.new_context(**how)
        open_now.insert(0, context.close)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((at or served(rows, **more)).url)
        page.get_by_label("Your name").fill(name)
        page.keyboard.press("Enter")
        return page

    opened.served = served  # type: ignore[attr-defined]
    yield opened
    for close in open_now:
        close()
    refused = re.compile(r"Failed to load resource: .*( 401 |ERR_FAILED)")  # which the page tells in words
    assert [text for text in said if not refused.match(text)] == []


def labels(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / LABELS).read_text().splitlines()]


def waits(page: Any, done: int) -> None:
    page.locator("#count", has_text=f"{done} done,").wait_for()


def until(page: Any, holds: str) -> None:
    """Wait for an expression; the page forbids what Playwright has for it."""
    for _ in range(200):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(50)
    pytest.fail(holds)


def answers(page: Any) -> list[str]:
    return list(page.locator(".answer .text").all_text_contents())


def test_keys(opens: Opens, tmp_path: Path) -> None:
    """All of the work without a mouse; each label is that of the answers as they were seen, and all stays text."""
    page = opens()
    page.get_by_text("Which answer is better?").wait_for()
    seen = [answers(page)]
    assert sorted(seen[0]) == sorted(["x", HOSTILE])
    page.keyboard.press("b")
    waits(page, 1)
    seen.append(answers(page))
    assert page.locator(".turn .text").last.inner_text() == HOSTILE
    for key in ("d", "b", "Backspace"):
        page.keyboard.press(key)
    page.reload()  # what was picked so far is there again
    page.get_by_text("Order the answers").wait_for()
    assert answers(page) == seen[1]
    for key in ("=", "a"):
        page.keyboard.press(key)
    assert page.locator("#typed").inner_text() == "D = A > …"
    page.keyboard.press("Enter")  # two are left
    page.keyboard.press("c")
    page.keyboard.press("Enter")  # and one, which is the last
    waits(page, 2)
    page.keyboard.press("u")
    page.get_by_text("you have said this before").wait_for()
    assert page.locator("#typed").inner_text() == "A = D > C > B"
    page.keyboard.press("s")  # on, without a change
    page.get_by_text("Is the answer good?").wait_for()
    page.keyboard.press("n")
    waits(page, 3)
    page.keyboard.type("Bees, u and s.")  # letters are no keys in a text
    page.reload()
    page.get_by_text("Write the answer").wait_for()
    assert page.locator("#own").input_value() == "Bees, u and s."  # nothing is lost before it is kept
    page.keyboard.press("Control+Enter")
    page.get_by_text("Nothing is left for you.").wait_for()
    kept = labels(tmp_path)
    assert [row["ask"] for row in kept] == ["rank", "rank", "thumbs", "write"]
    for row, shown in zip(kept, seen, strict=False):
        assert [row["answers"][place] for place in row["order"]] == shown
    marks = [[row["marks"][place] for place in row["order"]] for row in kept[:3]]
    assert marks == [[2, 1], [1, 3, 2, 1], [0]]
    assert kept[3]["text"] == "Bees, u and s."
    assert all(row["labeller"] == "anna" and 0 <= row["seconds"] < 60 for row in kept)
    assert page.title() == "Langwright: labelling"
    assert page.locator("main img, main script").count() == 0


def test_mouse(opens: Opens, tmp_path: Path) -> None:
    """Cards and buttons; letters that are no keys; skipped; the item that is open stays where the server is away."""
    page = opens()
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("Letters are keys").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("a")
    page.get_by_role("button", name="Equal").click()
    waits(page, 1)
    for letter in "CAB":
        page.get_by_label(f"Answer {letter}", exact=True).click()
    page.get_by_label("Answer A", exact=True).click()  # taken out again
    page.get_by_role("button", name="Answer D is the next best").click()
    page.get_by_role("button", name="Equal").click()
    page.get_by_label("Answer A", exact=True).click()
    assert page.locator("#typed").inner_text() == "C > B > D = A"
    page.route("**/label", lambda route: route.abort())
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("cannot be reached").wait_for()
    assert page.locator("#typed").inner_text() == "C > B > D = A"
    page.unroute("**/label")
    page.get_by_role("button", name="Keep").click()
    waits(page, 2)
    page.get_by_role("button", name="Skip").click()
    waits(page, 3)
    kept = labels(tmp_path)
    assert [[row["marks"][place] for place in row["order"]] for row in kept[:2]] == [[1, 1], [3, 2, 1, 3]]
    assert "marks" not in kept[2]


def test_people(opens: Opens, tmp_path: Path) -> None:
    """Two people behind a key: each alone, their agreement, and scores for who has nothing left."""
    up = opens.served(ROWS[:1], keys=["secret"], overlap=2)  # type: ignore[attr-defined]
    for name in ("anna", "ben"):
        page = opens(at=up, name=name)
        page.get_by_label("This server wants a key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_text("does not know this key").wait_for()
        page.get_by_label("This server wants a key").fill("secret")
        page.keyboard.press("Enter")
        page.get_by_text("Which answer is better?").wait_for()
        page.keyboard.press("r")
        page.get_by_text("when nothing is left for you").wait_for()
        assert "m1" not in page.locator("#told").inner_text()
        page.keyboard.press("Escape")
        page.keyboard.press("ab"[answers(page).index("x")])
        page.get_by_text("Nothing is left for you.").wait_for()
    page.keyboard.press("r")
    page.get_by_role("heading", name="Models").wait_for()
    told = page.locator("#told").inner_text()
    assert all(word in told for word in ("anna and ben", "Cohen", "m1", "m2"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download rankings.jsonl").click()
    download.value.save_as(tmp_path / "rankings.jsonl")
    assert json.loads((tmp_path / "rankings.jsonl").read_text()) == {"prompt": "two", "answers": ["x", HOSTILE]}


def test_media(opens: Opens, tmp_path: Path) -> None:
    """A picture, a sound, frames and a film are shown, and what is written of them is the line for captioning."""
    (tmp_path / "clip").mkdir()
    for number in range(3):
        (tmp_path / "clip" / f"{number}.png").write_bytes(picture(100 * number // 2))
    (tmp_path / "bee.png").write_bytes(picture(200))
    with wave.open(str(tmp_path / "hum.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    film = opens([{"prompt": "x"}], name="maker").evaluate("""async () => {
        const canvas = document.createElement('canvas'), parts = [], pen = canvas.getContext('2d');
        const recorder = new MediaRecorder(canvas.captureStream(25), {mimeType: 'video/webm'});
        recorder.ondataavailable = (event) => parts.push(event.data);
        recorder.start();
        for (let i = 0; i < 8; i++) { pen.fillRect(i, i, 9, 9); await new Promise((go) => setTimeout(go, 40)); }
        recorder.stop();
        await new Promise((go) => { recorder.onstop = go; });
        return btoa(String.fromCharCode(...new Uint8Array(await new Blob(parts).arrayBuffer())));
    }""")
    (tmp_path / "film.webm").write_bytes(base64.b64decode(film))
    rows = [{"image": "bee.png"}, {"audio": "hum.wav"}, {"video": "clip"}, {"video": "film.webm"}]
    page = opens(rows, keys=["secret"])
    page.get_by_label("This server wants a key").fill("secret")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.media img')?.naturalWidth === 80")
    for number, ready in enumerate((
        "document.querySelector('.media img').complete",
        "Math.abs(document.querySelector('audio')?.duration - 0.5) < 0.01",
        "document.querySelector('.media img')?.naturalWidth === 80",
        "document.querySelector('video')?.videoWidth > 0",
    )):  # fmt: skip
        until(page, ready)
        if number == 2:
            page.keyboard.press("Escape")
            page.keyboard.press(" ")
            until(page, "document.querySelector('input[type=range]').value === '2'")
            page.locator("#own").focus()
        page.keyboard.type(f"caption {number}")
        page.keyboard.press("Control+Enter")
        waits(page, number + 1) if number < 3 else page.get_by_text("Nothing is left for you.").wait_for()
    kept = [row for row in labels(tmp_path) if row["labeller"] == "anna"]
    assert [next(row[kind] for kind in ("image", "audio", "video") if kind in row) for row in kept] == [
        str(tmp_path / name) for name in ("bee.png", "hum.wav", "clip", "film.webm")
    ]
    assert [row["text"] for row in kept] == [f"caption {number}" for number in range(4)]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390), ("light", 320)])
def test_looks(opens: Opens, scheme: str, width: int) -> None:
    """Nothing is wider than the window, everything has a name, and colours are those that were asked for."""
    page = opens(ROWS[1:], viewport={"width": width, "height": 800}, color_scheme=scheme)

    def look() -> None:
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        fields = page.locator("button:visible, input:visible, textarea:visible")
        named = (
            "one.ariaLabel || one.labels?.[0]?.textContent.trim() || (one.localName === 'button' && one.textContent)"
        )
        nameless = [one.evaluate("one => one.outerHTML") for one in fields.all() if not one.evaluate(f"one => {named}")]
        assert nameless == []

    page.locator(".answer").first.wait_for()
    boxes = [one.bounding_box() for one in page.locator(".answer").all()]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 700)
    channels = re.findall(r"\d+", page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert (sum(map(int, channels[:3])) > 380) == (scheme == "light")
    look()
    for key, shown in (("s", "Is the answer good?"), ("s", "Write the answer")):
        page.keyboard.press(key)
        page.get_by_text(shown).wait_for()
        look()
    page.keyboard.press("Escape")
    for key, dialog in (("r", "#results"), ("?", "#keys")):
        page.keyboard.press(key)
        page.locator(dialog).wait_for()
        look()
        page.keyboard.press("Escape")
