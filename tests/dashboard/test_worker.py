"""The worker: what answers, what hangs, crashes or takes too much memory, and what is left of it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from audit.parameters import UserError
from dashboard.working.worker import Worker, WorkerFailed

PLANTED = """\
import ctypes, os, signal, sys, time
from audit.parameters import UserError

known = {}


def answer(request):
    match request["do"]:
        case "echo":
            known["n"] = known.get("n", 0) + 1
            return {"said": request["said"], "n": known["n"], "process": os.getpid()}
        case "sleep":
            time.sleep(request["seconds"])
            return {}
        case "refuse":
            raise UserError("give a row")
        case "raise":
            raise RuntimeError("bad\\nweights")
        case "exit":
            sys.exit(7)
        case "leave":
            print("goodbye", flush=True)
            os._exit(7)
        case "abort":
            os.abort()
        case "loop":
            while True:
                pass
        case "hold":  # inside C, with the interpreter's lock: no Python code can run
            ctypes.PyDLL(None).sleep(60)
        case "deaf":
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                pass
        case "hoard":
            return {"bytes": len(bytearray(request["bytes"]))}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Where the planted module lies; the process imports what this one does."""
    path = tmp_path_factory.mktemp("planted")
    (path / "planted_answers.py").write_text(PLANTED)
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))


@pytest.fixture(scope="module")
def kept(folder: Path):
    worker = Worker("planted_answers:answer", seconds=20)
    yield worker
    worker.close()


@pytest.fixture
def quick(folder: Path):
    worker = Worker("planted_answers:answer", seconds=0.4, memory=200_000_000)
    yield worker
    worker.close()


def gone(number: int) -> bool:
    """Whether no such process runs; one that nobody waited for is gone too."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_answers_and_stays_for_the_next_request(kept: Worker) -> None:
    first, second = (kept.ask({"do": "echo", "said": said}) for said in ("字", "two"))
    assert (first["said"], second["said"]) == ("字", "two")
    assert second["n"] == first["n"] + 1
    assert first["process"] == second["process"] == kept.process != os.getpid()


def test_it_is_started_without_waiting_and_its_start_is_no_part_of_an_answer(folder: Path) -> None:
    """`planted_slowly` needs longer to import than a request may take."""
    (folder / "planted_slowly.py").write_text("import time\ntime.sleep(1)\nfrom planted_answers import answer\n")
    worker = Worker("planted_slowly:answer", seconds=0.5)
    began = time.monotonic()
    worker.start()
    assert time.monotonic() - began < 0.9
    number = worker.process
    assert worker.ask({"do": "echo", "said": ""})["process"] == number is not None
    worker.close()


def test_a_request_may_have_a_time_of_its_own(quick: Worker) -> None:
    assert quick.ask({"do": "sleep", "seconds": 0.7}, seconds=20) == {}
    with pytest.raises(WorkerFailed) as failed:
        quick.ask({"do": "sleep", "seconds": 20})
    assert failed.value.said == "0.4"


def test_what_a_user_can_mend_comes_back_as_such(kept: Worker) -> None:
    with pytest.raises(UserError, match=r"^give a row$"):
        kept.ask({"do": "refuse"})
    assert kept.process is not None


@pytest.mark.parametrize(("do", "said"), [("raise", "RuntimeError: bad weights"), ("exit", "SystemExit: 7")])
def test_code_that_raises_leaves_the_process_alive(kept: Worker, do: str, said: str) -> None:
    with pytest.raises(WorkerFailed) as failed:
        kept.ask({"do": do})
    assert (failed.value.why, failed.value.said) == ("broke", said)
    assert kept.process is not None


@pytest.mark.parametrize(
    ("do", "why", "said"), [("abort", "ended", "signal SIGABRT"), ("leave", "ended", "exit code 7")]
)
def test_a_crash_is_named_and_the_next_request_has_a_new_process(quick: Worker, do: str, why: str, said: str) -> None:
    with pytest.raises(WorkerFailed) as failed:
        quick.ask({"do": do})
    assert (failed.value.why, failed.value.said) == (why, said)
    assert quick.process is None
    assert "goodbye" in failed.value.log or do == "abort"
    assert quick.ask({"do": "echo", "said": "again"})["n"] == 1


@pytest.mark.parametrize("do", ["loop", "hold", "deaf"])
def test_a_request_that_never_ends_is_ended(quick: Worker, monkeypatch: pytest.MonkeyPatch, do: str) -> None:
    """In Python, inside C with the interpreter's lock held, and with the clock taken out of the process' own hands."""
    monkeypatch.setattr("dashboard.working.worker.GRACE", 0.6)
    number = quick.ask({"do": "echo", "said": ""})["process"]
    began = time.monotonic()
    with pytest.raises(WorkerFailed) as failed:
        quick.ask({"do": do})
    assert (failed.value.why, failed.value.said) == ("late", "0.4")
    assert time.monotonic() - began < 20
    assert gone(number)


def test_memory_has_a_limit_that_the_process_survives(quick: Worker, kept: Worker) -> None:
    with pytest.raises(WorkerFailed) as failed:
        quick.ask({"do": "hoard", "bytes": 400_000_000})
    assert failed.value.why == "memory"
    assert quick.process is not None
    assert kept.ask({"do": "hoard", "bytes": 400_000_000}) == {"bytes": 400_000_000}


def test_a_worker_that_nobody_holds_leaves_no_process(folder: Path) -> None:
    worker = Worker("planted_answers:answer", seconds=20)
    number = worker.ask({"do": "echo", "said": ""})["process"]
    del worker
    gc.collect()
    assert gone(number)


def test_a_worker_outlives_no_app_that_was_killed(folder: Path) -> None:
    """Idle, it hears that the line is closed; at work, its own clock ends it."""
    code = f"""\
import os, sys
sys.path.insert(0, {str(folder)!r})
from dashboard.working.worker import Worker
worker = Worker("planted_answers:answer", seconds=20)
print(worker.ask({{"do": "echo", "said": ""}})["process"], flush=True)
os.kill(os.getpid(), 9)
"""
    app = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    number = int(app.stdout)
    for _ in range(100):
        if gone(number):
            return
        time.sleep(0.05)
    raise AssertionError(f"process {number} is still there")


def test_a_target_that_cannot_be_imported_is_told(folder: Path) -> None:
    with pytest.raises(WorkerFailed) as failed:
        Worker("no_such_module:answer", seconds=1).ask({})
    assert failed.value.why == "ended"
    assert "no_such_module" in failed.value.log


def test_the_worker_itself_needs_neither_torch_nor_streamlit() -> None:
    code = (
        "import sys, dashboard.working.worker; print([m for m in ('torch', 'numpy', 'streamlit') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"
