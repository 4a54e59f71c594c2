"""Overview: every run with its verdict, whatever state it is in; filters; the course over versions."""

from __future__ import annotations

import pytest

from audit.finding import Status
from audit.report._words import STATUS

PASSES = '{toy.coins: {k: 90}, require: {heads: ">= 0.6"}}'
FAILS = '{toy.coins: {k: 10}, require: {heads: ">= 0.6"}}'
STRADDLES = '{toy.coins: {k: 60}, require: {heads: ">= 0.6"}}'


def rows(app):
    """The table of runs, by name."""
    return {row["run"]: row for row in app.dataframe[0].value.to_dict("records")}


def test_an_empty_home_shows_how_to_start(home, opened):
    app = opened()
    assert str(home.path) in app.info[0].value.replace("\\", "")
    assert "audit demo" in app.code[0].value
    assert not app.dataframe


def test_one_run(home, opened):
    home.coins("one", PASSES)
    app = opened()
    assert app.caption[0].value == "1 run of 1 model"
    (row,) = rows(app).values()
    assert (row["verdict"], row["model"], row["scenario"], row["pass"]) == ("✓ Passed", "toy", "coins", 1)
    assert row["subject"] == "toy, coins"


def test_every_verdict_has_its_sign_and_word(home, opened):
    home.coins("p", PASSES)
    home.coins("f", FAILS)
    home.coins("i", STRADDLES)
    home.coins("e", PASSES.replace("k: 90", "k: 90, then: raise"))
    home.coins("x", "toy.coins", explore=True)
    with pytest.raises(KeyboardInterrupt):
        home.coins("k", PASSES.replace("k: 90", "k: 90, then: interrupt"))
    found = {name: row["verdict"] for name, row in rows(opened()).items()}
    assert found == {
        "p": "✓ Passed", "f": "✗ Failed", "i": "? Inconclusive", "e": "! No verdict", "x": "i Measured, not judged",
        "k": "! Interrupted: no verdict",
    }  # fmt: skip


def test_counts_are_those_of_the_manifest(audited_home, opened):
    from audit.run_folder import Run

    for name, row in rows(opened()).items():
        counts = Run(audited_home.runs / name).manifest["verdict"]["counts"]
        shown = {
            status: int(row[status]) for status in STATUS if row.get(status) == row.get(status) and row.get(status)
        }
        assert shown == {status: n for status, n in counts.items() if status != Status.INFO}


def test_what_was_not_tested_stands_beside_what_was(home, audited_home, opened):
    row = next(iter(rows(opened()).values()))
    tested = {part.split()[0]: part.split()[1] for part in row["tested"].split(", ")}
    assert set(tested) == {"explanation", "performance", "privacy", "robustness"}
    assert tested["performance"] == "1/2"
    assert row["not_tested"].startswith("preflight, toy, ")
    assert row["not_tested"].endswith(" more checks")


def test_why_names_the_gate_that_decided_with_its_number(home, opened):
    two = "{toy.coins: {k: 10, parts: {left: 1}}, require: {heads: '>= 0.6', 'heads[side=left]': '>= 0.2'}}"
    home.coins("p", PASSES)
    home.coins("f", FAILS)
    home.coins("i", STRADDLES)
    home.coins("e", PASSES.replace("k: 90", "k: 90, then: raise"))
    home.coins("two", two)
    found = {name: row["why"] for name, row in rows(opened()).items()}
    assert found["p"] == "every gate passed (1 of 1)"
    assert found["f"] == "share of heads 0.1, not >= 0.6"
    assert found["i"] == "share of heads 0.6: unclear whether >= 0.6"
    assert found["e"].endswith(": error")
    assert found["two"] == "share of heads 0.1, not >= 0.6, and 1 more"


def test_what_passed_or_was_excused_speaks_against_no_run(home):
    from dashboard.reading import reasons, stored

    home.coins("p", PASSES)
    home.coins("f", FAILS, PASSES.replace("{toy", "{id: two, toy"))
    passed, failed = sorted(stored.runs(home.path), key=lambda summary: summary.word, reverse=True)
    assert reasons.against(passed) == ()
    assert [finding.status for finding in reasons.against(failed)] == [Status.FAIL]
    (failed.path / "findings.jsonl").write_text("{")
    assert reasons.against(failed) == (), "a file that cannot be read explains nothing"


def test_many_families_that_were_not_tested_are_few_words(home, opened):
    home.coins("one", PASSES)
    row = rows(opened())["one"]
    assert row["tested"] == "toy 1/2"
    assert row["not_tested"] == "all but toy, 1 more check"


def test_a_damaged_run_names_its_file_and_the_others_stay(home, opened):
    report = home.coins("good", PASSES)
    for name, file, text in (
        ("cut", "findings.jsonl", ""),
        ("torn", "manifest.json", "{"),
        ("gone", "findings.jsonl", None),
    ):
        path = home.take(report.path, name) / file
        path.unlink()
        if text is not None:
            path.write_text(text)
    (home.runs / "stranger").mkdir()
    app = opened(fine=False)
    found = {name: row["verdict"] for name, row in rows(app).items()}
    assert found == {"good": "✓ Passed"} | dict.fromkeys(
        ("cut", "torn", "gone", "stranger"), "! Damaged run: no verdict"
    )
    assert not [row for row in rows(app).values() if row["verdict"].startswith("!") and row["pass"] == 1]
    (said,) = (error.value.replace("\\", "").replace("- ", "") for error in app.error)
    assert "cut: findings.jsonl holds 0 bytes instead of" in said
    assert "torn: manifest.json cannot be read" in said
    assert "gone: findings.jsonl is missing" in said
    assert "stranger: " in said
    assert str(home.path) not in said


@pytest.mark.parametrize(
    "facts",
    [
        {"checks": 5, "models": [1], "verdict": "pass"},
        {"verdict": {"word": ["pass"], "counts": [1]}, "started": 3, "ended": "x"},
        {"models": {"m": None, "n": {"version": "1", "name": 7}}, "scenario": None, "checks": [{}]},
        {"verdict": {"word": "triumph", "counts": {"pass": "many", "fail": -1}}},
    ],
)
def test_an_odd_manifest_costs_nobody_else_anything(home, opened, facts):
    report = home.coins("good", PASSES)
    home.take(report.path, "odd", **facts)
    found = rows(opened(fine=False))
    assert found["good"]["verdict"] == "✓ Passed"
    assert not found["odd"]["verdict"].startswith("✓") or "verdict" not in facts
    opened("run", fine=False, run="odd")


def test_the_table_follows_the_folder(home, opened):
    report = home.coins("one", PASSES)
    assert rows(opened())["one"]["verdict"] == "✓ Passed"
    text = (report.path / "manifest.json").read_text()
    (report.path / "manifest.json").write_text(text.replace('"word": "pass"', '"word": "inconclusive"'))
    assert rows(opened())["one"]["verdict"] == "? Inconclusive"


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({"verdict": "fail"}, {"bad"}),
        ({"verdict": ["fail", "pass"]}, {"bad", "good", "other"}),
        ({"scenario": "renamed"}, {"other"}),
        ({"model": "toy"}, {"bad", "good", "other"}),
        ({"q": "renamed toy"}, {"other"}),
        ({"q": "TOY.COINS"}, {"bad", "good", "other"}),
        ({"q": "nothing is called so"}, set()),
    ],
)
def test_filters_and_search_are_in_the_address(home, opened, query, left):
    report = home.coins("good", PASSES)
    home.coins("bad", FAILS)
    home.take(report.path, "other", scenario="renamed")
    app = opened(**query)
    if left:
        assert set(rows(app)) == left
    else:
        assert app.info[0].value == "No run is like that."


def test_a_filter_that_is_chosen_is_written_into_the_address(home, opened):
    home.coins("good", PASSES)
    home.coins("bad", FAILS)
    app = opened()
    app.multiselect(key="several-verdict").set_value(["fail"]).run()
    assert set(rows(app)) == {"bad"}
    assert app.query_params["verdict"] == "fail"
    app.text_input(key="typed-q").set_value("coins").run()
    assert app.query_params["q"] == "coins"


def test_five_hundred_runs(home, opened):
    report = home.coins("first", PASSES)
    for i in range(499):
        home.take(report.path, f"run-{i:03d}", started=f"2026-01-01T00:{i // 60:02d}:{i % 60:02d}+00:00")
    app = opened()
    assert app.caption[0].value == "500 runs of 1 model"
    assert len(app.dataframe[0].value) == 500
    assert app.dataframe[0].value["run"].iloc[:2].tolist() == ["first", "run-498"]


def test_the_course_draws_each_gate_over_the_versions(audited_home, opened):
    app = opened()
    charts = [element for element in app.main if element.type == "vega_lite_chart"]
    assert len(charts) == 12
    assert "on the side that the gate requires" in app.caption[-2].value


def test_the_newest_run_of_a_version_is_drawn(home, opened):
    from dashboard.parts import course
    from dashboard.reading import stored

    first = home.coins("one", PASSES)
    home.take(first.path, "two", started="2027-01-01T00:00:00+00:00")
    newest = course._newest_per_version(stored.runs(home.path))
    assert [summary.name for summary in newest] == ["two"]
    ((version, _summary, finding),) = course._courses(newest).popitem()[1]
    assert (version, finding.estimate.value) == ("toy", 0.9)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("20260102-0304-coins", "✓ Passed · toy · 20260102-0304-coins"),
        ("one", "✓ Passed · toy · coins · 2026-01-02 03:04 · one"),
    ],
)
def test_a_run_is_described_without_saying_anything_twice(home, opened, name, said):
    from dashboard.reading import stored

    report = home.coins("first", PASSES)
    home.take(report.path, name, started="2026-01-02T03:04:00+00:00")
    summary = next(summary for summary in stored.runs(home.path) if summary.name == name)
    assert stored.described(summary) == said
