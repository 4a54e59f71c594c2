"""Data sources: each reads one kind of file or package into rows; splitting is shared. One file per source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from audit.data import AuditData, Batch, row_ids
from audit.model import InputSpec
from audit.parameters import Parameters, Real, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """All rows of a source, before splitting; arrays as in `Batch`.

    Args:
        train: mask of rows that the source itself declares as trained on (a split of its own), where it does.
        notes: what was declared or inferred (feature types, missing values), shown to the user.
    """

    x: NDArray[Any]
    labels: NDArray[Any]
    spec: InputSpec
    classes: tuple[str, ...] = ()
    groups: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    train: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()


class Split(Parameters):
    """How rows are divided; the same seed gives the same split whatever the scenario's seed."""

    test: Annotated[Real, Field(gt=0, le=1)] = 0.3
    """Share of the rows to test on; non-members."""
    population: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    """Share of the rows that are neither trained on nor tested on."""
    stratify: bool = False
    """Keep the class shares in every part."""
    seed: int = 0
    """Seed of the permutation."""


class Source(Parameters, ABC):
    """Base of every data source; its fields are what a scenario's ``data`` may say."""

    split: Split | None = None
    """Without a split, all rows are test rows and no members are known."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Test rows to keep at most: the first ones of the split's permutation (of the source's order without a split)."""
    members: Annotated[int, Field(ge=1)] | None = None
    """Members to keep at most: the first ones of a fixed permutation; the others join the population, neither trained on nor tested on."""

    @abstractmethod
    def read(self, base: Path) -> Rows:
        """Read every row; relative paths are relative to `base` (the scenario's folder).

        Raises:
            UserError: the file is missing, empty, truncated, of another format, or holds no usable row.
        """

    def load(self, base: Path, name: str) -> AuditData:
        """Read and split."""
        import numpy as np

        rows = self.read(base)
        if not len(rows.x):
            raise UserError(f"data '{name}' holds no rows")
        everything = Batch(rows.x, rows.labels, row_ids(rows.x, rows.labels), rows.groups)
        train = population = None
        if self.split is not None:
            if rows.train is not None:
                raise UserError(f"data '{name}' comes with a split of its own: leave 'split' out")
            parts = split_indices(rows.labels, self.split, bool(rows.classes), name)
            test = everything.take(parts[0])
            train = everything.take(parts[1]) if len(parts[1]) else None
            population = everything.take(parts[2]) if len(parts[2]) else None
        elif rows.train is not None:
            test, train = everything.take(~rows.train), everything.take(rows.train)
        else:
            test = everything
        if self.limit is not None:
            test = test.take(np.arange(min(self.limit, len(test))))
        if self.members is not None:
            if train is None:
                raise UserError(f"data '{name}': members: {self.members} of none: give the data a 'split'")
            order = np.random.default_rng(0).permutation(len(train))
            left = train.take(order[self.members :])
            train = train.take(order[: self.members])
            if len(left):
                population = left if population is None else _joined(population, left)
        return AuditData(name, test, rows.spec, rows.classes, train, population, rows.notes)


def _joined(first: Batch, second: Batch) -> Batch:
    import numpy as np

    return Batch(
        np.concatenate([first.x, second.x]),
        np.concatenate([first.labels, second.labels]),
        first.ids + second.ids,
        {name: np.concatenate([values, second.groups[name]]) for name, values in first.groups.items()},
    )


def split_indices(
    labels: NDArray[Any], split: Split, classification: bool, name: str
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Row numbers of (test, train, population), each in the order of one seeded permutation.

    Raises:
        UserError: the shares leave the test part empty, add up to more than 1, or a class has too few rows to stratify.
    """
    import numpy as np

    if split.test + split.population > 1:
        raise UserError(
            f"data '{name}': split.test {split.test:g} and split.population {split.population:g} add up to more than 1"
        )
    order = np.random.default_rng(split.seed).permutation(len(labels))
    if not split.stratify:
        n_test, n_population = round(split.test * len(order)), round(split.population * len(order))
        part = np.repeat([0, 2, 1], [n_test, n_population, len(order) - n_test - n_population])
    else:
        if not classification:
            raise UserError(f"data '{name}': split.stratify needs class labels")
        part = np.empty(len(order), dtype=int)
        for label in np.unique(labels):
            places = np.flatnonzero(labels[order] == label)
            n_test, n_population = round(split.test * len(places)), round(split.population * len(places))
            if not n_test:
                raise UserError(
                    f"data '{name}': class {label} has {len(places)} rows, too few to stratify with split.test {split.test:g}"
                )
            part[places] = np.repeat([0, 2, 1], [n_test, n_population, len(places) - n_test - n_population])
    test, train, population = (order[part == code] for code in (0, 1, 2))
    if not len(test):
        raise UserError(f"data '{name}': split.test {split.test:g} of {len(labels)} rows leaves no test row")
    return test, train, population
