"""A process that answers requests with code that nobody vouches for: what hangs, crashes or eats memory in it ends it, and costs a message.

The parent writes a request and waits; ``python -m dashboard.working.worker`` reads it, calls one function and writes what that gave. Both
speak JSON: nothing that the other process sends is ever unpickled. The process is started afresh (never forked), is kept for the next
request, and ends by itself when the parent is gone or asks for nothing for a while.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Literal

from audit.parameters import UserError

STARTING = 180.0
"""Seconds that a process may take until it listens."""
GRACE = 2.0
"""Seconds after which a process that overran its time and is still there is killed from outside."""
IDLE = 900.0
"""Seconds without a request after which a process ends by itself."""
FIRST_TO_DIE = "1000"
"""Where the machine's memory runs out, the kernel ends this process and no other."""
TAIL = 2000

Why = Literal["late", "memory", "ended", "broke"]


class WorkerFailed(Exception):
    """A request that was not answered.

    Args:
        why: its time ran out, its memory did, the process ended, or the code raised.
        said: what is known beside that, on one line; of time, how many seconds there were.
        log: the end of what the process printed.
    """

    def __init__(self, why: Why, said: str, log: str = "") -> None:
        super().__init__(said)
        self.why, self.said, self.log = why, said, log


class Worker:
    """A process that answers one request after the other.

    Args:
        target: ``module:function`` from a mapping to a mapping, both as JSON has them; it may raise `UserError`.
        seconds: that a request may take.
        memory: bytes that the process may take beyond what it has when it starts listening; None: half of the machine's.
    """

    def __init__(self, target: str, *, seconds: float, memory: int | None = None) -> None:
        self.target, self.seconds, self.memory = target, seconds, memory
        self._turn = threading.Lock()
        self._process: _Process | None = None

    def start(self) -> None:
        """Start the process where there is none, and do not wait for it."""
        with self._turn:
            self._started()

    def _started(self) -> _Process:
        if self._process is None or not self._process.alive:
            self.close()
            self._process = _Process(self.target, self.memory)
        return self._process

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """What the function gave; the process is started where there is none, and its start takes nothing from the request's time.

        Args:
            seconds: that this request may take; None: as many as any.

        Raises:
            UserError: as the function raised it.
            WorkerFailed: there is no answer. The process is gone, unless the code just raised.
        """
        with self._turn:
            try:
                found = self._started().ask(request, self.seconds if seconds is None else seconds)
            except BaseException:
                self.close()
                raise
        if refused := found.get("refused"):
            raise UserError(refused)
        if broke := found.get("broke"):
            raise WorkerFailed(found["why"], broke)
        return dict(found["answer"])

    @property
    def process(self) -> int | None:
        """The running process' number."""
        return self._process.number if self._process is not None and self._process.alive else None

    def close(self) -> None:
        """End the process; the next request starts another."""
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """One life of a worker."""

    def __init__(self, target: str, memory: int | None) -> None:
        self._seconds = STARTING
        self._ours, theirs = Pipe()
        self._log = tempfile.NamedTemporaryFile(prefix="assay-worker-")  # noqa: SIM115 - lives as long as the process
        command = [
            sys.executable,
            "-P",
            "-m",
            "dashboard.working.worker",
            str(theirs.fileno()),
            target,
            str(memory or ""),
        ]
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()],
            start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(import_path())},
        )  # fmt: skip
        theirs.close()
        self.number = self._popen.pid
        self.end = weakref.finalize(self, _end, self._popen, self._ours, self._log)
        self._listens = False

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if not self._listens:
            self._receive(STARTING)
            self._listens = True
        self._seconds = seconds
        try:
            self._ours.send_bytes(json.dumps({"seconds": seconds, "request": request}).encode())
        except OSError:
            raise self._failed() from None
        return self._receive(seconds + GRACE)

    def _receive(self, seconds: float) -> dict[str, Any]:
        try:
            if not self._ours.poll(seconds):
                raise WorkerFailed("late", f"{self._seconds:g}", self._printed())
            return dict(json.loads(self._ours.recv_bytes()))
        except (EOFError, OSError):
            raise self._failed() from None

    def _failed(self) -> WorkerFailed:
        """Why the process is gone."""
        try:
            code = self._popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            return WorkerFailed("ended", "it closed its end of the line", self._printed())
        if code == -signal.SIGALRM:
            return WorkerFailed("late", f"{self._seconds:g}", self._printed())
        if code == -signal.SIGKILL:
            return WorkerFailed("memory", "signal SIGKILL", self._printed())
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return WorkerFailed("ended", how, self._printed())

    def _printed(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")[-TAIL:].strip()


def _end(popen: subprocess.Popen[bytes], line: Connection, log: Any) -> None:
    """Leave nothing of a process: it, what it started, its line and its log."""
    line.close()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
    log.close()


def import_path() -> list[str]:
    """Where this process imports from, without the dashboard's own folder, which Streamlit adds: its files are no modules of their own."""
    own = Path(__file__).parents[1]
    return [path for path in sys.path if path and Path(path) != own]


# --- the process itself ------------------------------------------------------------------------------------------


def serve(line: Connection, answer: Callable[[Any], dict[str, Any]]) -> None:
    """Answer requests until there are no more. A request's time ends the process by a signal that no Python code has to see."""
    while line.poll(IDLE):
        try:
            asked = json.loads(line.recv_bytes())
        except EOFError:
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"])
        reply = _reply(answer, asked["request"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        line.send_bytes(json.dumps(reply).encode())


def _reply(answer: Callable[[Any], dict[str, Any]], request: Any) -> dict[str, Any]:
    try:
        return {"answer": answer(request)}
    except UserError as error:
        return {"refused": str(error)}
    except (Exception, SystemExit) as error:  # the model is anybody's code, and may raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())
        return {"broke": said, "why": "memory" if _out_of_memory(error, said) else "broke"}


def _out_of_memory(error: BaseException, said: str) -> bool:
    return isinstance(error, MemoryError) or any(
        sign in said
        for sign in ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
    )


def _limit(memory: int | None) -> None:
    """Bound the address space. Where there is an accelerator it is left alone: its driver reserves more than any machine has."""
    Path("/proc/self/oom_score_adj").write_text(FIRST_TO_DIE, encoding="ascii")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return
    page = os.sysconf("SC_PAGE_SIZE")
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * page
    allowed = memory or os.sysconf("SC_PHYS_PAGES") * page // 2
    resource.setrlimit(resource.RLIMIT_AS, (taken + allowed, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(number: str, target: str, memory: str) -> None:
    """Listen on an inherited line."""
    line = Connection(int(number))
    module, _, name = target.partition(":")
    answer = getattr(importlib.import_module(module), name)
    _limit(int(memory) if memory else None)
    line.send_bytes(b'{"answer": {}}')
    serve(line, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
