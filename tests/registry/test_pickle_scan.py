"""Pickles are read to the last opcode: no payload hides behind the memo, an odd opcode, or a broken end."""

from __future__ import annotations

import copyreg
import io
import pickle
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from audit.parameters import UserError
from audit.registry.byte_window import Scratch, Window
from audit.registry.pickle_machine import read_pickle
from audit.registry.pickle_names import runs_code
from audit.registry.scan import ScanReport, scan_file
from audit.registry.trust import Trust

COMMAND = "touch marker"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def call(module: str, name: str, argument: str) -> bytes:
    """STACK_GLOBAL, one argument, REDUCE."""
    return text(module) + text(name) + b"\x93" + text(argument) + b"\x85R"


class Reduces:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


def by_reduce(protocol: int) -> bytes:
    import os

    return pickle.dumps({"weights": [1.0, 2.0], "hook": Reduces(os.system, COMMAND)}, protocol)


SYSTEM = {"os.system", "posix.system"}
PAYLOADS: dict[str, tuple[bytes, set[str]]] = {
    **{f"reduce, protocol {n}": (by_reduce(n), SYSTEM) for n in range(6)},
    "GLOBAL": (b"cos\nsystem\n(S'touch marker'\ntR.", SYSTEM),
    "INST": (b"(S'touch marker'\nios\nsystem\n.", SYSTEM),
    "OBJ": (b"(cos\nsystem\nS'touch marker'\no.", SYSTEM),
    "STACK_GLOBAL": (b"\x80\x04" + call("os", "system", COMMAND) + b".", SYSTEM),
    "names from the memo": (
        b"\x80\x04" + text("system") + b"\x94" + text("os") + b"\x9400" + b"h\x01h\x00\x93" + text(COMMAND) + b"\x85R.",
        SYSTEM,
    ),
    "a memo entry that is overwritten": (
        b"\x80\x04"
        + text("torch")
        + b"q\x000"
        + text("os")
        + b"q\x000"
        + b"h\x00"
        + text("system")
        + b"\x93"
        + text(COMMAND)
        + b"\x85R.",
        SYSTEM,
    ),
    "names by PUT and GET in text": (
        b"Vos\np7\n0Vsystem\np300\n0g7\ng300\n\x93(V" + COMMAND.encode() + b"\ntR.",
        SYSTEM,
    ),
    "names by LONG_BINPUT and LONG_BINGET": (
        b"Vos\nr\x00\x01\x00\x000Vsystem\nr\x01\x01\x00\x000j\x00\x01\x00\x00j\x01\x01\x00\x00\x93(V"
        + COMMAND.encode()
        + b"\ntR.",
        SYSTEM,
    ),
    "escaped names": (b"V\\u006fs\nV\\u0073ystem\n\x93(V" + COMMAND.encode() + b"\ntR.", SYSTEM),
    "behind DUP, POP and POP_MARK": (
        b"\x80\x04(K\x01K\x02120NN20".replace(b"12", b"1N2") + call("os", "system", COMMAND) + b".",
        SYSTEM,
    ),
    "in a second pickle": (pickle.dumps([1, 2]) + b"cos\nsystem\n(S'touch marker'\ntR.", SYSTEM),
    "resolve_name": (
        b"\x80\x04" + call("pkgutil", "resolve_name", "os:system") + text(COMMAND) + b"\x85R.",
        {"pkgutil.resolve_name"},
    ),
    "eval": (b"\x80\x04" + call("builtins", "eval", f"__import__('os').system('{COMMAND}')") + b".", {"builtins.eval"}),
    "exec in the way of Python 2": (
        b'c__builtin__\neval\n(S\'__import__("os").system("touch marker")\'\ntR.',
        {"__builtin__.eval"},
    ),
    "a dotted name": (b"\x80\x04" + call("shutil", "os.system", COMMAND) + b".", {"shutil.os.system"}),
    "a pickle in a pickle": (
        b"\x80\x04"
        + text("_pickle")
        + text("loads")
        + b"\x93C"
        + bytes([len(by_reduce(2))])
        + by_reduce(2)
        + b"\x85R.",
        {"_pickle.loads"},
    ),
    "a partial with state": (
        b"\x80\x04"
        + text("functools")
        + text("partial")
        + b"\x93"
        + text("os")
        + text("system")
        + b"\x93\x85R"
        + text(COMMAND)
        + b"\x85R.",
        {"functools.partial", *SYSTEM},
    ),
    "NEWOBJ_EX": (
        b"\x80\x04"
        + text("functools")
        + text("partial")
        + b"\x93"
        + text("os")
        + text("system")
        + b"\x93\x85}\x92"
        + text(COMMAND)
        + b"\x85R.",
        {"functools.partial", *SYSTEM},
    ),
}


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(content: bytes) -> ScanReport:
    """Scan, then ask the gate as a loader would; whatever the file is, it must not have run."""
    path = Path("model.bin")
    path.write_bytes(content)
    report = scan_file(path)
    if report.verdict != "clean":
        with pytest.raises(UserError) as error:
            Trust(Path("home")).admit(report)
        assert "\n" not in str(error.value)
    assert not Path("marker").exists()
    return report


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_a_live_payload_is_named_and_does_not_run(payload: tuple[bytes, set[str]]) -> None:
    content, names = payload
    report = judged(content)
    assert (report.format, report.verdict) == ("pickle", "needs_trust")
    first = report.findings[0]
    assert "which runs code" in first.what
    assert any(first.what.startswith(f"{name}(") for name in names), first.what
    assert names & {issue.what.split("(")[0] for issue in report.findings}

    # the control: without the gate, the very same bytes do run
    stream = io.BytesIO(content)
    while stream.tell() < len(content):
        pickle.load(stream)
    assert Path("marker").exists()


def test_the_finding_gives_the_place_and_the_argument() -> None:
    report = judged(b"\x80\x04" + call("os", "system", COMMAND) + b".")
    assert str(report.findings[0]) == "os.system('touch marker'), which runs code (byte 14)"
    assert f"audit model trust {report.sha256}" in report.summary


def test_extension_codes_need_trust() -> None:
    copyreg.add_extension("os", "system", 200)
    try:
        content = b"\x80\x02\x82\xc8(X\x0c\x00\x00\x00touch markertR."
        report = judged(content)
        pickle.loads(content)
        assert Path("marker").exists()
    finally:
        copyreg.remove_extension("os", "system", 200)
        copyreg.clear_extension_cache()
    assert report.verdict == "needs_trust"
    assert any("extension 200" in issue.what for issue in report.findings)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x80\x02cos\nsystem\n)\x81.", "os.system()"),  # NEWOBJ
        (b"\x80\x04K\x01K\x02\x93.", "cannot be told exactly"),  # STACK_GLOBAL of two numbers
        (b"cos\nsystem now\n.", "cannot be told exactly"),
        (b"co\\x73\nsystem\n.", "cannot be told exactly"),  # pickletools reads "os" where an unpickler does not
        (b"\x80\x02X\x01\x00\x00\x00xQ.", "imports nothing"),  # a persistent id
        (pickle.dumps({"a": 1}), "imports nothing"),
    ],
)
def test_pickles_without_a_known_payload_still_need_trust(content: bytes, found: str) -> None:
    report = judged(content)
    assert report.verdict == "needs_trust"
    assert any(found in str(issue) for issue in report.findings), report.findings


LIVE_BUT_BROKEN = b"\x80\x04" + call("os", "system", COMMAND)


@pytest.mark.parametrize(
    "content",
    [
        LIVE_BUT_BROKEN,  # no STOP
        LIVE_BUT_BROKEN + b"\xff",  # no opcode
        LIVE_BUT_BROKEN + b"\x8c\xff",  # cut short in a string
        LIVE_BUT_BROKEN + b"000.",  # takes from an empty stack
        LIVE_BUT_BROKEN + b"h\x63.",  # recalls what was never stored
        LIVE_BUT_BROKEN + b"\x80\x09.",  # protocol 9
        b"(S'touch marker'\nios\nsystem?",  # the file ends inside a line, whose last byte an unpickler cuts off
    ],
)
def test_a_payload_before_nonsense_is_refused_and_named(content: bytes) -> None:
    report = judged(content)
    assert report.verdict == "refused"
    assert any(issue.what.startswith("os.system(") for issue in report.findings)
    for load in (pickle.loads, pickle._loads):  # type: ignore[attr-defined]  the unpicklers in C and in Python
        with pytest.raises(Exception):  # noqa: B017  the control: one of them runs it before it trips
            load(content)
    assert Path("marker").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps([1, 2, 3])[:-1],
        pickle.dumps([1, 2, 3]) + b"\x00\x00",
        b"\x80\x04",
        b"\x80",
        b"N.\xff",
        b"Hello, world.\n",
    ],
)
def test_truncated_pickles_and_bytes_behind_them_are_refused(content: bytes) -> None:
    report = judged(content)
    assert report.verdict == "refused"
    assert len(report.findings) >= 1
    Trust(Path("home")).allow_digest(report.sha256, "me", "trust does not help")
    with pytest.raises(UserError, match="is refused"):
        Trust(Path("home")).admit(report)


def test_a_trusted_digest_opens_the_gate() -> None:
    report = judged(by_reduce(4))
    trust = Trust(Path("home"))
    trust.allow_digest(report.sha256, "me", "built it here")
    trust.admit(report)
    trust.revoke(report.sha256)
    with pytest.raises(UserError, match="can run code"):
        trust.admit(report)


def test_hostile_lengths_neither_hang_nor_fill_the_memory() -> None:
    for content in (
        b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"x.",  # BINUNICODE8 of 4 EiB
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # LONG4 of 2 GiB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # memo entry 4294967295
        b"(" * 100_000 + b".",
        b"I" + b"9" * 10_000 + b"\n.",
    ):
        assert judged(content).verdict in ("refused", "needs_trust")


def test_too_many_opcodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.registry.byte_window.MAX_OPCODES", 1000)
    report = judged(pickle.dumps(list(range(2000))))
    assert report.verdict == "refused"
    assert "opcodes" in report.summary


def test_findings_from_a_file_cannot_reach_the_terminal() -> None:
    report = judged(b"cos\x1b[31m\nsys\rtem\n.")
    assert all(line.isprintable() for issue in report.findings for line in (issue.what, issue.where))
    assert report.summary.isprintable()


@pytest.mark.parametrize(
    ("module", "name", "known"),
    [
        ("os", "system", True),
        ("nt", "system", True),
        ("__builtin__", "eval", True),
        ("commands", "getoutput", True),
        ("shutil", "os.system", True),
        ("builtins", "__import__", True),
        ("sklearn.svm", "SVC.__init__.__globals__", True),
        ("sklearn.tree._tree", "Tree", False),
        ("collections", "OrderedDict", False),
        ("builtins", "dict", False),
    ],
)
def test_known_code_running_names(module: str, name: str, known: bool) -> None:
    assert runs_code(module, name) is known


class Stub:
    """Stands for whatever a pickle would import or build, and lets everything be done to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        return Stub()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def append(self, item: Any) -> None:
        pass

    extend = add = update = append


class Recorder(pickle._Unpickler):  # type: ignore[misc,name-defined]
    """Python's own unpickler, which notes what it would import."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.seen: Counter[tuple[str, str]] = Counter()

    def find_class(self, module: str, name: str) -> Any:
        self.seen[module, name] += 1
        return Stub

    def persistent_load(self, pid: Any) -> Any:
        return Stub()

    def get_extension(self, code: int) -> None:
        self.append(Stub)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_import_of_the_real_unpickler_escapes_the_scan() -> None:
    """Reference: on thousands of damaged pickles, the scan sees every import that Python's unpickler makes."""
    rng = random.Random(0)
    tree = OrderedDict(
        a=[1, 2.5, None, True], b=Reduces(print, "x", {"y": (1, 2, 3, 4)}), c={1, 2}, d=b"xyz", e=Path("x")
    )
    seeds = [pickle.dumps(tree, protocol) for protocol in range(6)] + [content for content, _ in PAYLOADS.values()]
    imports = 0
    for _ in range(4000):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            kind, at = rng.random(), rng.randrange(len(content))
            if kind < 0.4:
                content[at] = rng.randrange(256)
            elif kind < 0.6:
                content[at:at] = bytes([rng.choice(b"(012hqt\x85\x86\x93\x94RbcNiogp.)]}u")])
            elif kind < 0.8:
                del content[at : at + rng.randrange(1, 4)]
            else:
                donor = rng.choice(seeds)
                start = rng.randrange(len(donor))
                content[at:at] = donor[start : start + rng.randrange(1, 30)]
            if not content:
                break
        recorder = Recorder(bytes(content))
        with suppress(Exception):  # damaged on purpose; what it imported until then counts
            recorder.load()
        with Scratch(1 << 20) as scratch:
            stream = read_pickle(Window.of_bytes(bytes(content)).reader(), scratch)
        found = Counter(imported.pair for imported in stream.imports)
        missed = {pair for pair in recorder.seen - found if all(pair)}  # no module and no attribute has an empty name
        # what pickletools reads otherwise than an unpickler is not told exactly, and the scan says so
        assert not missed or stream.unresolved or not all((m + n).isascii() for m, n in missed), (
            missed,
            bytes(content),
        )
        imports += sum(recorder.seen.values())
    assert imports > 3000  # the damage left enough alive for this to mean something
