"""Privacy: attacks, budgets, ledgers, trainings and frontiers are shown as they were stored, and damage ends one part only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
from drawn import charts, html
from toys import audited, digits, trained_cnn

from audit.engine import run
from audit.numbers import show
from audit.privacy.blind_control import BlindAuc
from audit.privacy.frontier_table import Frontier, read_frontier
from audit.privacy.history import read_history
from audit.registry.store import Registry
from audit.run_folder import Run
from audit.scenario import parse
from audit.train.frontier import sweep
from audit.train.training_file import bind_training
from dashboard.drawing import privacy_charts
from dashboard.reading import measured, stored, trainings

APP = Path(__file__).parents[2] / "dashboard" / "app.py"

FILE = """\
name: soft
factory: trainable:Softmax
data: {source: sklearn.digits, split: {test: 0.3}, members: 400, limit: 400}
epochs: 6
batch: 400
optimiser: {adam: {lr: 0.05}}
seed: 3
dp: {epsilon: 5, delta: 1e-4, accountant: rdp, gradients: functorch, canaries: 300}
"""
AUDIT = """\
name: claim
model: soft-eps-5
data: {source: sklearn.digits, split: {test: 0.3}, members: 400, limit: 400}
checks:
  - privacy.dp_accounting: {}
    require: {violations: "== 0", excess: "<= 0"}
  - privacy.dp_audit: {}
    require: {excess: "<= 0"}
  - privacy.membership_inference: {attacks: [loss, class_threshold, label_gap], blind_rows: 100, exposed: 4}
    require: {auc: "<= 0.9"}
"""
CLAIM = """\
name: claim
model: soft-eps-5
data: {source: sklearn.digits, split: {test: 0.3}, members: 400, limit: 400}
checks:
  - privacy.dp_audit: {claim: {epsilon: EPSILON, delta: 1e-4}}
    require: {excess: "<= 0"}
"""
BARE = """\
name: bare
model: soft-plain
data: {source: sklearn.digits, split: {test: 0.3}, members: 400, limit: 400}
checks:
  - privacy.dp_accounting: {}
    require: {excess: "<= 0"}
  - privacy.pii: {}
"""
APART = """\
name: apart
model: reader
data: {source: given}
checks:
  - privacy.membership_inference: {attacks: [loss]}
    require: {auc: "<= 0.9"}
"""
BLIND = "audit.privacy.blind_control.blind_auc"
"""It takes nine tenths of the time, and has its own tests."""
OTHERS = """\
name: others
model: reader
data: {source: given}
seed: 3
checks:
  - privacy.model_inversion: {steps: 5, classes: ["3", "7"]}
  - privacy.memorisation: {samples: made.npz}
  - privacy.pii: {}
"""


def fair(*_rows: object, **_options: object) -> BlindAuc:
    """A control that tells nobody."""
    return BlindAuc(0.5, 100, 100, ("boosted trees",) * 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a sweep of one epsilon, and audits of its private model: by its own claim, and by one out of reach."""
    home = tmp_path_factory.mktemp("trained")
    registry = Registry(home)
    registry.trust.allow_package("trainable")
    file = bind_training(parse(FILE, "t.yaml"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLIND, fair)
        sweep(file, registry, home / "trainings" / "soft-frontier", [5], ["loss"])
        run(parse(AUDIT), home=home, out=home / "runs" / "audited")
        for name, epsilon in (("lied", 0.01), ("far", 50)):
            text = CLAIM.replace("EPSILON", f"{epsilon}")
            run(parse(text), home=home, out=home / "runs" / name)
    return home


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run of what is asked of other kinds of models."""
    home = tmp_path_factory.mktemp("others")
    rows = digits(120)
    assert rows.train is not None
    np.savez(home / "made.npz", samples=rows.train.x[:40] + 0.1)
    model = audited(trained_cnn(1), (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BLIND, fair)
        file = parse(OTHERS, base=home)
        run(file, home=home, models={"reader": model}, data=rows, out=home / "runs" / "others", explore=True)
    return home


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIT_HOME", str(trained))
    return trained


@pytest.fixture
def there(others: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIT_HOME", str(others))
    return others


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that a test may damage."""
    home = shutil.copytree(trained, tmp_path / "home")
    monkeypatch.setenv("AUDIT_HOME", str(home))
    return home


def rows(sets: list[list[dict[str, Any]]], *columns: str) -> list[dict[str, Any]]:
    """The rows of a chart's data set that has these columns."""
    return next(found for found in sets if found and set(columns) <= set(found[0]))


def numbers(home: Path, name: str, model: str = "soft-eps-5") -> tuple[measured.Number, ...]:
    return measured.numbers(stored.run(home, name), model, "privacy.")


def value(home: Path, name: str, metric: str, **dims: str) -> measured.Number:
    return next(n for n in numbers(home, name) if n.metric == metric and dict(n.dims) == dims)


# --- which runs ---------------------------------------------------------------------------------------------------


def test_no_runs(home, opened):
    assert "no runs yet" in opened("privacy").info[0].value


def test_runs_that_asked_for_no_privacy(home, opened):
    home.coins("plain", "{toy.coins: {k: 9}}", explore=True)
    assert "No run asked what its model gives away" in opened("privacy").info[0].value
    assert "No check of privacy has measured" in opened("privacy", run="plain").info[0].value


def test_a_sweep_shows_without_any_run(copied, opened):
    shutil.rmtree(copied / "runs")
    app = opened("privacy")
    assert "What privacy costs" in charts(app)
    assert "no runs yet" in app.info[0].value


def test_a_check_that_measured_nothing_says_why(here, opened):
    run(parse(BARE), home=here, out=here / "runs" / "bare")
    app = opened("privacy", run="bare")
    written = html(app)
    assert "not applicable" in written
    assert "has no privacy ledger" in written
    shutil.rmtree(here / "runs" / "bare")


def test_an_interrupted_run_shows_what_was_measured(copied, opened):
    cut = copied / "runs" / "audited"
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps({**manifest, "state": "interrupted"}))
    for name in ("findings.jsonl", "timings.json"):
        (cut / name).unlink()
    app = opened("privacy", run="audited")
    assert "Members told from non-members" in charts(app)


# --- membership ---------------------------------------------------------------------------------------------------


def test_the_table_holds_the_stored_numbers_the_control_first(here, opened):
    table = opened("privacy", run="audited").dataframe[0].value
    shown = {(r["check"], r["metric"]): r for r in table.to_dict("records")}
    control = shown["membership_inference", "AUC of inputs alone (control)"]
    assert control["value"] == value(here, "audited", "blind_auc").value
    found = table[table["check"] == "membership_inference"]["metric"].tolist()
    assert found[0] == "AUC of inputs alone (control)"
    rare = shown["membership_inference", "members found at 0.1 % false positives"]
    assert rare["status"] == "? decides nothing"
    assert shown["dp_accounting", "recomputed minus claimed epsilon"]["required"] == "<= 0"
    assert shown["dp_audit", "epsilon shown minus claimed"]["access"] == "white box"


def test_curves_of_every_attack_with_the_rates_that_count_marked(here, opened):
    app = opened("privacy", run="audited", part="membership")
    sets = charts(app)["Members told from non-members"]
    lines = next(
        s for s in sets if {"fpr", "tpr", "line"} <= set(s[0]) and "rate" not in s[0] and s[0]["line"] != "chance"
    )
    assert {row["line"] for row in lines} == {"loss", "class_threshold"}
    (single,) = (s for s in sets if {row.get("line") for row in s} == {"label_gap"})
    assert len(single) == 1, "an attack with one threshold is a point, not a curve"
    assert min(min(row["fpr"], row["tpr"]) for row in lines) > 0, "a logarithmic axis knows no zero"
    marks = {(row["line"], row["rate"]): row for row in rows(sets, "rate", "decides")}
    assert set(marks) == {(a, r) for a in ("loss", "class_threshold") for r in ("1 %", "0.1 %")}
    stored_ = value(here, "audited", "tpr_at_fpr", attack="loss", fpr="0.01")
    assert marks["loss", "1 %"]["tpr"] == max(stored_.value, min(row["fpr"] for row in lines))
    assert marks["loss", "1 %"]["fpr"] < marks["class_threshold", "1 %"]["fpr"], "intervals lie side by side"
    assert not marks["loss", "0.1 %"]["decided"]
    evidence = Run(here / "runs" / "audited").evidence(
        next(ref for ref, _ in stored.run(here, "audited").evidence if ref.path.endswith("roc-loss"))
    )
    drawn = [(row["fpr"], row["tpr"]) for row in lines if row["line"] == "loss"]
    kept = list(zip(evidence.column("fpr").tolist(), evidence.column("tpr").tolist(), strict=True))
    assert drawn[-20:] == kept[-20:]
    areas = {row["name"]: row["value"] for row in rows(charts(app)["Area under each curve"], "name", "value")}
    assert areas["inputs alone (control)"] == value(here, "audited", "blind_auc").value
    assert areas["loss"] == value(here, "audited", "auc", attack="loss").value
    assert "Blind control" in app.caption[0].value


def test_a_control_that_tells_members_voids_the_rest(tmp_path, monkeypatch, opened):
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path))
    monkeypatch.setattr(BLIND, lambda *_, **__: BlindAuc(0.9, 100, 100, ("boosted trees",) * 2))
    model = audited(trained_cnn(1), (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    out = tmp_path / "runs" / "apart"
    run(parse(APART), home=tmp_path, models={"reader": model}, data=digits(120), out=out)
    app = opened("privacy", fine=False, run="apart")
    assert "Every other number here is void" in app.error[0].value


# --- epsilon ------------------------------------------------------------------------------------------------------


def test_claimed_computed_and_proven_epsilon_are_those_stored(here, opened):
    app = opened("privacy", run="audited", part="budget")
    sets = charts(app)["Epsilon: claimed, computed, and proven spent"]
    claim = read_frontier(here / "trainings" / "soft-frontier").points[0].spent
    assert claim is not None
    line = next(s for s in sets if len(s) == 1 and s[0]["told"].startswith("claimed"))
    assert line[0]["epsilon"] == claim
    points = next(s for s in sets if "kind" in s[0] and "ceiling" not in s[0])
    computed = {row["name"]: row["epsilon"] for row in points}
    assert computed["Rényi (RDP)"] == value(here, "audited", "epsilon", accountant="rdp").value
    canaries = charts(app)["Canaries told by their scores: dp_audit"]
    assert "most that the claim allows" in {row["line"] for found in canaries for row in found if "line" in row}
    bounds = {row["name"]: row for row in rows(sets, "ceiling", "epsilon")}
    assert bounds["dp_audit"]["epsilon"] == value(here, "audited", "epsilon_lower_bound").value
    assert bounds["dp_audit"]["ceiling"] == value(here, "audited", "ceiling").value


@pytest.mark.parametrize(
    ("name", "kind", "word"), [("lied", "error", "Falsified"), ("far", "warning", "nothing is decided")]
)
def test_what_the_audit_comes_to_is_said(here, opened, name, kind, word):
    app = opened("privacy", fine=False, run=name, part="budget")
    assert word in getattr(app, kind)[0].value


def test_a_claim_within_reach_is_not_falsified(here, opened):
    reach = value(here, "audited", "ceiling").value
    claim = read_frontier(here / "trainings" / "soft-frontier").points[0].spent
    assert claim is not None
    app = opened("privacy", run="audited", part="budget")
    said = app.success if claim < reach else app.warning
    assert ("Not falsified" if claim < reach else "nothing is decided") in said[0].value


# --- ledger and training ------------------------------------------------------------------------------------------


def test_the_ledger_is_read_in_words(here, opened):
    app = opened("privacy", run="audited", part="training")
    written = html(app)
    card = Registry(here).get("soft-eps-5")
    record = trainings.ledger(here, card.model_dump())
    assert record is not None
    assert "Poisson: each example by a coin of its own" in written
    assert "each example&#x27;s gradient as a whole" in written
    assert "a seed: whoever knows it takes the noise out" in written  # a fixed seed is for tests, and marks the ledger
    assert "Rényi composition (RDP)" in written
    assert f"<dd>{record.steps:,}</dd>" in written
    assert "300 gradients, seen in every release (white box)" in written
    assert "noise came from a seed" in written, "what the audit found in the ledger"
    assert "Sizes of the batches that were drawn" not in charts(app), "every batch took every row"


def test_the_course_of_the_training_is_its_history(here, opened):
    app = opened("privacy", run="audited", part="training")
    moments = read_history(here / "trainings" / "soft-frontier" / "eps-5")
    drawn = rows(charts(app)["Epsilon over training"], "step", "value")
    assert [(row["step"], row["value"]) for row in drawn] == [(m.step, m.epsilon) for m in moments]
    scores = rows(charts(app)["What the model is good for"], "step", "value")
    assert [row["value"] for row in scores] == [m.score for m in moments]


def test_a_training_without_privacy_has_a_course_and_no_epsilon(here, opened):
    plain = next(point for point in read_frontier(here / "trainings" / "soft-frontier").points if point.epsilon is None)
    app = opened("privacy", run=plain.run, part="training")
    assert "Loss of the training rows" in charts(app)
    assert "Epsilon over training" not in charts(app)
    assert "Privacy ledger" not in {heading.value for heading in app.subheader}


def test_another_training_of_the_name_is_not_taken_for_this_one(copied, opened):
    folder = copied / "trainings" / "soft-frontier" / "eps-5"
    (folder / "privacy.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"another")
    app = opened("privacy", run="audited", part="training")
    assert "is not below HOME/trainings" in " ".join(caption.value for caption in app.caption)
    assert "Privacy ledger" in {heading.value for heading in app.subheader}, "the registry keeps its own"


def test_a_ledger_that_was_changed_is_told_and_the_rest_shows(copied, opened):
    card = Registry(copied).get("soft-eps-5")
    assert card.ledger is not None
    path = copied / "blobs" / card.ledger[:2] / card.ledger
    path.chmod(0o644)
    path.write_text("{}")
    app = opened("privacy", fine=False, run="audited", part="training")
    assert "was changed after it was registered" in app.error[0].value
    assert "Epsilon over training" in charts(app)


def test_a_damaged_history_is_told(copied, opened):
    (copied / "trainings" / "soft-frontier" / "eps-5" / "history.jsonl").write_text("nothing\n")
    app = opened("privacy", fine=False, run="audited", part="training")
    assert "is no line of a training's history" in app.error[0].value.replace("\\", "")


# --- utility against privacy --------------------------------------------------------------------------------------


def test_the_frontier_holds_every_model_with_its_interval(here, opened):
    app = opened("privacy", run="audited", part="frontier")
    frontier = read_frontier(here / "trainings" / "soft-frontier")
    drawn = {row["model"]: row for row in rows(charts(app)["What privacy costs"], "model", "value")}
    for point in frontier.points:
        number = point.number("accuracy")
        assert number is not None
        row = drawn[point.model]
        assert (row["value"], row["low"], row["high"]) == (number.value, number.low, number.high)
        assert row["private"] == (point.epsilon is not None)
    assert drawn["soft-eps-5@1"]["x"] == pytest.approx(frontier.points[0].spent)
    table = next(frame.value for frame in app.dataframe if "epsilon spent" in frame.value)
    assert table["model"].tolist() == [point.model for point in frontier.points]
    assert table["attack"].tolist() == ["loss"] * len(frontier.points)
    area = frontier.points[0].number("auc", "loss")
    assert area is not None
    assert table["AUC"][0].startswith(f"{show(area.value)} (")
    assert table["run"].str.contains("privacy\\?run=").all()
    assert "Choosing by this table costs privacy" in app.warning[0].value


def test_a_damaged_sweep_is_told_and_the_others_open(copied, opened):
    broken = copied / "trainings" / "broken-frontier"
    broken.mkdir()
    (broken / "frontier.json").write_text("{")
    app = opened("privacy", fine=False, run="audited", part="frontier")
    assert "broken" in app.error[0].value
    assert "What privacy costs" in charts(app)


# --- records, reconstructions, texts ------------------------------------------------------------------------------


def test_exposed_records_are_row_numbers_and_nothing_else(here, opened):
    app = opened("privacy", run="audited", part="records")
    table = app.dataframe[1].value
    assert list(table.columns) == [
        "rank",
        "row of the training set",
        "score",
        "non-members that score higher",
        "row id",
    ]
    assert table["rank"].tolist() == [1, 2, 3, 4]


def test_reconstructions_show_the_class_that_is_chosen(there, opened):
    app = opened("privacy", run="others", part="inversion", **{"class": "7"})
    assert "class 7: the model is" in app.markdown[0].value.replace("\\", "")
    assert html(app).count('<figure class="pixels">') >= 2


def test_samples_near_members_and_personal_data_have_their_place(there, opened):
    app = opened("privacy", run="others", part="memorisation")
    assert {row["name"] for row in rows(charts(app)["Samples and their nearest members"], "name", "value")}
    app = opened("privacy", run="others", part="pii")
    assert "personal data found" in html(app)
    assert "Personal data by kind" not in charts(app), "none was found"


def test_damaged_evidence_is_named_and_the_rest_shows(copied, opened):
    folder = copied / "runs" / "audited" / "evidence" / "privacy.membership_inference" / "roc-loss"
    next(folder.glob("*.tpr.npy")).write_bytes(b"no array")
    app = opened("privacy", fine=False, run="audited", part="membership")
    assert "roc-loss" in app.error[0].value.replace("\\", "")
    sets = charts(app)["Members told from non-members"]
    assert "class_threshold" in {row["line"] for found in sets for row in found if "line" in row}


# --- charts -------------------------------------------------------------------------------------------------------


def every_chart(home: Path) -> Iterator[alt.TopLevelMixin]:
    line = privacy_charts.Line("loss", np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.5, 1.0]))
    mark = privacy_charts.Mark("loss", 0.01, 0.0, None, None, "n = 3", False)
    yield privacy_charts.roc([line], [mark], title="t")
    yield privacy_charts.roc([], [], title="t")
    yield privacy_charts.roc([line], [mark], title="t", allowed=privacy_charts.Allowed(1.0, 1e-5))
    yield privacy_charts.batches(np.array([90.0, 110.0]), {0.1: 1.0}, 1000, title="t", label="l")
    shown = privacy_charts.Shown("audit", 1.0, 2.0, "told")
    yield privacy_charts.budget(3.0, {"RDP": 2.0}, [shown], title="t")
    yield privacy_charts.budget(None, {}, [shown], title="t")
    yield privacy_charts.budget(3.0, {"RDP": 2.0}, [], title="t")
    frontier: Frontier = read_frontier(home / "trainings" / "soft-frontier")
    for log in (False, True):
        yield privacy_charts.frontier(
            frontier,
            {"a": lambda p: p.number("accuracy"), "b": lambda p: None},
            title="t",
            label="l",
            chance=0.1,
            log=log,
        )
    moments = read_history(home / "trainings" / "soft-frontier" / "eps-5")
    yield privacy_charts.over_steps(moments, lambda m: m.epsilon, title="t", label="l", claim=5.0)


def test_what_a_claim_allows_is_the_region_of_hypothesis_testing():
    allowed = privacy_charts.Allowed(1.0, 0.01)
    fpr = np.array([0.0, 0.1, 0.5, 1.0])
    expected = [0.01, 0.1 * np.e + 0.01, 1 - (0.99 - 0.5) / np.e, 1.0]
    np.testing.assert_allclose(allowed.most(fpr), expected)
    np.testing.assert_allclose(privacy_charts.Allowed(0.0, 0.0).most(fpr), fpr, atol=1e-12)


def test_expected_batches_are_the_binomial_counts(monkeypatch):
    monkeypatch.setattr("dashboard.drawing.theme.mode", lambda: "light")
    sizes = np.random.default_rng(0).binomial(1000, 0.1, size=400).astype(float)
    drawn = privacy_charts.batches(sizes, {0.1: 1.0}, 1000, title="t", label="l")
    line = drawn.layer[1].data
    assert line["expected"].sum() == pytest.approx(400, rel=1e-3)
    assert (line["size"] * line["expected"]).sum() / 400 == pytest.approx(100, rel=1e-2)


def test_every_chart_meets_the_schema(trained, monkeypatch):
    monkeypatch.setattr("dashboard.drawing.theme.mode", lambda: "light")
    for chart in every_chart(trained):
        spec = chart.to_dict(validate=True)
        assert spec["title"]
        assert spec["layer"]


def test_ledgers_trainings_and_models_load_no_torch(here):
    """In a process of its own, with everything behind the pages that a training leaves."""
    code = f"""
import sys
from streamlit.testing.v1 import AppTest
for query in (
    {{"page": "privacy", "run": "audited", "part": "budget"}},
    {{"page": "privacy", "run": "audited", "part": "training"}},
    {{"page": "privacy", "run": "audited", "part": "frontier"}},
    {{"page": "models", "model": "soft-eps-5"}},
):
    app = AppTest.from_file({str(APP)!r}, default_timeout=60)
    app.query_params.update(query)
    app.run()
    assert not app.exception, app.exception
    assert len(app.get("vega_lite_chart")) > 1
print("HEAVY", *(name for name in ("torch", "sklearn", "opacus") if name in sys.modules))
"""
    environment = {**os.environ, "AUDIT_HOME": str(here)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]
