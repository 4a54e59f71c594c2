"""Attacks: curves, success, examples, price, controls and corruptions are those that the checks stored, for every kind of input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import charts, figures, html, tiles
from texts import reviews, word_model
from torch import nn
from toys import audited, batch, data, digits, trained_cnn

from audit.data import AuditData
from audit.engine import run
from audit.model import AuditedModel
from audit.run_folder import Run
from audit.scenario import parse
from audit.text import encode
from dashboard.reading import evidence, measured, stored

IMAGES = """\
name: attacked
model: reader
data: {source: given}
seed: 3
checks:
  - robustness.evasion: {attacks: [{pgd: {steps: 5}}, {pgd: {loss: margin, steps: 5}}, {square: {queries: 20}}], norm: linf, samples: 40}
    matrix: {eps: [1, 3]}
    require: {robust_accuracy: ">= 0.3"}
  - robustness.security_curve: {attacks: [{fmn: {steps: 20}}], norm: linf, points: 5, samples: 40}
  - robustness.gradient_masking: {attack: {pgd: {steps: 3}}, eps: 1, samples: 20, queries: 20, transfer: false}
  - robustness.certified_bounds: {norm: linf, eps: 0.05, methods: [ibp], samples: 40}
  - robustness.corruptions: {families: [noise], severities: [1, 5], samples: 20, keep: 2}
  - robustness.backdoor: {methods: [trigger_search], restarts: 2, updates: 3, samples: 40}
  - robustness.extraction: {budgets: [20, 40], epochs: 1}
"""
OTHER = "name: other\nmodel: toy\ndata: {source: given}\nseed: 3\nchecks:\n  - robustness.evasion: {attacks: [ATTACK], MORE samples: 12}\n"


def audit(home: Path, text: str, model: AuditedModel, rows: AuditData, name: str) -> None:
    models = {"reader" if "reader" in text else "toy": model}
    run(parse(text), home=home, models=models, data=rows, out=home / "runs" / name, explore=True)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("attacked")
    reader = audited(trained_cnn(2), (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    audit(home, IMAGES, reader, digits(60), "images")
    said, labels = reviews(30)
    model = word_model()
    rows = AuditData("reviews", batch(encode(said, model.spec.shape[0]), labels), model.spec, model.classes, None)
    audit(home, OTHER.replace("ATTACK", "character_edits").replace("MORE", ""), model, rows, "texts")
    x = np.random.default_rng(0).uniform(-1, 1, size=(20, 1, 30)).astype(np.float32)
    slope = audited(Slope(), (1, 30), kind="series", bounds=(-1.0, 1.0))
    rows = data(batch(x, (x.sum((1, 2)) > 0).astype(np.int64)), kind="series", bounds=(-1.0, 1.0))
    audit(home, OTHER.replace("ATTACK", "pgd").replace("MORE", "eps: 0.5,"), slope, rows, "series")
    return home


class Slope(nn.Module):
    """Whether the values of a series add up to more than nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([-total, total], dim=1)


@pytest.fixture
def there(attacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIT_HOME", str(attacked))
    return attacked


def numbers(there: Path) -> tuple[measured.Number, ...]:
    return measured.numbers(stored.run(there, "images"), "reader", "robustness.")


def series_of(there: Path, name: str, run_name: str = "images") -> evidence.Examples:
    found, _problems = evidence.examples(stored.run(there, run_name), Run(there / "runs" / run_name).recorded[0].model)
    return next(one for one in found if one.label.startswith(name))


# --- which runs ---------------------------------------------------------------------------------------------------


def test_no_runs(home, opened):
    assert "no runs yet" in opened("attacks").info[0].value


def test_runs_without_attacks(home, opened):
    home.coins("plain", "{toy.coins: {k: 9}}", explore=True)
    assert "No run attacked its model yet" in opened("attacks").info[0].value
    assert "No check of robustness" in opened("attacks", run="plain").info[0].value


def test_an_interrupted_run_shows_what_was_measured(there, tmp_path, monkeypatch, opened):
    cut = shutil.copytree(there / "runs" / "images", tmp_path / "runs" / "cut")
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps({**manifest, "state": "interrupted"}))
    for name in ("findings.jsonl", "timings.json"):
        (cut / name).unlink()
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path))
    app = opened("attacks", run="cut")
    assert "Accuracy under attack, linf" in charts(app)
    assert set(app.dataframe[0].value["status"]) == {"i info"}


# --- what is left -------------------------------------------------------------------------------------------------


def test_the_table_holds_every_adversary_with_the_stored_numbers(there, opened):
    app = opened("attacks", run="images")
    rows = {(row["entry"], row["metric"]): row for row in app.dataframe[0].value.to_dict("records")}
    for one in numbers(there):
        if one.metric == "robust_accuracy" and not one.dims:
            row = rows[one.step.removeprefix("robustness."), "robust accuracy"]
            assert (row["value"], row["interval"], row["n"]) == (one.value, one.interval, one.n)
            assert row["access"] == "white box"
            assert one.threat is not None
            assert row["within"] == f"linf ≤ {one.threat.eps:g}"
            assert row["required"] == ">= 0.3"
            assert row["status"].split(" ", 1)[1].replace(" ", "_") == one.status
    assert ("gradient_masking", "broken controls") in rows
    assert any("evasion: pgd, pgd#2, square" in caption.value.replace("\\", "") for caption in app.caption)


def test_attacked_and_certified_lie_on_one_chart(there, opened):
    (rows, gates, *_more) = charts(opened("attacks", run="images", part="curve"))["Accuracy under attack, linf"]
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(row["series"], []).append((row["eps"], row["accuracy"]))
    assert set(lines) == {"attacked: evasion", "certified: ibp", "attacked: security_curve"}
    assert [x for x, _y in lines["attacked: evasion"]] == [0, 1, 3]
    by_eps = {
        n.threat.eps: n.value
        for n in numbers(there)
        if n.metric == "robust_accuracy" and "evasion" in n.step and not n.dims and n.threat
    }
    assert dict(lines["attacked: evasion"][1:]) == by_eps
    clean = next(
        n.value for n in numbers(there) if n.metric == "clean_accuracy" and n.step == "robustness.security_curve"
    )
    assert lines["attacked: security_curve"][0] == lines["attacked: evasion"][0] == (0.0, clean)
    curve = [y for _x, y in lines["attacked: security_curve"]]
    assert curve == sorted(curve, reverse=True)
    assert max(y for _x, y in lines["certified: ibp"]) <= clean
    assert {(row["eps"], row["accuracy"], row["told"]) for row in gates} == {(1, 0.3, "≥ 0.3"), (3, 0.3, "≥ 0.3")}
    bound = {row["series"]: row["bound"] for row in rows}
    assert (bound["certified: ibp"], bound["attacked: evasion"]) == ("at least", "at most")


def test_success_by_attack_and_by_class(there, opened):
    app = opened("attacks", run="images", part="success")
    shown = charts(app)
    (rows, *_more) = shown["Success of each attack"]
    stored_numbers = {
        (n.step, n.dims.get("attack", "")): n.value
        for n in numbers(there)
        if n.metric == "attack_success" and not set(n.dims) - {"attack"}
    }
    assert {
        (f"robustness.{r['group']}", "" if r["name"] == "all together" else r["name"]): r["value"] for r in rows
    } == stored_numbers
    title = next(title for title in shown if title.startswith("Success by attack and class"))
    cells = {(row["column"], row["row"].split(" ")[0]): row["share"] for row in shown[title][0]}
    step = f"robustness.{title.split(': ')[1]}"
    for one in numbers(there):
        if one.step == step and set(one.dims) == {"class"}:
            name = one.dims["class"]
            assert cells["all together", name] == one.value
            assert max(cells[attack, name] for attack in ("pgd", "pgd#2", "square")) <= one.value


def test_every_broken_row_is_counted_where_it_went_and_the_others_stay(there, opened):
    step = "robustness.evasion[eps=3]"
    app = opened("attacks", run="images", part="success", step=step)
    drawn = charts(app)["What broken rows are taken for: evasion[eps=3]"][0]
    by_class = {n.dims["class"]: n for n in numbers(there) if n.step == step and set(n.dims) == {"class"}}
    whole = next(n for n in numbers(there) if n.step == step and n.metric == "attack_success" and not n.dims)
    assert whole.n is not None
    assert sum(row["rows"] for row in drawn if row["true"] != row["predicted"]) == round(whole.value * whole.n)
    for row in drawn:
        if row["true"] == row["predicted"]:
            assert row["share"] == pytest.approx(1 - by_class[row["true"]].value)
    settings = next(one.value for one in app.caption if one.value.startswith("Settings")).replace("\\", "")
    assert "pgd (steps 5), pgd#2 (loss margin, steps 5), square (queries 20)" in settings


def test_the_step_of_the_classes_is_chosen(there, opened):
    app = opened("attacks", run="images", part="success", step="robustness.evasion[eps=3]")
    assert "Success by attack and class: evasion[eps=3]" in charts(app), list(charts(app))


# --- examples -----------------------------------------------------------------------------------------------------


def test_an_example_is_the_original_its_magnified_change_and_the_result(there, opened):
    one = series_of(there, "pgd · eps 3")
    at = 1
    row = one.evidence.row(at)
    app = opened("attacks", run="images", evidence=one.piece.ref.path, sample=one.evidence.ids[at])
    drawn = figures(app)
    original, change, result = drawn.values()
    factor = original.shape[0] // 8
    np.testing.assert_array_equal(original[::factor, ::factor], np.round(row["x"][0] / 16 * 255))
    np.testing.assert_array_equal(
        result[::factor, ::factor], np.round(row["adversarial"][0] / 16 * 255).astype(np.uint8)
    )
    assert change.shape == (*original.shape, 3)
    captions = list(drawn)
    assert captions[0].startswith(f"original: {int(row['prediction'])} (")
    assert captions[2].startswith(f"attacked: {int(row['adversarial_prediction'])} (")
    largest = float(np.abs(row["adversarial"] - row["x"]).max())
    assert captions[1] == f"change, × {float(f'{8 / largest:.3g}'):g}"
    written = html(app)
    assert f"<dd>{int(row['queries']):,}</dd>" in written
    assert "<dt>eps</dt><dd>3</dd>" in written


def test_rows_with_the_smallest_change_come_first_and_filters_hold(there, opened):
    one = series_of(there, "square · eps 3")
    sizes = dict(zip(one.evidence.ids, one.evidence.column("size").tolist(), strict=True))
    app = opened("attacks", run="images", evidence=one.piece.ref.path)
    shown = [sizes[str(button.key).removeprefix("tile-")] for button in tiles(app)]
    assert shown == sorted(shown)
    label = str(int(one.evidence.column("label")[0]))
    few = opened("attacks", run="images", evidence=one.piece.ref.path, **{"class": label})
    assert all(button.label.split(") ")[-1].startswith(f"{label} →") for button in tiles(few))
    assert 0 < len(tiles(few)) == min(18, int((one.evidence.column("label") == int(label)).sum()))


def test_a_tile_opens_its_example(there, opened):
    one = series_of(there, "pgd · eps 3")
    app = opened("attacks", run="images", evidence=one.piece.ref.path)
    last = tiles(app)[-1]
    last.click().run()
    assert app.query_params["sample"] == str(last.key).removeprefix("tile-")
    assert f"row {app.query_params['sample']}" in " ".join(caption.value for caption in app.caption)


def test_corrupted_rows_are_examples_too(there, opened):
    one = series_of(there, "gaussian_noise")
    captions = list(figures(opened("attacks", run="images", evidence=one.piece.ref.path)))
    assert captions[2].startswith("corrupted: ")


def test_a_text_is_shown_before_and_after_with_its_changes_marked(there, opened):
    app = opened("attacks", run="texts", part="examples")
    written = html(app)
    assert written.count('class="passage"') == 2
    assert "<mark" in written


def test_a_series_is_drawn_before_and_after(there, opened):
    one = series_of(there, "pgd", "series")
    app = opened("attacks", run="series", evidence=one.piece.ref.path, sample=one.evidence.ids[0])
    (rows, *_more) = charts(app)["Before and after"]
    row = one.evidence.row(0)
    drawn = {name: [r["y"] for r in rows if r["series"].startswith(name)] for name in ("original", "attacked")}
    np.testing.assert_allclose(drawn["original"], row["x"][0], rtol=1e-6)
    np.testing.assert_allclose(drawn["attacked"], row["adversarial"][0], rtol=1e-6)


# --- price, controls, corruptions ---------------------------------------------------------------------------------


def test_minimal_distances_and_queries(there, opened):
    app = opened("attacks", run="images", part="cost")
    shown = charts(app)
    title = next(title for title in shown if title.startswith("Smallest perturbation"))
    counted = sum(row["count"] for rows in shown[title] for row in rows if "count" in row)
    table = evidence.pieces(stored.run(there, "images"), "table", "robustness.security_curve")[0]
    distance = Run(there / "runs" / "images").evidence(table.ref).column("distance")
    assert counted == int((np.isfinite(distance) & (distance > 0)).sum())
    spent = {(f"robustness.{r['group']}", r["name"]): r["value"] for r in shown["Queries spent"][0]}
    for one in numbers(there):
        if one.metric == "queries" and "evasion" in one.step:
            assert spent[one.step, one.dims["attack"]] == one.value
    classes = shown["Distance by class, the nearest first"][0]
    assert sum(int(row["name"].split("= ")[1].rstrip(")")) for row in classes) == len(distance)
    assert [row["median"] for row in classes] == sorted(row["median"] for row in classes)
    smallest = next(frame.value for frame in app.dataframe if "distance" in frame.value)
    assert smallest["distance"].tolist() == sorted(smallest["distance"])


def test_rows_broken_over_queries_end_at_the_success(there, opened):
    step = "robustness.evasion[eps=3]"
    app = opened("attacks", run="images", part="cost", step=step)
    ends: dict[str, float] = {}
    for row in charts(app)["Rows broken over queries: evasion[eps=3]"][0]:
        assert row["share"] >= ends.get(row["series"], 0.0), "it can only rise"
        ends[row["series"]] = row["share"]
    success = {
        n.dims["attack"]: n.value
        for n in numbers(there)
        if n.step == step and n.metric == "attack_success" and set(n.dims) == {"attack"}
    }
    assert ends == pytest.approx(success)


def test_controls_stand_with_their_status(there, opened):
    app = opened("attacks", run="images", part="masking")
    shown = next(
        rows[0] for title, rows in charts(app).items() if title.startswith("The attack and what must not do better")
    )
    measured_ = {one.dims["method"]: one.value for one in numbers(there) if one.metric == "success"}
    assert [row["value"] for row in shown] == list(measured_.values())
    assert {"pgd", "random noise", "a black-box attack"} <= {row["name"] for row in shown}
    table = next(frame.value for frame in app.dataframe if "what it should do" in frame.value)
    limit = measured_["pgd"]
    for row in table.to_dict("records"):
        more = float(row["fooled"]) > 1e-4 + limit + (0.01 if "iterations" in row["control"] else 0)
        assert row["result"].startswith("?" if more else "✓"), row
    assert "gradient_masking" in html(app)
    links = [one.proto.query_string for one in app.get("page_link") if one.proto.label == "Open the finding"]
    doubted = [n for n in numbers(there) if n.metric == "robust_accuracy" and not n.dims and n.cautions]
    assert len(links) == 1 + len([n for n in doubted if n.check == "robustness.evasion"])
    assert all("finding=" in link for link in links)
    silent = " ".join(caption.value for caption in app.caption).replace("\\", "")
    assert all(
        n.named in silent + html(app) for n in numbers(there) if n.metric == "clean_accuracy" and "evasion" in n.step
    )


def test_attacks_without_a_norm_are_not_said_to_have_passed_controls(there, opened):
    said = [caption.value for caption in opened("attacks", run="texts", part="masking").caption]
    assert any("No norm bounds the attacks of evasion" in one for one in said)
    assert not any("no control raised a doubt" in one for one in said)


def test_corruptions_by_severity(there, opened):
    app = opened("attacks", run="images", part="corruptions")
    shown = charts(app)
    assert {row["series"] for row in shown["Accuracy by severity"][0]} == {"noise"}
    unharmed = [row["y"] for row in shown["Accuracy by severity"][0] if row["x"] == 0]
    (piece,) = (
        p
        for p in evidence.pieces(stored.run(there, "images"), "outcomes", "robustness.corruptions")
        if p.name == "clean"
    )
    assert unharmed == [Run(there / "runs" / "images").evidence(piece.ref).column("value").mean()]
    cells = shown["Error rate by corruption and severity, the worst first"][0]
    of = {(row["row"], row["column"]): row["share"] for row in cells}
    accuracy = {
        one.dims["corruption"].replace("_", " "): one.value for one in numbers(there) if set(one.dims) == {"corruption"}
    }
    for name, value in accuracy.items():
        assert 1 - (of[name, "1"] + of[name, "5"]) / 2 == pytest.approx(value)


def test_triggers_and_the_stolen_copy(there, opened):
    app = opened("attacks", run="images", part="others")
    assert len(app.get("image")) == 10
    (rows, *_more) = charts(app)["Fidelity of a stolen copy"]
    assert {row["x"] for row in rows} == {20, 40}
    measured_fidelity = next(n for n in numbers(there) if n.metric == "fidelity" and not n.dims)
    assert measured_fidelity.value in [row["y"] for row in rows]


def test_damaged_evidence_is_named_and_the_others_still_show(there, tmp_path, monkeypatch, opened):
    hurt = shutil.copytree(there / "runs" / "images", tmp_path / "runs" / "hurt")
    one = series_of(there, "pgd · eps 3")
    next((hurt / one.piece.ref.path).glob("*.adversarial.npy")).write_bytes(b"no array")
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path))
    app = opened("attacks", fine=False, run="hurt", evidence=one.piece.ref.path)
    assert any(".adversarial.npy is damaged" in error.value for error in app.error)
    other = series_of(tmp_path, "pgd · eps 1", "hurt")
    assert tiles(opened("attacks", run="hurt", evidence=other.piece.ref.path))
