"""A very small page builder: elements, tables, figures and whole pages.

Text is escaped unless it is `Html`, which only these functions make, so a stray string can never become markup. A page
is well-formed XML as well as HTML, carries its one style sheet inside, and forbids the browser to load anything.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from langwright.viewing.style import CSS
from langwright.viewing.text import printable

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Markup that is safe to put into a page as it stands."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Text as markup: `Html` unchanged, anything else with its special and control characters made harmless."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text)))


def join(parts: Iterable[str]) -> Html:
    """Parts one after the other, each escaped unless it is `Html`."""
    return Html("".join(map(escape, parts)))


def element(name: str, attributes: Mapping[str, str | float] | None = None, *children: str) -> Html:
    """One element of HTML or SVG. Attribute values and children are escaped; empty attribute values are left out."""
    given = "".join(f' {key}="{escape(str(value))}"' for key, value in (attributes or {}).items() if value != "")
    if name in _VOID:
        return Html(f"<{name}{given} />")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def paragraph(text: str, role: str = "") -> Html:
    """A paragraph, or nothing when there is no text."""
    return element("p", {"class": role}, text) if text else Html("")


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, and whether it holds numbers, which are set flush right."""

    heading: str
    numeric: bool = False


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], caption: str = "") -> Html:
    """A table whose first cell in each row is the row's heading."""
    kinds = ["number" if column.numeric else "" for column in columns]
    heads = [element("th", {"scope": "col", "class": kind}, c.heading) for c, kind in zip(columns, kinds, strict=True)]
    body = []
    for row in rows:
        cells = [
            element("td" if place else "th", {"scope": "" if place else "row", "class": kind}, cell)
            for place, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        ]
        body.append(element("tr", None, *cells))
    title = element("caption", None, caption) if caption else ""
    whole = element(
        "table", None, title, element("thead", None, element("tr", None, *heads)), element("tbody", None, *body)
    )
    return element("div", {"class": "scroll"}, whole)


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names, each with its value."""
    rows = [element("div", None, element("dt", None, name), element("dd", None, value)) for name, value in pairs]
    return element("dl", {"class": "definitions"}, *rows)


def figure(content: Html, caption: str = "") -> Html:
    """A picture with an explanation below."""
    return element("figure", None, content, element("figcaption", None, caption) if caption else "")


@dataclass(frozen=True)
class Section:
    """A part of a page: `name` is its anchor, `body` its content, `lead` a sentence before it."""

    name: str
    title: str
    body: Html
    lead: str = ""


def page(title: str, sections: Sequence[Section], lead: str = "", overline: str = "", top: Html | None = None) -> str:
    """A whole document.

    overline: a short line above the title.
    lead: what the page says, in a sentence or two below the title.
    top: what stands between them and the first section.
    """
    links = [element("a", {"href": f"#{section.name}"}, section.title) for section in sections]
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("title", None, title),
        element("style", None, Html(CSS)),
    )
    header = element(
        "header", None, paragraph(overline, "overline"), element("h1", None, title), paragraph(lead, "lead"), top or ""
    )
    contents = element("nav", {"aria-label": "Contents"}, *links) if len(links) > 2 else ""
    footer = element("footer", None, "Made by Langwright. This file is complete: it loads nothing from a network.")
    main = element("main", None, header, contents, *map(_section, sections), footer)
    document = element("html", {"lang": "en"}, head, element("body", None, main))
    return f"<!DOCTYPE html>\n{document}\n"


def _section(section: Section) -> Html:
    heading = element("h2", {"id": f"{section.name}-title"}, section.title)
    attributes = {"id": section.name, "aria-labelledby": f"{section.name}-title"}
    return element("section", attributes, heading, paragraph(section.lead, "section-lead"), section.body)
