"""Ctrl-C and SIGTERM as a wish to save and leave, not as a crash."""

import signal
from types import FrameType


class Interrupt:
    """While the block runs, SIGINT and SIGTERM are noted in `signal`; a second one ends the process as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
