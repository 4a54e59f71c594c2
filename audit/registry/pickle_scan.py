"""What the pickles of a model file would do: every import is named, and a torch state dict is held to torch's own list."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from audit.registry.byte_window import Malformed, Scratch, Window, printable
from audit.registry.pickle_machine import read_pickle
from audit.registry.pickle_names import STORAGE_ITEMSIZE, WEIGHTS_ONLY_GLOBALS, WEIGHTS_ONLY_OPCODES, runs_code
from audit.registry.pickle_values import Import, PickleStream, render
from audit.registry.scan_report import MIGHT_RUN, ORDINARY, RUNS, Inspection

MAX_LISTED = 40
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_TUPLE = 5


def place(position: int, where: str) -> str:
    """Where a finding lies: a byte of the file, or of a member of it."""
    return f"byte {position} of {where}" if where else f"byte {position}"


def read_pickles(window: Window, where: str, scratch: Scratch) -> list[PickleStream]:
    """Every pickle of a window that holds nothing else; only the last one may be broken or lost.

    Raises:
        Malformed: Where bytes follow a STOP that are no pickle.
    """
    reader = window.reader()
    streams: list[PickleStream] = []
    while reader.tell() < window.size:
        start = reader.tell()
        stream = read_pickle(reader, scratch)
        if streams and stream.broken is not None and not stream.looks_live:
            raise Malformed(place(start, where), "bytes that are no pickle follow a pickle")
        streams.append(stream)
        if stream.broken is not None or stream.lost is not None:
            break
    return streams


def note_stream(stream: PickleStream, where: str, inspection: Inspection, *, weights_only: bool = False) -> None:
    """Add to the inspection what a pickle imports and calls; with ``weights_only``, only what torch would not permit."""
    first: dict[tuple[str, str], Import] = {}
    for imported in stream.imports:
        if imported.pair not in first or (first[imported.pair].call is None and imported.call is not None):
            first[imported.pair] = imported
    rank = {pair: _rank(*pair) for pair in first}
    listed = sorted(first.values(), key=lambda i: (rank[i.pair], i.position))
    if weights_only:
        listed = [imported for imported in listed if imported.pair not in WEIGHTS_ONLY_GLOBALS]
    for imported in listed[:MAX_LISTED]:
        name = printable(f"{imported.module}.{imported.name}")
        what = f"{name}{imported.call or ''}, which runs code" if rank[imported.pair] == RUNS else f"import of {name}"
        inspection.code(place(imported.position, where), what, rank=rank[imported.pair])
    if len(listed) > MAX_LISTED:
        inspection.code(where, f"imports of {len(listed) - MAX_LISTED} more names")
    for position, code in stream.extensions:
        inspection.code(place(position, where), f"import of copyreg extension {code}, whose name is not in the file")
    for position, what in stream.unresolved:
        inspection.code(place(position, where), f"import that cannot be told exactly: {what}")
    if stream.lost is not None:
        inspection.code(where, f"the rest could not be followed: it {stream.lost}")


def _rank(module: str, name: str) -> int:
    if runs_code(module, name):
        return RUNS
    return ORDINARY if (module, name) in WEIGHTS_ONLY_GLOBALS or module.startswith("__torch__.") else MIGHT_RUN


def judge_pickles(window: Window, where: str, inspection: Inspection) -> list[PickleStream]:
    """Scan a window that must hold pickles and nothing else, and return them.

    Raises:
        Malformed: Where it holds none, a truncated one, or other bytes behind one.
    """
    streams = read_pickles(window, where, inspection.scratch)
    for stream in streams:
        note_stream(stream, where, inspection)
    if not streams:
        raise Malformed(where, "is empty where a pickle should be")
    if (broken := streams[-1].broken) is not None:
        raise Malformed(where, f"holds a truncated or damaged pickle: it {broken}")
    return streams


def sniff_pickles(window: Window, where: str, inspection: Inspection) -> bool:
    """Note the pickles at the start of content that may be anything, as far as they would import something.

    An unpickler acts opcode by opcode, so a payload in front of nonsense is live too. Raw tensors do not get here: their
    bytes would have to spell an opcode and a name.
    """
    reader = window.reader()
    live = False
    while reader.tell() < window.size:
        stream = read_pickle(reader, inspection.scratch)
        if stream.looks_live or stream.lost is not None:
            note_stream(stream, where, inspection)
            live = True
        if stream.broken is not None or stream.lost is not None:
            break
    return live


def judge_weights_only(window: Window, where: str, records: Mapping[str, int], inspection: Inspection) -> None:
    """Hold the ``data.pkl`` of a torch archive to what ``torch.load(weights_only=True)`` permits.

    Args:
        records: Storage key → bytes, of the archive's ``data/`` members.

    Raises:
        Malformed: Where it is no single whole pickle, or names a storage that the archive does not hold.
    """
    streams = read_pickles(window, where, inspection.scratch)
    for stream in streams:
        note_stream(stream, where, inspection, weights_only=True)
    if len(streams) != 1 or streams[0].broken is not None:
        reason = (
            f"it {streams[-1].broken}" if streams and streams[-1].broken else f"{len(streams)} pickles in place of one"
        )
        raise Malformed(where, f"holds a truncated or damaged pickle: {reason}")
    (stream,) = streams
    for opcode, position in stream.opcodes.items():
        if opcode not in WEIGHTS_ONLY_OPCODES:
            inspection.code(place(position, where), f"opcode {opcode}, which torch.load(weights_only=True) refuses")
    for position, identifier in stream.persistent_ids:
        if (storage := storage_of(identifier)) is None:
            inspection.code(place(position, where), f"persistent id {render(identifier)}, which names no storage")
            continue
        key, size = storage
        if records.get(key) != size:
            held = f"holds {records[key]:,}" if key in records else "does not hold it"
            raise Malformed(
                place(position, where), f"names storage {printable(key)!r} of {size:,} bytes, and the archive {held}"
            )


def storage_of(identifier: object) -> tuple[str, int] | None:
    """(key, bytes) of a persistent id ``("storage", type, key, location, numel, …)``; None where it is anything else."""
    if not isinstance(identifier, tuple) or len(identifier) < _STORAGE_TUPLE or identifier[0] != "storage":
        return None
    kind, key, location, numel = identifier[1:_STORAGE_TUPLE]
    if not isinstance(kind, Import) or kind.pair not in STORAGE_ITEMSIZE:
        return None
    if not isinstance(key, str) or not isinstance(location, str) or type(numel) is not int or numel < 0:
        return None
    return key, numel * STORAGE_ITEMSIZE[kind.pair]


def begins_pickle(window: Window, scratch: Scratch) -> bool:
    """Whether an unpickler would get somewhere with this: PROTO opens it, or opcodes up to STOP or to an import."""
    head = window.read_at(0, 2)
    if len(head) == 2 and head[0] == 0x80 and head[1] <= pickle.HIGHEST_PROTOCOL:
        return True
    stream = read_pickle(window.reader(), scratch)
    return stream.broken is None or stream.looks_live


def is_legacy_torch(window: Window, scratch: Scratch) -> bool:
    """Whether this is what ``torch.save`` wrote before torch 1.6: its first pickle is a short magic number."""
    stream = read_pickle(window.part(0, min(window.size, 64)).reader(), scratch)
    return stream.broken is None and stream.result == _TORCH_MAGIC


def judge_legacy_torch(window: Window, inspection: Inspection) -> None:
    """Scan the five pickles of an old torch file, and see that the storages behind them are whole.

    Raises:
        Malformed: Where a pickle is damaged, or bytes are missing or left over behind the last one.
    """
    reader = window.reader()
    streams = []
    for _ in range(5):
        streams.append(stream := read_pickle(reader, inspection.scratch))
        note_stream(stream, "", inspection)
        if stream.broken is not None:
            raise Malformed("", f"holds a truncated or damaged pickle: it {stream.broken}")
        if stream.lost is not None:
            return
    storages = [storage_of(identifier) for _, identifier in streams[3].persistent_ids]
    if None in storages:
        inspection.code(place(streams[3].end, ""), "raw data of a size that cannot be told")
        return
    sizes = dict(storage for storage in storages if storage is not None)
    expected = sum(8 + size for size in sizes.values())  # each storage: its element count, then its bytes
    if reader.tell() + expected != window.size:
        left = window.size - reader.tell()
        raise Malformed(place(reader.tell(), ""), f"holds {left:,} bytes of storages where {expected:,} are declared")
