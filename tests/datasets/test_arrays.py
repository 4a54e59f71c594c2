"""Arrays handed over from Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from audit.datasets import Split
from audit.datasets._arrays import from_arrays
from audit.parameters import UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 2))
Y = np.arange(10) % 2


def test_numpy_torch_and_pandas_are_the_same_data() -> None:
    plain = from_arrays(X, Y, feature_names=["a", "b"])
    tensor = from_arrays(torch.tensor(X, requires_grad=True), torch.tensor(Y), feature_names=["a", "b"])
    frame = from_arrays(pd.DataFrame(X, columns=["a", "b"]), pd.Series(Y))
    assert plain.digest == tensor.digest == frame.digest
    assert plain.spec == tensor.spec == frame.spec
    assert (plain.source, plain.classes) == ("arrays", ("0", "1"))
    assert from_arrays(X.tolist(), Y.tolist()).digest == plain.digest


def test_members_by_arrays_or_by_a_split() -> None:
    given = from_arrays(X[:4], Y[:4], x_train=X[4:], y_train=Y[4:], name="mine")
    assert given.train is not None
    assert (given.source, len(given.test), len(given.train)) == ("mine", 4, 6)
    divided = from_arrays(X, Y, split=Split(test=0.4, stratify=True))
    assert divided.train is not None
    assert (len(divided.test), len(divided.train)) == (4, 6)


def test_groups_go_with_their_rows() -> None:
    sex = np.array(["f", "m", "f", "m", "f"] * 2)
    found = from_arrays(X, Y, groups={"sex": sex, "band": Y + 20}, split=Split(test=0.5))
    for i, row in enumerate(found.test.x):
        place = int(np.flatnonzero((row == X).all(axis=1))[0])
        assert found.test.groups["sex"][i] == sex[place]
        assert found.test.groups["band"][i] == str(Y[place] + 20)


def test_images_with_bounds() -> None:
    images = RNG.integers(0, 256, (10, 4, 5, 3)).astype(np.uint8)
    found = from_arrays(images, Y, units="pixel value")
    assert (found.spec.shape, found.spec.bounds, found.spec.units) == ((3, 4, 5), (0, 255), "pixel value")


def test_categories_hold_codes() -> None:
    x = np.column_stack([X[:, 0], np.arange(10) % 3])
    found = from_arrays(x, Y, feature_names=["a", "c"], categories={"c": ["u", "v", "w"]})
    assert (found.spec.fields[1].kind, found.spec.fields[1].categories) == ("category", ("u", "v", "w"))
    with pytest.raises(UserError, match=r"column 'c' holds 2, no code of its 2 categories \(0 to 1\)"):
        from_arrays(x, Y, feature_names=["a", "c"], categories={"c": ["u", "v"]})
    with pytest.raises(UserError, match="categories names column 'd'"):
        from_arrays(x, Y, feature_names=["a", "c"], categories={"d": ["u"]})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"y": Y[:9]}, "one label per input row"),
        ({"x_train": X}, "both x_train and y_train"),
        ({"x_train": X, "y_train": Y, "split": Split()}, "not both"),
        ({"x_train": X[:, :1], "y_train": Y}, "test inputs have shape"),
        ({"x_train": X, "y_train": Y, "groups": {"g": Y}}, "groups are not supported"),
        ({"groups": {"g": Y[:3]}}, r"group 'g' has shape \(3,\) for 10 rows"),
        ({"x": np.array([["a", "b"]] * 10)}, "inputs must be numbers"),
        ({"x": np.full((10, 2), np.inf)}, "NaN or infinity"),
        ({"bounds": (0, 1)}, "outside the declared bounds"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        from_arrays(**{"x": X, "y": Y} | arguments)
    assert str(caught.value).startswith("data 'arrays'")
    assert "\n" not in str(caught.value)
