"""Real data that installed packages carry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn import datasets

from audit.datasets.sklearn import Sklearn
from audit.datasets.wooldridge import Wooldridge
from audit.names import resolve_member


def test_digits_are_images() -> None:
    found, member = resolve_member("datasets", "sklearn.digits")
    assert (found, member) == (Sklearn, {"member": "digits"})
    data = Sklearn(member="digits", split={"test": 0.3, "stratify": True}).load(Path(), "sklearn.digits")
    assert data.train is not None
    assert (len(data.test), len(data.train)) == (539, 1258)
    assert (data.test.x.shape[1:], data.test.x.dtype) == ((1, 8, 8), np.float32)
    (field,) = data.spec.fields
    assert (field.kind, field.shape, field.bounds) == ("image", (1, 8, 8), (0, 16))
    assert data.classes == tuple("0123456789")
    whole = Sklearn(member="digits").load(Path(), "sklearn.digits")
    assert (whole.test.x.reshape(-1, 64) == datasets.load_digits().data).all()


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"),
    [
        ("iris", 150, 4, ("setosa", "versicolor", "virginica")),
        ("wine", 178, 13, ("class_0", "class_1", "class_2")),
        ("breast_cancer", 569, 30, ("malignant", "benign")),
        ("diabetes", 442, 10, ()),
    ],
)
def test_tables(name: str, rows: int, columns: int, classes: tuple[str, ...]) -> None:
    data = Sklearn(member=name).load(Path(), name)  # type: ignore[arg-type]
    assert data.test.x.shape == (rows, columns)
    assert data.classes == classes
    assert data.spec.tabular
    bunch = getattr(datasets, f"load_{name}")()
    assert [f.name for f in data.spec.fields] == list(bunch.feature_names)
    assert (data.test.labels == bunch.target).all()
    assert data.test.labels.dtype == (np.int64 if classes else np.float64)


def test_an_unknown_name_is_refused_without_importing_the_package() -> None:
    code = (
        "import sys; from audit.datasets.sklearn import Sklearn\n"
        "try: Sklearn(member='iriss')\n"
        "except ValueError as error: print('iris' in str(error), 'sklearn.base' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


wooldridge = pytest.importorskip("wooldridge", reason="the package that carries the data is not installed")


def test_loans() -> None:
    found, member = resolve_member("datasets", "wooldridge.loanapp")
    assert (found, member) == (Wooldridge, {"member": "loanapp"})
    source = Wooldridge(
        member="loanapp", label="approve", protected=["black", "hispan", "male"],
        exclude=["action", "reject", "occ", "min30"], missing="drop", missing_values={"review": [999]},
        classes=["refused", "approved"],
    )  # fmt: skip
    data = source.load(Path(), "wooldridge.loanapp")
    frame = wooldridge.data("loanapp")
    assert "1989 rows dropped" in next(note for note in data.notes if "dropped" in note)
    inputs = frame.drop(columns=["approve", "action", "reject", "occ", "min30", "black", "hispan", "male"])
    kept = inputs.notna().all(axis=1) & (inputs.review != 999)
    np.testing.assert_allclose(data.test.x, inputs[kept].to_numpy(np.float64))
    assert data.test.labels.tolist() == frame.approve[kept].tolist()
    assert data.classes == ("refused", "approved")
    assert (data.test.groups["black"] == frame.black[kept].astype(str)).all()
    assert set(data.test.groups["male"]) == {"0", "1", "missing"}


def test_wages_are_a_regression() -> None:
    data = Wooldridge(member="wage1", label="wage").load(Path(), "wooldridge.wage1")
    assert data.classes == ()
    np.testing.assert_allclose(data.test.labels, wooldridge.data("wage1").wage)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValidationError, match="did you mean 'loanapp'"):
        Wooldridge(member="loanap", label="approve")
    with pytest.raises(ValidationError, match="is no name of a data set"):
        Wooldridge(member="../load_data", label="approve")


def test_the_package_is_never_imported() -> None:
    code = (
        "import sys; from pathlib import Path; from audit.datasets.wooldridge import Wooldridge\n"
        "Wooldridge(member='wage1', label='wage').load(Path(), 'w'); print('wooldridge' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
