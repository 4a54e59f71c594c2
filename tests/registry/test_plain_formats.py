"""Data formats as their own libraries write them are clean; cut, padded or bent ones are refused."""

from __future__ import annotations

import io
import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.parameters import UserError
from audit.registry.scan import ScanReport, scan_file
from audit.registry.trust import Trust


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def judged(content: bytes) -> ScanReport:
    path = Path("model.pkl")  # a name that fits none of them
    path.write_bytes(content)
    report = scan_file(path)
    if report.verdict == "refused":
        with pytest.raises(UserError, match="refused"):
            Trust(Path("home")).admit(report)
    return report


def assert_every_cut_is_refused(content: bytes, formats: set[str], step: int = 97) -> None:
    for length in {*range(1, len(content), step), len(content) - 1}:
        report = judged(content[:length])
        assert report.verdict == "refused", (length, report)
        assert report.format in formats


# safetensors


def safetensors_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_safetensors_files_are_clean() -> None:
    import torch
    from safetensors.torch import save

    tensors = {
        "a": torch.ones(3, 4),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.empty(0, 3),
        "s": torch.tensor(1),
    }
    content = save(tensors, {"format": "pt"})
    report = judged(content)
    assert (report.format, report.verdict, report.findings) == ("safetensors", "clean", ())
    assert report.size == len(content)
    assert_every_cut_is_refused(content, {"safetensors", "unknown"}, 23)
    assert judged(content + b"\0").verdict == "refused"


@pytest.mark.parametrize("length", [0x80, 0x0178, 0x280, 0x0480])
def test_a_header_length_that_looks_like_a_pickle_or_zlib_is_no_matter(length: int) -> None:
    header = json.dumps({"a": entry()}).encode().ljust(length)
    assert judged(safetensors_bytes(header, bytes(8))).verdict == "clean"


BENT_HEADERS: dict[str, Any] = {
    "unknown dtype": {"a": entry("F33")},
    "too few bytes": {"a": entry(offsets=(0, 4))},
    "wrong shape": {"a": entry(shape=(3,))},
    "negative shape": {"a": entry(shape=(-1, -2))},
    "fractional shape": {"a": entry(shape=(2.0,))},
    "reversed": {"a": entry(offsets=(8, 0))},
    "hole": {"a": entry(offsets=(0, 4), shape=(1,)), "b": entry(offsets=(5, 9), shape=(1,))},
    "overlap": {"a": entry(), "b": entry(offsets=(4, 8), shape=(1,))},
    "beyond the end": {"a": entry(offsets=(0, 16), shape=(4,))},
    "huge": {"a": entry(shape=(1 << 40, 1 << 40), offsets=(0, 8))},
    "another field": {"a": {**entry(), "code": "x"}},
    "metadata with numbers": {"__metadata__": {"a": 1}, "a": entry()},
    "a doubled key": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "no JSON": b"{not json at all",
}


@pytest.mark.parametrize("header", BENT_HEADERS.values(), ids=BENT_HEADERS)
def test_bent_safetensors_headers_are_refused(header: Any) -> None:
    report = judged(safetensors_bytes(header, bytes(8)))
    assert (report.format, report.verdict) == ("safetensors", "refused")


def test_the_scan_is_stricter_than_the_safetensors_library() -> None:
    """Reference: the library takes two of the bent headers, in which a field or a key could be read in two ways."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    taken = set()
    for name, header in BENT_HEADERS.items():
        with suppress(SafetensorError):
            load(safetensors_bytes(header, bytes(8)))
            taken.add(name)
    assert taken == {"another field", "a doubled key"}


def test_a_safetensors_file_that_is_a_pickle_too_is_refused() -> None:
    """The header's length spells a string's opcode; the string ends inside a key, whose letters are opcodes."""
    names = "multiprocessing.popen_spawn_posix", "a_name_of_thirty_two_characters_"
    opcodes = "U!" + names[0] + "U " + names[1] + "q\u04d3" + "."  # in UTF-8: BINPUT 0xD3, STACK_GLOBAL, STOP
    header = ('{"' + opcodes + '":' + json.dumps(entry()) + "}").encode().ljust(0x0558)
    content = safetensors_bytes(header, bytes(8))
    assert content.startswith(b"X\x05\x00\x00\x00")
    report = judged(content)
    assert (report.format, report.verdict) == ("safetensors", "refused")
    assert "a pickle at the same time" in report.summary

    seen = []

    class Recorder(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            seen.append((module, name))

    Recorder(io.BytesIO(content)).load()  # the control: an unpickler would import
    assert seen == [names]


# numpy


def npy(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def test_arrays_are_clean_unless_they_hold_objects() -> None:
    for value in (
        np.arange(10),
        np.ones((2, 3), order="F"),
        np.array("x"),
        np.zeros(2, dtype=[("a", "i4"), ("b", "f8", 2)]),
    ):
        assert (judged(npy(value)).format, judged(npy(value)).verdict) == ("npy", "clean")
    assert_every_cut_is_refused(npy(np.arange(10)), {"npy", "unknown"}, 7)
    assert judged(npy(np.array([{}], dtype=object))).verdict == "needs_trust"
    assert judged(npy(np.zeros(2, dtype=[("a", "i4"), ("b", "O")]))).verdict == "needs_trust"


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os'),), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2L,), }",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 6000 + "), }",
    ],
)
def test_bent_array_headers_are_refused(header: str) -> None:
    text = header.encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)
    assert judged(content).verdict == "refused"


# boosters


@pytest.fixture(scope="module")
def irises() -> tuple[Any, Any]:
    from sklearn.datasets import load_iris

    features, labels = load_iris(return_X_y=True)
    return features, labels


def test_xgboost_json_and_ubj_are_clean(irises: tuple[Any, Any]) -> None:
    import xgboost

    for booster in ("gbtree", "gblinear", "dart"):
        model = xgboost.XGBClassifier(n_estimators=3, n_jobs=1, booster=booster).fit(*irises)
        for ending in ("json", "ubj"):
            model.save_model(f"model.{ending}")
            content = Path(f"model.{ending}").read_bytes()
            report = judged(content)
            assert (report.format, report.verdict) == (f"xgboost_{ending}", "clean")
            if booster == "gbtree":
                assert_every_cut_is_refused(content, {"xgboost_json", "xgboost_ubj", "unknown"}, 499)
                assert judged(content + b"}").verdict == "refused"


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"learner": 1, "version": [1]}',
        b'{"learner": {}, "version": [1]}',
        b'{"learner": {}, "learner": {}, "version": [1]}',
        b'{"a":' * 100_000,
        b'{"version": ' + b"9" * 5000 + b"}",
        b"{\xff}",
        b"{L" + b"\x00" * 8 + b"}",
        b"{L\x7f" + b"\xff" * 7 + b"a}",
        b"{L\xff" + b"\xff" * 7 + b"a}",
        b"{" + b"i\x01a[" * 200,
        b"{i\x07learner{}i\x07version[]}",
        b"{i\x07learner{}i\x07learner{}}",
        b"{i\x01a[$d#L" + (1 << 62).to_bytes(8, "big"),
        b"{i\x01a[#L" + (1 << 62).to_bytes(8, "big"),
        b"{i\x01aq}",
    ],
)
def test_other_json_is_refused(content: bytes) -> None:
    assert judged(content).verdict == "refused"


def test_lightgbm_text_is_clean(irises: tuple[Any, Any]) -> None:
    import lightgbm

    for options in ({}, {"linear_tree": True}, {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}):
        model = lightgbm.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1, **options).fit(*irises)
        model.booster_.save_model("model.txt")
        content = Path("model.txt").read_bytes()
        report = judged(content)
        assert (report.format, report.verdict) == ("lightgbm_text", "clean")
    end = content.index(b"end of parameters")
    for length in range(1, end, 499):
        assert judged(content[:length]).verdict == "refused"
    assert judged(content.replace(b"tree_sizes=", b"tree_sizes=9")).verdict == "refused"
    assert judged(content.replace(b"\n", b"\r\n")).verdict == "refused"
    assert judged(content.replace(b"Tree=1", b"Tree=9")).verdict == "refused"
    assert judged(content.replace(b"max_feature_idx", b"other")).verdict == "refused"
