"""The page of new audits: forms, what they make of the scenario, what is wrong with it; an audit is started, followed, and lands on its run."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import drawn
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
    """Opens the page where there is no scenarios/ folder, and no draft."""
    monkeypatch.setenv("AUDIT_HOME", str(models))
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(models / "drafts", ignore_errors=True)

    def look(*, fine: bool = True, **query: str) -> AppTest:
        return opened("new_audit", fine=fine, **{"scenario": "quick.yaml", **query})

    return look


def yaml(app: AppTest) -> str:
    assert not app.exception, app.exception[0].message
    return app.code[0].value


def entries(app: AppTest):
    return parse(yaml(app)).scenario.checks


def button(app: AppTest, key: str):
    return next(one for one in app.button if str(one.key).endswith(key))


def field(app: AppTest, kind: str, label: str):
    """The field of a form; names in forms are escaped."""
    return next(one for one in app.get(kind) if one.label.replace("\\", "") == label)


def said(app: AppTest) -> list[str]:
    """What stands on the page as text, without its escapes."""
    return [one.value.replace("\\", "") for one in app.markdown]


CLASSIFICATION, EVASION = "1", "2"


def test_the_scenario_is_shown_as_it_is_and_counted(page) -> None:
    app = page()
    assert yaml(app) == QUICK.strip()
    assert ":green[✓] Valid: 2 checks, 2 steps, 1 gate." in said(app)
    assert not button(app, "start").disabled
    (parts,) = app.radio
    assert [one.replace("\\", "") for one in parts.options] == [
        "The scenario itself",
        "performance.classification",
        "nearest",
    ]
    assert parts.value == "~scenario"
    assert app.get("download_button")[0].proto.label == "Download"


def test_the_form_of_a_check_has_its_fields_and_their_defaults(page) -> None:
    app = page(check=EVASION)
    assert "#### robustness.evasion" in said(app)
    attacks = field(app, "multiselect", "attacks")
    assert (attacks.value, "pgd" in attacks.options) == (["hop_skip_jump"], True)
    eps = field(app, "text_input", "eps")
    assert (eps.value, eps.help.replace("\\", "")) == (
        "0.1", "Largest perturbation, in the norm and in the units that the user feeds. > 0",
    )  # fmt: skip
    assert field(app, "selectbox", "norm").placeholder == "default: linf"
    assert field(app, "number_input", "keep").placeholder == "default: 64"
    assert field(app, "number_input", "samples").min == 1
    assert "Nothing is gated" in "".join(one.value for one in app.caption)


def test_what_is_set_in_the_form_stands_in_the_yaml(page) -> None:
    app = page(check=EVASION)
    field(app, "number_input", "samples").set_value(7).run()
    field(app, "text_input", "eps").set_value("8/255").run()
    field(app, "selectbox", "norm").set_value("l2").run()
    field(app, "selectbox", "sequential").set_value("true").run()
    field(app, "selectbox", "severity").set_value("critical").run()
    second = entries(app)[1]
    assert second.params == {
        "attacks": ["hop_skip_jump"],
        "eps": "8/255",
        "samples": 7,
        "norm": "l2",
        "sequential": True,
    }
    assert (second.severity, second.id) == ("critical", "nearest")
    assert "# The smallest audit" in yaml(app)
    app.radio[0].set_value("~scenario").run()
    assert "check" not in app.query_params
    field(app, "number_input", "seed").set_value(11).run()
    field(app, "text_input", "data *").set_value("{source: sklearn.wine}").run()
    assert (parse(yaml(app)).scenario.seed, parse(yaml(app)).scenario.data) == (11, {"source": "sklearn.wine"})
    app.radio[0].set_value(EVASION).run()
    field(app, "selectbox", "norm").set_value(None).run()
    field(app, "text_input", "id").set_value("").run()
    assert "norm" not in entries(app)[1].params
    assert entries(app)[1].id == "robustness.evasion"


def test_gates_are_changed_taken_out_and_added(page) -> None:
    app = page(check=CLASSIFICATION)
    field(app, "selectbox", "Comparison of accuracy").set_value(">").run()
    field(app, "text_input", "Threshold of accuracy").set_value("0.9").run()
    field(app, "selectbox", "Add a gate on").set_value("recall").run()
    button(app, "new-gate-checks-0-add").click().run()
    assert ":red[✗ Choose a metric and write a number.]" in said(app)
    assert field(app, "selectbox", "Must be").value == ">="
    field(app, "text_input", "Part of it").set_value("*")
    field(app, "text_input", "Threshold").set_value("0.2")
    button(app, "new-gate-checks-0-add").click().run()
    assert entries(app)[0].require == {"accuracy": ("> 0.9",), "recall[*]": (">= 0.2",)}
    assert field(app, "text_input", "Threshold").value == ""
    button(app, "accuracy-0-gone").click().run()
    assert entries(app)[0].require == {"recall[*]": (">= 0.2",)}
    assert "**recall[*]**  \n:gray[recall · higher is better]" in said(app)


def test_several_values_of_a_parameter_are_a_matrix(page) -> None:
    app = page(check=EVASION)
    label = "Matrix: parameters of which several values are tried, one step for each combination"
    field(app, "multiselect", label).set_value(["eps"]).run()
    assert entries(app)[1].matrix == {"eps": (0.1,)}
    field(app, "text_input", "eps").set_value("[0.1, 0.2]").run()
    assert ":green[✓] Valid: 2 checks, 3 steps, 1 gate." in said(app)
    field(app, "multiselect", label).set_value([]).run()
    assert (entries(app)[1].matrix, entries(app)[1].params["eps"]) == ({}, 0.1)


def test_an_attack_with_parameters_is_written_as_yaml_has_it(page) -> None:
    app = page(check=EVASION)
    field(app, "multiselect", "attacks").set_value(["pgd", "square: {queries: 5}"]).run()
    assert entries(app)[1].params["attacks"] == ["pgd", {"square": {"queries": 5}}]


def test_checks_are_taken_out_and_added(page) -> None:
    app = page(check=EVASION)
    button(app, "remove-1").click().run()
    field(app, "selectbox", "Add a check").set_value("preflight.model_contract").run()
    assert [entry.check for entry in entries(app)] == ["performance.classification", "preflight.model_contract"]
    assert app.query_params["check"] == "2"
    assert "#### preflight.model_contract" in said(app)
    field(app, "selectbox", "Add a check").set_value("preflight.model_contract").run()
    assert [entry.id for entry in entries(app)][1:] == ["preflight.model_contract", "preflight.model_contract-2"]


def test_what_is_wrong_is_said_with_its_line_and_beside_its_field(page) -> None:
    app = page(fine=False, check=EVASION)
    field(app, "text_input", "eps").set_value("-1").run()
    told = app.error[0].value.replace("\\", "")
    assert told == "scenario.yaml:8:52: checks[1].robustness.evasion.eps: input should be greater than 0, got -1"
    assert said(app).count(":red[✗ input should be greater than 0, got -1]") == 1
    assert [one.replace("\\", "") for one in app.radio[0].options][2] == ":red[✗ nearest]"
    assert button(app, "start").disabled


def test_an_entry_that_is_no_check_can_be_taken_out(page) -> None:
    app = page(edit="yaml")
    app.text_area[0].set_value(QUICK.replace("robustness.evasion", "robustness.evasoin")).run()
    assert "did you mean 'robustness.evasion'" in app.error[0].value.replace("\\", "")
    app = page(fine=False, check=EVASION)
    assert "no form" in app.info[0].value
    button(app, "remove-1").click().run()
    assert not app.error
    assert len(entries(app)) == 1


def test_a_file_that_is_no_yaml_is_mended_as_yaml(page) -> None:
    app = page(fine=False, scenario="broken.yaml")
    assert "is no valid YAML" in app.error[0].value
    assert "mend the text first" in app.info[0].value
    assert button(app, "start").disabled
    app = page(fine=False, scenario="broken.yaml", edit="yaml")
    app.text_area[0].set_value(QUICK).run()
    assert not app.error
    assert not button(app, "start").disabled


def test_a_file_that_cannot_be_read_is_one_line(page, models: Path) -> None:
    path = models / "scenarios" / "binary.yaml"
    path.write_bytes(b"\xff\xfe")
    try:
        (error,) = page(fine=False, scenario="binary.yaml").error
        assert error.value.replace("\\", "").endswith("binary.yaml is not UTF-8 text: choose another scenario.")
    finally:
        path.unlink()


def test_a_draft_survives_leaving_and_a_reload_until_it_is_discarded(page, models: Path) -> None:
    app = page(check=EVASION)
    field(app, "text_input", "eps").set_value("0.25").run()
    assert "Edited: 1 line differs from quick.yaml." in " ".join(said(app))
    app.query_params.clear()  # another page and back by the menu
    app.query_params["page"] = "overview"
    app.run()
    app.query_params.clear()
    app.query_params["page"] = "new_audit"
    app.run()
    assert entries(app)[1].params["eps"] == 0.25
    assert app.query_params["scenario"] == "quick.yaml"
    again = page(check=EVASION)  # a session of its own
    assert entries(again)[1].params["eps"] == 0.25
    assert re.search(r"Your draft of .* UTC is restored: 1 line differs from quick.yaml\.", " ".join(said(again)))
    button(again, "discard").click().run()
    assert yaml(again) == QUICK.strip()
    assert "draft" not in " ".join(said(again))
    assert not list((models / "drafts").iterdir())


def test_an_edit_that_is_taken_back_is_no_draft(page, models: Path) -> None:
    app = page(check=EVASION)
    for value in ("0.25", "0.1"):
        field(app, "text_input", "eps").set_value(value).run()
    assert "Edited" not in " ".join(said(app))
    assert not list((models / "drafts").iterdir())


def test_a_draft_that_cannot_be_kept_stays_in_the_window(page, models: Path) -> None:
    (models / "drafts").write_text("a file where the folder belongs")
    try:
        app = page(check=EVASION)
        field(app, "text_input", "eps").set_value("0.25").run()
        assert entries(app)[1].params["eps"] == 0.25
        assert "in this window alone" in app.warning[0].value
    finally:
        (models / "drafts").unlink()


def test_the_scenario_is_saved_under_a_name_that_is_free(page, models: Path) -> None:
    app = page(check=EVASION)
    field(app, "text_input", "eps").set_value("0.25").run()
    field(app, "text_input", "File name").set_value("no name").run()
    assert button(app, "save").disabled
    field(app, "text_input", "File name").set_value("mine.yaml").run()
    assert button(app, "save").label.replace("\\", "") == "Save as mine.yaml"
    button(app, "save").click().run()
    saved = models / "scenarios" / "mine.yaml"
    try:
        assert parse(saved.read_text()).scenario.checks[1].params["eps"] == 0.25
        assert app.query_params["scenario"] == "mine.yaml"
        assert yaml(app) == saved.read_text().strip()
        assert yaml(page()) == QUICK.strip()
        field(app, "text_input", "File name").set_value("quick.yaml").run()
        assert button(app, "save").label.replace("\\", "") == "Replace quick.yaml"
    finally:
        saved.unlink()


def test_a_name_that_another_folder_holds_is_refused(page, tmp_path: Path) -> None:
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "here.yaml").write_text(QUICK)
    app = page(scenario="here.yaml")
    assert field(app, "text_input", "File name").value == "here-2.yaml"
    assert not button(app, "save").disabled
    field(app, "text_input", "File name").set_value("here.yaml").run()
    assert "here.yaml is there already, and stays" in " ".join(said(app))
    assert button(app, "save").disabled


def test_another_model_is_put_in_the_place_of_the_scenarios(page) -> None:
    app = page(model="digits@1")
    assert parse(yaml(app)).scenario.model == ("digits@1",)
    field(app, "selectbox", "Model").set_value("width@1").run()
    assert app.query_params["model"] == "width@1"
    assert [one for one in said(app) if "not applicable" in one] == [
        ":material/info: performance.classification will be not applicable: it is not for regression.",
        ":material/info: nearest will be not applicable: it is not for regression.",
    ]
    field(app, "selectbox", "Model").set_value("iris").run()
    assert "model" not in app.query_params
    assert yaml(app) == QUICK.strip()


def test_an_unknown_model_cannot_be_audited(page) -> None:
    app = page(fine=False, edit="yaml")
    app.text_area[0].set_value(QUICK.replace("model: iris", "model: irris")).run()
    assert [one.value for one in app.error] == ["There is no registered model 'irris'\\."]
    assert button(app, "start").disabled


def test_without_a_gate_it_takes_a_word_to_start(page) -> None:
    app = page(check=CLASSIFICATION)
    button(app, "accuracy-0-gone").click().run()
    assert button(app, "start").disabled
    field(app, "checkbox", "Nothing is gated, so nothing can fail: measure only").check()
    assert not button(app.run(), "start").disabled


def test_an_empty_home_says_where_scenarios_are_looked_for(opened, home, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    app = opened("new_audit")
    assert "Scenario files are looked for" in app.caption[0].value
    assert not app.button


def test_a_home_that_takes_no_audit_is_one_line(page, models: Path) -> None:
    (models / "audits").write_text("a file where the folder belongs")
    try:
        app = page(fine=False)
        button(app, "start").click().run()
        assert "cannot be made: Not a directory" in app.error[0].value.replace("\\", "")
    finally:
        (models / "audits").unlink()


def test_an_audit_is_started_followed_and_lands_on_its_run(page, models: Path) -> None:
    app = page()
    button(app, "start").click().run()
    (one,) = audits.every(models)
    assert app.query_params["audit"] == one.name
    assert app.title[0].value == "Audit of iris: quick"
    assert [button.label for button in app.button] == ["Cancel"]
    assert re.search("… starting|▶ running", drawn.html(app))
    assert "Running now" in " ".join(said(page()))
    end = time.monotonic() + 90
    while one.alive:
        assert time.monotonic() < end
        time.sleep(0.1)
    app.run()
    assert not app.exception, app.exception[0].message
    assert app.title[0].value != "Audit of iris: quick"
    assert app.query_params["run"] == one.name
    assert Run(one.run_path).manifest["verdict"]["counts"]["pass"] == 1

    again = page(audit=one.name)  # who opens it later is not led away
    assert "✓ finished" in drawn.html(again)
    steps = again.dataframe[0].value
    assert list(steps["state"]) == ["✓ done", "✗ error"]
    assert "declares no bounds" in steps["said"][1]
    assert all(re.fullmatch(r"\d+\.\d s", time) for time in steps["time"])
    after = page()
    assert [link.proto.label for link in after.get("page_link")] == ["quick"]
    assert "✓ finished" in said(after)
    changed = page(scenario=one.name)  # to be changed and started again
    assert yaml(changed) == QUICK.strip()


def test_one_that_was_stopped_before_it_ran_is_cancelled(page, models: Path) -> None:
    one = audits.start(models, QUICK)
    app = page(audit=one.name)
    assert [button.label for button in app.button] == ["Cancel"]
    one.stop(at_once=True)
    while one.alive:
        time.sleep(0.05)
    assert "■ cancelled" in drawn.html(page(audit=one.name))


def test_one_that_never_came_to_run_shows_what_it_printed(page, models: Path) -> None:
    one = audits.start(models, QUICK.replace("model: iris", "model: irris"))
    while one.alive:
        time.sleep(0.05)
    app = page(audit=one.name)
    assert "✗ did not start: what it printed says why" in drawn.html(app)
    assert "there is no model 'irris'" in app.code[0].value
    assert not app.button


def test_an_audit_that_is_none_is_one_line(page) -> None:
    app = page(fine=False, audit="nothing")
    assert "there is no audit 'nothing'" in app.error[0].value
