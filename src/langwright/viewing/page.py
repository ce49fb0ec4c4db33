"""Pages and their parts, from the Jinja templates beside this file.

Text is escaped unless it is `Html`, which only these functions make, so a stray string can never become markup. A page
is well-formed XML as well as HTML, carries its one style sheet inside, and forbids the browser to load anything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from langwright.viewing.text import printable

Html = Markup
"""Markup that is safe to put into a page as it stands."""


def safe(value: object) -> Html:
    """A value as markup: `Html` unchanged, the text of anything else escaped, control characters made visible."""
    return value if isinstance(value, Html) else escape(printable(str(value)))


def join(parts: Iterable[str]) -> Html:
    """Parts one after the other, each escaped unless it is `Html`."""
    return Html("".join(map(safe, parts)))


def element(name: str, attributes: Mapping[str, str | float] | None = None, *children: str) -> Html:
    """One element of SVG or HTML. Attribute values and children are escaped; empty attribute values are left out."""
    given = "".join(f' {key}="{safe(value)}"' for key, value in (attributes or {}).items() if value != "")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=safe,
    )


def macros(file: str, **names: object) -> Callable[..., Html]:
    """The macros of a template, called as `macro(name, *arguments)`; `names` are what they may refer to."""
    module = _environment().get_template(file).make_module(names)

    def call(name: str, *arguments: object) -> Html:
        made: Html = getattr(module, name)(*arguments)
        return Html(made.strip())

    return call


@dataclass(frozen=True)
class Column:
    """A table's column.

    Args:
        heading: what stands above it.
        numeric: whether it holds numbers, which are set flush right.
    """

    heading: str
    numeric: bool = False

    @property
    def css(self) -> Html:
        """The attribute that its cells carry."""
        return Html(' class="number"' if self.numeric else "")


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], caption: str = "") -> Html:
    """A table whose first cell in each row is the row's heading; ValueError for a row of another length."""
    cells = [list(zip(row, columns, strict=True)) for row in rows]
    return macros("parts.html")("table", columns, cells, caption)


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names, each with its value."""
    return macros("parts.html")("definitions", list(pairs))


def figure(content: Html, caption: str = "") -> Html:
    """A picture with an explanation below."""
    return macros("parts.html")("figure", content, caption)


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        name: its anchor.
        title: its heading.
        body: its content.
        lead: a sentence before the content.
    """

    name: str
    title: str
    body: Html
    lead: str = ""


def page(title: str, sections: Sequence[Section], lead: str = "", overline: str = "", top: Any = "") -> str:
    """A whole document.

    Args:
        title: the heading of the page.
        sections: its parts, listed at the top when there are more than two.
        lead: a sentence or two below the title.
        overline: a short line above the title.
        top: content between the lead and the first section.
    """
    template = _environment().get_template("page.html")
    return template.render(title=title, sections=sections, lead=lead, overline=overline, top=top)
