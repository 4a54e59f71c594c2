"""Saliency explorer: the gallery and its filters, the chosen sample with its maps, curves and attacks, for every kind of input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pyarrow as pa
import pytest
import torch
from drawn import figures, html, tiles
from texts import reviews, word_model
from toys import audited, batch, data, digits, trained_cnn

from audit.data import AuditData
from audit.engine import run
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.report._images import palette, summed
from audit.run_folder import Run
from audit.scenario import parse
from dashboard.drawing import paired, pictures
from dashboard.parts import explained as explained_part
from dashboard.reading import evidence, stored

IMAGES = """\
name: maps
model: reader
data: {source: given}
seed: 3
checks:
  - explanation.faithfulness: {explainer: saliency, samples: 24, keep: 24, steps: 4, random_orders: 2}
  - explanation.faithfulness: {explainer: input_x_gradient, samples: 24, keep: 20, steps: 4, random_orders: 2}
    id: of-gradients
  - explanation.faithfulness: {explainer: saliency, target: label, samples: 24, keep: 24, steps: 4, random_orders: 2}
    id: for-the-label
  - explanation.agreement: {explainers: [saliency, input_x_gradient, deep_lift, occlusion, {occlusion: {window: 3}}], samples: 24, keep: 8}
  - explanation.stability_under_attack: {explainer: saliency, eps: 1, samples: 6, keep: 6, steps: 4, restarts: 1, noise_draws: 1}
  - explanation.adversarial_shift: {explainer: saliency, attack: {pgd: {steps: 5}}, eps: 2, samples: 24, keep: 24, noise_draws: 1, random_sets: 2}
  - robustness.evasion: {attacks: [{pgd: {steps: 5}}], norm: linf, eps: 2, samples: 24}
"""
SHIFT = "name: shift\nmodel: toy\ndata: {source: given}\nseed: 3\nchecks:\n  - explanation.adversarial_shift: {explainer: EXPLAINER, attack: {pgd: {steps: 5}}, eps: 1, samples: 12, noise_draws: 1, random_sets: 2}\n"
BEFORE_AND_AFTER = "What each feature contributes, before and after"
ONE = "name: one\nmodel: toy\ndata: {source: given}\nseed: 3\nchecks:\n  - explanation.faithfulness: {explainer: EXPLAINER, samples: 12, keep: 12, steps: 4, random_orders: 2}\n"


def charts(app) -> list[dict]:
    """Charts as drawn, their rows under ``datasets``."""
    found = []
    for element in app.get("vega_lite_chart"):
        sets = {
            one.name: pa.ipc.open_stream(one.data.data).read_pandas().to_dict("records")
            for one in element.proto.datasets
        }
        found.append({**json.loads(element.proto.spec), "datasets": sets})
    return found


def titles(app) -> list[str]:
    return [
        chart["title"] if isinstance(chart["title"], str) else chart["title"]["text"]
        for chart in charts(app)
        if "title" in chart
    ]


def explained(home: Path, text: str, model: AuditedModel, rows: AuditData, name: str) -> None:
    models = {"reader" if "reader" in text else "toy": model}
    run(parse(text), home=home, models=models, data=rows, out=home / "runs" / name, explore=True)


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("explored")
    reader = audited(trained_cnn(2), (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    explained(home, IMAGES, reader, digits(60), "images")
    said, labels = reviews(30)
    from audit.text import encode

    model = word_model()
    rows = AuditData("reviews", batch(encode(said, model.spec.shape[0]), labels), model.spec, model.classes, None)
    explained(home, ONE.replace("EXPLAINER", "occlusion"), model, rows, "texts")
    explained(home, ONE.replace("EXPLAINER", "integrated_gradients"), *series(), "series")
    explained(home, ONE.replace("EXPLAINER", "exact_shap"), *table(), "table")
    explained(home, SHIFT.replace("EXPLAINER", "saliency"), *series(), "series-attacked")
    explained(home, SHIFT.replace("EXPLAINER", "input_x_gradient"), *scores(), "table-attacked")
    return home


def series() -> tuple[AuditedModel, AuditData]:
    """Two channels of which only the second counts."""
    x = np.random.default_rng(0).normal(size=(20, 2, 40)).astype(np.float32)
    model = audited(
        lambda x: torch.stack([x[:, 1].sum(1), -x[:, 1].sum(1)], dim=1), (2, 40), kind="series", bounds=(-9.0, 9.0)
    )
    return model, data(batch(x, (x[:, 1].sum(1) < 0).astype(np.int64)), kind="series", bounds=(-9.0, 9.0))


def scores() -> tuple[AuditedModel, AuditData]:
    """Two classes of the sign of 2 · a − b; the third column does nothing."""
    spec = InputSpec(fields=tuple(Field(name=name, kind="number", bounds=(-9.0, 9.0)) for name in ("a", "b", "idle")))
    weights = torch.tensor([2.0, -1.0, 0.0])
    model = AuditedModel(
        name="toy", digest="toy", task="classification", classes=("no", "yes"), spec=spec, output="logit",
        capabilities=implied("logit", gradients=True, layers=False),
        forward=lambda x: torch.stack([-(x @ weights.to(x)), x @ weights.to(x)], dim=1),
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    return model, AuditData("toy", batch(x, (2 * x[:, 0] > x[:, 1]).astype(np.int64)), spec, ("no", "yes"), None)


def table() -> tuple[AuditedModel, AuditData]:
    """A value of three columns, one of them a category: 2 · age + 3 · member."""
    fields = (
        Field(name="age", kind="number", units="years"),
        Field(name="member", kind="category", categories=("no", "yes")),
        Field(name="idle", kind="number"),
    )
    spec = InputSpec(fields=fields)
    rng = np.random.default_rng(0)
    x = np.stack([rng.uniform(20, 60, 30), rng.integers(0, 2, 30), rng.normal(size=30)], axis=1).astype(np.float32)
    model = AuditedModel(
        name="toy", digest="toy", task="regression", classes=(), spec=spec, output="value",
        capabilities=implied("value", gradients=True, layers=False), forward=lambda x: 2 * x[:, 0] + 3 * x[:, 1],
    )  # fmt: skip
    return model, AuditData("toy", batch(x, 2 * x[:, 0] + 3 * x[:, 1]), spec, (), None)


@pytest.fixture
def there(explored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIT_HOME", str(explored))
    return explored


SEEN: dict[str, Any] = {}


@pytest.fixture
def seen(there, opened):
    """Opens a page of the shared home for looking only: the same one is drawn once."""

    def look(**query: Any):
        key = repr(sorted(query.items()))
        if key not in SEEN:
            SEEN[key] = opened("saliency", **query)
        return SEEN[key]

    return look


def copied(there: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of images in a home of its own, to be harmed."""
    monkeypatch.setenv("AUDIT_HOME", str(to))
    return shutil.copytree(there / "runs" / "images", to / "runs" / "hurt")


def maps_of(home: Path, name: str) -> evidence.Maps:
    view = stored.run(home, name)
    return evidence.maps(view, view.recorded[0].model)


# --- which runs ---------------------------------------------------------------------------------------------------


def test_no_runs(home, opened):
    assert "no runs yet" in opened("saliency").info[0].value


def test_runs_without_explanations(home, opened):
    home.coins("plain", "{toy.coins: {k: 9}}", explore=True)
    assert "No run holds explanations yet" in opened("saliency").info[0].value
    assert "stores no maps" in opened("saliency", run="plain").info[0].value


def test_an_unknown_run_is_an_error(there, opened):
    assert "There is no run 'nope'" in opened("saliency", fine=False, run="nope").error[0].value


def test_an_interrupted_run_shows_what_was_stored(there, tmp_path, monkeypatch, opened):
    cut = copied(there, tmp_path, monkeypatch)
    manifest = json.loads((cut / "manifest.json").read_text())
    (cut / "manifest.json").write_text(json.dumps({**manifest, "state": "interrupted"}))
    for name in ("findings.jsonl", "timings.json"):
        (cut / name).unlink()
    assert len(tiles(opened("saliency", run="hurt"))) == 18


# --- the gallery --------------------------------------------------------------------------------------------------


def test_every_audited_sample_is_in_the_gallery_wrong_ones_first(there, opened):
    rows = maps_of(there, "images").rows
    app = opened("saliency", run="images")
    assert len(rows.ids) == 24
    assert "24 of 24 samples" in app.caption[0].value
    assert rows.right is not None
    wrong = int((~rows.right).sum())
    signs = ["✗" in button.label for button in tiles(app)]
    assert signs == sorted(signs, reverse=True)
    assert sum(signs) == min(18, wrong)
    first = app.query_params.get("tiles")
    app.button(key="turn-tiles-:material/chevron_right:").click().run()
    assert first is None
    assert len(tiles(app)) == 6


def test_filters_leave_what_they_say(there, opened):
    rows = maps_of(there, "images").rows
    assert rows.right is not None
    assert rows.label is not None
    for query, kept in (
        ({"answers": "wrong", "sure": "0.9"}, ~rows.right & (rows.confidence <= 0.9)),
        ({"class": "3", "answers": "right"}, (rows.label == 3) & rows.right),
        ({"fate": "broken"}, np.array([fate == "broken" for fate in rows.fate])),
        ({"fate": "map"}, np.array([row in maps_of(there, "images").attacked for row in rows.ids])),
    ):
        assert f"{int(kept.sum())} of 24" in opened("saliency", run="images", **query).caption[0].value, query


def test_a_fate_is_what_the_attack_made_of_a_row_that_was_right(there):
    stored_run = Run(there / "runs" / "images")
    of = {r.measurement.metric: r.measurement for r in stored_run.recorded if r.measurement and not r.measurement.dims}
    fates = list(evidence.fates(stored.run(there, "images"), stored_run.recorded[0].model, []).values())
    success = of["attack_success"].estimate
    assert (fates.count("broken"), len(fates)) == (success.k, success.n)  # type: ignore[union-attr]
    rows = maps_of(there, "images").rows
    assert rows.right is not None
    assert all(fate == "untried" for fate, right in zip(rows.fate, rows.right, strict=True) if not right)


def test_no_sample_left_says_so(there, opened):
    assert "No sample is left" in opened("saliency", run="images", sure="0.0").info[0].value


def test_a_tile_chooses_its_sample_and_the_address_holds_it(there, opened):
    app = opened("saliency", run="images")
    second = tiles(app)[1]
    second.click().run()
    assert app.query_params["sample"] == str(second.key).removeprefix("tile-")
    assert f"row {app.query_params['sample']}" in " ".join(caption.value for caption in app.caption)


# --- one sample ---------------------------------------------------------------------------------------------------


def full_sample(home: Path) -> str:
    """A sample that every series holds."""
    maps = maps_of(home, "images")
    return next(row for row in maps.rows.ids if len({one.label for one in maps.of(row)}) >= 4 and kept_of(maps, row))


def kept_of(maps: evidence.Maps, row: str) -> list[evidence.Moved]:
    return [one for one in maps.moved(row) if not one.changed]


def broken_sample(home: Path, name: str) -> tuple[str, evidence.Moved]:
    """A sample whose answer the only attack on its map changed, and what it made of it."""
    maps = maps_of(home, name)
    alone = ((row, found[0]) for row in sorted(maps.attacked) if len(found := maps.moved(row)) == 1)
    return next((row, one) for row, one in alone if one.changed)


def quality_of(home: Path, row: str) -> list[evidence.Quality]:
    maps = maps_of(home, "images")
    moved = [one for found in maps.moved(row) for one in (found.before, *found.after)]
    return [quality for one in (*maps.of(row), *moved) for quality in one.quality]


def shows(picture: np.ndarray, x: np.ndarray) -> bool:
    """Whether a picture is an input in 0..16, pixel by pixel."""
    factor = picture.shape[0] // 8
    return bool((picture[::factor, ::factor] == np.round(x[0] / 16 * 255).clip(0, 255)).all())


def test_up_to_four_explainers_stand_side_by_side(there, seen):
    sample = full_sample(there)
    drawn = figures(seen(run="images", sample=sample))
    labels = {one.label for one in maps_of(there, "images").of(sample)}
    assert len(labels) == 5
    assert "input" in drawn
    assert len(set(drawn) & labels) == 4
    two = figures(seen(run="images", sample=sample, explainers=["occlusion (window 3)", "deep_lift"]))
    assert set(two) & labels == {"occlusion (window 3)", "deep_lift"}
    five = seen(run="images", sample=sample, explainers=sorted(labels))
    assert len(set(figures(five)) & labels) == 4
    assert any("first four" in caption.value for caption in five.caption)


def test_the_picture_of_a_map_is_the_stored_map(there, seen):
    sample = full_sample(there)
    one = next(m for m in maps_of(there, "images").of(sample) if m.label == "deep_lift")
    total = summed(one.row["values"])
    drawn = figures(seen(run="images", sample=sample, explainers="deep_lift", opacity="1"))["deep_lift"]
    factor = drawn.shape[0] // 8
    expected = palette()[np.round((total / np.abs(total).max() + 1) / 2 * 254).astype(int)]
    np.testing.assert_array_equal(drawn[::factor, ::factor], expected)


def test_opacity_part_and_percentile_change_the_picture(there, seen):
    sample = full_sample(there)
    options = [{"opacity": "1"}, {"opacity": "0.2", "sign": "positive"}, {"clip": "90"}]
    drawn = [
        figures(seen(run="images", sample=sample, explainers="deep_lift", **query))["deep_lift"].tobytes()
        for query in options
    ]
    assert len(set(drawn)) == len(options)


def test_the_class_explained_can_be_chosen_where_it_was_stored(there, seen):
    maps = maps_of(there, "images")
    assert maps.rows.right is not None
    wrong = maps.rows.ids[int(np.flatnonzero(~maps.rows.right)[0])]
    targets = {one.target for one in maps.of(wrong) if one.label == "saliency"}
    assert len(targets) == 2
    drawn = {
        figures(seen(run="images", sample=wrong, target=str(t), explainers="saliency"))["saliency"].tobytes()
        for t in targets
    }
    assert len(drawn) == 2


def test_quality_numbers_stand_beside_the_map_as_stored(there, seen):
    sample = full_sample(there)
    app = seen(run="images", sample=sample, explainers="input_x_gradient")
    stored_run = Run(there / "runs" / "images")
    series = next(one for one in maps_of(there, "images").series if one.piece.step == "of-gradients")
    row = stored_run.evidence(series.piece.ref).row(series.places[sample])
    written = html(app)
    for name in ("deletion_gain", "insertion_gain"):
        value = f"{float(row[f'quality_{name}']):.4g}"
        assert re.search(
            rf"<dt>{name.replace('_', ' ')} · faithfulness</dt><dd>{re.escape(value.rstrip('0'))}0*</dd>", written
        ), value
    assert "rank correlation · agreement" in written


def test_the_curves_are_those_of_this_very_sample(there, seen):
    sample = full_sample(there)
    one = next(m for m in maps_of(there, "images").of(sample) if m.label == "input_x_gradient")
    app = seen(run="images", sample=sample, explainers="input_x_gradient")
    assert titles(app)[:2] == ["Deletion", "Insertion"]
    assert set(one.curves) == {"removed", "kept"} | {
        f"{kind}_{order}" for kind in ("deletion", "insertion") for order in ("explained", "random")
    }
    without = seen(run="images", sample=sample, explainers="deep_lift", opacity="1")
    assert any("No check followed deletion" in caption.value for caption in without.caption)


def test_an_attack_that_keeps_the_answer_stands_beside_the_original_with_both_maps(there, seen):
    sample = full_sample(there)
    (kept,) = kept_of(maps_of(there, "images"), sample)
    app = seen(run="images", sample=sample, shifted="own")
    assert "✓ The attack keeps the answer and seeks another map" in html(app)
    drawn = figures(app)
    answer = int(kept.before.row["prediction"])
    assert any(caption.startswith(f"original: {answer}") and shows(png, kept.before.row["x"]) for caption, png in drawn.items())  # fmt: skip
    assert any(caption.startswith(f"attacked: {answer}") and shows(png, kept.after[0].row["x"]) for caption, png in drawn.items())  # fmt: skip
    assert np.abs(kept.after[0].row["x"] - kept.before.row["x"]).max() <= 1 + 1e-5


def test_an_attack_that_changes_the_answer_shows_inputs_change_maps_and_difference_on_one_scale(there, seen):
    sample, moved = broken_sample(there, "images")
    before, own, same = moved.before, *moved.after
    app = seen(run="images", sample=sample)
    old, new = int(before.row["prediction"]), int(own.row["prediction"])
    assert old != new
    assert (before.target, own.target, same.target) == (old, new, old)
    assert re.search(rf"✗ The attack changes the answer: {old} \(\d+.*?%\) → {new} \(", html(app))
    drawn = figures(app)
    titles_ = [
        next(caption for caption in drawn if caption.startswith(start))
        for start in (
            "original: ",
            "change, × ",
            "attacked: ",
            "map of the original",
            "difference",
            "map of the attacked",
        )
    ]
    assert titles_[3:] == [f"map of the original, for {old}", "difference of the maps", f"map of the attacked, for {new}"]  # fmt: skip
    assert shows(drawn[titles_[0]], before.row["x"])
    assert shows(drawn[titles_[2]], own.row["x"])
    totals = [summed(one.row["values"]) for one in (before, own)]
    limit = float(max(np.abs(total).max() for total in totals))
    painted = pictures.painted(totals[1] - totals[0], limit)
    factor = drawn["difference of the maps"].shape[0] // 8
    np.testing.assert_array_equal(drawn["difference of the maps"][::factor, ::factor], np.round(painted))
    assert "<dt>correlation with the original&#x27;s map</dt>" in html(app)


def test_the_class_that_the_attacked_input_is_explained_for_can_be_chosen(there, seen):
    sample, moved = broken_sample(there, "images")
    own, same = (seen(run="images", sample=sample, shifted=target) for target in ("own", "same"))
    for app, one in ((own, moved.after[0]), (same, moved.after[1])):
        assert f"map of the attacked, for {one.target}" in figures(app)
    assert figures(own)["difference of the maps"].tobytes() != figures(same)["difference of the maps"].tobytes()
    assert "<dt>first features kept</dt>" in html(same)
    assert "<dt>correlation with the original&#x27;s map</dt>" not in html(same)


def test_where_no_attack_stored_a_map_of_the_sample_the_others_are_offered(there, opened):
    maps = maps_of(there, "images")
    row = next(row for row in maps.rows.ids if row not in maps.attacked)
    app = opened("saliency", run="images", sample=row, answers="wrong")
    next(button for button in app.button if button.label == "Show the samples with attacked maps").click().run()
    assert app.query_params["fate"] == "map"
    assert "answers" not in app.query_params
    assert {str(tile.key).removeprefix("tile-") for tile in tiles(app)} <= maps.attacked


def test_a_series_under_attack_is_two_lines_on_one_scale(there, seen):
    sample, moved = broken_sample(there, "series-attacked")
    app = seen(run="series-attacked", sample=sample, shifted="own")
    lines = {chart["vconcat"][0]["title"]: chart for chart in charts(app) if "vconcat" in chart}
    for said, one in (("original", moved.before), ("attacked", moved.after[0])):
        drawn = lines[f"{said}, for {one.target}, channel 1"]
        (points,) = (rows for rows in drawn["datasets"].values() if "step" in rows[0])
        np.testing.assert_allclose([row["value"] for row in points], one.row["x"][1], rtol=1e-5)
    scales = {json.dumps(chart["vconcat"][0]["encoding"]["color"]["scale"]) for said, chart in lines.items() if said[:8] in ("original", "attacked")}  # fmt: skip
    assert len(scales) == 1


def test_a_table_under_attack_is_bars_in_pairs(there, seen):
    """Of two classes the same one is explained before and after, unless the reader asks for the other."""
    sample, moved = broken_sample(there, "table-attacked")
    for query, after in (({}, moved.after[1]), ({"shifted": "own"}, moved.after[0])):
        drawn = next(c for c in charts(seen(run="table-attacked", sample=sample, **query)) if c.get("title") == BEFORE_AND_AFTER)  # fmt: skip
        rows = next(iter(drawn["datasets"].values()))
        assert len(rows) == 2 * 3
        for side, one in (("original", moved.before), ("attacked", after)):
            shown = {row["name"][0]: row["amount"] for row in rows if side in row["of"]}
            np.testing.assert_allclose([shown[name] for name in "abi"], one.row["values"], rtol=1e-6)
        assert any(row["name"].startswith("a = ") and "→" in row["name"] for row in rows)


def test_a_feature_that_was_changed_is_never_left_out(monkeypatch):
    monkeypatch.setattr("dashboard.drawing.charts.MOST_FEATURES", 2)
    values = np.array([3.0, 2.0, 1.0, 0.5])
    drawn = paired.paired_bars(
        list("abcd"), values, values, ("before", "after"), [False, False, True, True], title="", label=""
    )
    assert list(drawn.data["name"].unique()) == ["c", "d"]
    more = paired.paired_bars(
        list("abcd"), values, values, ("before", "after"), [False, False, False, True], title="", label=""
    )
    assert list(more.data["name"].unique()) == ["a", "d"]


def test_a_sample_can_be_explained_live_for_any_class(there, seen):
    sample = full_sample(there)
    link = next(
        one for one in seen(run="images", sample=sample).get("page_link") if one.proto.label == "Explain another class live"
    )  # fmt: skip
    query = parse_qs(link.proto.query_string)
    assert (query["run"], query["sample"], query["model"]) == (["images"], [sample], ["reader"])
    series = next(one for one in maps_of(there, "images").series if one.piece.ref.path == query["evidence"][0])
    assert sample in series.places
    broken, moved = broken_sample(there, "images")
    attacked = next(
        parse_qs(one.proto.query_string) for one in seen(run="images", sample=broken, shifted="same").get("page_link")
        if one.proto.label == "Explain the attacked input live"
    )  # fmt: skip
    assert (attacked["evidence"], attacked["sample"]) == ([moved.after[1].series.piece.ref.path], [broken])


def test_every_number_that_a_check_stores_beside_its_maps_has_a_name(there):
    stored_names = {q.name for row in maps_of(there, "images").rows.ids for q in quality_of(there, row)}
    assert {"damage by top", "deletion gain", "rank correlation", "top k intersection"} <= stored_names
    assert explained_part.quality_name("damage by top") == "damage through its first features"
    assert explained_part.quality_text("damage by top", 0.123456) == "12.3 %"
    assert explained_part.quality_name("of a plug-in") == "of a plug-in"


def test_an_attacked_sample_leads_to_its_adversarial_example(there, seen):
    rows = maps_of(there, "images").rows
    broken = next(row for row, fate in zip(rows.ids, rows.fate, strict=True) if fate == "broken")
    app = seen(run="images", sample=broken)
    assert any(s.value == "Adversarial examples of this sample" for s in app.subheader)
    link = next(one for one in app.get("page_link") if re.match(r"pgd.* → ", one.proto.label))
    assert f"sample={broken}" in link.proto.query_string
    assert "evidence=" in link.proto.query_string


def test_the_evidence_of_a_finding_comes_first(there, opened):
    path = next(one.piece.ref.path for one in maps_of(there, "images").series if one.label == "deep_lift")
    drawn = [
        name
        for name in figures(opened("saliency", run="images", sample=full_sample(there), evidence=path))
        if name != "input"
    ]
    assert drawn[0] == "deep_lift"


def test_evidence_without_a_sample_opens_on_one_that_it_holds(there, opened):
    series = next(one for one in maps_of(there, "images").series if one.piece.name == "after-same-class")
    app = opened("saliency", run="images", evidence=series.piece.ref.path)
    chosen = next(tile for tile in tiles(app) if tile.proto.type == "primary")
    assert str(chosen.key).removeprefix("tile-") in series.places
    assert "The attack changes the answer" in html(app)


# --- other kinds of input -----------------------------------------------------------------------------------------


def test_pieces_of_a_text_are_shaded_and_tell_their_values(there, opened):
    app = opened("saliency", run="texts")
    written = html(app)
    assert 'class="shaded"' in written
    assert re.search(r'<span class="(for|against)" style="--share: \d+%" title="[+−-]', written)
    assert tiles(app)[0].label.count("\\") >= 0
    assert len(titles(app)) == 2


def test_a_channel_of_a_series_is_a_line_coloured_by_relevance(there, opened):
    app = opened("saliency", run="series")
    shown = charts(app)[:2]
    rows = [next(iter(chart["datasets"].values())) for chart in shown]
    amounts = [sum(abs(row["amount"]) for row in found) for found in rows]
    assert amounts[0] == pytest.approx(0, abs=1e-6)
    assert amounts[1] > 1
    assert all(len(found) == 40 for found in rows)


def test_a_table_has_a_waterfall_bars_a_beeswarm_and_dependence(there, opened):
    app = opened("saliency", run="table")
    assert titles(app) == [
        "exact_shap",
        "Deletion",
        "Insertion",
        "Which features weigh most",
        "Every row's contributions",
        "How the contribution of age depends on its value",
    ]
    steps = next(rows for rows in charts(app)[0]["datasets"].values() if "start" in rows[0])
    assert steps[0]["name"].startswith("age = ")
    marks = next(rows for rows in charts(app)[0]["datasets"].values() if "start" not in rows[0])
    assert steps[-1]["end"] == pytest.approx(marks[1]["end"], rel=1e-3)
    other = opened("saliency", run="table", feature="member")
    assert titles(other)[-1] == "How the contribution of member depends on its value"
    points = next(rows for rows in charts(other)[-1]["datasets"].values() if "cell" in rows[0])
    assert {row["cell"] for row in points} == {"no", "yes"}


def test_of_a_long_table_few_rows_are_points_and_all_count(there, opened, monkeypatch):
    from dashboard.views import saliency

    whole = charts(opened("saliency", run="table"))
    monkeypatch.setattr(saliency, "MOST_ROWS", 5)
    app = opened("saliency", run="table")
    assert any("12 rows; points are 5 of them" in caption.value for caption in app.caption)
    few = charts(app)
    before, after = ([next(iter(chart["datasets"].values())) for chart in found[3:5]] for found in (whole, few))
    assert after[0] == before[0]
    assert (len(before[1]), len(after[1])) == (12 * 3, 5 * 3)


# --- damage, speed, and what is not done --------------------------------------------------------------------------


def test_damaged_evidence_is_named_and_the_others_still_show(there, tmp_path, monkeypatch, opened):
    hurt = copied(there, tmp_path, monkeypatch)
    broken = next(one.piece.ref.path for one in maps_of(there, "images").series if one.piece.step == "of-gradients")
    (hurt / broken / "index.jsonl").write_text("no json\n")
    app = opened("saliency", fine=False, run="hurt")
    assert any("index.jsonl" in error.value.replace("\\", "") for error in app.error)
    assert len(tiles(app)) == 18


def test_of_an_attacked_row_what_is_not_damaged_still_shows(there, tmp_path, monkeypatch, opened):
    hurt = copied(there, tmp_path, monkeypatch)
    sample, moved = broken_sample(there, "images")
    own, same = moved.after
    (hurt / own.series.piece.ref.path / "index.jsonl").write_text("no json\n")
    app = opened("saliency", fine=False, run="hurt", sample=sample)
    assert len(app.error) == 1
    assert f"map of the attacked, for {same.target}" in figures(app)
    (hurt / moved.before.series.piece.ref.path / "index.jsonl").write_text("no json\n")
    evidence.maps.cache_clear()
    assert sample not in maps_of(tmp_path, "hurt").attacked


def test_only_the_bytes_of_the_rows_shown_are_read(tmp_path, monkeypatch, opened, explored):
    """A hundred thousand rows would not fit where one row's bytes do: `column` of what is large is never asked for."""
    from audit.run_folder import Evidence

    asked: list[str] = []
    original = Evidence.column
    monkeypatch.setattr(Evidence, "column", lambda self, name: asked.append(name) or original(self, name))
    monkeypatch.setenv("AUDIT_HOME", str(explored))
    evidence.maps.cache_clear()
    opened("saliency", run="images")
    assert {"prediction", "target"} <= set(asked)
    assert not {"x", "values"} & set(asked)


def test_neither_this_page_nor_that_of_attacks_imports_torch(there):
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from streamlit.testing.v1 import AppTest\n"
        "app = AppTest.from_file('dashboard/app.py', default_timeout=60)\n"
        "for page in ('saliency', 'attacks'):\n"
        "    app.query_params['page'] = page; app.query_params['run'] = 'images'; app.run()\n"
        "    assert not app.exception and not app.error, app\n"
        "print(sorted({'torch', 'sklearn', 'audit.engine'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_thumbnails_are_small(there, seen):
    labels = [button.label for button in tiles(seen(run="images"))]
    assert all(label.startswith("![") and len(label) < 4000 for label in labels)
    assert pictures.SMALL < pictures.LARGE
