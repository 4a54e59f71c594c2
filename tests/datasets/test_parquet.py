"""Parquet: types come from the file, everything else is as in CSV."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.data import AuditData
from audit.datasets.csv import Csv
from audit.datasets.parquet import Parquet
from audit.parameters import UserError
from audit.text import decode_all


def load(columns: Any, tmp_path: Path, **parameters: Any) -> AuditData:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), tmp_path / "t.parquet")
    return Parquet(path="t.parquet", **{"label": "y"} | parameters).load(tmp_path, "t")


def test_types_of_the_file(tmp_path: Path) -> None:
    found = load(
        {
            "int": pa.array([3, 1, None], pa.int32()),
            "float": [0.5, float("nan"), 2.0],
            "bool": [True, False, None],
            "text": ["u", " v ", "u"],
            "dictionary": pa.array(["b", "a", "b"]).dictionary_encode(),
            "decimal": [Decimal("1.50"), Decimal("2.25"), None],
            "y": [1, 0, 1],
        },
        tmp_path,
        missing="keep",
    )
    assert [(f.name, f.kind, f.categories) for f in found.spec.fields] == [
        ("int", "number", ()),
        ("float", "number", ()),
        ("bool", "category", ("false", "true")),
        ("text", "category", ("u", "v")),
        ("dictionary", "category", ("a", "b")),
        ("decimal", "number", ()),
    ]
    nan = float("nan")
    np.testing.assert_array_equal(
        found.test.x, [[3, 0.5, 1, 0, 1, 1.5], [1, nan, 0, 1, 0, 2.25], [nan, 2, nan, 0, 1, nan]]
    )
    assert found.classes == ("0", "1")
    assert "int: 1 missing (null)" in found.notes


def test_the_same_table_is_the_same_data_as_in_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n1,u,p\n2.5,v,q\n,u,q\n")
    text = Csv(path="t.csv", label="y", missing="keep").load(tmp_path, "t")
    typed = load({"a": [1, 2.5, None], "b": ["u", "v", "u"], "y": ["p", "q", "q"]}, tmp_path, missing="keep")
    assert typed.digest == text.digest
    assert typed.spec == text.spec


def test_codes_for_missing_values_in_numeric_columns(tmp_path: Path) -> None:
    found = load({"a": [1, -9, 3], "y": [0, 1, 0]}, tmp_path, missing="keep", missing_values=[-9])
    assert np.isnan(found.test.x[:, 0]).tolist() == [False, True, False]
    assert "a: 1 missing (-9)" in found.notes


def test_a_numeric_column_is_a_category_when_declared(tmp_path: Path) -> None:
    found = load({"a": [10.0, 2.0, None], "y": [0, 1, 0]}, tmp_path, missing="keep", categories={"a": []})
    assert found.spec.fields[0].categories == ("2", "10")
    np.testing.assert_array_equal(found.test.x[:, 0], [1, 0, float("nan")])


def test_columns_that_are_left_out_may_hold_anything(tmp_path: Path) -> None:
    columns = {"when": [datetime.date(2020, 1, 1)] * 2, "a": [1, 2], "s": ["f", "m"], "y": [0, 1]}
    with pytest.raises(
        UserError, match=r"column 'when' is of type date32\[day\], neither numbers nor text; exclude it"
    ):
        load(columns, tmp_path)
    assert load(columns, tmp_path, exclude=["when", "s"]).test.x.tolist() == [[1], [2]]
    chosen = load(columns, tmp_path, features=["a"], protected=["s"])
    assert chosen.test.groups["s"].tolist() == ["f", "m"]


@pytest.mark.parametrize(
    ("columns", "parameters", "words"),
    [
        ({"a": [[1], [2]], "y": [0, 1]}, {}, "is of type list<element: int64>"),
        ({"a": [2**53 + 1, 2], "y": [0, 1]}, {}, r"an integer beyond 2\*\*53"),
        ({"a": pa.nulls(2), "y": [0, 1]}, {"missing": "keep"}, "column 'a' holds no value at all"),
        ({"a": [1, 2], "y": [0, 1]}, {"label": "z"}, "label names column 'z'"),
        ({"a": [1, 2], "y": [1, 1]}, {}, "a single class, '1'"),
        ({"a": [float("inf"), 2], "y": [0, 1]}, {}, "infinite number in data row 1"),
        ({"a": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}, {}, "the table holds a header alone"),
        (pa.table([pa.array([1]), pa.array([2]), pa.array([0])], names=["a", "a", "y"]), {}, "more than one column named 'a'"),
        ({"a": [1, 2], "y": ["p", "q"]}, {"task": "regression"}, "a regression needs numbers"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(columns: Any, parameters: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load(columns, tmp_path, **parameters)
    assert "t.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_parquet_or_cut_short(tmp_path: Path) -> None:
    load({"a": list(range(1000)), "y": [0, 1] * 500}, tmp_path)
    whole = (tmp_path / "t.parquet").read_bytes()
    for content in (b"a,y\n1,2\n", whole[: len(whole) // 2], whole[:4], b"\0" * 500):
        (tmp_path / "t.parquet").write_bytes(content)
        with pytest.raises(UserError, match="is no readable Parquet file") as caught:
            Parquet(path="t.parquet", label="y").load(tmp_path, "t")
        assert "\n" not in str(caught.value)


def test_texts(tmp_path: Path) -> None:
    columns = {"said": ["über", None, " x "], "day": [datetime.date(2026, 1, 1)] * 3, "y": [0, 1, 1]}
    found = load(columns, tmp_path, text="said", missing="drop")
    assert decode_all(found.test.x) == ["über", " x "]
    with pytest.raises(UserError, match="column 'y2' holds numbers, not texts"):
        load({"y2": [1.0, 2.0], "y": [0, 1]}, tmp_path, text="y2")
