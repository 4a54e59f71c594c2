"""``audit explain``: inputs of every kind as a user names them, what is written, and what is said of bad ones."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import check
from PIL import Image
from toys import digits, trained_cnn

from audit.checks._sample import drawn
from audit.cli.explain_inputs import InputReader, data_of
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import UserError
from audit.registry.store import Registry

Audit = Callable[..., Any]

ZOO = """
import torch
from torch import nn


class Wave(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(2, 3, 5)

    def forward(self, x):
        return self.net(x).tanh().mean(2)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with an image, a series, a text and a table model."""
    import skops.io
    import torch
    from safetensors.torch import save_file
    from sklearn.datasets import load_iris
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    folder = tmp_path_factory.mktemp("explain")
    (folder / "explain_zoo.py").write_text(ZOO)
    sys.path.insert(0, str(folder))
    registry = Registry(folder / "home")
    for package in ("toys", "explain_zoo"):
        registry.trust.allow_package(package)
    save_file(trained_cnn().state_dict(), folder / "cnn.safetensors")
    image = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0, 16)),))
    ten = [str(i) for i in range(10)]
    registry.add(
        "digits", folder / "cnn.safetensors", parameters={"factory": "toys:SmallCnn"}, spec=image, classes=ten,
        output="logit", task="classification",
    )  # fmt: skip
    from explain_zoo import Wave  # type: ignore[import-not-found]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(Wave().state_dict(), folder / "wave.safetensors")
    wave = InputSpec(fields=(Field(name="wave", kind="series", shape=(2, 40)),))
    registry.add(
        "wave", folder / "wave.safetensors", parameters={"factory": "explain_zoo:Wave"}, spec=wave,
        classes=["calm", "storm", "flood"], output="logit", task="classification",
    )  # fmt: skip
    texts = ["a great film I loved", "a terrible waste of time", "wonderful acting", "awful boring plot"] * 5
    mood = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(texts, [1, 0, 1, 0] * 5)
    skops.io.dump(mood, folder / "mood.skops")
    text = InputSpec(fields=(Field(name="review", kind="text", shape=(80,)),))
    registry.add("mood", folder / "mood.skops", spec=text, classes=["negative", "positive"])
    iris = load_iris(as_frame=True)
    columns = InputSpec(fields=tuple(Field(name=name, kind="number") for name in iris.data.columns))
    skops.io.dump(LogisticRegression(max_iter=1000).fit(iris.data, iris.target), folder / "iris.skops")
    registry.add("iris", folder / "iris.skops", spec=columns, classes=list(iris.target_names))
    skops.io.dump(Ridge().fit(iris.data.iloc[:, :3], iris.data.iloc[:, 3]), folder / "width.skops")
    registry.add("width", folder / "width.skops", spec=InputSpec(fields=columns.fields[:3]))
    yield folder / "home"
    sys.path.remove(str(folder))


@pytest.fixture
def told(audit: Audit, home: Path, tmp_path: Path) -> Audit:
    """Run ``audit explain`` into ``tmp_path / out``."""

    def call(*words: Any, out: str = "out") -> Any:
        return audit("explain", *words, "--home", home, "--out", tmp_path / out)

    return call


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the pictures out, which take most of the time."""
    monkeypatch.setattr("audit.report._explanation_page.picture", lambda *given: b"")


def arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An .npz: its arrays, and its meta."""
    with np.load(path, allow_pickle=False) as stored:
        found = {name: stored[name] for name in stored.files}
    return found, json.loads(str(found.pop("meta")))


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


# --- what is written -------------------------------------------------------------------------------------------------


def test_rows_of_a_source_side_by_side(told: Audit, home: Path, tmp_path: Path) -> None:
    said = told(
        "digits", "--data", "sklearn.digits", "--rows", "5,0", "-e", "integrated_gradients", "-e", "saliency",
        "--set", "absolute=false", "--set", "integrated_gradients.steps=64",
    )  # fmt: skip
    assert said.code == 0, said.err
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"{stem}.{end}" for stem in ("1-row_5", "2-row_0") for end in (
            "integrated_gradients.npz", "integrated_gradients.png", "png", "saliency.npz", "saliency.png")),
        "index.html", "manifest.json",
    ]  # fmt: skip
    found, meta = arrays(out / "2-row_0.integrated_gradients.npz")
    assert found["x"].shape == found["values"].shape == (1, 8, 8)
    assert found["values"].sum() == pytest.approx(found["score"] - found["base_value"], rel=0.02)
    assert found["quality_relative_gap"] <= 0.01
    assert (meta["parameters"]["steps"], meta["model"], meta["input"], meta["seed"]) == (64, "digits", "row 0", 0)
    assert (arrays(out / "2-row_0.saliency.npz")[0]["values"] < 0).any(), "absolute=false keeps the sign"
    data = data_of("sklearn.digits", Registry(home).open("digits"))
    assert (found["x"] == data.test.x[0]).all()
    about = manifest(out)
    assert about["state"] == "finished"
    assert [one["label"] for one in about["explainers"]] == ["integrated_gradients", "saliency"]
    first = about["inputs"][0]
    assert (first["name"], first["label"], first["id"]) == ("row 5", "5", data.test.ids[5])
    assert 0 < first["probability"] <= 1
    assert first["explanations"][0]["arrays"] == "1-row_5.integrated_gradients.npz"
    with Image.open(out / "1-row_5.png") as both, Image.open(out / "1-row_5.saliency.png") as one:
        assert both.width > 1.3 * one.width
    page = check((out / "index.html").read_text(), {path.name for path in out.iterdir()})
    assert "true 5, predicted" in page.said
    assert len(page.every("img")) == 2 * 3 + 1, "the input once, a map per explainer, and the palette"
    assert "row 5" in said.out
    assert "contributes most" in said.out
    assert str(out / "index.html") in said.out


@pytest.mark.usefixtures("undrawn")
def test_the_same_explainer_twice_is_told_apart_by_its_parameters(told: Audit, tmp_path: Path) -> None:
    spec = "{integrated_gradients: {baseline: 4}}"
    said = told("digits", "--data", "sklearn.digits", "--rows", "3", "-e", "integrated_gradients", "-e", spec)
    assert said.code == 0, said.err
    labels = [one["label"] for one in manifest(tmp_path / "out")["explainers"]]
    assert labels == ["integrated_gradients by default", "integrated_gradients baseline 4"]
    values = [arrays(path)[0]["values"] for path in sorted((tmp_path / "out").glob("*.npz"))]
    assert np.abs(values[0] - values[1]).max() > 0.01


@pytest.mark.parametrize("named", ["9", 9])
@pytest.mark.usefixtures("undrawn")
def test_another_class_is_explained(told: Audit, tmp_path: Path, named: Any) -> None:
    assert told("digits", "--data", "sklearn.digits", "--rows", "0", "-e", "saliency", "--target", named).code == 0
    found, _ = arrays(next((tmp_path / "out").glob("*.npz")))
    assert (found["target"], found["prediction"]) == (9, 0)
    assert manifest(tmp_path / "out")["inputs"][0]["target"] == "9"


@pytest.mark.usefixtures("undrawn")
def test_samples_are_those_that_checks_take(told: Audit, home: Path, tmp_path: Path) -> None:
    assert told("digits", "--data", "sklearn.digits", "--samples", 2, "--seed", 3, "-e", "saliency").code == 0
    ids = data_of("sklearn.digits", Registry(home).open("digits")).test.ids
    names = [one["name"] for one in manifest(tmp_path / "out")["inputs"]]
    assert names == [f"row {i}" for i in drawn(ids, 2, 3)]


@pytest.mark.usefixtures("undrawn")
def test_data_of_a_scenario(told: Audit, tmp_path: Path) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        "name: s\nmodel: digits\ndata: {source: sklearn.digits, split: {test: 0.1}}\nchecks: [preflight.model_contract]\n"
    )
    assert told("digits", "--data", scenario, "--rows", "179", "-e", "saliency").code == 0
    refused = told("digits", "--data", scenario, "--rows", "180", "-e", "saliency", out="other")
    assert (refused.code, "180 rows, 0 to 179" in refused.err) == (2, True)


def test_texts_are_shaded(told: Audit, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text('id,review,other\n1,"awful, boring film",x\n2,wonderful,y\n')
    (tmp_path / "one.txt").write_text("a great plot\n")
    words = ("mood", table, tmp_path / "one.txt", "--text", "a great film, not awful")
    said = told(*words, "-e", "permutation_shap")
    assert said.code == 0, said.err
    about = manifest(tmp_path / "out")
    assert [one["name"] for one in about["inputs"]] == ["text 1", "t.csv row 0", "t.csv row 1", "one.txt"]
    text = (tmp_path / "out" / "index.html").read_text()
    page = check(text, {path.name for path in (tmp_path / "out").iterdir()})
    assert "<ruby>great" in text
    assert "speaks against the class" in page.said
    assert "great (+0." in said.out
    found, meta = arrays(tmp_path / "out" / "1-text_1.permutation_shap.npz")
    assert (meta["unit"], found["feature"].shape, meta["input_kind"]) == ("word", (80,), "text")
    other = told(table, "-e", "permutation_shap", out="x")
    assert other.code == 2
    named = told("mood", table, "--column", "other", "-e", "permutation_shap", out="named")
    assert named.code == 0, named.err
    assert 'title="' not in (tmp_path / "named" / "index.html").read_text().split("<main>")[1], "x and y say nothing"


@pytest.mark.usefixtures("undrawn")
def test_the_page_speaks_chinese_and_the_files_english(told: Audit, tmp_path: Path) -> None:
    words = ("mood", "--text", "a great film, not awful", "-e", "permutation_shap")
    english, chinese = told(*words), told(*words, "--lang", "zh", out="chinese")
    assert (chinese.code, chinese.out) == (0, english.out.replace("out/index", "chinese/index")), chinese.err
    assert (tmp_path / "out" / "manifest.json").read_text() == (tmp_path / "chinese" / "manifest.json").read_text()
    text = (tmp_path / "chinese" / "index.html").read_text()
    page = check(text, {path.name for path in (tmp_path / "chinese").iterdir()})
    assert '<html lang="zh-CN">' in text
    assert "采样计算的 Shapley 值" in page.said
    assert "文本 1：预测 " in page.said
    prose = [said for said in re.findall(r">([^<{]+)<", text) if re.search("[a-z]{3,} [a-z]{2,} [a-z]{2,}", said)]
    assert prose == []
    assert told(*words, "--lang", "fr", out="x").code == 2


@pytest.mark.usefixtures("undrawn")
def test_rows_of_a_table_against_a_background(told: Audit, tmp_path: Path) -> None:
    from sklearn.datasets import load_iris

    rows = tmp_path / "rows.csv"
    load_iris(as_frame=True).data.iloc[[0, 60]].to_csv(rows)  # the index is a column that the model is not fed
    said = told("iris", rows, "-e", "exact_shap", "--background", "sklearn.iris")
    assert said.code == 0, said.err
    found, _ = arrays(tmp_path / "out" / "1-rows.exact_shap.npz")
    assert found["values"].sum() == pytest.approx(found["score"] - found["base_value"])
    assert 0.2 < found["base_value"] < 0.5, "a fair background holds every class"
    alone = told("iris", rows, "-e", "exact_shap", "--background", rows, out="alone")
    assert alone.code == 0, alone.err
    assert arrays(tmp_path / "alone" / "1-rows.exact_shap.npz")[0]["base_value"] != found["base_value"]
    assert "petal length (cm) = 1.4 (" in said.out
    without = told("iris", rows, "-e", "exact_shap", out="without")
    assert (without.code, "give some with --background" in without.err) == (2, True)
    assert not (tmp_path / "without").exists(), "nothing was explained: nothing stays"


@pytest.mark.usefixtures("undrawn")
def test_a_regression_has_no_classes(told: Audit, tmp_path: Path) -> None:
    np.save(tmp_path / "flower.npy", [5.1, 3.5, 1.4])
    said = told("width", tmp_path / "flower.npy", "-e", "exact_shap", "--background", "sklearn.iris")
    assert said.code == 0, said.err
    assert "predicted 0." in said.out
    assert "class" not in check((tmp_path / "out" / "index.html").read_text(), os.listdir(tmp_path / "out")).said
    refused = told("width", tmp_path / "flower.npy", "-e", "exact_shap", "--target", "1", out="x")
    assert (refused.code, "gives a number, not classes" in refused.err) == (2, True)


@pytest.mark.usefixtures("undrawn")
def test_without_a_name_an_explainer_that_suits_the_model_is_taken(told: Audit, tmp_path: Path) -> None:
    assert told("digits", "--data", "sklearn.digits", "--rows", "3").code == 0
    np.save(tmp_path / "flower.npy", [5.1, 3.5, 1.4])
    assert told("width", tmp_path / "flower.npy", "--background", "sklearn.iris", out="flower").code == 0
    taken = [manifest(tmp_path / name)["explainers"][0]["label"] for name in ("out", "flower")]
    assert taken == ["integrated_gradients", "shap_values"]


def test_series_are_lines(told: Audit, tmp_path: Path) -> None:
    np.save(tmp_path / "waves.npy", np.random.default_rng(0).normal(size=(2, 2, 40)))
    said = told("wave", tmp_path / "waves.npy", "-e", "integrated_gradients", "--set", "baseline=zero")
    assert said.code == 0, said.err
    page = check((tmp_path / "out" / "index.html").read_text(), os.listdir(tmp_path / "out"))
    assert sum(attrs.get("class") == "series" for attrs in page.every("svg")) == 2
    assert "step " in said.out
    assert (tmp_path / "out" / "2-waves.integrated_gradients.png").stat().st_size > 5_000


@pytest.mark.usefixtures("undrawn")
def test_quality_is_what_the_check_measures(told: Audit, tmp_path: Path) -> None:
    words = ("digits", "--data", "sklearn.digits", "--rows", "0,1", "-e", "integrated_gradients")
    assert told(*words, "--quality").code == 0
    assert told(*words, out="plain").code == 0
    found, _ = arrays(tmp_path / "out" / "1-row_0.integrated_gradients.npz")
    plain, _ = arrays(tmp_path / "plain" / "1-row_0.integrated_gradients.npz")
    assert set(found) - set(plain) == {"quality_deletion_gain", "quality_insertion_gain"}
    assert (found["values"] == plain["values"]).all()
    assert found["quality_insertion_gain"] > -1
    assert "deletion gain" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_the_seed_is_that_of_the_explainers(told: Audit, tmp_path: Path) -> None:
    words = ("digits", "--data", "sklearn.digits", "--rows", "1", "-e", "smoothgrad")
    for seed, out in ((0, "a"), (0, "b"), (1, "c")):
        assert told(*words, "--seed", seed, out=out).code == 0
    first, again, other = (arrays(next((tmp_path / out).glob("*.npz")))[0]["values"] for out in "abc")
    assert (first == again).all()
    assert (first != other).any()


# --- what is read ----------------------------------------------------------------------------------------------------


def model_of(*fields: Field, name: str = "m") -> AuditedModel:
    """A model of an input spec, never asked."""
    return AuditedModel(
        name=name, digest=name, task="classification", classes=("a", "b"), spec=InputSpec(fields=fields), output="logit",
        capabilities=implied("logit", gradients=True, layers=False), forward=lambda x: x,
    )  # fmt: skip


def image_field(*shape: int, bounds: tuple[float, float] | None = (0, 1)) -> Field:
    return Field(name="image", kind="image", shape=shape, bounds=bounds)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A colour picture, 4 high and 6 wide: red on the left, blue on the right."""
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[:, :3, 0], pixels[:, 3:, 2] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_an_image_goes_in_as_the_model_has_it(photo: Path) -> None:
    first = InputReader(model_of(image_field(3, 4, 6))).read([photo])
    assert first.batch.x.shape == (1, 3, 4, 6)
    assert first.batch.x[0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0]
    last = InputReader(model_of(image_field(4, 6, 3))).read([photo])
    assert (last.batch.x[0] == np.moveaxis(first.batch.x[0], 0, -1)).all()
    grey = InputReader(model_of(image_field(4, 6, bounds=(-1, 1)))).read([photo])
    assert grey.batch.x[0, 0].tolist() == pytest.approx([2 * 76 / 255 - 1] * 3 + [2 * 29 / 255 - 1] * 3, abs=1e-6)
    raw = InputReader(model_of(image_field(3, 4, 6, bounds=None))).read([photo])
    assert raw.batch.x.max() == 255
    assert raw.notes == ("the model has no bounds: pixels are fed as 0..255",)
    resized = InputReader(model_of(image_field(3, 2, 3)), resize=True).read([photo])
    assert resized.batch.x.shape == (1, 3, 2, 3)
    assert "images resized to 2 x 3, bilinear" in resized.notes


@pytest.mark.parametrize(
    ("shape", "given", "rows"),
    [
        ((1, 8, 8), (8, 8), 1),
        ((1, 8, 8), (1, 8, 8), 1),
        ((1, 8, 8), (5, 8, 8), 5),
        ((1, 8, 8), (5, 1, 8, 8), 5),
        ((3, 8, 9), (8, 9, 3), 1),
        ((3, 8, 9), (2, 8, 9, 3), 2),
        ((8, 9, 3), (2, 3, 8, 9), 2),
        ((8, 8), (8, 8), 1),
    ],
)
def test_arrays_of_images(tmp_path: Path, shape: tuple[int, ...], given: tuple[int, ...], rows: int) -> None:
    file = tmp_path / "a.npz"
    values = np.random.default_rng(0).uniform(size=given)
    np.savez(file, x=values, y=np.zeros(3))
    x = InputReader(model_of(image_field(*shape))).read([file]).batch.x
    assert x.shape == (rows, *shape)
    assert x.sum() == pytest.approx(values.sum())
    if given == (8, 9, 3):
        assert (x[0] == np.moveaxis(values, -1, 0).astype(np.float32)).all()


JOB = (Field(name="age", kind="number"), Field(name="job", kind="category", categories=("clerk", "judge")))


def test_cells_become_numbers_and_codes(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("job,age,note\njudge,30,\nclerk,,x\n")
    with pytest.raises(UserError, match="data row 2: 'age' is missing; --missing keeps it"):
        InputReader(model_of(*JOB)).read([file])
    x = InputReader(model_of(*JOB), missing=True).read([file]).batch.x
    assert np.array_equal(x, [[30, 1], [np.nan, 0]], equal_nan=True)
    single = tmp_path / "one.csv"
    single.write_text("age\n3\n4\n")
    assert InputReader(model_of(JOB[0])).read([single]).batch.x.tolist() == [[3], [4]]


def test_ids_are_those_that_the_model_knows(tmp_path: Path) -> None:
    model = model_of(Field(name="user", kind="id", bounds=(0, 40)), Field(name="age", kind="number"))
    np.save(tmp_path / "fine.npy", [[3, 20.5], [40, 700]])
    assert len(InputReader(model).read([tmp_path / "fine.npy"])) == 2
    for wrong in (41, -1, 1.5):
        np.save(tmp_path / "bad.npy", [[3, 20.5], [wrong, 7]])
        with pytest.raises(UserError, match=f"row 1: 'user' is {wrong}, model 'm' knows 0 to 40"):
            InputReader(model).read([tmp_path / "bad.npy"])


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ("job\nclerk\n", "lacks columns that model 'm' is fed: age"),
        ("job,aged\nclerk,3\n", "did you mean 'aged'"),
        ("job,age\nbaker,3\n", "data row 1: 'job' is 'baker', which model 'm' does not know; known: clerk, judge"),
        ("job,age\nclerk,old\n", "data row 1: 'age' is 'old', no number"),
        ("job,age\nclerk,inf\n", "'age' is infinite"),
        ("job,age\n", "holds a header alone"),
        ("job,age\nclerk\n", "1 cells where the header has 2"),
    ],
)
def test_bad_tables(tmp_path: Path, cells: str, complaint: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(cells)
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")):
        InputReader(model_of(*JOB)).read([file])


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of inputs that nobody should trust."""
    good = digits().test.x[0, 0]
    Image.fromarray(good.astype(np.uint8)).save(tmp_path / "fine.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "fine.png").read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    (tmp_path / "liar.png").write_text("no picture")
    (tmp_path / "x.docx").write_text("no")
    Image.new("L", (12, 10)).save(tmp_path / "big.png")
    np.save(tmp_path / "nan.npy", np.stack([good, np.full((8, 8), np.nan)])[:, None])
    np.save(tmp_path / "shape.npy", np.zeros((3, 7, 7)))
    np.save(tmp_path / "high.npy", good * 40)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "none.npy", np.zeros((0, 1, 8, 8)))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=good, b=good)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "high.npy").read_bytes()[:200])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("nowhere.png", "does not exist"),
        ("full", "is a folder, a file is needed"),
        ("empty.png", "is empty"),
        ("cut.png", "truncated"),
        ("liar.png", "cannot be read"),
        ("big.png", "is 10 x 12 pixels, model 'digits@1' takes 8 x 8: resize it, or give --resize"),
        ("x.docx", "'.docx' is no kind of input"),
        ("nan.npy", "holds NaN or infinity in row 1"),
        ("shape.npy", "has shape (3, 7, 7), model 'digits@1' takes (1, 8, 8)"),
        ("high.npy", "model 'digits@1' is fed 0 to 16"),
        ("words.npy", "not numbers"),
        ("none.npy", "holds no number"),
        ("pickle.npy", "which are never opened"),
        ("two.npz", "name the inputs 'x'"),
        ("cut.npy", "cannot be read"),
        ("t.csv", "is a table, model 'digits@1' is fed an image"),
        ("--text hello", "is a text, model 'digits@1' is fed an image"),
        ("", "nothing to explain"),
        ("fine.png --data sklearn.digits", "one of the two"),
        ("--data sklearn.digit", "input should be"),
        ("--data {source:", "is no valid YAML"),
        ("--data sklearn.iris", "has classes that model 'digits@1' does not know"),
        ("fine.png --rows 1", "there are 1 rows, 0 to 0"),
        ("fine.png --rows one", "write row numbers"),
        ("fine.png --target 12", "there is no class '12'"),
        ("fine.png --quality", "give --background"),
        ("fine.png --background nowhere.csv", "nowhere.csv"),
        ("fine.png --set steps", "write KEY=VALUE"),
        ("fine.png --set stepz=3", "did you mean 'steps'"),
        ("fine.png --set steps=0", "steps: Input should be greater"),
        ("fine.png --set saliency.absolute=no", "no explainer 'saliency' is named"),
        ("fine.png -e integrated_gradients", "is named twice"),
        ("fine.png -e saliencies", "did you mean 'saliency'"),
        ("fine.png -e {saliency}:", "write a name"),
        ("fine.png -e tree_shap", "give some with --background"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_one_line(told: Audit, bad: Path, words: str, complaint: str) -> None:
    parts = [str(bad / word) if (bad / word).exists() or word == "nowhere.png" else word for word in words.split()]
    said = told("digits", *parts, "-e", "integrated_gradients")
    assert said.code in (2, 3)
    assert complaint in said.err
    assert len(said.err.splitlines()) == 1
    assert not (bad / "out").exists()


def test_a_folder_that_cannot_be_written(told: Audit, bad: Path) -> None:
    words = ("digits", bad / "fine.png", "-e", "saliency")
    assert "exists and holds files" in told(*words, out="full").err
    assert "cannot be written" in told(*words, out="t.csv/out").err
    assert told(*words, out="t.csv").code == 2


def test_an_unknown_model_gets_the_nearest(told: Audit, bad: Path) -> None:
    unknown = told("digitz", bad / "fine.png", "-e", "saliency")
    assert (unknown.code, "did you mean 'digits'" in unknown.err) == (2, True)


def test_what_the_model_does_not_offer_is_named(told: Audit) -> None:
    said = told("mood", "--text", "fine", "-e", "saliency")
    assert (said.code, said.err) == (2, "error: saliency needs gradients: model 'mood@1' does not offer it\n")


@pytest.mark.usefixtures("undrawn")
def test_an_interruption_leaves_what_was_written(told: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audit.cli import explain_session
    from audit.explainers.saliency import Saliency

    run, calls = Saliency.run, []

    def interrupted(self: Saliency, *given: Any) -> Any:
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return run(self, *given)

    monkeypatch.setattr(explain_session, "_CHUNK", 1)
    monkeypatch.setattr(Saliency, "run", interrupted)
    said = told("digits", "--data", "sklearn.digits", "--rows", "0,1,2,3", "-e", "saliency")
    assert said.code == 130
    about = manifest(tmp_path / "out")
    assert (about["state"], len(about["inputs"])) == ("interrupted", 2)
    assert "2 of 4 inputs were explained" in (tmp_path / "out" / "index.html").read_text()
    assert len(list((tmp_path / "out").glob("*.npz"))) == 2


@pytest.mark.parametrize(
    "error", [RuntimeError("boom\nand more"), ArithmeticError("NaN in row 0"), ValueError("")], ids=lambda e: type(e).__name__
)  # fmt: skip
def test_what_breaks_is_one_line(told: Audit, bad: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    from audit.explainers.saliency import Saliency

    def broken(self: Saliency, *given: Any) -> Any:
        raise error

    monkeypatch.setattr(Saliency, "run", broken)
    said = told("digits", bad / "fine.png", "-e", "saliency")
    message = " ".join(str(error).split()) or "no message"
    assert (said.code, said.err) == (3, f"error: {type(error).__name__}: {message}\n")


def test_help(audit: Audit) -> None:
    said = audit("explain", "--help")
    assert said.code == 0
    assert "--explainer" in said.out


def test_pictures_are_pictures(told: Audit, tmp_path: Path, bad: Path) -> None:
    assert told("digits", bad / "fine.png", "-e", "integrated_gradients").code == 0
    content = (tmp_path / "out" / "1-fine.integrated_gradients.png").read_bytes()
    with Image.open(io.BytesIO(content)) as opened:
        colours = np.asarray(opened.convert("RGB")).reshape(-1, 3)
    from audit.report._images import palette

    used = np.unique(colours, axis=0).astype(int)
    for i in (0, 127, 254):
        assert np.abs(used - palette()[i].astype(int)).sum(axis=1).min() < 12, (
            "the scale runs through the whole palette"
        )
