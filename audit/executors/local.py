"""Steps one after another in this process, each with its own time limit; what a check raises ends its step, never the run."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from audit.context import BudgetExceeded
from audit.finding import Outcome
from audit.parameters import NotApplicable, UserError


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `BudgetExceeded` inside the block once `seconds` have passed.

    An alarm interrupts Python code between any two instructions, so a check that never reports progress stops too; it needs
    the main thread. Elsewhere `Context.progress` alone keeps the budget.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise BudgetExceeded("the time budget ran out")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def execute(work: Callable[[], None], timeout: float | None, log: Callable[[str], None]) -> tuple[Outcome, float]:
    """Run one step's work; give how it ended and its seconds. The traceback goes to `log`, one line of it to the outcome."""
    start = time.monotonic()
    try:
        with time_limit(timeout):
            work()
        outcome = Outcome(status="completed")
    except BudgetExceeded:
        outcome = Outcome(
            status="error", message=f"the time budget of {timeout:g} s ran out; what was measured before is kept"
        )
    except NotApplicable as error:
        outcome = Outcome(status="not_applicable", message=_line(str(error)))
    except UserError as error:
        outcome = Outcome(status="error", message=_line(str(error)))
    except Exception as error:  # whatever a model, check or plug-in raises is this step's error, and the next step runs
        log(traceback.format_exc())
        outcome = Outcome(
            status="error", message=f"{type(error).__name__}: {_line(str(error)) or 'no message'}{_place(error)}"
        )
    return outcome, time.monotonic() - start


def _line(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 400 else flat[:397] + "…"


def _place(error: BaseException) -> str:
    """File and line that raised, without the folders of this machine."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f" (in {last.name}, {last.filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{last.lineno})"
