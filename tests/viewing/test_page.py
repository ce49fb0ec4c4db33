"""The page builder: escaping that cannot be forgotten, well-formed pages, nothing from outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.viewing.charts import Bar, bars
from langwright.viewing.page import Html, Section, definitions, page, table
from langwright.viewing.report import Sample, changes, facts, writing
from viewing.markup import HOSTILE, check_self_contained, parse


def whole_page(text: str) -> str:
    bodies = [
        table([text, "n"], [(text, text)], numeric=["n"], title=text),
        definitions([(text, text)]),
        changes({text: (2.0, 1.5), "old": (1.5, 1.625)}),
        writing(bars([Bar(text, 1.0, text)], (text, text, text)), [Sample(text, text, text, text, False, text)]),
    ]
    sections = [Section(f"s{i}", text, body, lead=text) for i, body in enumerate(bodies)]
    return page(text, sections, lead=text, overline=text, top=facts([(text, text, text)]))


def test_hostile_text_stays_text() -> None:
    shown = whole_page(HOSTILE)
    check_self_contained(shown)
    shown.encode()
    assert "<script" not in shown
    title = parse(shown).find("./body/main/header/h1")
    assert title is not None
    assert title.text == "<script>alert(1)</script>\"'&amp;<!--]]>␀␛[31m\ufffd\ufffd</style></svg>"


@given(st.text(st.characters()))
def test_any_text_makes_a_well_formed_page(text: str) -> None:
    parse(whole_page(text))


def test_contents_list_every_section_that_has_content() -> None:
    sections = [Section(name, name.title(), Html(body)) for name, body in zip("abcd", ["x", "x", "", "x"], strict=True)]
    links = parse(page("t", sections)).findall(".//nav/a")
    assert [link.get("href") for link in links] == ["#a", "#b", "#d"]
    assert parse(page("t", sections[:3])).find(".//nav") is None


def test_browser_is_forbidden_to_load_anything() -> None:
    policy = parse(page("t", [])).find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    assert policy.get("content", "").startswith("default-src 'none'")


def test_tables_name_their_rows_and_columns() -> None:
    made = parse(f"<div>{table(['Name', 'Count'], [('a', '1'), ('b', '2')], numeric=['Count'])}</div>")
    assert [cell.get("scope") for cell in made.iter("th")] == ["col", "col", "row", "row"]
    assert [cell.get("class") for cell in made.iter("td")] == ["number", "number"]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        table(["Name"], [("a", "b")])


def test_changes_have_a_sign_and_a_tone() -> None:
    spans = parse(changes({"new": (2.0, 1.5), "old": (1.5, 1.625)})).iter("span")
    assert [(span.text, span.get("class")) for span in spans] == [("−0.500", "better"), ("+0.125", "worse")]


def test_samples_show_exactly_what_was_written() -> None:
    prompt, continuation = "def f(x):\n", "    if x:\n\n\t\treturn '<b>'\n\n"
    sample = Sample(prompt, continuation, verdict="parses", good=True)
    shown = parse(f"<div>{writing(Html(), [sample])}</div>")
    written = shown.find(".//pre")
    assert written is not None
    assert "".join(written.itertext()) == prompt + continuation
    assert [mark.text for mark in written.iter("ins")] == ["if x:", "return '<b>'"]
    assert [span.get("class") for span in shown.iter("span")] == [None, "verdict good"]
