"""Run: verdict and gates first; a finding opens to everything behind it; what is shown is what is stored."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from html import unescape

import pytest
from drawn import html

from audit.numbers import show
from audit.report._words import by_weight
from audit.run_folder import Run, RunWriter

PASSES = '{toy.coins: {k: 90}, require: {heads: ">= 0.6"}}'
FAILS = '{toy.coins: {k: 10, parts: {left: 3}}, require: {heads: ">= 0.6", "heads[side=left]": ">= 0.1"}, severity: critical}'


def gates(app):
    """The table of gates."""
    return app.dataframe[0].value.to_dict("records")


def test_no_runs(home, opened):
    assert "no runs yet" in opened("run").info[0].value


def test_the_newest_run_opens_where_none_is_named(audited_home, opened):
    assert opened("run").selectbox(key="choice-run").value == "b-short"


def test_an_unknown_run_is_an_error(audited_home, opened):
    assert "There is no run 'nope'" in opened("run", fine=False, run="nope").error[0].value.replace("\\", "")
    assert "There is no run '../a-long'" in opened("run", fine=False, run="../a-long").error[0].value.replace("\\", "")


def test_another_run_is_chosen_and_its_finding_forgotten(audited_home, opened):
    app = opened("run", run="a-long", finding="performance.classification/accuracy")
    app.selectbox(key="choice-run").set_value("b-short").run()
    assert app.query_params["run"] == "b-short"
    assert "finding" not in app.query_params
    assert not app.error


def test_verdict_and_gates_come_first(audited_home, opened):
    app = opened("run", run="a-long")
    stored = Run(audited_home.runs / "a-long")
    said = html(app)
    assert "Failed" in said or "Passed" in said or "Inconclusive" in said
    assert "Not tested: " in said
    shown = gates(app)
    assert len(shown) == sum(f.gated for f in stored.findings)
    for row in shown:
        assert row["drawn"].startswith("data:image/svg+xml;base64,")


def test_numbers_shown_are_numbers_stored(audited_home, opened):
    stored = {f.step + str(f.required): f for f in Run(audited_home.runs / "a-long").findings if f.gated and not f.dims}
    rows = {row["check"] + row["required"]: row for row in gates(opened("run", run="a-long"))}
    for key, finding in stored.items():
        low, high = finding.interval
        said = f"{show(finding.estimate.value)} ({show(low)} to {show(high)})"
        assert rows[key]["measured"] in (said, f"{said}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{finding.estimate.n:,}")


def test_gates_filter_by_severity_and_status(home, opened):
    home.coins("bad", FAILS, PASSES.replace("toy.coins", "toy.coins").replace("{toy", "{id: two, toy"))
    assert len(gates(opened("run", run="bad"))) == 3
    assert {row["severity"] for row in gates(opened("run", run="bad", severity="critical"))} == {"4 critical"}
    assert {row["status"] for row in gates(opened("run", run="bad", status="pass"))} == {"✓ pass"}
    app = opened("run", run="bad", status="pass", severity="critical")
    assert app.info[0].value == "No gate is like that."


def test_the_verdict_says_what_decided_it_and_by_how_much(home, opened):
    home.coins("bad", FAILS, PASSES.replace("{toy", "{id: two, toy").replace("k: 90", "k: 60"))
    said = html(opened("run", run="bad"))
    verdict = said[said.index('<section class="verdict') : said.index("</section>")]
    decided = re.findall(r'<a href="([^"]+)"[^>]*>([^<]+)</a>.*?</span><img [^>]*><span>([^<]+)</span>', verdict)
    stored = sorted((f for f in Run(home.runs / "bad").findings if f.gated), key=by_weight)
    assert [(unescape(name), unescape(numbers)) for _opens, name, numbers in decided] == [
        (
            f.title + (" (side left)" if f.dims else ""),
            f"{show(f.estimate.value)} ({show(f.interval[0])} to {show(f.interval[1])}), required {f.required}",
        )
        for f in stored
    ]
    opens = decided[0][0]
    assert opens == "run?run=bad&amp;finding=toy.coins%2Fheads"
    assert "1 check of " in verdict or "checks of " in verdict


def test_a_finding_that_opens_comes_into_sight_once(audited_home, opened):
    app = opened("run", run="a-long", finding="performance.classification/accuracy")
    assert "scrollIntoView" in html(app)
    assert "scrollIntoView" not in html(app.run()), "what is read already is not moved"


def test_a_finding_leads_to_its_page(audited_home, opened):
    for finding, page in (
        ("explanation.faithfulness/deletion_gain", "saliency"),
        ("robustness.evasion/robust_accuracy", "attacks"),
        ("privacy.membership_inference/auc", "privacy"),
    ):
        app = opened("run", run="a-long", finding=finding)
        assert page in {link.proto.page.split("/")[-1] for link in app.get("page_link")}


def test_many_gates_can_be_filtered_and_few_are_not(home, opened):
    home.coins("few", FAILS)
    assert not opened("run", run="few").multiselect
    home.coins("many", *(PASSES.replace("{toy", f"{{id: c{i}, toy") for i in range(9)))
    app = opened("run", run="many")
    assert [select.label for select in app.multiselect] == ["Severity", "Status"]


def test_a_finding_opens_to_what_stands_behind_it(audited_home, opened):
    app = opened("run", run="a-long", finding="robustness.evasion/robust_accuracy")
    said = html(app)
    for part in (
        "What it means", "What to do", "Threat model", "white box", "linf", "Parameters", "attacks", "seed", "fingerprint",
        "What it cannot see", "Source", "Madry", "MITRE ATLAS AML.T0043",
    ):  # fmt: skip
        assert part in said, part
    assert any("adversarial examples" in str(caption.value) for caption in app.caption) or app.get("page_link")


def test_evidence_of_a_finding_is_drawn(audited_home, opened):
    app = opened("run", run="a-long", finding="performance.classification/accuracy")
    assert len(app.get("vega_lite_chart")) == 1
    app = opened("run", run="a-long", finding="privacy.membership_inference/auc")
    assert app.get("vega_lite_chart")


def test_an_unknown_finding_is_an_error(audited_home, opened):
    app = opened("run", fine=False, run="a-long", finding="nope")
    assert "holds no finding 'nope'" in app.error[0].value.replace("\\", "")


@pytest.mark.parametrize("part", ["not_tested", "measured", "evidence", "manifest"])
def test_every_part_opens_by_its_address(audited_home, opened, part):
    app = opened("run", run="a-long", part=part)
    said = html(app) + " ".join(str(m.value) for m in app.markdown)
    if part == "not_tested":
        assert "preflight.model_contract" in said
    if part == "measured":
        stored = Run(audited_home.runs / "a-long")
        undivided = [f for f in stored.findings if not f.gated and f.estimate is not None and not f.dims]
        assert len(app.dataframe[0].value) == len(undivided)
    if part == "evidence":
        assert app.selectbox(key="choice-step").options[0] == "performance.classification"
        assert app.get("vega_lite_chart")
    if part == "manifest":
        assert app.code[0].value == Run(audited_home.runs / "a-long").scenario_text.strip()
        assert "1" * 64 in said


def test_the_downloads_are_the_reports(audited_home, opened, monkeypatch):
    import streamlit as st

    offered = {}
    drawn = st.download_button
    monkeypatch.setattr(
        st, "download_button", lambda *a, **k: (offered.update({k["key"]: (a[1], k)}), drawn(*a, **k))[1]
    )
    opened("run", run="a-long")
    assert set(offered) == {f"download-{form}" for form in ("html", "json", "junit", "sarif", "markdown", "evidence")}
    assert json.loads(offered["download-json"][0]())["name"] == "a-long"
    assert offered["download-html"][1]["file_name"] == "a-long.html"
    opened("run", run="a-long", lang="zh_CN")
    assert '<html lang="zh' in offered["download-html"][0]()
    with zipfile.ZipFile(io.BytesIO(offered["download-evidence"][0]())) as archive:
        names = archive.namelist()
    assert "findings.jsonl" in names
    assert any(name.startswith("evidence/robustness.evasion/") for name in names)
    assert not any(name.startswith(".") for name in names)


def test_a_run_that_only_measured(home, opened):
    home.coins("explored", "toy.coins", explore=True)
    app = opened("run", run="explored")
    assert app.info[0].value == "Nothing was gated: this run only measured."


def test_a_check_that_raised_says_why(home, opened):
    home.coins("broken", PASSES.replace("k: 90", "k: 90, then: raise"))
    app = opened("run", run="broken")
    assert "No verdict" in html(app)
    assert "the coin" in html(app)


def test_an_interrupted_run_shows_what_was_measured(home, opened):
    with pytest.raises(KeyboardInterrupt):
        home.coins("cut", PASSES.replace("k: 90", "k: 90, then: interrupt"))
    app = opened("run", run="cut")
    assert "Interrupted" in html(app)
    assert "Nothing was judged." in app.info[0].value
    app = opened("run", run="cut", part="measured")
    assert app.subheader[0].value == "Measured, not judged"
    assert app.dataframe[0].value["Measured"].tolist() == ["0.9"]


@pytest.fixture
def writing(home) -> Iterator[RunWriter]:
    """A run that is being written."""
    with RunWriter(home.runs / "now", {"scenario": "s", "steps": ["toy.coins"]}, PASSES) as writer:
        yield writer


def test_a_running_run(writing, opened):
    assert "Still running" in html(opened("run", run="now"))


def test_a_damaged_run_names_the_file(home, opened):
    report = home.coins("good", PASSES)
    path = home.take(report.path, "bad") / "findings.jsonl"
    path.write_text(path.read_text().replace('"fail"', '"pass"')[:-20])
    app = opened("run", fine=False, run="bad")
    assert "Damaged run" in html(app)
    assert "findings.jsonl" in app.error[0].value.replace("\\", "")
    (home.runs / "bad" / "manifest.json").write_text("{")
    app = opened("run", fine=False, run="bad")
    assert app.title[0].value == "bad"
    assert "manifest.json cannot be read" in app.error[0].value.replace("\\", "")
    assert str(home.path) not in app.error[0].value.replace("\\", "")
    assert not opened("run", run="good").error


def test_damaged_evidence_ends_one_exhibit(home, audited_home, made, tmp_path, monkeypatch, opened):
    monkeypatch.setenv("AUDIT_HOME", str(home.path))
    home.runs.mkdir(parents=True)
    path = home.take(made.runs / "a-long", "bad")
    (path / "evidence" / "performance.classification" / "confusion_matrix" / "00000.counts.npy").write_bytes(
        b"no array"
    )
    app = opened("run", fine=False, run="bad", finding="performance.classification/accuracy")
    (said,) = (error.value.replace("\\", "") for error in app.error)
    assert "counts.npy is damaged" in said
    assert str(home.path) not in said
    assert "fingerprint" in html(app)


def test_text_of_a_run_cannot_become_markup(home, opened):
    report = home.coins("one", FAILS)
    nasty = "![x](http://example.invalid/x.png) <script>alert(1)</script> $x$"
    target = home.take(report.path, "two", scenario=nasty, description=nasty)
    text = (target / "findings.jsonl").read_text().replace("share of heads", "<img src=x onerror=y>")
    (target / "findings.jsonl").write_text(text)
    app = opened("run", run="two", finding="toy.coins/heads")
    assert "<img src=x" not in html(app)
    assert "&lt;img src=x" in html(app)
    for text in (app.title[0].value, app.markdown[0].value):
        assert text.startswith(r"\!\[x\]\(http\:")
        assert "http://" not in text
        assert not re.search(r"(?<!\\)[\[\]<$]", text)
