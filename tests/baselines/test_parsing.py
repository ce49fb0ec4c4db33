"""Heads, bodies and docstrings are cut where they should be, and the judge is neither lax nor harsh."""

import argparse
import ast
import random
import shutil
import textwrap

import pytest

from langwright.baselines.parsing import cut_to_body, docstring_beginnings, function_heads, parses

MODULE = '''"""A module about shapes whose docstring is long enough to be cut into two halves of plain words."""
import math


@decorated
def area(radius,
         scale=1):  # a comment
    """The area of a disc."""
    # first a comment

    squared = radius ** 2
    return math.pi * squared * scale

class Disc:
    def grow(self): self.radius += 1

    async def wait(self):
        @inner
        def later():
            return 1
        return later

    def empty(self):
        """Nothing but words."""

    def text(self):
        return """
at the margin
"""

def last():
    # because
    return 2'''


def test_heads_and_bodies_of_a_module() -> None:
    area, wait, last = function_heads(MODULE)
    assert area.head == 'def area(radius,\n         scale=1):  # a comment\n    """The area of a disc."""\n'
    assert area.body == ("    # first a comment\n\n    squared = radius ** 2\n    return math.pi * squared * scale\n")
    assert area.indent == "    "
    assert wait.head == "async def wait(self):\n"
    assert wait.body == "    @inner\n    def later():\n        return 1\n    return later\n"
    assert (last.head, last.body) == ("def last():\n    # because\n", "    return 2\n")


def test_line_ends_and_form_feeds() -> None:
    source = "def one():\r\n    return 1\r\n\x0c\r\ndef two():\r\n  return 2\r\n"
    assert [(head.head, head.body, head.indent) for head in function_heads(source)] == [
        ("def one():\n", "    return 1\n", "    "),
        ("def two():\n", "  return 2\n", "  "),
    ]


@pytest.mark.parametrize("module", [ast, random, shutil, textwrap])
def test_true_bodies_always_parse(module) -> None:  # type: ignore[no-untyped-def]
    with open(module.__file__, encoding="utf-8") as file:
        source = file.read()
    heads = function_heads(source)
    assert len(heads) > 3
    for head in heads:
        assert cut_to_body(head.body + "x = 1\n") == head.body
        assert parses(head.head, head.body)
        assert parses(head.head, head.indent + "pass\n")
        assert not parses(head.head, "")


@pytest.mark.parametrize(
    ("continuation", "body"),
    [
        ("    return 1\n\n\ndef other():\n    pass\n", "    return 1\n"),
        ("    x = 1\n# a comment at the margin\n    y = 2\n", "    x = 1\n"),
        ("    x = 1\n    y = (", "    x = 1\n"),
        ("    return 1", ""),
        ("\n\n    return 1\n", "\n\n    return 1\n"),
        ("\tif x:\n\n\t\treturn\n", "\tif x:\n\n\t\treturn\n"),
        ("return 1\n", ""),
        ("", ""),
    ],
)
def test_cut_to_body(continuation: str, body: str) -> None:
    assert cut_to_body(continuation) == body


@pytest.mark.parametrize(
    ("head", "body", "verdict"),
    [
        ("def f():\n", "    return 1\n", True),
        ("async def f():\n", "    await g()\n", True),
        ('def f():\n    """Words."""\n', "    pass\n", True),
        ('def f():\n    """Words."""\n', "", False),
        ('def f():\n    """Words."""\n', "    # only a comment\n", False),
        ("def f():\n", '    """Only words."""\n', False),
        ("def f():\n", "    return (1\n", False),
        ("def f():\n", "    return 1\n  return 2\n", False),
        ("def f():\n", "    return 1\nx = 2\n", False),
        ("def f():\n", "    return '\0'\n", False),
        ("def f():\n", "    return " + "(" * 5000 + ")" * 5000 + "\n", False),
        ("x = 1\n", "", False),
    ],
)
def test_parses(head: str, body: str, verdict: bool) -> None:
    assert parses(head, body) is verdict


@pytest.mark.filterwarnings("error")
def test_judging_does_not_warn() -> None:
    assert parses("def f():\n", "    return '\\d'\n")


def test_docstrings_are_halved_between_words() -> None:
    source = MODULE + textwrap.dedent('''

        class Square(Shape):
            def side(self):
                """The length of a side, which all four sides share, measured
                in the units that the user chose when he made it.
                """
                return self.length

            def table(self):
                """
                >>> Square(2).table() and some more words to make this text long enough to be counted as English
                """

            def short(self):
                """Too short to halve."""
        ''')
    module, side = docstring_beginnings(source)
    assert module.beginning.startswith("A module about")
    assert module.rest.endswith("plain words.")
    assert module.prompt == '"""' + module.beginning
    assert side.prompt == 'def side(self):\n    """' + side.beginning
    assert side.rest.startswith((" ", "\n"))
    assert not side.beginning[-1].isspace()
    text = side.beginning + side.rest
    assert text.startswith("The length")
    assert text.endswith("made it.\n    ")
    assert abs(len(side.beginning) - len(side.rest)) < 20


@pytest.mark.parametrize("module", [argparse, random, shutil])
def test_real_docstrings_are_halved_between_words(module) -> None:  # type: ignore[no-untyped-def]
    with open(module.__file__, encoding="utf-8") as file:
        halves = docstring_beginnings(file.read())
    assert halves
    for half in halves:
        assert half.prompt.endswith(half.beginning)
        assert not half.beginning[-1].isspace()
        assert half.rest[0].isspace()
        ast.parse(f'{half.prompt}{half.rest}"""\n' + ("" if half.prompt.startswith('"') else "    pass\n"))


def test_what_is_not_python_has_no_prompts() -> None:
    for source in ("def broken(:\n", "\0", "(" * 9999, ""):
        assert function_heads(source) == []
        assert docstring_beginnings(source) == []
