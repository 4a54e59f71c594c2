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

from audit import language
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
        more = {"explainer": None, "target": None, "norm": None, "eps": None} | more
        request = {
            "do": do, "home": str(home), "model": model, "digest": card.digest, "input": given, "out": str(out),
            "data": str(home.parent / data) if data else None, **more,
        }  # fmt: skip
        return json.loads(json.dumps(answers.answer(json.loads(json.dumps(request))))), out

    return asked


@pytest.mark.parametrize("explainer", ["integrated_gradients", "saliency"])
def test_a_map_is_the_one_of_audit_explain(ask, home: Path, tmp_path: Path, explainer: str) -> None:
    found, out = ask("explain", "digits", {"row": 3}, "digits.yaml", explainer=explainer)
    line = f"explain digits --data {home.parent / 'digits.yaml'} --rows 3 -e {explainer} --home {home}"
    result = CliRunner().invoke(app, [*line.split(), "--out", str(tmp_path / "told")])
    assert result.exit_code == 0, result.output
    (stored,) = (tmp_path / "told").glob(f"*.{explainer}.npz")
    row = Evidence(out / found["path"]).row(0)
    with np.load(stored) as arrays:
        np.testing.assert_array_equal(row["values"], arrays["values"])
        np.testing.assert_array_equal(row["x"], arrays["x"])
    assert not found["quick"]


def test_the_answer_comes_with_the_input_as_it_was_fed(ask) -> None:
    found, out = ask("predict", "digits", {"row": 3}, "digits.yaml")
    assert sum(found["probabilities"]) == pytest.approx(1)
    assert int(np.argmax(found["probabilities"])) == found["prediction"]
    assert found["confidence"] == pytest.approx(max(found["probabilities"]))
    assert found["label"] in range(10)
    assert Evidence(out / found["input"]).row(0)["x"].shape == (1, 8, 8)


def test_another_class_is_explained_and_an_unfit_explainer_is_named(ask) -> None:
    own, one = ask("explain", "digits", {"row": 3}, "digits.yaml", explainer="saliency")
    other, two = ask("explain", "digits", {"row": 3}, "digits.yaml", explainer="saliency", target="1")
    rows = [Evidence(out / found["path"]).row(0) for out, found in ((one, own), (two, other))]
    assert int(rows[1]["target"]) == 1 != int(rows[0]["target"])
    assert not np.array_equal(rows[0]["values"], rows[1]["values"])
    with pytest.raises(UserError, match=r"^tree_shap"):
        ask("explain", "digits", {"row": 3}, "digits.yaml", explainer="tree_shap")


def test_of_an_input_of_many_elements_an_answer_comes_soon(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer points on the line, which the answer says; the error that this leaves stands in the map."""
    exact, one = ask("explain", "digits", {"row": 3}, "digits.yaml", explainer="integrated_gradients")
    monkeypatch.setattr(answers, "MANY", 64)
    monkeypatch.setattr(answers, "QUICK", {"integrated_gradients": {"steps": 2, "max_steps": 2}})
    quick, two = ask("explain", "digits", {"row": 3}, "digits.yaml", explainer="integrated_gradients")
    assert quick["quick"]
    assert not exact["quick"]
    assert "2 to 2 steps" in quick["method"]
    errors = [float(Evidence(out / found["path"]).row(0)["error"]) for out, found in ((one, exact), (two, quick))]
    assert errors[1] > errors[0]


def test_inputs_come_as_files_and_texts(ask, tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 255, dtype=np.uint8)).save(tmp_path / "white.png")
    array = np.zeros((2, 1, 8, 8), dtype=np.float32)
    array[1, 0, 4, 4] = 9
    np.save(tmp_path / "two.npy", array)
    white, _ = ask("look", "digits", {"file": str(tmp_path / "white.png")})
    assert white == {"rows": 1, "bent": False}
    found, out = ask("predict", "digits", {"file": str(tmp_path / "two.npy"), "row": 1})
    assert found["rows"] == 2
    assert Evidence(out / found["input"]).row(0)["x"].max() == 9
    found, _ = ask("predict", "mood", {"text": "a great film"})
    assert (found["prediction"], found["notes"], found["label"]) == (1, [], None)
    with pytest.raises(UserError, match="is an image"):
        ask("explain", "mood", {"file": str(tmp_path / "white.png")})


def shown(ask, path: Path, **given: Any) -> tuple[list[str], np.ndarray]:
    """Notes on a picture, and its pixels as the digit reader is fed them."""
    found, out = ask("predict", "digits", {"file": str(path), **given})
    return found["notes"], Evidence(out / found["input"]).row(0)["x"][0]


def test_a_picture_of_another_size_is_resized_and_said_to_be(ask, tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    notes, whole = shown(ask, tmp_path / "ramp.png")
    assert notes == [
        "the picture has 16 × 32 pixels, the model takes 8 × 8", "images resized to 8 x 8, bilinear",
        "pixels scaled from 0..255 to the model's 0..16",
    ]  # fmt: skip
    assert ask("look", "digits", {"file": str(tmp_path / "ramp.png")})[0]["bent"]
    notes, middle = shown(ask, tmp_path / "ramp.png", crop=True)
    assert notes[1] == "its middle of 16 × 16 pixels is taken"
    assert np.ptp(middle) < np.ptp(whole)


def test_a_picture_is_fed_as_a_person_sees_it(ask, tmp_path: Path) -> None:
    """Upright though a camera stored it on its side, white where nothing is, the first frame of several."""
    half = np.zeros((8, 8), dtype=np.uint8)
    half[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    notes, pixels = shown(ask, tmp_path / "turned.png")
    assert notes[0] == "turned upright, as the file says that it is to be seen"
    np.testing.assert_allclose(pixels[:, 4:], 16)
    np.testing.assert_allclose(pixels[:, :4], 0)
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    clear[:2, :, 3] = 255
    Image.fromarray(clear, "RGBA").save(tmp_path / "clear.png")
    notes, pixels = shown(ask, tmp_path / "clear.png")
    assert notes[0] == "transparent parts are put on white"
    np.testing.assert_allclose(pixels[2:], 16, atol=1e-5)
    np.testing.assert_allclose(pixels[:2], 0)
    frames = [Image.fromarray(np.full((8, 8), ink, dtype=np.uint8)) for ink in (0, 255)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    notes, pixels = shown(ask, tmp_path / "two.gif")
    assert notes[0] == "of 2 frames the first is taken"
    assert pixels.max() == 0


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("torn.png", b"\x89PNG\r\n\x1a\n torn", "cannot be read"),
        ("no.npy", b"no array", "cannot be read"),
        ("deep.png", np.arange(64, dtype=np.uint16).reshape(8, 8), "more than eight bits"),
        ("nan.npy", np.full((1, 8, 8), np.nan, dtype=np.float32), "NaN or infinity in row 0"),
        ("flat.npy", np.zeros((3, 5), dtype=np.float32), "takes (1, 8, 8)"),
        ("words.npy", np.array(["a", "b"]), "not numbers"),
        ("none.npy", np.zeros((0, 1, 8, 8), dtype=np.float32), "holds no number"),
        ("bright.npy", np.full((1, 8, 8), 300, dtype=np.float32), "is fed 0 to 16"),
        ("page.pdf", b"%PDF", "is no kind of input"),
    ],
)
def test_a_file_that_cannot_be_fed_is_one_line(ask, tmp_path: Path, name: str, content: Any, told: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith("png"):
        Image.fromarray(content).save(path)
    else:
        np.save(path, content)
    for do in ("look", "predict"):
        with pytest.raises(UserError) as refused:
            ask(do, "digits", {"file": str(path)})
        assert told in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_stored_sample_is_fed_as_it_was(ask) -> None:
    """Under its own id, so that the same explainer draws the same numbers for it."""
    broken, out = ask("attack", "digits", {"row": 3}, "digits.yaml", attack="pgd", norm="linf", eps=8.0)
    evidence = Evidence(out / broken["example"])
    row, sample = evidence.row(0), evidence.ids[0]
    for field, answer in (("x", "prediction"), ("adversarial", "adversarial_prediction")):
        given = {"stored": str(out / broken["example"]), "sample": sample, "field": field}
        found, folder = ask("predict", "digits", given)
        assert found["prediction"] == int(row[answer])
        fed = Evidence(folder / found["input"])
        assert fed.ids == (sample,)
        np.testing.assert_array_equal(fed.row(0)["x"], row[field])
    with pytest.raises(UserError, match="no sample 'other' is stored there"):
        ask("predict", "digits", {**given, "sample": "other"})
    with pytest.raises(UserError, match=r"^the stored sample has shape \(1, 8, 8\)"):
        ask("predict", "iris", given)


def test_a_row_is_looked_at_as_it_is_edited(ask) -> None:
    found, _ = ask("look", "iris", {"row": 2}, "iris.yaml")
    assert found["rows"] == 75
    assert list(found["cells"]) == ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
    assert all(isinstance(value, float) for value in found["cells"].values())
    assert ask("look", "mood", {"text": "字 great"})[0]["text"] == "字 great"
    with pytest.raises(UserError, match="there is no row 75: choose one of 0 to 74"):
        ask("look", "iris", {"row": 75}, "iris.yaml")
    with pytest.raises(UserError, match="no data to take a row from"):
        ask("look", "iris", {"row": 0})


def test_a_sentence_is_in_the_language_that_the_request_names(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = []
    monkeypatch.setattr(answers, "_", lambda text: spoken.append(language.spoken()) or text)
    for code in ("zh_CN", "en"):
        with pytest.raises(UserError, match="no row 75"):
            ask("look", "iris", {"row": 75}, "iris.yaml", language=code)
    assert spoken == ["zh_CN", "en"]
    assert language.spoken() == "en"


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
    assert held["size"] is None
    assert broken["size"] == pytest.approx(float(np.abs(row["adversarial"] - row["x"]).max()))


def test_an_attack_of_minimal_norm_without_eps_gives_the_nearest_that_it_finds(ask) -> None:
    found, out = ask("attack", "digits", {"row": 3}, "digits.yaml", attack="fmn", norm="linf", eps=None)
    row = Evidence(out / found["example"]).row(0)
    assert found["size"] == pytest.approx(float(np.abs(row["adversarial"] - row["x"]).max()))
    within, _ = ask("attack", "digits", {"row": 3}, "digits.yaml", attack="fmn", norm="linf", eps=found["size"] / 2)
    assert not within["broken"]


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
