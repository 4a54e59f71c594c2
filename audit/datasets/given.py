"""Rows that Python code hands over: ``audit.run(scenario, data=…)``."""

from __future__ import annotations

from pathlib import Path

from audit.datasets import Rows, Source
from audit.parameters import UserError


class Given(Source):
    """Stands in a scenario for data that the caller passes to ``audit.run(scenario, data=…)``."""

    def read(self, base: Path) -> Rows:
        """There is nothing to read.

        Raises:
            UserError: always; the rows come from the caller.
        """
        raise UserError(
            "'source: given' stands for rows handed over from Python: call audit.run(scenario, data=…), or name a source that can be read"
        )
