"""Prompts cut from real Python source, and whether what a model wrote after them is Python.

Two kinds of prompt: a function's head, to be continued with its body, and the first half of an English docstring.
Each comes with what the author wrote. A body is judged by the parser alone: it says whether the text is Python, not
whether it is right, so `pass` always parses and is one of the baselines.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

_MIN_WORDS = 12  # a docstring with fewer is no English text to halve
_MIN_LETTERS = 0.9  # the share of letters and blanks in running English; tables and doctests have less


@dataclass(frozen=True)
class FunctionHead:
    """A function cut in two, moved to the left margin; `head + body` is its whole source.

    head: the `def` line or lines and the docstring, ending with a newline. No decorators.
    body: what the author wrote next, ending with a newline.
    indent: the blanks before the body's first statement.
    """

    head: str
    body: str
    indent: str


@dataclass(frozen=True)
class DocstringBeginning:
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
    tree = _parse(source)
    lines = _lines(source)
    functions = (node for node in _scopes(tree) if isinstance(node, _Function)) if tree else ()
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
    tree = _parse(head + body)
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], _Function):
        return False
    function = tree.body[0]
    return len(function.body) > (_docstring(function) is not None)


def docstring_beginnings(source: str) -> list[DocstringBeginning]:
    """The first halves of the English docstrings of a module, its classes and its functions, each with its rest.

    Left out: docstrings that are short, that are not in triple double quotes, or that are tables or examples rather
    than running text. Returns an empty list when `source` is not Python.
    """
    tree = _parse(source)
    lines = _lines(source)
    return [half for node in _scopes(tree) if (half := _docstring_beginning(node, lines))] if tree else []


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape in someone's text is not for our user
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deep
            return None


def _scopes(node: _Documented) -> Iterator[_Documented]:
    """The node itself, its classes and their methods, in order; not what stands inside a function."""
    yield node
    if not isinstance(node, _Function):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _scopes(child)


def _lines(source: str) -> list[str]:
    """The lines as the parser counts them: form feeds and other separators do not end one."""
    return [line + "\n" for line in re.split("\r\n|\r|\n", source)]


def _docstring(node: _Documented) -> ast.Expr | None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first
    return None


def _function_head(node: _Function, lines: list[str]) -> FunctionHead | None:
    docstring = _docstring(node)
    code = node.body[1:] if docstring else node.body
    if not code:
        return None
    start = docstring.end_lineno if docstring else _signature_end(node, lines)
    if start is None or _first_line(code[0]) <= start:
        return None
    margin = " " * node.col_offset
    head = _dedent(lines[node.lineno - 1 : start], margin)
    body = _dedent(lines[start : node.end_lineno], margin)
    if head is None or body is None or cut_to_body(body) != body or not parses(head, body):
        return None
    first = lines[_first_line(code[0]) - 1].removeprefix(margin)
    return FunctionHead(head, body, first[: len(first) - len(first.lstrip())])


def _signature_end(node: _Function, lines: list[str]) -> int:
    """The number of the line with the signature's colon, when the body starts below it; comments belong to the body."""
    end = _first_line(node.body[0]) - 1
    while end > node.lineno and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _first_line(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else []
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _dedent(lines: list[str], margin: str) -> str | None:
    """The lines without `margin`, or None when a line with text does not start with it."""
    if any(line.strip() and not line.startswith(margin) for line in lines):
        return None
    return "".join(line.removeprefix(margin) if line.strip() else "\n" for line in lines)


def _docstring_beginning(node: _Documented, lines: list[str]) -> DocstringBeginning | None:
    docstring = _docstring(node)
    if docstring is None:
        return None
    first = docstring.lineno if isinstance(node, ast.Module) else node.lineno
    margin = " " * (docstring.col_offset if isinstance(node, ast.Module) else node.col_offset)
    before = _dedent(lines[first - 1 : docstring.lineno - 1], margin)
    quoted = _dedent(lines[docstring.lineno - 1 : docstring.end_lineno], margin)
    if before is None or quoted is None or quoted.count('"""') != 2:
        return None
    opening, text, _ = quoted.split('"""')
    if not _is_english(text):
        return None
    cut = _middle(text)
    return DocstringBeginning(f'{before}{opening}"""{text[:cut]}', text[:cut], text[cut:])


def _is_english(text: str) -> bool:
    plain = sum(letter.isalpha() or letter.isspace() for letter in text)
    return len(text.split()) >= _MIN_WORDS and plain >= _MIN_LETTERS * len(text) and ">>>" not in text


def _middle(text: str) -> int:
    """Where the blank nearest the middle begins."""
    gaps = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    return min(gaps, key=lambda gap: abs(gap - len(text) // 2))
