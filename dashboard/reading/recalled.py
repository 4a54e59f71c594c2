"""A sample that a run stored, to be asked about again: where its numbers lie, and what the model said of it then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.parameters import UserError
from audit.report._evidence import DAMAGE
from audit.run_folder import Evidence
from dashboard.reading import evidence, stored
from dashboard.reading.evidence import Piece
from dashboard.words import _

HOLDING = ("attributions", "adversarial")
"""Kinds of evidence that hold inputs as the model is fed them."""


@dataclass(frozen=True)
class Recalled:
    """A stored sample.

    Args:
        run: that stored it.
        sample: its id.
        digest: of the model that the run audited; empty where the run does not say.
        model: that model's name and version.
        folder: of its evidence.
    """

    run: str
    piece: Piece
    sample: str
    model: str
    digest: str
    folder: Path
    stored: Evidence

    @property
    def sides(self) -> Sequence[str]:
        """``original``, and ``adversarial`` where an attack or a corruption changed it."""
        return ("original", "adversarial") if self.piece.ref.kind == "adversarial" else ("original",)

    def fed(self, side: str) -> dict[str, str]:
        """The input as a request names it."""
        field = "adversarial" if side == "adversarial" else "x"
        return {"stored": str(self.folder), "sample": self.sample, "field": field}

    def said(self, side: str) -> tuple[Any, float | None]:
        """What the model answered then, and the probability of that where it is known."""
        at, before = self.stored.ids.index(self.sample), "adversarial_" if side == "adversarial" else ""
        answer, sure = (
            self.stored.cell(at, before + name) if before + name in self.stored.fields else None
            for name in ("prediction", "confidence")
        )
        return answer, None if sure is None else float(sure)


def recall(home: Path, run: str, path: str, sample: str) -> Recalled:
    """Find a stored sample.

    Raises:
        UserError: there is no such run, evidence or sample, or it is damaged.
    """
    view = stored.run(home, run)
    found = [piece for kind in HOLDING for piece in evidence.pieces(view, kind) if piece.ref.path == path]
    if not found:
        raise UserError(_("run '{run}' stores no samples under '{path}'").format(run=run, path=path))
    piece = found[0]
    try:
        opened = view.run.evidence(piece.ref)
        missing = sample not in opened.ids
    except DAMAGE as error:
        raise UserError(evidence.said(view, piece, error)) from error
    if missing:
        raise UserError(
            _("run '{run}' stores no sample '{sample}' under '{path}'").format(run=run, sample=sample, path=path)
        )
    facts = view.models.get(piece.model, {})
    folder = (view.run.path / path).resolve()
    return Recalled(run, piece, sample, reference(facts, piece.model), str(facts.get("digest", "")), folder, opened)


def reference(facts: Mapping[str, Any], ref: str) -> str:
    """A model of a run as the registry names it: name and version."""
    version = facts.get("version")
    return f"{facts.get('name') or ref}@{version}" if isinstance(version, int) else ref
