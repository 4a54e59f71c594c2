"""What the engine hands a check while it runs: keyed randomness, evidence, further models, progress, a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.rng import ExampleRng, generator
from audit.run_folder import EvidenceWriter, RunWriter

if TYPE_CHECKING:
    import numpy as np

    from audit.model import AuditedModel


class BudgetExceeded(TimeoutError):
    """A check ran out of its time budget; what it yielded before stays."""


class Context:
    """One check's view of the run.

    Args:
        seed: the scenario's seed.
        check_id: the entry's id; randomness is keyed by it, never by the matrix cell, so that cells compare in pairs.
        step: check id and matrix cell; evidence is filed under it.
        deadline: `time.monotonic` value after which `progress` raises.
        base: folder that relative paths in the scenario start from.
        cache: folder that outlives the run, for what takes long to make and is named by all that determines it.
    """

    def __init__(
        self,
        *,
        seed: int,
        check_id: str,
        step: str,
        writer: RunWriter,
        open_model: Callable[[str], AuditedModel],
        report_progress: Callable[[int, int, str], None] = lambda done, total, what: None,
        deadline: float | None = None,
        device: str = "cpu",
        base: Path = Path(),
        cache: Path | None = None,
    ) -> None:
        self.seed, self.check_id, self.step, self.device, self.base = seed, check_id, step, device, base
        self._writer, self._open_model, self._report, self._deadline = writer, open_model, report_progress, deadline
        self._cache = cache

    def rng(self, ids: Sequence[str], purpose: str) -> ExampleRng:
        """One random stream per example, keyed by (seed, check id, example id, purpose)."""
        return ExampleRng(self.seed, self.check_id, ids, purpose)

    def generator(self, purpose: str) -> np.random.Generator:
        """One random stream for what is not per example (a bootstrap, a subsample)."""
        return generator(self.seed, self.check_id, "", purpose)

    def number(self, purpose: str) -> int:
        """A 31-bit seed for a library that wants an integer."""
        return int(self.generator(purpose).integers(2**31 - 1))

    def evidence(self, name: str, kind: str, **meta: Any) -> EvidenceWriter:
        """A new evidence series of this step; `kind` as in `EvidenceRef`, `meta` whatever a reader needs to show it."""
        return self._writer.evidence(self.step, name, kind, meta)

    def model(self, name: str) -> AuditedModel:
        """A further model that the scenario names under ``models``."""
        return self._open_model(name)

    @property
    def scratch(self) -> Path:
        """A folder for temporary files; gone when the run ends."""
        self._writer.scratch.mkdir(exist_ok=True)
        return self._writer.scratch

    @property
    def cache(self) -> Path:
        """A folder that later runs find as it was left, below the audit home; `scratch` where there is no home."""
        if self._cache is None:
            return self.scratch
        self._cache.mkdir(parents=True, exist_ok=True)
        return self._cache

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Say how far the check is; call it between chunks.

        Raises:
            BudgetExceeded: the entry's ``timeout`` has passed.
        """
        self._report(done, total, what)
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise BudgetExceeded("the time budget ran out")
