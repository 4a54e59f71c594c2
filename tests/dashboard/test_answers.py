"""What the worker answers: the same maps as ``audit explain``, attacks that are confirmed, and one line for what does not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import registered
from PIL import Image
from typer.testing import CliRunner

from audit.cli import app
from audit.parameters import UserError
from audit.registry.store import Registry
from audit.run_folder import Evidence
from dashboard.working import answers

DIGITS = "name: d\nmodel: digits\ndata: {source: sklearn.digits, split: {test: 0.3, seed: 0}}\nchecks: [preflight.model_contract]\n"
IRIS = "name: i\nmodel: iris\ndata: {source: sklearn.iris, split: {test: 0.5, seed: 0}}\nchecks: [preflight.model_contract]\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("answers")
    home = registered.make(folder)
    (folder / "digits.yaml").write_text(DIGITS)
    (folder / "iris.yaml").write_text(IRIS)
    yield home
    sys.path.remove(str(folder))


@pytest.fixture
def ask(home: Path, tmp_path: Path):
    """Asks, with a new folder each time; the answer is what JSON leaves of it."""
    count = iter(range(100))

    def asked(
        do: str, model: str, given: dict[str, Any], data: str | None = None, **more: Any
    ) -> tuple[dict[str, Any], Path]:
        out = tmp_path / f"out-{next(count)}"
        card = Registry(home).get(model)
        more = {"explainers": [], "target": None, "norm": None, "eps": None} | more
        request = {
            "do": do, "home": str(home), "model": model, "digest": card.digest, "input": given, "out": str(out),
            "data": str(home.parent / data) if data else None, **more,
        }  # fmt: skip
        return json.loads(json.dumps(answers.answer(json.loads(json.dumps(request))))), out

    return asked


def test_a_map_is_the_one_of_audit_explain(ask, home: Path, tmp_path: Path) -> None:
    found, out = ask("explain", "digits", {"row": 3}, "digits.yaml", explainers=["integrated_gradients", "saliency"])
    assert [one["label"] for one in found["maps"]] == ["integrated_gradients", "saliency"]
    line = f"explain digits --data {home.parent / 'digits.yaml'} --rows 3 -e integrated_gradients -e saliency --home {home}"
    result = CliRunner().invoke(app, [*line.split(), "--out", str(tmp_path / "told")])
    assert result.exit_code == 0, result.output
    for one in found["maps"]:
        (stored,) = (tmp_path / "told").glob(f"*.{one['label']}.npz")
        row = Evidence(out / one["path"]).row(0)
        with np.load(stored) as arrays:
            np.testing.assert_array_equal(row["values"], arrays["values"])
            np.testing.assert_array_equal(row["x"], arrays["x"])
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert int(np.argmax(found["probabilities"])) == found["prediction"] == found["target"]


def test_another_class_is_explained_and_an_unfit_explainer_leaves_the_others_theirs(ask) -> None:
    first, one = ask(
        "explain", "digits", {"row": 3}, "digits.yaml", explainers=["saliency", "tree_shap", "gradient_shap"]
    )
    assert [each["label"] for each in first["maps"]] == ["saliency", "gradient_shap"]
    assert len(first["problems"]) == 1
    assert first["problems"][0].startswith("tree_shap")
    other, two = ask("explain", "digits", {"row": 3}, "digits.yaml", explainers=["saliency"], target="1")
    assert other["target"] == 1 != first["target"]
    values = [Evidence(out / each["maps"][0]["path"]).row(0)["values"] for out, each in ((one, first), (two, other))]
    assert not np.array_equal(*values)


def test_inputs_come_as_files_and_texts(ask, tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 255, dtype=np.uint8)).save(tmp_path / "white.png")
    array = np.zeros((2, 1, 8, 8), dtype=np.float32)
    array[1, 0, 4, 4] = 9
    np.save(tmp_path / "two.npy", array)
    white, _ = ask("look", "digits", {"file": str(tmp_path / "white.png")})
    assert white == {"rows": 1}
    found, out = ask("explain", "digits", {"file": str(tmp_path / "two.npy"), "row": 1}, explainers=["saliency"])
    assert Evidence(out / found["maps"][0]["path"]).row(0)["x"].max() == 9
    found, _ = ask("explain", "mood", {"text": "a great film"}, explainers=["occlusion"])
    assert found["said"].startswith("predicted positive")
    assert found["notes"] == []
    with pytest.raises(UserError, match="is an image"):
        ask("explain", "mood", {"file": str(tmp_path / "white.png")})


def test_a_picture_of_another_size_is_resized_and_said_to_be(ask, tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    found, _ = ask("explain", "digits", {"file": str(tmp_path / "ramp.png")})
    assert found["notes"] == ["images resized to 8 x 8, bilinear", "pixels scaled from 0..255 to the model's 0..16"]


def test_a_row_is_looked_at_as_it_is_edited(ask) -> None:
    found, _ = ask("look", "iris", {"row": 2}, "iris.yaml")
    assert found["rows"] == 75
    assert list(found["cells"]) == ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    assert all(isinstance(value, float) for value in found["cells"].values())
    assert ask("look", "mood", {"text": "字 great"})[0]["text"] == "字 great"
    with pytest.raises(UserError, match="there are 75 rows, 0 to 74"):
        ask("look", "iris", {"row": 75}, "iris.yaml")
    with pytest.raises(UserError, match="no data to take a row from"):
        ask("look", "iris", {"row": 0})


def test_an_attack_breaks_within_a_large_eps_and_not_within_none(ask) -> None:
    broken, out = ask("attack", "digits", {"row": 3}, "digits.yaml", attack="pgd", norm="linf", eps=8.0)
    assert broken["broken"]
    row = Evidence(out / broken["example"]).row(0)
    assert row["prediction"] != row["adversarial_prediction"]
    assert np.abs(row["adversarial"] - row["x"]).max() <= 8.0 + 1e-5
    assert broken["queries"] == row["queries"] > 0
    held, _ = ask("attack", "digits", {"row": 3}, "digits.yaml", attack="pgd", norm="linf", eps=0.01)
    assert (held["broken"], held["example"]) == (False, None)
    assert held["answer"] == broken["answer"] == str(int(row["prediction"]))


def test_words_and_columns_are_attacked_within_their_own_bounds(ask) -> None:
    text = {"text": "wonderful boring"}
    found, out = ask("attack", "mood", text, attack={"character_edits": {"max_edits": 2, "max_share": 1.0}})
    assert found["broken"]
    assert Evidence(out / found["example"]).meta["units"] == "characters"
    found, out = ask("attack", "iris", {"row": 2}, "iris.yaml", attack={"tabular": {"max_changed": 2}})
    row = Evidence(out / found["example"]).row(0)
    assert 1 <= int((row["x"] != row["adversarial"]).sum()) <= 2


def test_what_cannot_be_attacked_says_so(ask, tmp_path: Path) -> None:
    (tmp_path / "row.csv").write_text("sepal length (cm),sepal width (cm),petal length (cm)\n5,3,1\n")
    with pytest.raises(UserError, match="this model gives a number"):
        ask("attack", "width", {"file": str(tmp_path / "row.csv")}, attack="pgd")
    with pytest.raises(UserError, match="needs gradients"):
        ask("attack", "iris", {"row": 2}, "iris.yaml", attack="pgd", norm="linf", eps=1.0)
    with pytest.raises(UserError, match="declares no bounds"):
        ask("attack", "iris", {"row": 2}, "iris.yaml", attack="square", norm="linf", eps=1.0)
