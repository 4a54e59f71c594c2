"""An interruption waits for what is under way, and takes effect then; a second one does not wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from audit.train.interruption import held_back


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """As in a program that runs in the foreground."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_in_a_block(times: int) -> list[bool]:
    seen: list[bool] = []

    def block() -> None:
        with held_back() as interrupted:
            seen.append(interrupted())
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                seen.append(interrupted())

    with pytest.raises(KeyboardInterrupt):
        block()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return seen


def test_it_waits_for_the_end_of_the_block() -> None:
    assert interrupted_in_a_block(1) == [False, True]


def test_a_second_one_does_not_wait() -> None:
    assert interrupted_in_a_block(2) == [False, True]


def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with held_back() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupted()


def test_another_thread_holds_nothing() -> None:
    seen: list[bool] = []

    def work() -> None:
        with held_back() as interrupted:
            seen.extend([interrupted(), signal.getsignal(signal.SIGINT) is signal.default_int_handler])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]
