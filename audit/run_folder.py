"""One run on disk: manifest, measurements, findings, evidence. Written as it happens; read without the model.

``manifest.json`` says ``running`` from the start; a lock held by the writing process tells a reader whether that is still true.
``measurements.jsonl`` grows by one line per record, evidence by whole chunks: a kill leaves all but the last.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from audit.finding import EvidenceRef, Finding, Measurement, Outcome, Record, canonical_json
from audit.parameters import UserError
from audit.whole_file import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = Literal["running", "interrupted", "finished"]
FORMAT = 1
DEEPEST = 64
"""Levels of mappings and lists within one another that a stored value may have: what a run writes has a dozen."""


class Recorded(Record):
    """A line of ``measurements.jsonl``: what one planned step of one check yielded, or how it ended."""

    step: str
    """Check id, and the cell of its matrix where it has one: ``robustness.evasion[eps=0.1]``."""
    id: str
    check: str
    model: str
    cell: dict[str, str] = {}
    measurement: Measurement | None = None
    outcome: Outcome | None = None


def safe_name(text: str) -> str:
    """A file name that keeps letters, digits and ``._=-`` of `text`."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", text).strip("._") or "_"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader sees the old or the new, never a part."""
    write_whole(path, text.encode("utf-8"), shared=True, durable=False)


# --- evidence ----------------------------------------------------------------------------------------------------


class EvidenceWriter:
    """Appends rows of arrays in chunks; a chunk is readable as soon as it is complete, and none before."""

    def __init__(self, run: Path, folder: Path, kind: str, meta: Mapping[str, Any]) -> None:
        self._folder = folder
        self._chunks = 0
        folder.mkdir(parents=True, exist_ok=False)
        write_atomically(folder / "meta.json", canonical_json({"kind": kind, **meta}))
        self.ref = EvidenceRef(path=folder.relative_to(run).as_posix(), kind=kind)

    def append(self, ids: Sequence[str], **fields: Any) -> None:
        """Store one row per id; every field is an array or tensor (or a list of strings) with the ids' length first."""
        import numpy as np

        if not len(ids):
            return
        described = {}
        for name, values in fields.items():
            array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
            if array.dtype == object or len(array) != len(ids):
                raise ValueError(
                    f"evidence field '{name}' must be a plain array with one row per id ({len(ids)}), got {array.dtype} {array.shape}"
                )
            np.save(self._folder / f"{self._chunks:05d}.{name}.npy", array, allow_pickle=False)
            described[name] = [array.dtype.str, list(array.shape[1:])]
        with (self._folder / "index.jsonl").open("a", encoding="utf-8") as index:
            index.write(canonical_json({"chunk": self._chunks, "ids": list(ids), "fields": described}) + "\n")
        self._chunks += 1


class Evidence:
    """Stored evidence, read one row at a time (memory-mapped) or one field at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.meta: dict[str, Any] = _mapping(folder / "meta.json")
        self._chunks = [_chunk(line, folder / "index.jsonl") for line in _json_lines(folder / "index.jsonl")]

    @property
    def kind(self) -> str:
        """See `EvidenceRef.kind`."""
        return str(self.meta.get("kind", ""))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Row ids in the order they were written."""
        return tuple(chain.from_iterable(chunk["ids"] for chunk in self._chunks))

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the stored fields."""
        return tuple(self._chunks[0]["fields"]) if self._chunks else ()

    def __len__(self) -> int:
        return sum(len(chunk["ids"]) for chunk in self._chunks)

    def row(self, position: int) -> dict[str, NDArray[Any]]:
        """All fields of one row; only that row's bytes are read."""
        chunk, offset = self._place(position)
        return {name: self._file(chunk, name)[offset] for name in chunk["fields"]}

    def cell(self, position: int, name: str) -> NDArray[Any]:
        """One field of one row."""
        chunk, offset = self._place(position)
        cell: NDArray[Any] = self._file(chunk, name)[offset]
        return cell

    def _place(self, position: int) -> tuple[Mapping[str, Any], int]:
        offset = position
        for chunk in self._chunks:
            if offset < len(chunk["ids"]):
                return chunk, offset
            offset -= len(chunk["ids"])
        raise IndexError(f"row {position} of {len(self)}")

    def column(self, name: str) -> NDArray[Any]:
        """One field of all rows."""
        import numpy as np

        return np.concatenate([self._file(chunk, name, whole=True) for chunk in self._chunks])

    def _file(self, chunk: Mapping[str, Any], name: str, whole: bool = False) -> NDArray[Any]:
        """A chunk's field, read at once or as its rows are asked for; it is what the index says, or damaged."""
        import numpy as np

        path = self._folder / f"{chunk['chunk']:05d}.{name}.npy"
        if name not in chunk["fields"]:
            raise UserError(f"evidence {self._folder} is damaged: it has no field '{name}'")
        try:
            array: NDArray[Any] = np.load(_plain(path), mmap_mode=None if whole else "r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"evidence {path} is damaged: {_said(error)}") from error
        found = [array.dtype.str, list(array.shape)]
        dtype, shape = chunk["fields"][name]
        if found != [dtype, [len(chunk["ids"]), *shape]]:
            raise UserError(f"evidence {path} is damaged: {found} instead of {[dtype, [len(chunk['ids']), *shape]]}")
        return array


def _chunk(line: dict[str, Any], path: Path) -> dict[str, Any]:
    """A line of an index: the number of a chunk, the ids of its rows, and of each field its type and the shape of a row."""
    number, ids, fields = (line.get(key) for key in ("chunk", "ids", "fields"))
    sound = (
        isinstance(number, int)
        and isinstance(ids, list)
        and set(map(type, ids)) <= {str}
        and isinstance(fields, dict)
        and all(
            "/" not in name and isinstance(known, list) and len(known) == 2 and isinstance(known[1], list)
            for name, known in fields.items()
        )
    )
    if not sound:
        raise UserError(f"{path} is damaged: a chunk's number, ids and fields are expected")
    return line


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every complete line; a last line that a kill cut short is left out."""
    if not os.path.lexists(path):
        return
    try:
        opened = _plain(path).open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_said(error)}") from error
    with opened as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith("\n"):
                return
            try:
                yield _parsed(line)
            except ValueError as error:
                raise UserError(f"{path}:{number} is damaged: {error}") from error


def _plain(path: Path) -> Path:
    """The path of a file that holds its content itself: a link could show any file of this machine, and a pipe has no end.

    Raises:
        UserError: it is something else.
        OSError: it is not there.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(f"{path} is no plain file")
    return path


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON file of a run.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    try:
        return _parsed(_plain(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {_said(error)}") from error


def _said(error: Exception) -> str:
    """An error without the path that the line names already."""
    return str(error.strerror if isinstance(error, OSError) else error)


def _parsed(text: str) -> dict[str, Any]:
    """A JSON mapping, not deeper than a reader's own recursion goes.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("a JSON mapping is expected")
    if text.count("{") + text.count("[") <= DEEPEST:  # no deeper than it has openings: lines of many ids are not walked
        return found
    level: list[Any] = [found]
    for _ in range(DEEPEST):
        items = (item for one in level for item in (one.values() if isinstance(one, dict) else one))
        level = [item for item in items if isinstance(item, (dict, list))]
        if not level:
            return found
    raise ValueError("its values are nested too deeply")


# --- writing -----------------------------------------------------------------------------------------------------


class FolderTaken(UserError):
    """The folder of a new run is there already."""


class RunWriter:
    """The one process that writes a run. Use as a context manager: leaving it without `finish` marks the run interrupted."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], scenario_text: str) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=False)
        except FileExistsError as error:
            raise FolderTaken(f"run folder {path} exists already: choose another with --out") from error
        except OSError as error:
            raise UserError(f"run folder {path} cannot be made: {error.strerror}") from error
        self._lock: IO[str] = (path / ".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._manifest = {"format": FORMAT, "state": "running", **manifest}
        self._finished = False
        self._write_manifest()
        (path / "scenario.yaml").write_text(scenario_text, encoding="utf-8")
        self._records: IO[str] = (path / "measurements.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self._manifest["state"] = "interrupted"
            self._write_manifest()
        self._records.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.close()

    @property
    def scratch(self) -> Path:
        """A folder for temporary files; gone when the run ends."""
        return self.path / ".scratch"

    def _write_manifest(self) -> None:
        write_atomically(
            self.path / "manifest.json", json.dumps(self._manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )

    def describe(self, **facts: Any) -> None:
        """Add facts to the manifest (digests of what was loaded, versions)."""
        self._manifest.update(facts)
        self._write_manifest()

    def record(self, recorded: Recorded) -> None:
        """Append one measurement or outcome; it is with the operating system when this returns."""
        self._records.write(canonical_json(recorded.model_dump(mode="json", exclude_none=True)) + "\n")
        self._records.flush()

    def evidence(self, step: str, name: str, kind: str, meta: Mapping[str, Any]) -> EvidenceWriter:
        """A new evidence series of one step."""
        return EvidenceWriter(self.path, self.path / "evidence" / safe_name(step) / safe_name(name), kind, meta)

    def finish(self, findings: Sequence[Finding], timings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Store what judging concluded and mark the run finished."""
        self._records.flush()
        os.fsync(self._records.fileno())
        size = write_findings(self.path, findings)
        write_atomically(self.path / "timings.json", json.dumps(timings, indent=2, sort_keys=True) + "\n")
        self._manifest.update(state="finished", findings_bytes=size, **facts)
        self._write_manifest()
        self._finished = True


def rewrite_findings(path: Path, findings: Sequence[Finding], facts: Mapping[str, Any]) -> None:
    """Replace what a stored run concluded: its findings, and what its manifest says of them."""
    manifest = Run(path).manifest
    size = write_findings(path, findings)
    write_atomically(
        path / "manifest.json",
        json.dumps({**manifest, "findings_bytes": size, **facts}, indent=2, sort_keys=True, ensure_ascii=False) + "\n",
    )


def write_findings(path: Path, findings: Sequence[Finding]) -> int:
    """(Re)write a run's ``findings.jsonl``; gives its size in bytes, by which a list of many runs sees that one is damaged."""
    text = "".join(canonical_json(f.model_dump(mode="json", exclude_none=True)) + "\n" for f in findings)
    write_atomically(path / "findings.jsonl", text)
    return len(text.encode())


# --- reading -----------------------------------------------------------------------------------------------------


class Run:
    """A stored run. Reading needs nothing but the folder; damage is one clear `UserError` that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.lexists(path / "manifest.json"):
            raise UserError(f"{path} is no run folder: it has no manifest.json")
        self.manifest: dict[str, Any] = _mapping(path / "manifest.json")
        if self.manifest.get("format") != FORMAT:
            raise UserError(
                f"{path / 'manifest.json'}: format {FORMAT} expected; this run was written by another version"
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def state(self) -> State:
        """``running`` only while the writing process holds its lock; else an unfinished run is ``interrupted``."""
        if self.manifest.get("state") == "running":
            return "running" if locked(self.path / ".lock") else "interrupted"
        return "finished" if self.manifest.get("state") == "finished" else "interrupted"

    @property
    def scenario_text(self) -> str:
        """The scenario as it was run, overrides included."""
        return self._text("scenario.yaml")

    def _text(self, name: str) -> str:
        try:
            return _plain(self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path / name} cannot be read: {_said(error)}") from error

    @cached_property
    def recorded(self) -> tuple[Recorded, ...]:
        """Every measurement and outcome, in the order they came."""
        return tuple(self._records("measurements.jsonl", Recorded))

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What judging concluded; empty for an unfinished run."""
        return tuple(self._records("findings.jsonl", Finding))

    def _records(self, name: str, kind: type[Any]) -> Iterator[Any]:
        for number, line in enumerate(_json_lines(self.path / name), 1):
            try:
                yield kind.model_validate(line)
            except ValidationError as error:
                raise UserError(f"{self.path / name}:{number} is damaged: {error.errors()[0]['msg']}") from error

    @property
    def timings(self) -> dict[str, Any]:
        """Seconds per step; empty for an unfinished run."""
        path = self.path / "timings.json"
        return _mapping(path) if os.path.lexists(path) else {}

    def evidence(self, ref: EvidenceRef) -> Evidence:
        """Open a piece of evidence.

        Raises:
            UserError: it is missing or damaged, or its path leaves the run folder.
        """
        folder = (self.path / ref.path).resolve()
        if not folder.is_relative_to(self.path.resolve()):
            raise UserError(f"evidence path {ref.path!r} leaves the run folder {self.path}")
        return Evidence(folder)


def locked(path: Path) -> bool:
    """Whether a process holds a lock on the file."""
    try:
        with path.open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def list_runs(root: Path) -> Iterator[Run | UserError]:
    """Every run below a folder, newest first; a damaged one comes as the error that says what is wrong."""
    if not root.is_dir():
        return
    for path in sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: p.name, reverse=True):
        try:
            yield Run(path)
        except UserError as error:
            yield error
