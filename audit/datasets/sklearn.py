"""The small real data sets that scikit-learn carries."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from audit.datasets import Rows, Source
from audit.model import Field, InputSpec


class Sklearn(Source):
    """``sklearn.digits`` (images ``(1, 8, 8)``, 0..16), ``iris``, ``wine``, ``breast_cancer`` (tables), ``diabetes`` (regression)."""

    member: Literal["breast_cancer", "diabetes", "digits", "iris", "wine"]
    """Which one."""

    def read(self, base: Path) -> Rows:
        import numpy as np
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{self.member}")()
        if self.member == "digits":
            image = Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0.0, 16.0), units="grey level")
            x = bunch.data.reshape(-1, 1, 8, 8).astype(np.float32)
            return Rows(
                x, bunch.target.astype(np.int64), InputSpec(fields=(image,)), tuple(map(str, bunch.target_names))
            )
        fields = tuple(Field(name=str(name), kind="number") for name in bunch.feature_names)
        x = np.ascontiguousarray(bunch.data, dtype=np.float64)
        if self.member == "diabetes":
            return Rows(x, bunch.target.astype(np.float64), InputSpec(fields=fields))
        return Rows(x, bunch.target.astype(np.int64), InputSpec(fields=fields), tuple(map(str, bunch.target_names)))
