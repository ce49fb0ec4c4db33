"""Rules that say what an answer is worth, as functions of its text."""

import ast
import json
import re
import signal
import textwrap
import threading
import warnings
from decimal import Decimal
from fractions import Fraction

from langwright.pipelines.scorers import normal

UNSIGNED = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?!\w))?"
NUMBER = rf"(?:(?<![\w).])-)?{UNSIGNED}(?:/(?=[\d,.]*[1-9]){UNSIGNED})?"
"""A number, or a fraction whose denominator is not 0."""


def program_of(answer: str, prompt: str = "") -> str | None:
    """The Python program that an answer gives, with at least one statement: behind its prompt or alone.

    Behind its prompt where that is the beginning of a program, such as the head of a function; else its code block, or
    all of it, taken out of its indentation. None where neither parses. Syntax alone is asked for: a single word, too,
    is Python.
    """
    if _statements(prompt + answer) > max(0, _statements(prompt)):
        return prompt + answer
    alone = textwrap.dedent(code_of(answer))
    return alone if _statements(alone) > 0 else None


def check_of(tests: str) -> str:
    """The program that runs tests: doctests if there are any, else Python with assertions."""
    if not re.search(r"^\s*>>> ", tests, re.MULTILINE):
        return tests
    return (
        f"import doctest\n_tests = doctest.DocTestParser().get_doctest({tests!r}, globals(), 'tests', None, 0)\n"
        "assert not doctest.DocTestRunner(verbose=False).run(_tests).failed, 'a doctest failed'"
    )


def code_of(answer: str) -> str:
    """The first fenced code block of an answer, or all of it."""
    block = re.search(r"^```[^\n]*\n(.*?)^```\s*$", answer, re.DOTALL | re.MULTILINE)
    return answer if block is None else block[1]


def final_answer(text: str) -> str:
    r"""What a text gives as its result: what follows its last `####`, or its last `\boxed{}` or `<answer>` holds."""
    found = re.findall(r"####\s*([^\n]*)|\\boxed\{([^{}]*)\}|<answer>(.*?)</answer>", text, re.DOTALL)
    return "".join(found[-1]) if found else text


def same_answer(answer: str, truth: str) -> bool:
    """Whether the final answers of two texts are equal: as numbers if the true one is a number, else as words.

    A number may be a fraction (1/2) or have an exponent (1e3). The last one of an answer without a mark counts. Case,
    blanks at the ends and a last full stop are passed over.
    """
    said, wanted = final_answer(answer), final_answer(truth).strip().removeprefix("$")
    if not re.fullmatch(NUMBER, wanted):
        return normal(said) == normal(wanted)
    numbers = re.findall(NUMBER, said)
    return bool(numbers) and _exact(numbers[-1]) == _exact(wanted)


def _exact(number: str) -> Fraction:
    """What a text that is a number stands for."""
    top, _, bottom = number.replace(",", "").partition("/")
    return Fraction(Decimal(top)) / Fraction(Decimal(bottom or 1))


def overlong(tokens: int, soft: int, limit: int) -> float:
    """0 up to `soft` tokens, then falling linearly to -1 at `limit`.

    Source: Yu et al., DAPO (2025), equation 13.
    """
    return -min(1.0, max(0.0, (tokens - soft) / (limit - soft)))


def is_found(pattern: re.Pattern[str], text: str, seconds: float = 1.0) -> bool:
    """Whether a regular expression is found in a text.

    Args:
        pattern: that may go back more often than anybody has time for, such as `(a+)+$`.
        text: to search.
        seconds: of the processor, on Unix and in the main thread, where the search can be interrupted.

    Raises:
        TimeoutError: They were over.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return pattern.search(text) is not None

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        return pattern.search(text) is not None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def is_json(text: str) -> bool:
    """Whether a text is one JSON value."""
    try:
        json.loads(text, parse_constant=int)  # which refuses NaN and Infinity: they are no JSON
    except (ValueError, RecursionError):
        return False
    return True


def has_form(answer: str, form: str) -> bool:
    """Whether an answer has a form in which `...` stands for any text: each of its pieces stands there once."""
    pieces = form.split("...")
    marks = [piece for piece in pieces if piece]
    once = all(answer.count(mark) == marks.count(mark) for mark in marks)
    return once and re.fullmatch(".+?".join(map(re.escape, pieces)), answer.strip(), re.DOTALL) is not None


def _statements(text: str) -> int:
    """The statements of a Python text, or -1 where it does not parse."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return -1
