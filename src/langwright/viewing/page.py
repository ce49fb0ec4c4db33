"""Pages and their parts, from the Jinja templates beside this file.

Text is escaped unless it is `Html`, which only templates make, so a stray string can never become markup. A page is
well-formed XML as well as HTML, carries its one style sheet inside, and forbids the browser to load anything.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from langwright.viewing.text import printable

Html = Markup
"""Markup that is safe to put into a page as it stands."""


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Html) else escape(printable(str(value))),
    )


def macro(file: str, name: str, *arguments: object) -> Html:
    """What a macro of a template makes of its arguments."""
    made: Html = getattr(_environment().get_template(file).module, name)(*arguments)
    return Html(made.strip())


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = (), title: str = ""
) -> Html:
    """A table whose first cell in each row is the row's heading.

    Args:
        headings: of the columns.
        rows: the cells.
        numeric: headings of the columns that hold numbers, which are set flush right.
        title: a heading above the table.

    Raises:
        ValueError: A row is not as long as the headings.
    """
    cells = [list(zip(headings, row, strict=True)) for row in rows]
    return macro("parts.html", "table", headings, cells, numeric, title)


def definitions(pairs: Iterable[tuple[str, str]]) -> Html:
    """A list of names, each with its value."""
    return macro("parts.html", "definitions", list(pairs))


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


def page(title: str, sections: Iterable[Section], lead: str = "", overline: str = "Langwright", top: str = "") -> str:
    """A whole document.

    Args:
        title: the heading of the page.
        sections: its parts, listed at the top when there are more than two; those without content are left out.
        lead: a sentence or two below the title.
        overline: a short line above the title.
        top: content between the lead and the first section.
    """
    template, shown = _environment().get_template("page.html"), [one for one in sections if one.body]
    return template.render(title=title, sections=shown, lead=lead, overline=overline, top=top)
