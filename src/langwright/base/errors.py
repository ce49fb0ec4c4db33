"""The one exception a user may see."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints
    it on stderr without a traceback and exits with code 2.
    """


class RankError(UserError):
    """The failure of a command that several processes share: the line of one of them, and nothing of the others."""


def check_flag(name: str, value: Any, holds: bool, wanted: str) -> None:
    """UserError that the flag of a setting must be what is `wanted`, where that does not hold."""
    if not holds:
        raise UserError(f"--{name.replace('_', '-')} {value}: must be {wanted}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: '; did you mean "..."?' with the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def first_line(error: BaseException) -> str:
    """What an error of a library says, for the end of a line of ours."""
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
