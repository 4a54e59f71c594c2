"""One adversarial or corrupted row as a page shows it: the original, what was changed, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit.language import gettext as _
from audit.language import ngettext
from audit.report._images import magnified_change, photograph
from audit.report._sample import MAX_FEATURES, BarList, Sample, bar, bar_list, named, number
from audit.report._table_changes import TableChanges
from audit.report._text_changes import passages, strangers
from audit.report._words import clean
from audit.text import decode

if TYPE_CHECKING:
    from audit.run_folder import Evidence


class AttackedReader:
    """Turns rows of one series of adversarial examples into samples."""

    def __init__(
        self, evidence: Evidence, bounds: tuple[float, float] | None, table: TableChanges | None = None
    ) -> None:
        self._evidence, self._bounds, self._table = evidence, bounds, table
        meta = evidence.meta
        self._kind = str(meta.get("input_kind", ""))
        self._classes = meta["classes"] if isinstance(meta.get("classes"), list) else []
        self._features = meta["feature_names"] if isinstance(meta.get("feature_names"), list) else []
        self._by = str(meta.get("by", ""))
        self._changed = {"corruption": _("corrupted"), "counterfactual": _("changed")}.get(self._by, _("attacked"))

    def sample(self, position: int, right: bool | None) -> Sample:
        """One row of the series."""
        row = self._evidence.row(position)
        label, before, after = (
            named(row.get(name), self._classes) for name in ("label", "prediction", "adversarial_prediction")
        )
        sample = Sample(
            _("true {label}: {change}").format(label=label, change=f"{before} → {after}")
            if label
            else f"{before} → {after}",
            right,
        )
        if self._kind == "image":
            self._image(sample, row, before, after)
        elif self._kind == "text":
            old, new = decode(row["x"]), decode(row["adversarial"])
            sample.passages = passages(
                old,
                new,
                (
                    _("original: {answer}").format(answer=before),
                    _("{what}: {answer}").format(what=self._changed, answer=after),
                ),
            )
            sample.lines += strangers(sample.passages[1])
        elif self._table is not None:
            changes = self._table.of(position)
            bars = [bar(change.column, change.text, change.amount, change.share) for change in changes[:MAX_FEATURES]]
            sample.lists.append(BarList((_("column"), _("before → after"), _("change")), bars))
            sample.lines.append(
                ngettext("{n} column changed", "{n} columns changed", len(changes)).format(n=len(changes))
            )
        else:
            sample.lists.append(self._positions(row))
        size, norm = row.get("size"), self._evidence.meta.get("norm")
        if size is not None and (norm is not None or self._table is None or self._by == "counterfactual"):
            told = f"({clean(norm)})" if norm else clean(self._evidence.meta.get("units") or "")
            sample.lines.append(_("size {size} {norm}").format(size=number(size), norm=told).rstrip())
        if (queries := row.get("queries")) is not None:
            sample.lines.append(_("{n} queries").format(n=f"{int(queries):,}"))
        return sample

    def _image(self, sample: Sample, row: Mapping[str, Any], before: str, after: str) -> None:
        x, adversarial = row["x"], row["adversarial"]
        bounds = self._bounds or (float(x.min()), float(x.max()))
        change, _factor = magnified_change(x, adversarial, bounds, _("What was changed, magnified."))
        result = _("{what}, predicted as {answer}.").format(what=self._changed.title(), answer=after)
        sample.pictures = [
            photograph(
                x,
                bounds,
                _("Original, predicted as {answer}.").format(answer=before),
                _("original: {answer}").format(answer=before),
            ),
            change,
            photograph(adversarial, bounds, result, _("{what}: {answer}").format(what=self._changed, answer=after)),
        ]

    def _positions(self, row: Mapping[str, Any]) -> BarList:
        before, after = row["x"].reshape(-1), row["adversarial"].reshape(-1)
        named_all = len(self._features) == len(before)
        names = self._features if named_all else [_("position {i}").format(i=i) for i in range(len(before))]
        cells = [f"{number(old)} → {number(new)}" for old, new in zip(before, after, strict=True)]
        return bar_list(names, cells, after - before, (_("feature"), _("before → after"), _("change")))
