"""Delimited text: what is inferred, what is declared, and one clear line for what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audit.data import AuditData
from audit.datasets._arrays import from_arrays
from audit.datasets.csv import Csv
from audit.parameters import UserError
from audit.text import decode_all

PEOPLE = """age,city,income,sex,hired
34,Bonn,2.5,f,yes
51,Ulm,3.0,m,no
28,Bonn,1.5,m,yes
44,Jena,NA,f,no
"""


def load(text: str | bytes, tmp_path: Path, /, name: str = "t.csv", **parameters: Any) -> AuditData:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Csv(path=name, **{"label": "hired"} | parameters).load(tmp_path, "t")


def refusal(text: str | bytes, tmp_path: Path, /, **parameters: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(text, tmp_path, **parameters)
    message = str(caught.value)
    assert "\n" not in message
    assert "t.csv" in message
    return message


def test_types_are_inferred_and_shown(tmp_path: Path) -> None:
    found = load(PEOPLE, tmp_path, missing="keep")
    assert [(f.name, f.kind, f.categories) for f in found.spec.fields] == [
        ("age", "number", ()),
        ("city", "category", ("Bonn", "Jena", "Ulm")),
        ("income", "number", ()),
        ("sex", "category", ("f", "m")),
    ]
    nan = float("nan")
    np.testing.assert_array_equal(found.test.x, [[34, 0, 2.5, 0], [51, 2, 3, 1], [28, 0, 1.5, 1], [44, 1, nan, 0]])
    assert found.test.x.dtype == np.float64
    assert found.classes == ("no", "yes")
    assert found.test.labels.tolist() == [1, 0, 1, 0]
    for note in (
        "income: 1 missing ('NA')",
        "city: category with 3 values (Bonn, Jena, Ulm), inferred",
        "hired: label, 2 classes (no, yes), classification (inferred)",
        "inputs: 2 numbers, 2 categories",
    ):
        assert note in found.notes


def test_missing_values_are_refused_kept_or_dropped(tmp_path: Path) -> None:
    assert "1 of 4 rows lack a value (income 1); set missing to keep or drop" in refusal(PEOPLE, tmp_path)
    dropped = load(PEOPLE, tmp_path, missing="drop")
    assert dropped.test.x[:, 0].tolist() == [34, 51, 28]
    assert "1 of 4 rows dropped: a label or an input is missing" in dropped.notes
    assert len(load(PEOPLE, tmp_path, exclude=["income"]).test) == 4


def test_declared_missing_values_replace_the_inferred_ones(tmp_path: Path) -> None:
    text = "a,b,y\n1,-9,p\n2,-9.0,q\n3,7,p\nNA,8,q\n"
    assert "mostly numbers, but holds 'NA' in data row 4" in refusal(text, tmp_path, label="y", missing_values=[-9])
    found = load(text, tmp_path, label="y", missing="keep", missing_values=[-9, "NA"])
    assert np.isnan(found.test.x).tolist() == [[False, True], [False, True], [False, False], [True, False]]
    in_b = load(text, tmp_path, label="y", missing="keep", missing_values={"b": [-9]})
    assert np.isnan(in_b.test.x).sum() == 3
    assert "missing_values names column 'c'" in refusal(text, tmp_path, label="y", missing_values={"c": [1]})


def test_a_blank_cell_is_always_missing(tmp_path: Path) -> None:
    found = load("a,y\n ,p\n2,q\n", tmp_path, label="y", missing="keep", missing_values=["none"])
    assert np.isnan(found.test.x[:, 0]).tolist() == [True, False]
    assert "a: 1 missing (blank)" in found.notes


def test_a_row_without_a_label_can_only_be_dropped(tmp_path: Path) -> None:
    text = "a,y\n1,p\n2,\n3,q\n"
    assert "1 rows lack the label 'y'" in refusal(text, tmp_path, label="y", missing="keep")
    assert load(text, tmp_path, label="y", missing="drop").test.x.tolist() == [[1], [3]]
    assert "no row is left: each lacks a value" in refusal("a,b,y\n1,,p\n,2,q\n", tmp_path, label="y", missing="drop")


def test_features_are_chosen_and_ordered(tmp_path: Path) -> None:
    def names(**p: Any) -> list[str]:
        return [f.name for f in load(PEOPLE, tmp_path, missing="drop", **p).spec.fields]

    assert names(features=["sex", "age"]) == ["sex", "age"]
    assert names(exclude=["city", "income"]) == ["age", "sex"]
    assert names(protected=["sex"]) == ["age", "city", "income"]
    assert names(protected=["sex"], features=["age", "sex"]) == ["age", "sex"]


def test_protected_attributes_are_groups(tmp_path: Path) -> None:
    text = "a,male,sex,y\n1,1.0,f,p\n2,0.0,m,q\n3,,f,p\n4,1.0,m,q\n"
    found = load(text, tmp_path, label="y", protected=["male", "sex"])
    assert found.test.groups["male"].tolist() == ["1", "0", "missing", "1"]
    assert found.test.groups["sex"].tolist() == ["f", "m", "f", "m"]
    assert found.test.x.tolist() == [[1], [2], [3], [4]]
    assert "male: protected attribute with 3 groups, not an input" in found.notes
    also = load(text, tmp_path, label="y", protected=["sex"], features=["a", "sex"])
    assert "sex: protected attribute with 2 groups, also an input" in also.notes
    many = "a,age,y\n" + "".join(f"1,{age},{'pq'[age % 2]}\n" for age in range(60))
    assert "60 values, too many groups" in refusal(many, tmp_path, label="y", protected=["age"])


def test_categories_are_declared_in_the_order_of_their_codes(tmp_path: Path) -> None:
    found = load(PEOPLE, tmp_path, missing="drop", categories={"city": ["Ulm", "Bonn", "Jena", "Trier"]})
    assert found.spec.fields[1].categories == ("Ulm", "Bonn", "Jena", "Trier")
    assert found.test.x[:, 1].tolist() == [1, 0, 1]
    assert "holds 'Jena', not among its declared categories" in refusal(
        PEOPLE, tmp_path, missing="keep", categories={"city": ["Ulm", "Bonn"]}
    )
    assert "categories names column 'town', which does not exist" in refusal(PEOPLE, tmp_path, categories={"town": []})


def test_a_numeric_column_is_a_category_when_declared(tmp_path: Path) -> None:
    text = "code,zip,y\n2.0,01,p\n10.0,1,q\n2.0,01,p\n"
    plain = load(text, tmp_path, label="y")
    assert [f.kind for f in plain.spec.fields] == ["number", "number"]
    found = load(text, tmp_path, label="y", categories={"code": [], "zip": []})
    assert [f.categories for f in found.spec.fields] == [("2", "10"), ("01", "1")]
    assert found.test.x.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert load(text, tmp_path, label="y", categories={"code": [10, 2]}).test.x[:, 0].tolist() == [1, 0, 1]


def test_the_task_is_inferred_or_declared(tmp_path: Path) -> None:
    few = "a,y\n" + "".join(f"{i},{i % 3}\n" for i in range(9))
    assert load(few, tmp_path, label="y").classes == ("0", "1", "2")
    regression = load(few, tmp_path, label="y", task="regression")
    assert (regression.classes, regression.test.labels.dtype) == ((), np.float64)
    assert load("a,y\n1,0.5\n2,1\n", tmp_path, label="y").classes == ()
    many = "a,y\n" + "".join(f"{i},{i}\n" for i in range(21))
    assert load(many, tmp_path, label="y").classes == ()
    with_gaps = "a,y\n" + "".join(f"{i},{i % 25}\n" for i in range(50))
    assert len(load(with_gaps, tmp_path, label="y", task="classification").classes) == 25


def test_classes_are_declared_by_name_or_by_index(tmp_path: Path) -> None:
    text = "a,y\n1,1\n2,0\n3,1\n"
    named = load(text, tmp_path, label="y", classes=["refused", "granted"])
    assert (named.classes, named.test.labels.tolist()) == (("refused", "granted"), [1, 0, 1])
    turned = load(text, tmp_path, label="y", classes=[1, 0])
    assert (turned.classes, turned.test.labels.tolist()) == (("1", "0"), [0, 1, 0])
    assert load(text, tmp_path, label="y", classes=4).classes == ("0", "1", "2", "3")
    assert "hold '1', not among the 2 declared classes" in refusal(text, tmp_path, label="y", classes=["0", "2"])
    assert "a regression has no classes" in refusal(text, tmp_path, label="y", classes=2, task="regression")
    with pytest.raises(UserError, match="two or more different names, got a, a"):
        load(text, tmp_path, label="y", classes=["a", "a"])


def test_one_class_needs_a_declaration(tmp_path: Path) -> None:
    text = "a,y\n1,p\n2,p\n"
    assert "a single class, 'p'" in refusal(text, tmp_path, label="y")
    assert load(text, tmp_path, label="y", classes=["p", "q"]).test.labels.tolist() == [0, 0]


def test_one_row_can_be_read(tmp_path: Path) -> None:
    assert len(load("a,y\n1,p\n", tmp_path, label="y", classes=["p", "q"]).test) == 1
    assert load("a,y\n1,2.5\n", tmp_path, label="y").test.labels.tolist() == [2.5]


def test_constant_columns_are_noted(tmp_path: Path) -> None:
    found = load("a,b,y\n1,5,p\n2,5,q\n", tmp_path, label="y")
    assert "b: constant" in found.notes
    assert "a: constant" not in found.notes


@pytest.mark.parametrize(
    ("text", "parameters", "words"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "holds no header line"),
        ("a,y\n", {}, "the table holds a header alone"),
        ("a,y\n1,p,x\n", {}, "line 2: 3 cells where the header has 2"),
        ("a,b,y\n1,2,p\n3,4\n", {}, "line 3: 2 cells where the header has 3; the file may be cut short"),
        ('a,y\n1,"p\n2,q\n', {}, "unexpected end of data"),
        ("a,a,y\n1,2,p\n", {}, "names 'a' more than once"),
        ("a;y\n1;p\n", {}, "its delimiter seems to be ';'"),
        ("y\np\nq\n", {}, "a single column, 'y'"),
        ("a,y\n1,p\n\xff,q\n".encode("latin-1"), {}, "is not utf-8 text"),
        ("a,y\n1,p\n".encode("utf-16"), {}, "is not utf-8 text"),
        ("a,y\n1,p\n".encode("utf-16-le"), {}, "holds zero bytes"),
        ("a,y\n1,p\n2,q\n", {"label": "z"}, "label names column 'z', which does not exist; it has a, y"),
        ("age,y\n1,p\n2,q\n", {"exclude": ["agee"]}, "exclude names column 'agee', which does not exist; did you mean 'age'?"),
        ("a,y\n1,p\n2,q\n", {"protected": ["sex"]}, "protected names column 'sex'"),
        ("a,y\n1,p\n2,q\n", {"features": ["b"]}, "features names column 'b'"),
        ("a,y\n1,p\n2,q\n", {"features": ["a", "y"]}, "the label 'y' is among the features"),
        ("a,y\n1,p\n2,q\n", {"features": ["a", "a"]}, "features names a column twice"),
        ("a,b,y\n1,2,p\n", {"features": ["a"], "exclude": ["a"]}, "'a' is both a feature and excluded"),
        ("a,y\n1,p\n2,q\n", {"exclude": ["a"]}, "no input column is left"),
        ("a,y\n1,p\n2,q\n", {"task": "regression"}, "label 'y' holds 'p': a regression needs numbers"),
        ("a,y\n,p\n,q\n", {"missing": "keep"}, "column 'a' holds no value at all"),
        ("a,y\n1,p\n2,q\n3x,p\n", {}, "column 'a' is mostly numbers, but holds '3x' in data row 3"),
        ("a,y\ninf,p\n2,q\n", {}, "column 'a' holds an infinite number in data row 1"),
        ("a,y\n9007199254740993,p\n2,q\n", {}, "an integer beyond 2**53"),
        ("a,y\n" + "".join(f"u{i},{'pq'[i % 2]}\n" for i in range(30)), {}, "text with 30 different values in 30 rows"),
        ("a,y\n" + "".join(f"{i},u{i}\n" for i in range(30)), {}, "label 'y' has another value in each of 30 rows"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(text: str | bytes, parameters: Any, words: str, tmp_path: Path) -> None:
    assert words in refusal(text, tmp_path, **{"label": "y"} | parameters)


def test_large_integers_and_unique_text_are_fine_where_declared_or_left_out(tmp_path: Path) -> None:
    text = "id,a,y\n9007199254740993,1,p\n9007199254740995,2,q\n"
    assert load(text, tmp_path, label="y", exclude=["id"]).test.x.tolist() == [[1], [2]]
    found = load(text, tmp_path, label="y", categories={"id": []})
    assert found.spec.fields[0].categories == ("9007199254740993", "9007199254740995")
    assert load("a,y\n9007199254740992,p\n2,q\n", tmp_path, label="y").test.x[0, 0] == 2**53
    assert load("a,y\n1e300,p\n2,q\n", tmp_path, label="y").test.x[0, 0] == 1e300


def test_marks_quotes_blank_lines_and_a_stored_index(tmp_path: Path) -> None:
    text = '\ufeff"a", b ,y\r\n\r\n1,"x, ""z""",p\r\n2,w,q\r\n'
    found = load(text, tmp_path, label="y")
    assert [f.name for f in found.spec.fields] == ["a", "b"]
    assert found.spec.fields[1].categories == ("w", 'x, "z"')
    indexed = load(",a,y\n0,5,p\n1,6,q\n", tmp_path, label="y")
    assert [f.name for f in indexed.spec.fields] == ["a"]


def test_delimiter_and_encoding(tmp_path: Path) -> None:
    text = "größe;y\n1;p\n2;q\n"
    found = load(text.encode("latin-1"), tmp_path, label="y", delimiter=";", encoding="latin-1")
    assert found.spec.fields[0].name == "größe"
    with pytest.raises(ValidationError, match="there is no encoding 'latin-99'"):
        Csv(path="t.csv", label="y", encoding="latin-99")
    with pytest.raises(ValidationError, match="at most 1 character"):
        Csv(path="t.csv", label="y", delimiter=";;")


def test_compressed_files_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    plain = load(PEOPLE, tmp_path, missing="drop")
    for suffix, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        packed = pack(PEOPLE.encode())
        assert load(packed, tmp_path, "t.csv" + suffix, missing="drop").digest == plain.digest
        for damaged in (packed[:-12], b"a,y\n1,2\n"):
            with pytest.raises(UserError, match="cannot be read"):
                load(damaged, tmp_path, "t.csv" + suffix)


def test_a_split_is_seeded_and_keeps_the_columns_apart(tmp_path: Path) -> None:
    text = "a,y\n" + "".join(f"{i},{'pq'[i % 2]}\n" for i in range(40))
    found = load(text, tmp_path, label="y", split={"test": 0.5, "stratify": True})
    assert found.train is not None
    assert (len(found.test), len(found.train)) == (20, 20)
    assert sorted([*found.test.x[:, 0], *found.train.x[:, 0]]) == list(range(40))
    assert found.test.labels.sum() == 10
    assert load(text, tmp_path, label="y", split={"test": 0.5, "stratify": True}).digest == found.digest


def test_no_library_is_imported_to_declare_a_source() -> None:
    import subprocess
    import sys

    code = "import sys, audit.datasets.csv, audit.datasets.parquet; print({'numpy', 'pandas', 'pyarrow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


REVIEWS = """said,stars,sex
"Good, very good",5,f
 Weak é,1,m
"a long one that goes on, and on",5,f
"""


def test_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    found = load(REVIEWS, tmp_path, label="stars", text="said", protected=["sex"])
    texts = ["Good, very good", "Weak é", "a long one that goes on, and on"]
    assert decode_all(found.test.x) == texts
    assert found.test.x.dtype == np.int32
    assert found.spec.kind == "text"
    assert found.spec.shape == found.test.x.shape[1:] == (int(1.25 * len(texts[2])),)
    assert found.classes == ("1", "5")
    assert found.test.groups["sex"].tolist() == ["f", "m", "f"]
    assert "inputs: texts of up to 31 characters, room for 38" in found.notes


def test_a_declared_length_cuts_longer_texts_and_says_so(tmp_path: Path) -> None:
    found = load(REVIEWS, tmp_path, label="stars", text="said", length=15)
    assert decode_all(found.test.x) == ["Good, very good", "Weak é", "a long one that"]
    assert "said: 1 of 3 texts cut to 15 characters" in found.notes
    wide = load(REVIEWS, tmp_path, label="stars", text="said", length=40)
    model = found.spec
    assert wide.fit_to(wide.spec, (), "m").test.x.shape == (3, 40)
    with pytest.raises(UserError, match="1 of 3 texts are longer than the 15 characters that model 'm' takes"):
        wide.fit_to(model, (), "m")
    again = found.fit_to(wide.spec, (), "m").test
    assert again.x.dtype == np.int32
    assert decode_all(again.x) == decode_all(found.test.x)
    assert again.ids == found.test.ids


def test_texts_in_another_normal_form_are_noted_not_changed(tmp_path: Path) -> None:
    found = load("said,y\ncafe\u0301,0\ncafé,1\n", tmp_path, label="y", text="said")
    assert decode_all(found.test.x) == ["cafe\u0301", "café"]
    assert any("1 texts are not in normalisation form C" in note for note in found.notes)


def test_blank_texts_are_missing(tmp_path: Path) -> None:
    blank = "said,y\nNA,0\n  ,1\nnull,1\n"
    assert "1 of 3 rows lack a value (said 1)" in refusal(blank, tmp_path, label="y", text="said")
    found = load(blank, tmp_path, label="y", text="said", missing="drop")
    assert decode_all(found.test.x) == ["NA", "null"]


def test_text_stands_alone(tmp_path: Path) -> None:
    for wrong in ({"features": ["sex"]}, {"exclude": ["sex"]}, {"categories": {"sex": []}}, {"missing": "keep"}):
        with pytest.raises(ValidationError):
            Csv(path="t.csv", label="stars", text="said", **wrong)
    with pytest.raises(ValidationError):
        Csv(path="t.csv", label="stars", length=3)
    assert "did you mean 'said'" in refusal(REVIEWS, tmp_path, label="stars", text="sad")
    assert "the text itself" in refusal(REVIEWS, tmp_path, label="said", text="said")
    found = load(REVIEWS, tmp_path, label="stars", text="said")
    with pytest.raises(UserError, match="wants the columns of a table, data 't' gives a text"):
        found.fit_to(load(PEOPLE, tmp_path, missing="keep").spec, (), "m")
    images = from_arrays(np.zeros((2, 1, 2, 2), np.float32), np.array([0, 1]), name="t")
    with pytest.raises(UserError, match="wants texts, data 't' gives an image"):
        images.fit_to(found.spec, ("0", "1"), "m")
