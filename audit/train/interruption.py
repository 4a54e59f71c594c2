"""Ctrl-C and a scheduler's notice to leave, held back until what is under way can be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold SIGINT and SIGTERM back to the end of the block; the yielded function says whether one came.

    A second one takes effect at once. Nothing is held outside the main thread, where no signal arrives, nor where a signal has no
    handler of Python's (it is ignored, or kills).
    """
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held = [number for number, handler in usual.items() if callable(handler)]
    if threading.current_thread() is not threading.main_thread():
        held = []
    came: list[Callable[[], object]] = []

    def note(number: int, frame: FrameType | None) -> None:
        handler = usual[signal.Signals(number)]
        if callable(handler):
            came.append(lambda: handler(number, frame))
        if len(came) > 1:
            came[-1]()

    for number in held:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number in held:
            signal.signal(number, usual[number])
    if came:
        came[0]()
