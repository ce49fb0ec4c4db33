"""What the tests of this room look for in a page."""

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

HOSTILE = "<script>alert(1)</script>\"'&amp;<!--]]>\x00\x1b[31m\ud800\u202e</style></svg>"

_SVG_AND_HTML = re.compile(r"(?:href|src|action|data|poster|srcset)$")


class _Tags(HTMLParser):
    """Collects the tags and the attributes that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if _SVG_AND_HTML.search(name)]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def parse(markup: str) -> ElementTree.Element:
    """The markup as XML: raises when it is not well-formed. A page or a fragment."""
    return ElementTree.fromstring(markup.encode())


def words(markup: str) -> str:
    """All the text a reader sees."""
    return " ".join("".join(part.itertext()) for part in [parse(markup)])


def check_self_contained(markup: str) -> None:
    """No script, no handler, nothing loaded from anywhere but the page itself."""
    tags = _Tags()
    tags.feed(markup)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(tags.tags)
    assert tags.handlers == []
    assert all(link.startswith("#") for link in tags.links)
    assert not re.search(r"url\(|@import|https?:|javascript:", markup)


def cells(picture: ElementTree.Element, kind: str = "heat") -> dict[tuple[int, int], float]:
    """(row, column) of every coloured cell of a heat map, with its opacity."""
    found = {}
    for path in picture.iter("path"):
        if path.get("class") == kind:
            for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1", path.get("d", "")):
                for place in range(int(column), int(column) + int(width)):
                    found[int(row), place] = float(path.get("fill-opacity", ""))
    return found
