"""The gate as a whole: what a file is, is told by its content; what cannot be judged is refused in one line."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from audit.parameters import UserError
from audit.registry.scan import ScanReport, digest_file, scan_file
from audit.registry.trust import Trust


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch marker",)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=3, random_state=0).fit(*load_iris(return_X_y=True))


def judged(path: Path | str, **options: Any) -> ScanReport:
    report = scan_file(path, **options)
    if report.verdict != "clean":
        with pytest.raises(UserError):
            Trust(Path("home")).admit(report)
    assert not Path("marker").exists()
    assert report.summary.isprintable()
    return report


# the file itself


def test_the_digest_is_that_of_the_content() -> None:
    Path("a").write_bytes(b"x" * 3_000_000)
    assert digest_file("a") == hashlib.sha256(b"x" * 3_000_000).hexdigest() == judged("a").sha256


def test_an_empty_file_is_refused() -> None:
    Path("model.pt").touch()
    report = judged("model.pt")
    assert (report.verdict, report.size) == ("refused", 0)
    assert report.summary == "model.pt is refused: it is empty"


def test_an_oversized_file_is_refused_unread() -> None:
    with open("model.pt", "wb") as file:
        file.truncate(1 << 40)
    report = judged("model.pt")
    assert (report.verdict, report.sha256) == ("refused", "")
    assert "1,099,511,627,776 bytes" in report.summary
    Path("small").write_bytes(pickle.dumps(list(range(100))))
    assert judged("small", max_bytes=100).verdict == "refused"
    assert judged("small", max_bytes=1000).verdict == "needs_trust"


def test_what_is_no_file_gives_one_clear_line() -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("secret").write_bytes(b"1")
    for path in ("missing", "pipe", "folder", "a\0b", "/dev/zero"):
        for ask in (scan_file, digest_file):
            with pytest.raises(UserError) as error:
                ask(path)
            assert "\n" not in str(error.value)
            assert "model file" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"\x04\x22\x4d\x18" + bytes(100), "LZ4"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstandard"),
        (b"\x7fELF" + bytes(100), "program"),
        (b"just some words\n", "no model format"),
        (bytes(5000), "no model format"),
        (b"\xff" * 5000, "no model format"),
        (b"{", "JSON"),
    ],
)
def test_what_is_no_model_is_refused(content: bytes, said: str) -> None:
    Path("model.safetensors").write_bytes(content)
    report = judged("model.safetensors")
    assert (report.format, report.verdict) == ("unknown", "refused")
    assert said in report.summary


def test_a_file_that_changes_while_it_is_scanned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import audit.registry.scan as scan

    path = Path("a.npy")
    np.save(path, np.arange(4))
    judge = scan._judge

    def judge_and_change(*arguments: Any) -> None:
        judge(*arguments)
        with open(path, "ab") as file:
            file.write(b"more")

    monkeypatch.setattr(scan, "_judge", judge_and_change)
    report = scan_file(path)
    assert report.verdict == "refused"
    assert "changed while" in report.summary


def test_random_content_is_never_clean_and_never_raises() -> None:
    rng = np.random.default_rng(0)
    for start in (
        b"",
        b"PK\x03\x04",
        b"\x80\x04",
        b"\x93NUMPY",
        b"\x78\x9c",
        b"\x1f\x8b\x08",
        b"{",
        b"{L",
        b"\x08\x08",
        b"tree\n",
        b"BZh9",
    ):
        for _ in range(10):
            Path("model").write_bytes(start + rng.bytes(int(rng.integers(1, 400))))
            assert judged("model").verdict != "clean"


# joblib and skops


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_joblib_files_need_trust(tree: DecisionTreeClassifier, compress: Any) -> None:
    joblib.dump(tree, "model.onnx", compress=compress)
    report = judged("model.onnx")
    assert (report.format, report.verdict) == ("joblib", "needs_trust")
    assert any("import of sklearn.tree._classes.DecisionTreeClassifier" in issue.what for issue in report.findings)
    assert not any("which runs code" in issue.what for issue in report.findings)
    Path("cut").write_bytes(Path("model.onnx").read_bytes()[:-20])
    assert judged("cut").verdict == "refused"


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_a_payload_in_a_joblib_file_is_named(compress: Any) -> None:
    held = {"array": np.arange(1000.0), "hook": Payload(), "objects": np.array([None, "x"], dtype=object)}
    joblib.dump(held, "model.joblib", compress=compress)
    report = judged("model.joblib")
    assert (report.format, report.verdict) == ("joblib", "needs_trust")
    assert "system('touch marker'), which runs code" in str(report.findings[0])
    joblib.load("model.joblib")  # the control
    assert Path("marker").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 0)),
        np.asfortranarray(np.ones((4, 5), np.float32)),
        np.array(["a", "bcd"]),
        np.array([b"a", b"bcd"]),
        np.zeros(3, dtype=[("a", "i4"), ("b", "f8", 2)]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array([Payload()], dtype=object),
        np.array([1 + 2j]),
        np.array(3.0),
    ],
    ids=lambda array: str(array.dtype),
)
def test_the_scan_steps_over_raw_arrays_to_what_follows(array: Any) -> None:
    joblib.dump([array, Payload()], "model.joblib")
    report = judged("model.joblib")
    assert report.verdict == "needs_trust"
    assert "touch marker" in report.findings[0].what
    assert not any("could not be followed" in issue.what for issue in report.findings)


def test_a_file_cut_inside_a_raw_array_is_refused() -> None:
    joblib.dump([np.zeros(1000), Payload()], "model.joblib")
    Path("cut").write_bytes(Path("model.joblib").read_bytes()[:2000])
    report = judged("cut")
    assert report.verdict == "refused"
    assert "ends inside a raw array" in report.summary


def test_skops_files_are_clean(tree: DecisionTreeClassifier) -> None:
    from scipy.sparse import csr_matrix

    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(*load_iris(return_X_y=True))
    for number, model in enumerate(
        (tree, forest, {"sparse": csr_matrix(np.eye(3)), "raw": b"abc", "o": np.array([1, "x"], object)})
    ):
        skops.io.dump(model, f"{number}.bin")
        report = judged(f"{number}.bin")
        assert (report.format, report.verdict, report.findings) == ("skops", "clean", ())
    skops.io.dump(tree, "packed.bin", compression=8)
    assert judged("packed.bin").verdict == "clean"


@pytest.mark.parametrize(
    ("name", "content", "verdict"),
    [
        ("1.npy", "objects", "refused"),
        ("1.npy", "pickle", "refused"),
        ("1.pkl", "pickle", "refused"),
        ("1.bin", "pickle", "needs_trust"),
        ("1.npz", "zip of objects", "needs_trust"),
        ("schema.json", "no schema", "refused"),
    ],
)
def test_skops_files_with_anything_else_in_them_are_not(
    tree: DecisionTreeClassifier, name: str, content: str, verdict: str
) -> None:
    import io
    import zipfile

    objects, packed = io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([Payload()], dtype=object))
    np.savez(packed, a=np.array([Payload()], dtype=object))
    made = {
        "objects": objects.getvalue(),
        "pickle": pickle.dumps(Payload()),
        "zip of objects": packed.getvalue(),
        "no schema": b'{"__class__": "str"}',
    }
    skops.io.dump(tree, "good.skops")
    with zipfile.ZipFile("good.skops") as old, zipfile.ZipFile("bad.skops", "w") as new:
        for member in old.namelist():
            if member != name:
                new.writestr(member, old.read(member))
        new.writestr(name, made[content])
    report = judged("bad.skops")
    assert (report.format, report.verdict) == ("skops", verdict)


# the scan keeps to itself


def test_scanning_imports_nothing_that_a_file_names_and_no_torch() -> None:
    Path("model.pkl").write_bytes(b"cantigravity\nfly\n)R.")
    program = (
        "import sys; from audit.registry.scan import scan_file; "
        "print(scan_file('model.pkl').verdict, *sorted({'antigravity', 'torch', 'numpy', 'joblib'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert answer.stdout.split() == ["needs_trust"]
