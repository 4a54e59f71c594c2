"""A gate: what a metric must meet, as it is written in a scenario (``">= 0.60"``, ``">= baseline - 0.01"``)."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Literal

from audit.parameters import UserError, parse_real

Comparison = Literal[">=", ">", "<=", "<", "=="]

_COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq}
_OPPOSITE: dict[Comparison, Comparison] = {">=": "<", ">": "<=", "<=": ">", "<": ">="}
_GATE = re.compile(r"^\s*(>=|>|<=|<|==)\s*(?:(baseline)\s*(?:([-+])\s*)?)?(\S.*)?$")


@dataclass(frozen=True)
class Gate:
    """One comparison with a threshold; with `baseline` the threshold is added to the named stored run's value."""

    comparison: Comparison
    threshold: float
    baseline: bool = False

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read a gate.

        Raises:
            UserError: the text is no comparison with a number.
        """
        hint = f"'{text}' is no gate: write a comparison and a number, such as '>= 0.60', '< 8/255' or '>= baseline - 0.01'"
        match = _GATE.match(text)
        if not match or (match[2] is None and match[4] is None) or (match[2] and bool(match[3]) != bool(match[4])):
            raise UserError(hint)
        comparison, baseline, sign, number = match[1], match[2], match[3], match[4]
        try:
            threshold = float(parse_real(number)) if number else 0.0
        except ValueError as error:
            raise UserError(hint) from error
        if threshold != threshold or threshold in (float("inf"), float("-inf")):
            raise UserError(hint)
        if comparison == "==" and baseline:
            raise UserError(f"'{text}': a paired comparison with a baseline needs >=, >, <= or <")
        return cls(comparison, -threshold if sign == "-" else threshold, bool(baseline))  # type: ignore[arg-type]

    def met_by(self, value: float) -> bool:
        """Whether one number meets the gate."""
        return bool(_COMPARE[self.comparison](value, self.threshold))

    def holds_for(self, low: float, high: float) -> bool:
        """Whether every number of the closed interval meets the gate."""
        return self.met_by(low) and self.met_by(high)

    def misses(self, low: float, high: float) -> bool:
        """Whether no number of the closed interval meets the gate."""
        if self.comparison == "==":
            return not low <= self.threshold <= high
        return not self.met_by(low) and not self.met_by(high)

    @property
    def direction(self) -> Literal["greater", "less", "equal"]:
        """The alternative hypothesis under which the gate is met."""
        return "equal" if self.comparison == "==" else "greater" if self.comparison[0] == ">" else "less"

    def opposite(self) -> Gate:
        """The gate that holds where this one is missed."""
        if self.comparison == "==":
            raise ValueError("an equality has no one-sided opposite")
        return Gate(_OPPOSITE[self.comparison], self.threshold, self.baseline)

    def __str__(self) -> str:
        if not self.baseline:
            return f"{self.comparison} {self.threshold:g}"
        margin = "" if self.threshold == 0 else f" {'-' if self.threshold < 0 else '+'} {abs(self.threshold):g}"
        return f"{self.comparison} baseline{margin}"
