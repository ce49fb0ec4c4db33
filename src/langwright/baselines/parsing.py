"""Prompts cut from real Python source, and whether what a model wrote after them is Python.

Two kinds of prompt: a function's head, to be continued with its body, and the first half of an English docstring.
Each comes with what the author wrote. A body is judged by the parser alone: it says whether the text is Python, not
whether it is right, so `pass` always parses and is one of the baselines.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_MIN_WORDS = 12  # a docstring with fewer is no English text to halve
_MIN_LETTERS = 0.9  # the share of letters and blanks in running English; tables and doctests have less


class FunctionHead(NamedTuple):
    """A function cut in two, moved to the left margin; `head + body` is its whole source.

    head: the `def` line or lines and the docstring, else the comments, ending with a newline. No decorators.
    body: what the author wrote next, ending with a newline.
    indent: the blanks before the body's first statement.
    """

    head: str
    body: str
    indent: str


class DocstringBeginning(NamedTuple):
    """An English docstring cut between two words near its middle.

    prompt: source up to the cut, from the `def` or `class` line on, without the blank at the cut.
    beginning: the docstring's own part of the prompt.
    rest: what the author wrote next, from that blank to the closing quotes (not included).
    """

    prompt: str
    beginning: str
    rest: str


def function_heads(source: str) -> list[FunctionHead]:
    """The functions and methods of a module, in order, each with its true body.

    Left out: functions inside functions, one-line functions, functions with no code after the docstring, and those
    with a line at or left of their `def` inside the body (a string's content), which `cut_to_body` would cut.
    Returns an empty list when `source` is not Python.
    """
    lines = _lines(source)
    functions = (node for node in _scopes(_parse(source)) if isinstance(node, _Function))
    return [head for node in functions if (head := _function_head(node, lines))]


def cut_to_body(continuation: str) -> str:
    """The part of a generated continuation that belongs to the function whose head it continues.

    It ends before the first line that starts at the margin, so that later functions do not count. A last line
    without a newline is dropped as unfinished: generation stops at a count of tokens, not at the end of a line. Blank
    lines at the end go too.
    """
    body = []
    for line in continuation.split("\n")[:-1]:
        if line.strip() and line[0] not in " \t":
            break
        body.append(line + "\n")
    while body and not body[-1].strip():
        body.pop()
    return "".join(body)


def parses(head: str, body: str) -> bool:
    """Whether head and body together are one Python function that does something.

    A body without a statement, or with nothing but a string, does not count.
    """
    match _parse(head + body).body:
        case [ast.FunctionDef() | ast.AsyncFunctionDef() as function]:
            return len(function.body) > (_docstring(function) is not None)
    return False


def docstring_beginnings(source: str) -> list[DocstringBeginning]:
    """The first halves of the English docstrings of a module, its classes and its functions, each with its rest.

    Left out: docstrings that are short, that are not in triple double quotes, or that are tables or examples rather
    than running text. Returns an empty list when `source` is not Python.
    """
    lines = _lines(source)
    return [half for node in _scopes(_parse(source)) if (half := _docstring_beginning(node, lines))]


def _parse(source: str) -> ast.Module:
    """The module, an empty one where the source is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in someone's text is not for our user
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
            return ast.Module([], [])


def _scopes(node: _Documented) -> Iterator[_Documented]:
    """The node itself, its classes and their methods, in order; not what stands inside a function."""
    yield node
    if not isinstance(node, _Function):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _scopes(child)


def _lines(source: str) -> list[str]:
    """The lines as the parser counts them: form feeds and other separators do not end one."""
    return re.split("\r\n|\r|\n", source)


def _docstring(node: _Documented) -> ast.Expr | None:
    match node.body:
        case [ast.Expr(ast.Constant(str())) as first, *_]:
            return first
    return None


def _function_head(node: _Function, lines: Sequence[str]) -> FunctionHead | None:
    docstring = _docstring(node)
    code = node.body[1:] if docstring else node.body
    if not code:
        return None
    first = min([code[0].lineno, *(decorator.lineno for decorator in getattr(code[0], "decorator_list", []))])
    start = docstring.end_lineno if docstring else first - 1
    if start is None or not node.lineno <= start < first:
        return None
    own = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).split("\n")
    head, body = ("\n".join([*part, ""]) for part in (own[: start - node.lineno + 1], own[start - node.lineno + 1 :]))
    if cut_to_body(body) != body or not parses(head, body):
        return None
    statement = own[first - node.lineno]
    return FunctionHead(head, body, statement[: len(statement) - len(statement.lstrip())])


def _docstring_beginning(node: _Documented, lines: Sequence[str]) -> DocstringBeginning | None:
    docstring = _docstring(node)
    if docstring is None:
        return None
    first = docstring.lineno if isinstance(node, ast.Module) else node.lineno
    source = textwrap.dedent("\n".join(lines[first - 1 : docstring.end_lineno]))
    if source[0].isspace() or source.count('"""') != 2:
        return None
    opening, text, _ = source.split('"""')
    plain = sum(letter.isalpha() or letter.isspace() for letter in text)
    if len(text.split()) < _MIN_WORDS or plain < _MIN_LETTERS * len(text) or ">>>" in text:
        return None
    gaps = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    cut = min(gaps, key=lambda gap: abs(gap - len(text) // 2))
    return DocstringBeginning(f'{opening}"""{text[:cut]}', text[:cut], text[cut:])
