"""Compare: every number of two runs, in pairs where the samples are the same; samples whose answer flipped."""

from __future__ import annotations

import pytest
from drawn import html
from rich.cells import cell_len

from audit.comparing import Judgement, changes
from audit.numbers import show
from audit.run_folder import Run


def table(app):
    """The table of numbers, by name."""
    return {row["number"]: row for row in app.dataframe[0].value.to_dict("records")}


def test_two_runs_are_needed(home, opened):
    home.coins("one", '{toy.coins: {k: 90}, require: {heads: ">= 0.6"}}')
    assert "there are 1 here" in opened("compare").info[0].value


def test_the_newest_is_held_against_the_one_before(audited_home, opened):
    app = opened("compare")
    assert app.selectbox(key="choice-after").value == "b-short"
    assert app.selectbox(key="choice-before").value == "a-long"
    assert {metric.label: metric.value for metric in app.metric}["▼ worse"] != "0"


def test_numbers_shown_are_numbers_compared(audited_home, opened):
    app = opened("compare", before="a-long", after="b-short")
    old, new = Run(audited_home.runs / "a-long"), Run(audited_home.runs / "b-short")
    (change,) = (c for c in changes(old, new) if c.finding.id == "performance.classification/accuracy")
    row = table(app)["accuracy, performance.classification"]
    assert change.paired
    assert change.judgement is Judgement.WORSE
    assert row["change"] == "▼ worse"
    assert row["difference"].startswith(show(change.difference.value))
    assert row["how"] == "in pairs, n = 200"
    assert row["before"].startswith(show(change.before.estimate.value))
    assert row["after"].startswith(show(change.after.estimate.value))


def test_flipped_samples_are_those_whose_outcome_differs(audited_home, opened):
    app = opened("compare", number="performance.classification/accuracy")
    outcomes = {}
    for name in ("a-long", "b-short"):
        run = Run(audited_home.runs / name)
        finding = next(f for f in run.findings if f.id == "performance.classification/accuracy")
        evidence = run.evidence(next(ref for ref in finding.evidence if ref.kind == "outcomes"))
        outcomes[name] = dict(zip(evidence.ids, evidence.column("value"), strict=True))
    flipped = {row for row, value in outcomes["a-long"].items() if outcomes["b-short"][row] != value}
    shown = app.dataframe[-1].value
    assert set(shown["sample"]) == flipped
    lost = sum(outcomes["a-long"][row] > outcomes["b-short"][row] for row in flipped)
    assert f"{lost} of 200 samples went from 1 to 0" in " ".join(m.value for m in app.markdown)


def test_numbers_filter_by_change_and_kind(audited_home, opened):
    app = opened("compare", change="worse", kind="gates")
    rows = table(app).values()
    assert {row["change"] for row in rows} == {"▼ worse"}
    assert all(row["required"] for row in rows)
    statuses = table(opened("compare", kind="status")).values()
    assert all("→" in row["gate"] for row in statuses)


def test_one_run_twice_is_said(audited_home, opened):
    assert "one run twice" in opened("compare", before="a-long", after="a-long").info[0].value


def test_gates_whose_status_changed_stand_first(audited_home, opened):
    old, new = Run(audited_home.runs / "a-long"), Run(audited_home.runs / "b-short")
    turned = [change for change in changes(old, new) if change.status_changed]
    assert turned
    said = html(opened("compare", before="a-long", after="b-short"))
    for change in turned[:6]:
        assert f"{show(change.before.estimate.value)} (" in said
        assert f"{change.finding.title}" in said


def test_no_gate_that_changed_is_said(home, made, opened):
    home.runs.mkdir(parents=True)
    for name in ("one", "two"):
        home.take(made.runs / "a-long", name)
    assert "No gate changed its status." in html(opened("compare"))


def test_other_models_and_scenarios_are_said(home, made, opened):
    home.runs.mkdir(parents=True)
    home.take(made.runs / "a-long", "one")
    home.take(made.runs / "b-short", "two", models={"other": {"name": "other", "version": 1}}, scenario="another")
    said = " ".join(warning.value.replace("\\", "") for warning in opened("compare", before="one", after="two").warning)
    assert "different models, reader and other" in said
    assert "different scenarios, digits-small and another" in said


def test_the_newest_run_with_something_alike_is_compared(home, made, opened):
    home.runs.mkdir(parents=True)
    home.take(made.runs / "a-long", "one", started="2026-01-01T00:00:00+00:00")
    home.take(made.runs / "b-short", "two", started="2026-01-02T00:00:00+00:00")
    home.take(made.runs / "b-short", "stranger", started="2026-01-03T00:00:00+00:00", scenario="another")
    app = opened("compare")
    assert app.selectbox(key="choice-after").value == "two"
    assert app.selectbox(key="choice-before").value == "one"


def test_flipped_samples_that_can_be_seen_stand_first(audited_home, opened):
    shown = opened("compare", number="performance.classification/accuracy").dataframe[-1].value
    seen = (shown["to be seen"] != "–").tolist()
    assert any(seen)
    assert seen == sorted(seen, reverse=True)


def test_an_unknown_run_is_said(audited_home, opened):
    assert "no run 'nope'" in opened("compare", fine=False, before="nope").error[0].value.replace("\\", "")


def test_different_data_is_said(home, made, opened):
    home.runs.mkdir(parents=True)
    home.take(made.runs / "a-long", "one")
    home.take(made.runs / "b-short", "two", data={"digest": "another"})
    assert "different data" in opened("compare").warning[0].value


def test_damaged_runs_are_not_offered(home, made, opened):
    home.runs.mkdir(parents=True)
    for name in ("one", "two", "bad"):
        home.take(made.runs / "a-long", name)
    (home.runs / "bad" / "manifest.json").write_text("{")
    assert not any("bad" in option for option in opened("compare").selectbox(key="choice-after").options)


def test_a_flipped_sample_leads_to_its_maps(audited_home, opened):
    run = Run(audited_home.runs / "b-short")
    ref = next(ref for f in run.findings for ref in f.evidence if ref.kind == "attributions")
    row = run.evidence(ref).ids[0]
    app = opened("compare", sample=row)
    found = [link.proto for link in app.get("page_link") if f"sample={row}" in link.proto.query_string]
    assert {link.query_string for link in found} == {f"run={name}&sample={row}" for name in ("a-long", "b-short")}
    app = opened("compare", sample="nobody")
    assert "Neither run stored a map" in [caption.value for caption in app.caption][-1]


@pytest.mark.parametrize("text", ["a reason of a great many words " * 4, "登记库中没有隐私账本" * 8])
def test_a_long_reason_fits_its_cell(text):
    from dashboard.views.compare import WHY, _cut

    short = _cut(text)
    assert 0.8 * WHY < cell_len(short) <= WHY
    assert short.endswith(" …")
    assert text.startswith(short.removesuffix(" …"))
    assert _cut("a reason") == "a reason"
