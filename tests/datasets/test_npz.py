"""NumPy archives: shapes are inferred where they are plain, pickles are never opened."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audit.data import AuditData
from audit.datasets.npz import Npz
from audit.parameters import UserError

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(6, 3))
Y = np.array([0, 1, 2, 0, 1, 2])


def load(tmp_path: Path, parameters: dict[str, Any] | None = None, **arrays: Any) -> AuditData:
    np.savez(tmp_path / "d.npz", **arrays)
    return Npz(path="d.npz", **parameters or {}).load(tmp_path, "d")


def refusal(tmp_path: Path, parameters: dict[str, Any] | None = None, **arrays: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, parameters, **arrays)
    assert "d.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_table(tmp_path: Path) -> None:
    found = load(tmp_path, x=TABLE, y=Y)
    assert (found.test.x == TABLE).all()
    assert found.classes == ("0", "1", "2")
    assert [f.name for f in found.spec.fields] == ["x0", "x1", "x2"]
    named = load(tmp_path, {"feature_names": ["a", "b", "c"], "units": "cm", "bounds": (-9, 9)}, x=TABLE, y=Y)
    assert [(f.name, f.units, f.bounds) for f in named.spec.fields] == [(n, "cm", (-9, 9)) for n in "abc"]


@pytest.mark.parametrize(
    ("shape", "parameters", "wanted"),
    [
        ((6, 5, 4), {}, (1, 5, 4)),
        ((6, 3, 5, 4), {}, (3, 5, 4)),
        ((6, 5, 4, 3), {}, (3, 5, 4)),
        ((6, 1, 5, 4), {}, (1, 5, 4)),
        ((6, 3, 5, 3), {"channels": "last"}, (3, 3, 5)),
        ((6, 3, 5, 3), {"channels": "first"}, (3, 5, 3)),
        ((6, 5), {"kind": "series"}, (1, 5)),
        ((6, 2, 5), {"kind": "series"}, (2, 5)),
        ((6, 5, 2), {"kind": "series", "channels": "last"}, (2, 5)),
    ],
)
def test_images_and_series_have_their_channels_first(
    shape: tuple[int, ...], parameters: dict[str, Any], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    found = load(tmp_path, parameters, x=x, y=Y)
    assert (found.spec.shape, found.test.x.shape[1:], found.test.x.dtype) == (wanted, wanted, np.float32)
    moved = np.moveaxis(x, -1, 1) if shape[1:] != wanted and wanted[0] == shape[-1] else x
    assert (found.test.x == moved.reshape(6, *wanted)).all()


def test_bytes_have_their_bounds(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 4, 4)).astype(np.uint8)
    assert load(tmp_path, x=pixels, y=Y).spec.bounds == (0, 255)
    assert load(tmp_path, x=pixels / 255, y=Y).spec.bounds is None
    assert load(tmp_path, {"bounds": (0, 1)}, x=pixels / 255, y=Y).spec.bounds == (0, 1)
    assert "outside the declared bounds 0 to 1" in refusal(tmp_path, {"bounds": (0, 1)}, x=pixels, y=Y)


def test_members_are_known_by_their_own_arrays(tmp_path: Path) -> None:
    keys = {"x": "x_test", "y": "y_test", "train_x": "x_train", "train_y": "y_train"}
    arrays = {"x_test": TABLE[:2], "y_test": Y[:2], "x_train": TABLE[2:], "y_train": Y[2:]}
    found = load(tmp_path, keys, **arrays)
    assert found.train is not None
    assert (found.test.x == TABLE[:2]).all()
    assert (found.train.x == TABLE[2:]).all()
    assert found.classes == ("0", "1", "2")
    with pytest.raises(ValidationError, match="give both, or neither"):
        Npz(path="d.npz", train_x="x_train")
    assert "comes with a split of its own" in str(_error(tmp_path, {**keys, "split": {"test": 0.5}}, **arrays))
    assert "test inputs have shape (3,), train inputs (2,)" in refusal(
        tmp_path, keys, **arrays | {"x_train": TABLE[2:, :2]}
    )
    assert "train rows have inputs of shape (4, 3) and labels of shape (2,)" in refusal(
        tmp_path, keys, **arrays | {"y_train": Y[:2]}
    )
    assert "test labels are int64" in refusal(tmp_path, keys, **arrays | {"y_train": Y[2:].astype(str)})


def _error(tmp_path: Path, parameters: dict[str, Any], **arrays: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        load(tmp_path, parameters, **arrays)
    return caught.value


def test_labels(tmp_path: Path) -> None:
    assert load(tmp_path, x=TABLE, y=Y * 1.0).classes == ("0", "1", "2")
    assert load(tmp_path, x=TABLE, y=Y[:, None]).classes == ("0", "1", "2")
    assert load(tmp_path, x=TABLE, y=Y + 0.5).classes == ()
    assert load(tmp_path, {"task": "regression"}, x=TABLE, y=Y).test.labels.dtype == np.float64
    assert load(tmp_path, {"classes": 5}, x=TABLE, y=Y).classes == tuple("01234")
    assert load(tmp_path, {"classes": ["a", "b", "c"]}, x=TABLE, y=Y).classes == ("a", "b", "c")
    named = load(tmp_path, x=TABLE, y=np.array(["u", "v", "w"] * 2))
    assert (named.classes, named.test.labels.tolist()) == (("u", "v", "w"), [0, 1, 2] * 2)


@pytest.mark.parametrize(
    ("y", "parameters", "words"),
    [
        (Y[:5], {}, r"labels of shape (5,)"),
        (np.eye(3)[Y], {}, "turn one-hot rows into class indices"),
        (np.array([0, 1, np.nan] * 2), {}, "hold NaN or infinity, first in row 2"),
        (Y - 1, {}, "must be class indices 0, 1, …, got -1"),
        (Y + 0.5, {"task": "classification"}, "must be class indices 0, 1, …, got 0.5"),
        (Y * 10**12, {}, "too many for class indices"),
        (Y, {"classes": 2}, "hold '2', not among the 2 declared classes"),
        (Y * 0, {}, "hold a single class, 0"),
        (np.array(["u", "v", "w"] * 2), {"task": "regression"}, "a regression needs numbers"),
        (Y.astype(complex), {}, "must be numbers or text, got dtype complex128"),
        (np.array(3), {}, "labels of shape ()"),
    ],
)
def test_labels_that_do_not_fit(y: Any, parameters: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, parameters, x=TABLE, y=y)


@pytest.mark.parametrize(
    ("x", "parameters", "words"),
    [
        (TABLE[:0], {}, "at least one row"),
        (TABLE[0], {}, "one label per input row"),
        (TABLE.astype(str), {}, "inputs must be numbers, got dtype <U"),
        (np.where(TABLE > 0, TABLE, np.inf), {}, "hold NaN or infinity"),
        (np.full((6, 3), np.nan), {}, "set missing to keep"),
        (np.full((6, 4, 4), np.nan), {"missing": "keep"}, "hold NaN or infinity, first row 0"),
        (np.full((6, 2), 2**53 + 2), {}, "integers beyond 2**53"),
        (np.zeros((6, 3, 5, 3)), {}, "set channels to first or last"),
        (np.zeros((6, 7, 5, 2)), {}, "set channels to first or last"),
        (np.zeros((6, 1, 1, 1, 1)), {}, "image inputs have shape (rows, height, width)"),
        (np.zeros((6, 4, 4)), {"kind": "table"}, "a table has shape (rows, columns)"),
        (TABLE, {"kind": "image"}, "image inputs have shape"),
        (TABLE, {"feature_names": ["a", "b"]}, "3 columns need as many different feature names, got 2"),
        (TABLE, {"feature_names": ["a", "b", "b"]}, "got 2"),
    ],
)
def test_inputs_that_do_not_fit(x: Any, parameters: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, parameters, x=x, y=Y[: len(x)] if x.ndim > 1 else Y)


def test_nan_is_a_missing_value_where_it_is_declared_to_be(tmp_path: Path) -> None:
    x = np.where(TABLE > 1, np.nan, TABLE)
    assert np.isnan(x).any()
    np.testing.assert_array_equal(load(tmp_path, {"missing": "keep"}, x=x, y=Y).test.x, x)


def test_a_missing_array_names_the_nearest(tmp_path: Path) -> None:
    assert "holds no array 'x'; it holds images, y" in refusal(tmp_path, images=TABLE, y=Y)
    assert "did you mean 'images'?" in refusal(tmp_path, {"x": "image"}, images=TABLE, y=Y)


class Payload:
    """Unpickling it would leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    objects = np.array([Payload(trace), Payload(trace)], dtype=object)
    assert "array 'x' holds Python objects (a pickle), which are never opened" in refusal(tmp_path, x=objects, y=Y[:2])
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(UserError, match=r"is no \.npz archive"):
        Npz(path="d.npz").load(tmp_path, "d")
    assert not trace.exists()


def test_files_that_are_damaged_or_of_another_kind(tmp_path: Path) -> None:
    load(tmp_path, x=np.zeros((500, 500)), y=np.arange(500) % 2)
    whole = (tmp_path / "d.npz").read_bytes()
    single = tmp_path / "single.npz"
    np.save(tmp_path / "a.npy", TABLE)
    (tmp_path / "a.npy").rename(single)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as other:
        other.writestr("x.npy", b"not an array")
        other.writestr("y.npy", b"")
    flipped = bytearray(whole)
    flipped[5000] ^= 0xFF
    for name, content, words in (
        ("cut.npz", whole[: len(whole) // 2], "d"),
        ("flipped.npz", bytes(flipped), "array 'x' cannot be read: Bad CRC-32"),
        ("text.npz", b"x,y\n1,2\n", "no .npz archive"),
        ("single.npz", None, "is a single array"),
        ("other.npz", None, "array 'x'"),
        ("empty.npz", b"", "is empty"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            Npz(path=name).load(tmp_path, "d")
        assert name in str(caught.value)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
