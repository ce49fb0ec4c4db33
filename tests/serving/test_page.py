"""The chat page in headless Chromium: what is asked of the server, what is shown, and what is kept."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from langwright.corpora.conversations import open_chats
from langwright.models.families.llama import LlamaConfig
from langwright.models.folder import new_model, save_model
from langwright.pipelines.opening import Opening
from langwright.serving.served import open_model
from langwright.text.training import raw_bytes
from oracles import perturb
from serving.conftest import ENDLESS, Started, models  # type: ignore[import-not-found]

api = pytest.importorskip("playwright.sync_api")
CHROMIUM, KEY = Path("/usr/bin/chromium"), "correct horse"
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists() and not os.environ.get("CI"), reason=f"{CHROMIUM} is not installed"),
]


@pytest.fixture(scope="module")
def server(talker: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A chat model, an adapter on it, and a model without a chat template; behind a key."""
    folder, tokenizer = tmp_path_factory.mktemp("served") / "writer", raw_bytes()
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_attention_heads=2, num_hidden_layers=1,
        num_key_value_heads=1, intermediate_size=24, max_position_embeddings=512,
    )  # fmt: skip
    model = new_model("llama", config, seed=1)
    perturb(model)
    save_model(model, tokenizer, folder)
    writer = Opening(device="cpu")
    server = Started(
        lambda: [*models(talker, tuned), open_model("writer", folder, writer, 4, 8)], keys=(KEY,), page=True
    )
    asked(server, "talker", [("user", "x")])  # what is built when it is first needed is built here
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Opens = Callable[..., Any]


@pytest.fixture
def opens(browser: Any, server: Started) -> Iterator[Opens]:
    """Opens the page, in a browser that has never seen it, with some of the models. No console may hold a complaint."""
    said: list[str] = []
    contexts = []

    def opened(*names: str, **how: Any) -> Any:
        contexts.append(browser.new_context(**how))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda one: said.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(server.url)
        page.get_by_label("This server wants a key").fill(KEY[:-1])
        page.keyboard.press("Enter")
        page.get_by_text("does not know this key").wait_for()
        page.get_by_label("This server wants a key").fill(KEY)
        page.get_by_role("button", name="Go on").click()
        page.get_by_label("writer").wait_for()
        for name in ("talker", "tuned", "writer"):
            page.locator(f"#models input[value={name}]").set_checked(name in names)
        page.get_by_text("Settings").click()
        page.get_by_label("Max tokens").fill("12")
        page.get_by_label("Seed").fill("1")
        return page

    yield opened
    for context in contexts:
        context.close()
    refused = re.compile(r"Failed to load resource: .* 40[01] ")  # which the page tells in words
    assert [text for text in said if not refused.match(text)] == []


def send(page: Any, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send", exact=True).wait_for()


def answers(page: Any) -> list[str]:
    return list(page.locator(".answer .text").all_text_contents())


def asked(server: Started, model: str, messages: Sequence[tuple[str, str]], **more: Any) -> str:
    """The answer that the server gives to anyone."""
    said = [{"role": role, "content": content} for role, content in messages]
    body = {"model": model, "messages": said, "max_tokens": 12, "seed": 1, **more}
    told = httpx.post(
        f"{server.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    return str(told.json()["choices"][0]["message"]["content"])


def test_conversation(opens: Opens, server: Started) -> None:
    """Each model goes on with its own answers; an edit begins anew, and what it replaces stays in the list."""
    page = opens("talker", "tuned")
    page.get_by_label("System prompt").fill("Be brief.")
    system = ("system", "Be brief.")
    send(page, "One")
    firsts = {name: asked(server, name, [system, ("user", "One")]) for name in ("talker", "tuned")}
    assert answers(page) == list(firsts.values())
    assert firsts["talker"] != firsts["tuned"]
    send(page, "Two")
    seconds = [
        asked(server, name, [system, ("user", "One"), ("assistant", first), ("user", "Two")])
        for name, first in firsts.items()
    ]
    assert answers(page) == [*firsts.values(), *seconds]

    page.get_by_label("Seed").fill("2")
    page.get_by_role("button", name="Let tuned answer again").last.click()
    page.get_by_role("button", name="Send", exact=True).wait_for()
    again = asked(server, "tuned", [system, ("user", "One"), ("assistant", firsts["tuned"]), ("user", "Two")], seed=2)
    assert answers(page) == [*firsts.values(), seconds[0], again]

    page.get_by_role("button", name="Edit message 1").click()
    page.get_by_label("Text").fill("Three")
    page.locator(".user").get_by_role("button", name="Send").click()
    page.locator("body:not(.busy)").wait_for()
    assert answers(page) == [asked(server, name, [system, ("user", "Three")], seed=2) for name in ("talker", "tuned")]
    assert sorted(page.locator("#past option").all_text_contents()) == ["One", "Three"]
    page.get_by_label("Conversation").select_option("One")
    assert answers(page) == [*firsts.values(), seconds[0], again]
    page.reload()  # the browser keeps what was said, the settings, and for this tab the key
    page.get_by_label("writer").wait_for()
    page.get_by_label("Conversation").select_option("One")
    assert answers(page) == [*firsts.values(), seconds[0], again]

    page.get_by_role("button", name="New").click()
    page.locator("#models input[value=tuned]").uncheck()
    page.get_by_text("Settings").click()
    whole = asked(server, "talker", [("user", "One")], seed=2)
    ends = [whole[4:6], "\n\n\n"]
    page.get_by_label("Stop at").fill("\n".join(end.replace("\n", "\\n") for end in ends))
    send(page, "One")
    assert answers(page) == [asked(server, "talker", [("user", "One")], seed=2, stop=ends)] != [whole]


def test_stream_and_stop(opens: Opens, server: Started) -> None:
    """Words come before the text has ended, and the server works no more for a text that is stopped."""
    page = opens("talker")
    page.get_by_label("Max tokens").fill("200")
    page.evaluate(  # no text of this model ends by itself
        "(bias) => { const real = fetch; window.fetch = (path, how) => real(path, how.body ? {...how, "
        "body: JSON.stringify({...JSON.parse(how.body), logit_bias: bias})} : how); }",
        ENDLESS,
    )
    engine = server.service.served["talker"].worker.engine
    assert engine is not None
    step = engine.step

    def slow() -> Any:
        time.sleep(0.02)
        return step()

    engine.step = slow
    try:
        page.get_by_label("Message", exact=True).fill("Go on")
        page.keyboard.press("Enter")
        page.locator(".answer .text span").nth(4).wait_for(state="attached")
        assert page.get_by_role("button", name="Stop").is_visible()
        assert not page.get_by_role("button", name="Send", exact=True).is_visible()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Send", exact=True).wait_for()
    finally:
        del engine.step
    assert "stopped" in page.locator(".answer .soft").inner_text()
    count = page.locator(".answer .text span").count()
    assert 3 < count < 150
    for _ in range(100):
        told = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
        if 'langwright_texts_total{model="talker",reason="cancelled"} 1.0' in told:
            break
        page.wait_for_timeout(50)
    else:
        pytest.fail("the server goes on")


@pytest.mark.parametrize("model", ["talker", "writer"])
def test_probabilities(opens: Opens, model: str) -> None:
    """Under the pointer and under the arrow keys, for both ways to ask; the words are those of the answer."""
    page = opens(model)
    send(page, "One cat")
    (text,) = answers(page)
    stored = page.evaluate(
        "JSON.parse(Object.entries(localStorage).find(([key]) => key.startsWith('langwright.chat.'))[1])"
    )
    assert stored["turns"][0]["answers"][0]["text"] == text
    spans = page.locator(".answer .text span")
    assert spans.count() > 3
    last = [one for one in spans.all() if re.fullmatch("[!-~]+", one.text_content())][-1]
    last.hover()
    assert json.loads(page.locator("#tip tr.own td").first.text_content()) == last.text_content()
    rows = page.locator("#tip tr")
    assert rows.count() >= 5
    assert page.locator("#tip tr.own").count() == 1
    chances = [float(value.rstrip(" %")) for value in page.locator("#tip td:last-child").all_text_contents()]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 100.5
    page.mouse.move(0, 0)
    assert page.locator("#tip").is_hidden()
    page.locator(".answer .text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").is_visible()
    assert spans.nth(1).get_attribute("class").endswith("here")


def test_export(opens: Opens, tmp_path: Path) -> None:
    """Our reader takes it, a line a model; what failed is not in it."""
    page = opens("talker", "writer")
    page.get_by_label("System prompt").fill('Be "brief"\nand kind.')
    send(page, HOSTILE)
    page.get_by_label("Temperature").fill("0.000000001")  # which the server refuses, with the field's name
    send(page, "Two")
    assert "temperature" in page.locator(".answer .wrong").last.inner_text()
    page.get_by_label("Temperature").fill("")
    send(page, "Three")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export", exact=True).click()
    download.value.save_as(tmp_path / "mine.jsonl")
    chats = open_chats(str(tmp_path / "mine.jsonl")).items
    given = answers(page)
    for number, chat in enumerate(chats):
        assert [message["role"] for message in chat.messages] == ["system", *["user", "assistant"] * 2]
        said = ['Be "brief"\nand kind.', HOSTILE, given[number], "Three", given[4 + number]]
        assert [message["content"] for message in chat.messages] == said
    assert len(chats) == 2


def test_hostile_text(opens: Opens) -> None:
    """Whoever wrote it, and wherever it is shown, it stays text."""
    page = opens("talker")
    event = {"choices": [{"index": 0, "delta": {"content": HOSTILE}, "logprobs": None, "finish_reason": "stop"}]}
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            body=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n", content_type="text/event-stream"
        ),
    )
    send(page, HOSTILE)
    assert answers(page) == [HOSTILE]
    refusal = {"error": {"message": HOSTILE, "type": "x", "code": "y"}}
    page.unroute("**/v1/chat/completions")
    page.route(
        "**/v1/chat/completions", lambda route: route.fulfill(status=200, body=f"data: {json.dumps(refusal)}\n\n")
    )
    send(page, "again")
    assert page.locator(".answer .wrong").last.inner_text() == HOSTILE
    page.reload()
    page.get_by_label("Conversation").select_option(index=1)
    assert answers(page)[0] == HOSTILE
    assert page.locator("img, main script").count() == 0
    assert page.title() == "Langwright"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390), ("light", 320)])
def test_looks(opens: Opens, scheme: str, width: int) -> None:
    """Nothing is wider than the window, everything has a name, and colours are those that were asked for."""
    page = opens("talker", "tuned", viewport={"width": width, "height": 800}, color_scheme=scheme)
    send(page, "A" * 300)
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    boxes = [one.bounding_box() for one in page.locator(".answer").all()]
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 700)
    channels = re.findall(r"\d+", page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert (sum(map(int, channels[:3])) > 380) == (scheme == "light")
    fields = page.locator("button:visible, input:visible, textarea:visible, select:visible")
    nameless = [one.evaluate("one => one.outerHTML") for one in fields.all() if not one.evaluate(
        "one => one.ariaLabel || one.labels?.[0]?.textContent.trim() || (one.localName === 'button' && one.textContent)"
    )]  # fmt: skip
    assert nameless == []


def test_who_gets_the_page(server: Started, started: Started) -> None:
    """With keys by --page alone, and then nothing else; without keys whoever sits at the machine."""
    with httpx.Client() as http:
        page = http.get(server.url)
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?://|innerHTML", page.text)
        assert http.post(server.url).status_code == 405
        for path in ("//", "/?x/../v1/models", "/v1/models", "/chat.html"):
            assert http.get(server.url + path).status_code == (200 if path.startswith("/?") else 401), path
        assert http.get(started.url).text == page.text
        assert http.get(started.url, headers={"host": "models.example"}).status_code == 403
        assert http.get(f"{started.url}/v1/models").json()["data"][0]["task"] == "chat"
