"""``audit model`` as a user types it: what it prints, what it stores, and one line with exit code 2 for every mistake."""

from __future__ import annotations

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import skops.io
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from toys import SmallCnn

from audit.cli import main
from audit.registry.store import Registry

TREE = "sklearn.tree._tree.Tree"
FACTORY = "assay_shop.nets:cnn"
DIGITS = ("--factory", FACTORY, "--classes", "10", "--input", "image", "--shape", "1,8,8", "--bounds", "0,16")


class Audit:
    """Runs the command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> None:
        self.monkeypatch, self.capsys, self.home = monkeypatch, capsys, home

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self.monkeypatch.setattr(sys, "argv", ["audit", "model", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = self.capsys.readouterr()
        return int(left.value.code or 0), out, err

    def ok(self, *arguments: str | Path) -> str:
        code, out, err = self(*arguments)
        assert (code, err) == (0, ""), err
        return out

    def fails(self, *arguments: str | Path) -> str:
        code, out, err = self(*arguments)
        assert (code, out) == (2, ""), (code, out, err)
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        return err.removeprefix("error: ").rstrip("\n")

    @property
    def registry(self) -> Registry:
        return Registry(self.home)


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Audit:
    package = tmp_path / "installed" / "assay_shop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        "from toys import SmallCnn\n\n\ndef cnn():\n    return SmallCnn()\n\n\ndef total(x):\n    return x.sum(axis=1)\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "assay_shop.nets", raising=False)
    monkeypatch.delitem(sys.modules, "assay_shop", raising=False)
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return Audit(monkeypatch, capsys, tmp_path / "home")


@pytest.fixture
def cnn(audit: Audit) -> Path:
    torch.manual_seed(0)
    safetensors.torch.save_file(SmallCnn().state_dict(), "cnn.safetensors")
    audit.ok("allow", "assay_shop")
    return Path("cnn.safetensors")


@pytest.fixture
def iris() -> Path:
    x, y = load_iris(return_X_y=True, as_frame=True)
    skops.io.dump(LogisticRegression(max_iter=500).fit(x, y), "iris.skops")
    return Path("iris.skops")


def test_add_show_and_list(audit: Audit, cnn: Path) -> None:
    Path("rows.txt").write_text("0123456789abcdef\nfedcba9876543210-1\n")
    more = (
        "--units",
        "ink",
        "--preprocessing",
        "divides by 16",
        "--tag",
        "small",
        "--alias",
        "production",
        "--members",
        "rows.txt",
    )
    out = audit.ok("add", "digits", cnn, *DIGITS, *more)
    assert out.startswith(
        "added digits@1: state_dict, 10 classes, answers logit; gradients, labels, layers, logits, probabilities, retrain\n"
    )
    card = audit.registry.get("digits@production")
    assert f"digest {card.digest}" in out
    field = card.spec.fields[0]
    assert (field.kind, field.shape, field.bounds, field.units) == ("image", (1, 8, 8), (0.0, 16.0), "ink")
    assert card.spec.preprocessing == "divides by 16"
    assert card.tags == ("small",)
    assert audit.registry.members(card) == {"0123456789abcdef", "fedcba9876543210-1"}
    shown = audit.ok("show", "digits")
    for part in (
        "digits@1",
        "production",
        card.digest,
        FACTORY,
        "1×8×8",
        "0 … 16",
        "ink",
        "divides by 16",
        "layers",
        "members known",
    ):
        assert part in shown
    assert json.loads(audit.ok("show", "digits", "--json")) == card.model_dump(mode="json")
    listed = audit.ok("list")
    assert all(
        part in listed
        for part in ("digits@1", "state_dict", "10 classes", "logit", "image 1×8×8", "production", "small")
    )
    assert [c["name"] for c in json.loads(audit.ok("list", "--json"))] == ["digits"]


def test_an_empty_registry(audit: Audit) -> None:
    assert "no models yet" in audit.ok("list")
    assert json.loads(audit.ok("list", "--json")) == []
    assert audit.fails("show", "digits") == "there is no model 'digits'; known: none"


def test_home_is_where_it_is_said_to_be(audit: Audit, iris: Path, tmp_path: Path) -> None:
    audit.ok("add", "iris", iris, "--home", tmp_path / "other")
    assert audit.fails("show", "iris").startswith("there is no model")
    assert "iris@1" in audit.ok("list", "--home", tmp_path / "other")


def test_alias_tag_and_remove(audit: Audit, iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit.ok("add", "iris", iris)
    audit.ok("add", "iris", iris)
    assert audit.ok("alias", "iris@1", "production") == "iris@production is iris@1\n"
    assert audit.ok("tag", "iris@production", "a", "b") == "iris@1: a, b\n"
    assert audit.ok("tag", "iris@1", "a", "--remove") == "iris@1: b\n"
    assert audit.ok("alias", "iris", "production", "--remove") == "iris@production is no more\n"
    assert "no alias 'production'" in audit.fails("show", "iris@production")
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody answers
    code, _, err = audit("remove", "iris@1")
    assert code == 2
    assert "remove iris@1, added" in err
    assert "error: nothing was removed: answer 'y', or give --yes" in err
    assert len(audit.registry.list()) == 2
    assert audit.ok("remove", "iris@1", "--yes") == "removed iris@1, 0 bytes freed\n"
    size = iris.stat().st_size
    assert audit.ok("remove", "iris", "-y") == f"removed iris@2, {size:,} bytes freed\n"
    assert audit.registry.list() == []


def test_columns_of_a_table(audit: Audit, iris: Path) -> None:
    audit.ok("add", "iris", iris, "--classes", "setosa,versicolor,virginica", "--bounds", "0,10", "--units", "cm")
    card = audit.registry.get("iris")
    assert card.classes == ("setosa", "versicolor", "virginica")
    assert [f.name for f in card.spec.fields][:2] == ["sepal length (cm)", "sepal width (cm)"]
    assert {(f.bounds, f.units) for f in card.spec.fields} == {((0.0, 10.0), "cm")}
    shown = audit.ok("show", "iris")
    assert "petal width (cm)" in shown
    assert "table of 4" in audit.ok("list")


def test_features_from_names_and_files(audit: Audit) -> None:
    x, y = load_iris(return_X_y=True)
    skops.io.dump(DecisionTreeClassifier(max_depth=2).fit(x, y), "tree.skops")
    add = ("add", "t", "tree.skops", "--trust-type", TREE)
    audit.ok(*add, "--features", "a, b,c,d")
    assert [f.name for f in audit.registry.get("t").spec.fields] == ["a", "b", "c", "d"]
    table = pd.DataFrame(x, columns=["sl", "sw", "pl", "pw"]).assign(species=y)
    table.to_csv("flowers.csv", index=False)
    table.to_parquet("flowers.parquet")
    for name in ("flowers.csv", "flowers.parquet"):
        audit.ok(*add, "--features", name, "--label", "species")
        assert [f.name for f in audit.registry.get("t").spec.fields] == ["sl", "sw", "pl", "pw"]
    assert "takes 4 features, the input spec has 5" in audit.fails(*add, "--features", "flowers.csv")
    assert "no column 'kind' to leave out; it has sl, sw" in audit.fails(
        *add, "--features", "flowers.csv", "--label", "kind"
    )
    assert "--label names a column of the file" in audit.fails(*add, "--label", "species")
    assert "neither a file nor names" in audit.fails(*add, "--features", "missing.csv")


def test_categories_from_a_file(audit: Audit) -> None:
    from audit.registry.input_choice import InputChoice

    pd.DataFrame({"age": [1.0, 2.0], "city": ["Rome", None], "own": [True, False]}).to_csv("people.csv", index=False)
    spec = InputChoice(features="people.csv", bounds=(0, 120))(None)
    assert spec is not None
    assert [(f.name, f.kind, f.categories, f.bounds) for f in spec.fields] == [
        ("age", "number", (), (0.0, 120.0)),
        ("city", "category", ("Rome",), None),
        ("own", "category", ("False", "True"), None),
    ]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_spec_file_says_everything(suffix: str, audit: Audit, cnn: Path) -> None:
    spec = {"fields": [{"name": "scan", "kind": "image", "shape": [1, 8, 8], "bounds": [0, "16/1"], "units": "ink"}]}
    text = (
        json.dumps(spec)
        if suffix == "json"
        else "fields:\n- {name: scan, kind: image, shape: [1, 8, 8], bounds: [0, 16], units: ink}\n"
    )
    Path(f"spec.{suffix}").write_text(text)
    add = ("add", "digits", cnn, "--factory", FACTORY, "--classes", "10", "--spec", f"spec.{suffix}")
    audit.ok(*add)
    field = audit.registry.get("digits").spec.fields[0]
    assert (field.name, field.shape, field.bounds, field.units) == ("scan", (1, 8, 8), (0.0, 16.0), "ink")
    assert "--spec says everything" in audit.fails(*add, "--shape", "1,8,8")
    Path(f"spec.{suffix}").write_text('{"fields": [{"name": "scan", "kind": "picture"}]}')
    assert f"spec.{suffix}: input spec: fields.0.kind: Input should be 'image'" in audit.fails(*add)
    Path(f"spec.{suffix}").write_text("{]")
    assert "is no YAML" in audit.fails(*add)
    Path(f"spec.{suffix}").write_text("3")
    assert "holds no input spec" in audit.fails(*add)


def test_loader_parameters(audit: Audit, cnn: Path) -> None:
    torch.save({"epoch": 1, "model": SmallCnn().state_dict()}, "checkpoint.pt")
    audit.ok("add", "digits", "checkpoint.pt", *DIGITS, "-p", "key=model", "-p", "micro_batch=32", "--kwargs", "{}")
    parameters = audit.registry.get("digits").parameters
    assert (parameters["key"], parameters["micro_batch"]) == ("model", 32)
    assert "'width'" in audit.fails("add", "digits", cnn, *DIGITS, "--kwargs", '{"width": 3}')
    assert "--kwargs is no JSON" in audit.fails("add", "digits", cnn, *DIGITS, "--kwargs", "{width}")
    assert "--kwargs must be a JSON object" in audit.fails("add", "digits", cnn, *DIGITS, "--kwargs", "3")
    assert "write KEY=VALUE" in audit.fails("add", "digits", cnn, *DIGITS, "-p", "key")
    assert "has no parameter 'depth'" in audit.fails("add", "digits", cnn, *DIGITS, "-p", "depth=3")


def test_a_callable(audit: Audit) -> None:
    add = ("add", "sum", "assay_shop.nets:total", "--output", "value", "--features", "a,b")
    assert "run `audit model allow assay_shop`" in audit.fails(*add)
    assert audit.ok("allow", "assay_shop") == "allowed: assay_shop\n"
    assert audit.ok("allow") == "assay_shop\n"
    assert audit.ok(*add).startswith("added sum@1: python_callable, regression, answers value; values\n")
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert audit.registry.open("sum").predict(x).tolist() == [3.0]
    assert audit.ok("disallow", "assay_shop") == "no longer allowed: assay_shop\n"
    assert audit.ok("allow") == "no packages are allowed\n"
    assert "was not allowed" in audit.fails("disallow", "assay_shop")
    assert "belongs to Python itself" in audit.fails("allow", "os")


def test_trust(audit: Audit) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.ones(1, 2),)), "linear.pt2")
    add = ("add", "linear", "linear.pt2", "--classes", "3", "--input", "number", "--shape", "2")
    said = audit.fails(*add)
    command = said.split("`")[1].split()
    assert command[:3] == ["audit", "model", "trust"]
    assert audit.ok("trust", command[3]) == f"trusted: {command[3]}\n"
    audit.ok(*add)
    assert audit.ok("untrust", "linear.pt2") == f"no longer trusted: {command[3]}\n"
    assert "was not trusted" in audit.fails("untrust", command[3])
    assert "audit model trust" in audit.fails(*add)
    out = audit.ok("trust", "linear.pt2", "--reason", "made by Ann")
    assert out.startswith("linear.pt2: torch_export, ")
    assert out.endswith(f"trusted: {command[3]}\n")
    assert "made by Ann" in (audit.home / "trust.json").read_text()
    assert "cannot be opened" in audit.fails("trust", "nowhere.pt2")
    Path("cut.pt2").write_bytes(Path("linear.pt2").read_bytes()[:-9])
    assert "trusting it would not help" in audit.fails("trust", "cut.pt2")


def test_scan(audit: Audit, iris: Path) -> None:
    out = audit.ok("scan", iris)
    assert out.startswith(f"iris.skops: skops, {iris.stat().st_size:,} bytes, clean\nsha256 ")
    Path("bad.pkl").write_bytes(pickle.dumps(np.random.default_rng))
    code, out, _ = audit("scan", "bad.pkl")
    assert code == 1
    assert "pickle" in out
    assert "numpy.random" in out
    code, out, _ = audit("scan", "bad.pkl", "--json")
    report = json.loads(out)
    assert (code, report["verdict"], report["format"]) == (1, "needs_trust", "pickle")
    assert report["findings"]
    assert "cannot be opened" in audit.fails("scan", "nowhere")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shape", "1,8,8"), "--shape needs the kind of a single input"),
        (("--input", "image"), "input kind 'image' needs a shape"),
        (("--input", "picture", "--shape", "1,8,8"), "there is no input kind 'picture'; known: image, number"),
        (("--input", "image", "--shape", "1,8,0"), "shape (1, 8, 0) is none"),
        (("--input", "image", "--shape", "8x8"), "--shape '8x8': write whole numbers separated by commas"),
        (("--input", "image", "--shape", "1,8,8", "--bounds", "16,0"), "low < high"),
        (("--input", "image", "--shape", "1,8,8", "--bounds", "0"), "--bounds '0': write the smallest and the largest"),
        (("--input", "image", "--shape", "1,8,8", "--bounds", "0,inf"), "finite number"),
        (("--input", "image", "--shape", "1,6,6"), "cannot answer 8 inputs of shape (1, 6, 6): RuntimeError"),
        (("--input", "image", "--shape", "1,8,8", "--features", "a,b"), "leave --shape out"),
        (("--input", "image", "--shape", "1,8,8", "--output", "loud"), "there is no output 'loud'; known: logit"),
        (("--input", "image", "--shape", "1,8,8", "--output", "probability"), "does not answer probabilities"),
        (("--input", "image", "--shape", "1,8,8", "--task", "ranking"), "there is no task 'ranking'"),
        (("--input", "image", "--shape", "1,8,8", "--classes", "7"), "did you mean 10 classes?"),
        (("--input", "image", "--shape", "1,8,8", "--classes", "a,,b"), "--classes 'a,,b'"),
        (("--input", "image", "--shape", "1,8,8", "--alias", "latest"), "always means the newest version"),
        (("--input", "image", "--shape", "1,8,8", "--members", "nowhere.txt"), "cannot read nowhere.txt: No such file"),
        (
            ("--input", "image", "--shape", "1,8,8", "--loader", "onnx"),
            "is a safetensors file; loader 'onnx' opens onnx",
        ),
        (("--input", "image", "--shape", "1,8,8", "--factory", "os:system"), "not from an allowed package"),
        ((), "does not say what the model is fed"),
    ],
)
def test_every_mistake_is_one_line_and_exit_2(options: tuple[str, ...], said: str, audit: Audit, cnn: Path) -> None:
    given = () if "--factory" in options else ("--factory", FACTORY)
    classes = () if "--classes" in options else ("--classes", "10")
    assert said in audit.fails("add", "digits", cnn, *given, *classes, *options)
    assert audit.registry.list() == []


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_truncated_files_are_one_line_and_exit_2(cut: int, audit: Audit, cnn: Path, iris: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    from lightgbm import Dataset, train

    train({"objective": "binary", "verbose": -1, "num_threads": 1}, Dataset(x, y), 2).save_model("b.txt")
    torch.save(SmallCnn().state_dict(), "cnn.pt")
    text = Path("b.txt").read_bytes()
    Path("b.txt").write_bytes(text[: text.index(b"end of trees")])
    for path in (cnn, Path("cnn.pt"), iris, Path("b.txt")):
        content = path.read_bytes()
        path.write_bytes(content[:cut])
        options = DIGITS if path.stem == "cnn" else ()
        assert path.name in audit.fails("add", "m", path, *options)
    assert audit.registry.list() == []


def test_a_malicious_file_is_refused_and_does_not_run(audit: Audit) -> None:
    import os

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, ("touch marker",)

    Path("model.pkl").write_bytes(pickle.dumps(Payload()))
    torch.save({"w": torch.ones(1), "hook": Payload()}, "model.pt")
    said = audit.fails("add", "m", "model.pkl")
    assert "system" in said
    assert "no loader opens it, trusted or not" in said
    assert "system('touch marker')" in audit.fails("add", "m", "model.pt", *DIGITS)
    assert not Path("marker").exists()
