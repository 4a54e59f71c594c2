"""The gate before every model file: hash it, tell its format by its content, and say whether opening it can run code.

The scan reads bytes. It unpickles nothing, imports nothing that a file names, and executes nothing of it. What it
cannot follow exactly it does not call clean.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

from audit.parameters import UserError
from audit.registry.byte_window import Malformed, Scratch, Window, printable
from audit.registry.nested_scan import (
    compression,
    inspect_content,
    inspect_npy,
    is_tar,
    tar_members,
    unpack_stream,
)
from audit.registry.onnx_scan import check_onnx, looks_like_onnx
from audit.registry.pickle_scan import (
    begins_pickle,
    is_legacy_torch,
    judge_legacy_torch,
    judge_pickles,
    sniff_pickles,
)
from audit.registry.plain_formats import (
    LIGHTGBM_START,
    MAX_JSON,
    NPY_MAGIC,
    check_lightgbm,
    check_safetensors,
    check_xgboost_json,
    looks_like_safetensors,
    parse_json,
)
from audit.registry.scan_report import ORDINARY, Format, Inspection, ScanIssue, ScanReport, Verdict
from audit.registry.torch_scan import judge_torch, torch_format
from audit.registry.ubj_scan import check_xgboost_ubj, looks_like_ubj
from audit.registry.zip_scan import is_zip, open_member, read_members

__all__ = ["DEFAULT_MAX_BYTES", "Format", "ScanIssue", "ScanReport", "Verdict", "digest_file", "scan_file"]

DEFAULT_MAX_BYTES = 16 << 30
"""Larger files, and files that unpack to more, are refused."""

_FOREIGN = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file",
    b"\x28\xb5\x2f\xfd": "a zstandard stream",
    b"\x04\x22\x4d\x18": "an LZ4 stream",
    b"7z\xbc\xaf\x27\x1c": "a 7-zip archive",
    b"Rar!": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"\x7fELF": "a program or shared library",
    b"MZ": "a Windows program",
}
_TORCH_TAR = {"storages", "tensors", "pickle"}


def digest_file(path: Path | str) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits, read in chunks.

    Raises:
        UserError: Where there is no such regular file, or it cannot be read.
    """
    with _open(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan_file(path: Path | str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> ScanReport:
    """Hash and judge a model file without opening it as a model.

    Args:
        max_bytes: The most bytes that the file may hold, and that its content may unpack to.

    Returns:
        A report whose verdict is ``refused`` where the file is empty, too large, damaged or of no known format.

    Raises:
        UserError: Where there is no such regular file, or it cannot be read.
    """
    path = Path(path)
    with _open(path) as file, Scratch(max_bytes) as scratch:
        before = os.fstat(file.fileno())
        size = before.st_size
        if size > max_bytes:
            issue = ScanIssue("", f"it holds {size:,} bytes, more than the {max_bytes:,} that may be opened")
            return ScanReport(path, "", size, "unknown", "refused", (issue,))
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        inspection = Inspection(scratch)
        findings: tuple[ScanIssue, ...] = ()
        verdict: Verdict = "refused"
        try:
            if size == 0:
                raise Malformed("", "is empty")
            _judge(Window(file, 0, size), inspection)
            verdict, findings = "needs_trust" if inspection.runs_code else "clean", inspection.issues
        except Malformed as error:
            findings = inspection.refusal(error)
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            verdict, findings = "refused", (ScanIssue("", "it changed while it was scanned"),)
    return ScanReport(path, sha256, size, inspection.format, verdict, findings)


def _open(path: Path) -> io.BufferedReader:
    try:
        # without O_NONBLOCK, opening a pipe would wait for whoever writes to it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"model file {printable(str(path))!r} cannot be opened: {reason}; check the path") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"model file {printable(str(path))!r} is no regular file; give the path of the file itself")
    return os.fdopen(descriptor, "rb")


def _judge(window: Window, inspection: Inspection) -> None:
    """Tell the format and judge by its rules; data formats must not read as a pickle on top."""
    head = window.read_at(0, 512)
    if is_zip(window):
        _judge_zip(window, inspection)
    elif _judge_data(window, head, inspection):
        if sniff_pickles(window, "", inspection):
            raise Malformed("", f"is {inspection.format} and a pickle at the same time")
    elif head.startswith(NPY_MAGIC):
        inspection.format = "npy"
        inspect_npy(window, "", inspection)
    elif (kind := compression(head)) is not None:
        _judge_compressed(window, kind, inspection)
    elif is_tar(head):
        _judge_tar(window, inspection)
    elif (foreign := next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)) is not None:
        raise Malformed("", f"is {foreign}, which is no model format that is read here")
    elif begins_pickle(window, inspection.scratch):
        _judge_pickle(window, inspection)
    else:
        raise Malformed("", "is no model format that is read here, whatever its name says")


def _judge_data(window: Window, head: bytes, inspection: Inspection) -> bool:
    """Check a format that cannot carry code; False where it is none of them.

    These come before pickles and compression: a safetensors file begins with any eight bytes, its header's length.
    """
    if looks_like_safetensors(window):
        inspection.format = "safetensors"
        check_safetensors(window)
    elif looks_like_ubj(head):
        check_xgboost_ubj(window, inspection)
    elif head.lstrip(b" \t\r\n").startswith(b"{"):
        check_xgboost_json(window, inspection)
    elif head.startswith(LIGHTGBM_START):
        inspection.format = "lightgbm_text"
        check_lightgbm(window)
    elif looks_like_onnx(head):
        inspection.format = "onnx"
        check_onnx(window)
    else:
        return False
    return True


def _judge_pickle(window: Window, inspection: Inspection) -> None:
    inspection.format = "pickle"
    inspection.runs_code = True
    if is_legacy_torch(window, inspection.scratch):
        inspection.format = "torch_legacy"
        inspection.code("", "a torch file from before 1.6, which is a row of pickles: load it and save it anew")
        judge_legacy_torch(window, inspection)
        return
    if any(stream.joblib for stream in judge_pickles(window, "", inspection)):
        inspection.format = "joblib"
    if not inspection.issues:
        inspection.code("", "a pickle that imports nothing")


def _judge_compressed(window: Window, kind: str, inspection: Inspection) -> None:
    unpacked, damage = unpack_stream(window, kind, "", inspection)
    inside = f"({kind})"
    if unpacked.size and not is_zip(unpacked) and begins_pickle(unpacked, inspection.scratch):
        inspection.format = "joblib"
        inspection.code("", f"a pickle compressed with {kind}", rank=ORDINARY)
        judge_pickles(unpacked, inside, inspection)
    else:
        inspect_content(unpacked, inside, inspection, 1)
    if damage is not None:
        raise Malformed("", damage)
    if inspection.format != "joblib":
        raise Malformed("", f"is a {kind}-compressed file of no known model format: give the file that is in it")


def _judge_tar(window: Window, inspection: Inspection) -> None:
    names = set()
    for name, content in tar_members(window, ""):
        names.add(name)
        inspect_content(content, printable(name), inspection, 1)
    if not names >= _TORCH_TAR:
        raise Malformed("", "is a tar archive, which is no model format that is read here: give the file that is in it")
    inspection.format = "torch_legacy"
    inspection.code("", "a torch file from before 0.2, which is a tar archive of pickles: load it and save it anew")


def _judge_zip(window: Window, inspection: Inspection) -> None:
    inspection.format = "zip"
    entries = read_members(window, "")
    if not entries:
        raise Malformed("", "is an empty zip archive")
    members = {entry.name: open_member(window, entry, inspection.scratch, "") for entry in entries}
    names = list(members)
    if (kind := torch_format(names)) is not None:
        inspection.format = kind
        judge_torch(kind, members, inspection)
    elif "schema.json" in members:
        inspection.format = "skops"
        _judge_skops(members, inspection)
    elif all(name.endswith(".npy") for name in names):
        inspection.format = "npz"
        for name, content in members.items():
            _judge_array(name, content, inspection)
    else:
        for name, content in members.items():
            inspect_content(content, name, inspection, 1)
        if not inspection.runs_code:
            raise Malformed("", "is a zip archive of no known model format")


def _judge_skops(members: dict[str, Window], inspection: Inspection) -> None:
    """A skops file holds a schema and plain arrays; which types the schema may name is the loader's to decide."""
    schema = parse_json(members["schema.json"].read_all(MAX_JSON, "schema.json", "a schema"), "schema.json")
    if not isinstance(schema, dict) or type(schema.get("protocol")) is not int or "__loader__" not in schema:
        raise Malformed("schema.json", "is no skops schema: it lacks a protocol or a __loader__")
    for name, content in members.items():
        if name == "schema.json":
            continue
        if name.endswith(".npy"):
            if _judge_array(name, content, inspection):
                raise Malformed(name, "holds Python objects, which skops never writes as an array")
        elif name.endswith((".npz", ".bin")):
            inspect_content(content, name, inspection, 1)
        else:
            raise Malformed(name, "does not belong into a skops file")


def _judge_array(name: str, content: Window, inspection: Inspection) -> bool:
    """Check a member that bears an array's name; return whether it holds Python objects."""
    if content.read_at(0, len(NPY_MAGIC)) == NPY_MAGIC:
        return inspect_npy(content, name, inspection)
    inspect_content(content, name, inspection, 1)
    raise Malformed(name, "is no array, whatever its name says")
