"""The page of new audits: forms, what they make of the scenario, what is wrong with it; an audit is started, followed, and lands on its run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import registered
from streamlit.testing.v1 import AppTest

from audit.run_folder import Run
from audit.scenario import parse
from dashboard.working import audits

QUICK = """\
# The smallest audit that says anything.
name: quick
model: iris
data: {source: sklearn.iris, split: {test: 0.5, seed: 0}}
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.8"}
  - robustness.evasion: {attacks: [hop_skip_jump], eps: 0.1, samples: 5}
    id: nearest
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("new-audit")
    home = registered.make(folder)
    (home / "scenarios").mkdir()
    (home / "scenarios" / "quick.yaml").write_text(QUICK)
    (home / "scenarios" / "broken.yaml").write_text("name: [")
    yield home
    sys.path.remove(str(folder))


@pytest.fixture
def page(models: Path, monkeypatch: pytest.MonkeyPatch, opened, tmp_path: Path):
    """Opens the page where there is no scenarios/ folder."""
    monkeypatch.setenv("AUDIT_HOME", str(models))
    monkeypatch.chdir(tmp_path)

    def look(*, fine: bool = True, **query: str) -> AppTest:
        return opened("new_audit", fine=fine, **{"scenario": "quick.yaml", **query})

    return look


def yaml(app: AppTest) -> str:
    assert not app.exception, app.exception[0].message
    return app.code[0].value


def start_button(app: AppTest):
    return next(button for button in app.button if button.label == "Start the audit")


def field(app: AppTest, kind: str, label: str, number: int = 0):
    return [one for one in app.get(kind) if one.label == label][number]


def test_the_scenario_is_shown_as_it_is_and_counted(page) -> None:
    app = page()
    assert yaml(app) == QUICK.strip()
    assert app.success[0].value == "Valid: 2 checks, 2 steps, 1 gate."
    assert not start_button(app).disabled
    assert [one.label for one in app.expander][:2] == [
        "performance\\.classification · 1 gate",
        "nearest (robustness\\.evasion) · 0 gates",
    ]


def test_what_is_set_in_the_form_stands_in_the_yaml(page) -> None:
    app = page()
    field(app, "number_input", "samples").set_value(7)
    field(app, "text_input", "eps").set_value("8/255")
    field(app, "selectbox", "norm").set_value("l2")
    field(app, "text_input", "accuracy").set_value(">= 0.9")
    field(app, "text_input", "robust\\_accuracy").set_value(">= 0.5")
    field(app, "text_input", "Further gates, on parts").set_value('{"recall[*]": ">= 0.2"}')
    field(app, "selectbox", "severity", 1).set_value("critical")
    field(app, "text_input", "seed").set_value("11")
    scenario = parse(yaml(app.run())).scenario
    first, second = scenario.checks
    assert first.require == {"accuracy": (">= 0.9",), "recall[*]": (">= 0.2",)}
    assert second.params == {"attacks": ["hop_skip_jump"], "eps": "8/255", "samples": 7, "norm": "l2"}
    assert (second.require, second.severity, second.id) == ({"robust_accuracy": (">= 0.5",)}, "critical", "nearest")
    assert scenario.seed == 11
    assert "# The smallest audit" in yaml(app)
    field(app, "selectbox", "norm").set_value(None)
    field(app, "text_input", "accuracy").set_value("")
    scenario = parse(yaml(app.run())).scenario
    assert "norm" not in scenario.checks[1].params
    assert list(scenario.checks[0].require) == ["recall[*]"]


def test_checks_are_left_out_and_added(page) -> None:
    app = page()
    field(app, "checkbox", "run this check", 1).uncheck()
    field(app, "multiselect", "Add checks").set_value(["preflight.model_contract"])
    app.run()
    assert [entry.check for entry in parse(yaml(app)).scenario.checks] == [
        "performance.classification",
        "preflight.model_contract",
    ]
    field(app, "text_input", "violations").set_value("== 0")
    assert parse(yaml(app.run())).scenario.checks[1].require == {"violations": ("== 0",)}


def test_what_is_wrong_is_said_with_its_line_and_field(page) -> None:
    app = page()
    field(app, "text_input", "eps").set_value("-1")
    app.run()
    said = app.error[0].value.replace("\\", "")
    assert said == "scenario.yaml:8:52: checks[1].robustness.evasion.eps: input should be greater than 0, got -1"
    assert start_button(app).disabled


def test_a_file_that_is_no_yaml_is_said_to_be_none(page) -> None:
    app = page(fine=False, scenario="broken.yaml")
    assert "is no valid YAML" in app.error[0].value
    assert not app.code


def test_another_model_is_put_in_the_place_of_the_scenarios(page) -> None:
    app = page(model="digits@1")
    assert parse(yaml(app)).scenario.model == ("digits@1",)
    app = page(model="width@1")
    assert [w.value for w in app.warning] == [
        "performance\\.classification will be not applicable\\: it is not for regression\\.",
        "nearest will be not applicable\\: it is not for regression\\.",
    ]


def test_an_unknown_model_cannot_be_audited(page) -> None:
    app = page(fine=False, edit="yaml")
    app.text_area[0].set_value(QUICK.replace("model: iris", "model: irris")).run()
    assert [one.value for one in app.error] == ["There is no registered model 'irris'\\."]
    assert start_button(app).disabled


def test_without_a_gate_it_takes_a_word_to_start(page) -> None:
    app = page()
    field(app, "text_input", "accuracy").set_value("")
    app.run()
    assert start_button(app).disabled
    field(app, "checkbox", "Nothing is gated, so nothing can fail: measure only").check()
    assert not start_button(app.run()).disabled


def test_an_empty_home_says_where_scenarios_are_looked_for(opened, home, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    app = opened("new_audit")
    assert "Scenario files are looked for" in app.caption[0].value
    assert not app.button


def test_an_audit_is_started_followed_and_lands_on_its_run(page, models: Path) -> None:
    app = page()
    start_button(app).click().run()
    (one,) = audits.every(models)
    assert app.query_params["audit"] == one.name
    assert app.title[0].value == "Audit"
    assert [button.label for button in app.button] == ["Cancel"]
    assert app.subheader[0].value in ("… starting", "▶ running")
    end = time.monotonic() + 90
    while one.alive:
        assert time.monotonic() < end
        time.sleep(0.1)
    app.run()
    assert not app.exception, app.exception[0].message
    assert app.title[0].value != "Audit"
    assert app.query_params["run"] == one.name
    assert Run(one.run_path).manifest["verdict"]["counts"]["pass"] == 1

    again = page(audit=one.name)  # who opens it later is not led away
    assert again.subheader[0].value == "✓ finished"
    assert list(again.dataframe[0].value["state"]) == ["✓ done", "✗ error"]
    assert "declares no bounds" in again.dataframe[0].value["said"][1]
    assert "quick · iris" in page().get("page_link")[0].proto.label


def test_one_that_never_came_to_run_shows_what_it_printed(page, models: Path) -> None:
    one = audits.start(models, QUICK.replace("model: iris", "model: irris"))
    app = page(audit=one.name)
    assert [button.label for button in app.button] == ["Cancel"]
    one.stop(at_once=True)
    while one.alive:
        time.sleep(0.05)
    (one.path / audits.LOG).write_text("error: there is no model 'irris'\n")
    app = page(audit=one.name)
    assert app.subheader[0].value == "✗ did not start: what it printed says why"
    assert app.code[0].value == "error: there is no model 'irris'"
    assert not app.button


def test_an_audit_that_is_none_is_one_line(page) -> None:
    app = page(fine=False, audit="nothing")
    assert "there is no audit 'nothing'" in app.error[0].value
