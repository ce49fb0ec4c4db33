"""The page builder: escaping that cannot be forgotten, well-formed pages, nothing from outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.viewing.page import Column, Html, Section, definitions, element, figure, join, page, safe, table
from viewing.markup import HOSTILE, check_self_contained, parse, words


def whole_page(text: str) -> str:
    body = join(
        [
            text,
            table([Column(text), Column("n", numeric=True)], [(text, text)], caption=text),
            definitions([(text, text)]),
            figure(element("img", {"alt": text}), text),
        ]
    )
    return page(text, [Section("first", text, body, lead=text)], lead=text, overline=text, top=element("p", None, text))


def test_hostile_text_stays_text() -> None:
    shown = whole_page(HOSTILE)
    check_self_contained(shown)
    assert "<script" not in shown
    title = parse(shown).find("./body/main/header/h1")
    assert title is not None
    assert title.text == "<script>alert(1)</script>\"'&amp;<!--]]>␀␛[31m\ufffd\ufffd</style></svg>"


@given(st.text(st.characters()))
def test_any_text_makes_a_well_formed_page(text: str) -> None:
    parse(whole_page(text))


def test_only_html_passes_unescaped() -> None:
    inner = element("b", None, "<")
    assert inner == "<b>&lt;</b>"
    assert safe(inner) is inner
    assert element("p", {"title": '"&'}, inner, "&") == '<p title="&#34;&amp;"><b>&lt;</b>&amp;</p>'
    assert inner + "<i>" == "<b>&lt;</b>&lt;i&gt;"


def test_contents_list_every_section_when_there_are_several() -> None:
    sections = [Section(name, name.title(), Html("")) for name in ("one", "two", "three")]
    links = parse(page("t", sections)).findall(".//nav/a")
    assert [link.get("href") for link in links] == ["#one", "#two", "#three"]
    assert parse(page("t", sections[:2])).find(".//nav") is None


def test_browser_is_forbidden_to_load_anything() -> None:
    policy = parse(page("t", [])).find(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy is not None
    assert policy.get("content", "").startswith("default-src 'none'")


def test_tables_name_their_rows_and_columns() -> None:
    made = parse(table([Column("Name"), Column("Count", numeric=True)], [("a", "1"), ("b", "2")]))
    assert [cell.get("scope") for cell in made.iter("th")] == ["col", "col", "row", "row"]
    assert [cell.get("class") for cell in made.iter("td")] == ["number", "number"]
    assert words(table([Column("Name")], [("a",)])).split() == ["Name", "a"]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        table([Column("Name")], [("a", "b")])
