"""What a scan says of a model file: its digest, its format, whether it may be opened, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audit.registry.byte_window import Malformed, Scratch, printable

Format = Literal[
    "safetensors",
    "torch_zip",
    "torch_export",
    "torchscript",
    "torch_legacy",
    "pickle",
    "joblib",
    "skops",
    "onnx",
    "xgboost_json",
    "xgboost_ubj",
    "lightgbm_text",
    "npy",
    "npz",
    "zip",
    "unknown",
]
"""What the file holds, told by its content alone; its name plays no part.

``torch_zip`` is what ``torch.save`` writes, ``torch_legacy`` what it wrote before torch 1.6, ``joblib`` a pickle with raw
arrays or a compressed one, ``zip`` an archive of no model format, ``unknown`` anything else.
"""

Verdict = Literal["clean", "needs_trust", "refused"]
"""``clean``: opening it, with the loader of its ``format`` and no other, cannot run code that the file brings.
``needs_trust``: opening it can run code; it opens only where its digest is trusted.
``refused``: malformed, or nothing that can be judged; trusting its digest does not help."""

RUNS, MIGHT_RUN, ORDINARY = 0, 1, 2
"""Ranks of findings: known to run code; able to; what any torch file holds."""

_SHOWN_IN_SUMMARY = 3
_MAX_TEXT = 400


@dataclass(frozen=True)
class ScanIssue:
    """One reason against opening the file: ``what`` it would do or break, ``where`` in the file."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.what} ({self.where})" if self.where else self.what


@dataclass(frozen=True)
class ScanReport:
    """What a file is, told without opening it.

    Attributes:
        sha256: 64 hexadecimal digits; empty where the file was too large to be read.
        size: Bytes.
        findings: Those known to run code come first.
    """

    path: Path
    sha256: str
    size: int
    format: Format
    verdict: Verdict
    findings: tuple[ScanIssue, ...] = ()

    @property
    def summary(self) -> str:
        """One line: what was found, and what to do."""
        name = printable(self.path.name)
        if self.verdict == "clean":
            return f"{name}: {self.format}, {self.size:,} bytes, nothing in it can run code"
        shown = "; ".join(str(issue) for issue in self.findings[:_SHOWN_IN_SUMMARY])
        if len(self.findings) > _SHOWN_IN_SUMMARY:
            shown += f"; and {len(self.findings) - _SHOWN_IN_SUMMARY} more"
        if self.verdict == "refused":
            return f"{name} is refused: {shown}"
        return (
            f"{name} ({self.format}) can run code when it is opened: {shown}; if you know who made it and trust them, run "
            f"`audit model trust {self.sha256}`"
        )


class Inspection:
    """One scan under way: the reasons found so far, and the room it has left."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.format: Format = "unknown"
        self.runs_code = False
        self._issues: dict[ScanIssue, int] = {}

    def code(self, where: str, what: str, *, rank: int = MIGHT_RUN) -> None:
        """Note something that can run code; the report lists it by rank."""
        self.runs_code = True
        self._issues.setdefault(ScanIssue(printable(where, _MAX_TEXT), printable(what, _MAX_TEXT)), rank)

    def refusal(self, error: Malformed) -> tuple[ScanIssue, ...]:
        """The reason of a refusal, before what was found until then."""
        first = ScanIssue(printable(error.where, _MAX_TEXT), f"it {printable(error.what, _MAX_TEXT)}")
        return (first, *self.issues)

    @property
    def issues(self) -> tuple[ScanIssue, ...]:
        return tuple(sorted(self._issues, key=lambda issue: self._issues[issue]))
