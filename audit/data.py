"""The data a model is audited on: batches of rows with digests for names, splits, protected attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from audit.model import Field, InputSpec
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Batch:
    """Rows of one data set.

    Args:
        x: inputs, ``(N, *shape)`` float32 for images and series, ``(N, F)`` float64 for a table (category codes, NaN for
            missing), ``(N, L)`` int32 for texts (code points).
        labels: ``(N,)`` int64 class indices, or float64 values of a regression.
        ids: row ids: digests of the rows' content, unique, stable under reordering.
        groups: protected attributes, one string per row each; they need not be inputs.
    """

    x: NDArray[Any]
    labels: NDArray[Any]
    ids: tuple[str, ...]
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Any) -> Batch:
        """The rows at `indices` (integers or a mask), in that order."""
        import numpy as np

        indices = np.asarray(indices)
        if indices.dtype == bool:
            indices = np.flatnonzero(indices)
        return Batch(
            self.x[indices],
            self.labels[indices],
            tuple(self.ids[i] for i in indices),
            {name: values[indices] for name, values in self.groups.items()},
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the row ids in order; the ids cover the content."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()


def row_ids(x: NDArray[Any], labels: NDArray[Any]) -> tuple[str, ...]:
    """16 hex digits per row from its input and label; equal rows get ``-1``, ``-2`` … appended."""
    import numpy as np

    seen: dict[str, int] = {}
    ids = []
    for row, label in zip(np.ascontiguousarray(x), np.ascontiguousarray(labels), strict=True):
        name = hashlib.sha256(row.tobytes() + label.tobytes()).hexdigest()[:16]
        count = seen[name] = seen.get(name, -1) + 1
        ids.append(f"{name}-{count}" if count else name)
    return tuple(ids)


@dataclass(frozen=True)
class AuditData:
    """What a scenario's data source gave: rows to test on, and the members the model was trained on where they are known.

    Args:
        population: further rows of the same distribution, neither trained on nor tested on.
        spec: the input as the source describes it; `fit_to` aligns it with a model's.
        classes: names of the labels ``0 … C-1``; empty for a regression.
        notes: what was declared or inferred on reading (feature types, missing values), for the manifest.
    """

    source: str
    test: Batch
    spec: InputSpec
    classes: tuple[str, ...] = ()
    train: Batch | None = None
    population: Batch | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digests of the parts."""
        parts = [part.digest if part is not None else "" for part in (self.test, self.train, self.population)]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()

    def fit_to(self, spec: InputSpec, classes: tuple[str, ...], model: str) -> AuditData:
        """The same rows laid out as a model's input spec wants them: reshaped, or columns by name and category codes by value.

        Row ids stay those of the source, so that results of different models pair up.

        Raises:
            UserError: a column, category, class or the shape does not fit.
        """
        columns = self._columns(spec, model) if spec.tabular else None
        if self.classes and classes and not set(self.classes) <= set(classes):
            missing = sorted(set(self.classes) - set(classes))
            raise UserError(
                f"data '{self.source}' has classes that model '{model}' does not know: {', '.join(missing[:5])}; known: {', '.join(classes[:10])}"
            )
        relabel = [classes.index(name) for name in self.classes] if self.classes and classes else None

        def fit(batch: Batch | None) -> Batch | None:
            import numpy as np

            if batch is None:
                return None
            x = self._lay_out(batch.x, spec, columns, model)
            labels = np.asarray(relabel, dtype=np.int64)[batch.labels] if relabel is not None else batch.labels
            return Batch(x, labels, batch.ids, batch.groups)

        test = fit(self.test)
        if test is None or not len(test):
            raise UserError(f"data '{self.source}' has no test rows")
        return AuditData(
            self.source, test, spec, classes or self.classes, fit(self.train), fit(self.population), self.notes
        )

    def _columns(self, spec: InputSpec, model: str) -> list[int]:
        own = [f.name for f in self.spec.fields]
        if not self.spec.tabular:
            raise UserError(
                f"model '{model}' wants the columns of a table, data '{self.source}' gives {self.spec.a_kind}"
            )
        if missing := [f.name for f in spec.fields if f.name not in own]:
            raise UserError(
                f"data '{self.source}' lacks columns that model '{model}' wants: {', '.join(missing[:8])}; it has: {', '.join(own[:20])}"
            )
        return [own.index(f.name) for f in spec.fields]

    def _lay_out(self, x: NDArray[Any], spec: InputSpec, columns: list[int] | None, model: str) -> NDArray[Any]:
        import numpy as np

        if columns is None and spec.kind == "text":
            return self._texts(x, spec, model)
        if columns is None:
            if int(np.prod(x.shape[1:])) != int(np.prod(spec.shape)):
                raise UserError(
                    f"data '{self.source}' gives inputs of shape {x.shape[1:]}, model '{model}' wants {spec.shape}"
                )
            return np.ascontiguousarray(x.reshape(len(x), *spec.shape), dtype=np.float32)
        out = np.array(x[:, columns], dtype=np.float64)
        for j, (column, wanted) in enumerate(zip(columns, spec.fields, strict=True)):
            out[:, j] = _recode(out[:, j], self.spec.fields[column], wanted, self.source, model)
        return out

    def _texts(self, x: NDArray[Any], spec: InputSpec, model: str) -> NDArray[Any]:
        """Code points in rows of the model's length: zeros are added or taken off, characters never."""
        import numpy as np

        if self.spec.kind != "text":
            raise UserError(f"model '{model}' wants texts, data '{self.source}' gives {self.spec.a_kind}")
        (length,) = spec.shape
        if too_long := int((x[:, length:] != 0).any(axis=1).sum()):
            raise UserError(
                f"data '{self.source}': {too_long} of {len(x)} texts are longer than the {length} characters that model '{model}' "
                f"takes: declare 'length: {length}' to cut them, or register the model with a larger shape"
            )
        out = np.zeros((len(x), length), dtype=np.int32)
        out[:, : x.shape[1]] = x[:, :length]
        return out


def _recode(values: NDArray[np.float64], given: Field, wanted: Field, source: str, model: str) -> NDArray[np.float64]:
    """Category codes of the source turned into the model's."""
    import numpy as np

    if given.kind != "category" or wanted.kind != "category" or given.categories == wanted.categories:
        if (given.kind == "category") != (wanted.kind == "category"):
            raise UserError(
                f"column '{given.name}' is a {given.kind} in data '{source}' and a {wanted.kind} for model '{model}'"
            )
        return values
    present = ~np.isnan(values)
    used = np.unique(values[present]).astype(int)
    if unknown := [given.categories[i] for i in used if given.categories[i] not in wanted.categories]:
        raise UserError(
            f"column '{given.name}' of data '{source}' holds categories that model '{model}' does not know: {', '.join(unknown[:5])}"
        )
    table = np.array(
        [wanted.categories.index(c) if c in wanted.categories else -1 for c in given.categories], dtype=np.float64
    )
    out = values.copy()
    out[present] = table[values[present].astype(int)]
    return out
