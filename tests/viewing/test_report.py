"""The report: complete, self-contained, safe with any text, and silent about what it was not given."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from langwright.viewing.report import (
    Attention,
    BeforeAfter,
    Comparison,
    Event,
    Fact,
    FineTuning,
    Parsing,
    Report,
    Sample,
    Score,
    Share,
    Spending,
    report,
)
from viewing.markup import HOSTILE, check_self_contained, parse, words

_DEPENDENT = ("title", "overline", "samples_about")


def metrics(steps: int = 200) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        loss = 2 + 6 * math.exp(-step / 10)
        rows.append({"step": step, "tokens": 512 * step, "loss": loss, "seconds": 0.1 * step})
        rows[-1] |= {"learning_rate": 1e-3 * step / steps, "tokens_per_second": 5000.0}
        if step % 50 == 0:
            rows.append({"step": step, "tokens": 512 * step, "loss": None, "validation_loss": loss + 0.125})
    return rows


def full(text: str = "Some text") -> Report:
    sample = Sample(text, text, text, text, False, text)
    return Report(
        title=text,
        lead=text,
        overline=text,
        facts=[Fact(text, text, text)],
        comparison=Comparison(
            [Score("xz", 1.8, text), Score(text, 1.5, text, ours=True), Score("lost", math.nan)], text
        ),
        metrics=metrics(),
        events=[Event(1200, text, text)],
        samples=[sample],
        samples_about=text,
        parsing=Parsing([Share(text, 7, 10, text, ours=True), Share("none", 0, 0)], text),
        finetuning=FineTuning([BeforeAfter(text, 2.0, 1.5), BeforeAfter("old", 1.5, 1.625)], text, [sample]),
        attention=Attention(np.full((2, 2, 2), 0.5), [text, "b"], text),
        spending=Spending({text: 0.75, "loader": 0.25}, text),
        settings={text: {"nested": 1, "missing": None}, "betas": [0.9, 0.95]},
        card={text: text},
    )


def test_every_section_is_there() -> None:
    shown = report(full())
    headings = [heading.text for heading in parse(shown).iter("h2")]
    assert headings == [
        "Held-out text",
        "Learning",
        "Writing",
        "Fine-tuning",
        "Attention",
        "Where the time goes",
        "Recipe",
        "Model card",
    ]
    check_self_contained(shown)


def test_a_title_is_enough() -> None:
    shown = report(Report("Nothing yet"))
    check_self_contained(shown)
    assert list(parse(shown).iter("section")) == []
    assert parse(shown).find(".//nav") is None


@pytest.mark.parametrize("name", [field.name for field in fields(Report) if field.name not in _DEPENDENT])
def test_each_part_may_stand_alone(name: str) -> None:
    shown = report(Report("t", **{name: getattr(full("unmistakable"), name)}))
    parse(shown)
    assert name == "metrics" or "unmistakable" in shown
    assert len(shown) > len(report(Report("t")))


def test_hostile_text_stays_text() -> None:
    shown = report(full(HOSTILE))
    check_self_contained(shown)
    shown.encode()
    assert "<script" not in shown
    assert "alert(1)" in words(shown)


def test_scores_come_best_first_and_ours_is_marked() -> None:
    rows = parse(report(full())).findall(".//section[@id='result']//tbody/tr")
    assert [row.get("class") for row in rows] == ["ours", None, None]
    assert [(row.findtext("th"), row.findtext("td")) for row in rows] == [
        ("Some text", "1.500"),
        ("xz", "1.800"),
        ("lost", "not finite"),
    ]


def test_shares_are_counted() -> None:
    text = words(report(Report("t", parsing=Parsing([Share("ours", 7, 10), Share("none", 0, 0)]))))
    assert "70 %" in text
    assert "7 of 10" in text
    assert "not finite" in text


def test_changes_have_a_sign_and_a_tone() -> None:
    section = parse(report(full())).find(".//section[@id='finetuning']")
    assert section is not None
    changes = [(span.text, span.get("class")) for span in section.findall(".//table//span")]
    assert changes == [("−0.500", "better"), ("+0.125", "worse")]


def test_samples_show_exactly_what_was_written() -> None:
    prompt, continuation = "def f(x):\n", "    if x:\n\n\t\treturn '<b>'\n\n"
    shown = parse(report(Report("t", samples=[Sample(prompt, continuation, verdict="parses", good=True)])))
    written = shown.find(".//pre")
    assert written is not None
    assert "".join(written.itertext()) == prompt + continuation
    assert [mark.text for mark in written.iter("ins")] == ["if x:", "return '<b>'"]
    assert [span.get("class") for span in shown.iter("span")] == [None, "verdict good"]


def test_recipe_is_flattened() -> None:
    text = words(report(Report("t", settings={"model": {"width": 64, "rope": {"theta": 1e4}}, "compile": None})))
    for piece in ("model.width64", "model.rope.theta10000.0", "compilenone"):
        assert piece in text


def test_curves_come_from_the_metrics() -> None:
    shown = parse(report(Report("t", metrics=metrics())))
    labels = [picture.get("aria-label") for picture in shown.iter("svg") if picture.get("role") == "img"]
    assert labels == [
        "Loss, nats per token against tokens seen: training from 7.429 to 2, validation from 2.165 to 2.125",
        "Learning rate against tokens seen: learning rate from 5e-6 to 0.001",
        "Tokens per second against tokens seen: tokens per second from 5k to 5k",
    ]
    rows = [[cell.text for cell in row] for row in shown.findall(".//details//tbody/tr")]
    assert rows[-1] == ["200", "102,400", "2.0000", "2.1250", "0.001", "5,000"]
    assert len(rows) == 4


def test_metrics_read_from_a_file_may_be_poor() -> None:
    lines = ['{"step": 1, "loss": NaN}', '{"step": 2, "loss": null, "seconds": 2}', '{"step": 3, "loss": 2.5}', "{}"]
    poor: list[list[dict[str, object]]] = [[json.loads(line) for line in lines], [{"step": 1, "loss": 3.0}], [{}], []]
    for rows in poor:
        check_self_contained(report(Report("t", metrics=rows)))
    assert "against step" in report(Report("t", metrics=poor[0]))
    assert "Learning" not in words(report(Report("t", metrics=[{"step": 1, "loss": math.nan}])))


def test_a_steep_beginning_leaves_the_frame_and_is_told() -> None:
    assert "lie above the frame" in words(report(Report("t", metrics=metrics(400))))
    flat = [{"step": step, "loss": 2.0 + 0.001 * (step % 7)} for step in range(400)]
    assert "lie above the frame" not in words(report(Report("t", metrics=flat)))
