"""The shipped scenarios and the README's examples run as they stand, on the demo's real models."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from audit import from_arrays
from audit.demo import digits, imagenet
from audit.demo.families import FAMILIES
from audit.demo.privacy import PRIVACY
from audit.demo.tour import EXHIBITS, prepare_digits, prepare_imagenet, prepare_loans, prepare_tweets
from audit.engine import run
from audit.finding import canonical_json
from audit.names import resolve
from audit.parameters import UserError
from audit.plan import bind
from audit.registry.store import Registry
from audit.scenario import load_scenario, parse, read
from audit.stored import Report

ROOT = Path(__file__).parent.parent.parent
SCENARIOS = ROOT / "scenarios"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the demo's models; the digit reader trains for two thirds of the demo's time."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        whole = digits.train
        patch.setattr(digits, "train", lambda members, eps: whole(members, eps=eps, epochs=10))
        prepare_digits(Registry(folder), bind(read(SCENARIOS / "digits.yaml")))
    prepare_loans(Registry(folder), bind(read(SCENARIOS / "loans.yaml")))
    return folder


@pytest.fixture(scope="module")
def digits_runs(home: Path) -> tuple[Report, Report, Report]:
    """digits.yaml twice, and once with its checks the other way round, on fewer rows."""
    fewer = [
        "robustness.evasion.samples=40", "evasion-l2.samples=40", "explanation.faithfulness.samples=20", "faithfulness-of-saliency.samples=20",
        "explanation.completeness.samples=20", "explanation.agreement.samples=8", "explanation.stability_under_attack.samples=4",
        "explanation.adversarial_shift.samples=20",
        "robustness.security_curve.samples=20", "robustness.certified_bounds.samples=4", "robustness.gradient_masking.samples=30",
        "robustness.corruptions.samples=20",
    ]  # fmt: skip
    file = read(SCENARIOS / "digits.yaml", fewer)
    raw = dict(file.raw)
    turned = parse(file.text, base=file.base)
    turned.raw["checks"] = list(reversed(raw["checks"]))
    return run(file, home=home), run(file, home=home), run(parse(_dump(turned.raw), base=file.base), home=home)


def _dump(raw: object) -> str:
    import io

    from ruamel.yaml import YAML

    out = io.StringIO()
    YAML().dump(raw, out)
    return out.getvalue()


def test_two_runs_of_digits_are_byte_identical(digits_runs: tuple[Report, Report, Report]) -> None:
    a, b, _ = digits_runs
    for name in ("measurements.jsonl", "findings.jsonl"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes()


def test_the_order_of_checks_changes_no_number(digits_runs: tuple[Report, Report, Report]) -> None:
    def by_step(report: Report) -> dict[str, list[str]]:
        lines: dict[str, list[str]] = {}
        for record in report.stored.recorded:
            lines.setdefault(record.step, []).append(canonical_json(record.model_dump(mode="json")))
        return lines

    a, _, turned = digits_runs
    assert by_step(a) == by_step(turned)
    assert list(by_step(a)) != list(by_step(turned))


def test_digits_measures_everything_and_breaks_nowhere(digits_runs: tuple[Report, Report, Report]) -> None:
    report = digits_runs[0]
    assert not [f for f in report.findings if f.status in ("error", "void", "not_applicable")], report.verdict
    assert len(report.stored.manifest["models"]) == 1
    kinds = {ref.kind for record in report.stored.recorded if record.measurement for ref in record.measurement.evidence}
    assert {"attributions", "adversarial", "confusion_matrix", "roc", "outcomes", "curve"} <= kinds


def test_robust_accuracy_falls_with_eps(digits_runs: tuple[Report, Report, Report]) -> None:
    found = {f.dims.get("eps"): f for f in digits_runs[0].findings if f.metric == "robust_accuracy" and f.gated}
    small, large = found["0.8"].estimate, found["1.6"].estimate
    assert small is not None
    assert large is not None
    assert small.value >= large.value


def test_a_plain_model_fails_where_the_robust_one_passes(home: Path) -> None:
    plan = bind(read(SCENARIOS / "digits.yaml"))
    members = plan.source.load(plan.file.base, "digits").train
    assert members is not None
    save_file(digits.train(members, epochs=5).state_dict(), home / "plain.safetensors")
    registry = Registry(home)
    card = registry.get("digits-cnn")
    registry.add(
        "digits-plain", home / "plain.safetensors", loader="state_dict", parameters={"factory": "audit.demo.digits:cnn"},
        task="classification", classes=card.classes, spec=card.spec, output="logit",
    )  # fmt: skip
    text = (
        "name: pair\nmodel: [digits-cnn, digits-plain]\ndata: {source: sklearn.digits, split: {test: 0.3, stratify: true}}\nchecks:\n"
        '  - robustness.evasion: {attacks: [pgd: {loss: margin}], eps: 2.4}\n    require: {robust_accuracy: ">= 0.30"}\n'
    )
    report = run(parse(text), home=home)
    assert {f.model: f.status for f in report.findings if f.gated} == {"digits-cnn": "pass", "digits-plain": "fail"}


def test_tweets_gives_the_verdict_expected_of_it(tmp_path: Path) -> None:
    """On fewer rows."""
    few = [
        "robustness.corruptions.samples=60", "evasion-by-labels.samples=12",
        "evasion-by-words.samples=12",
    ]  # fmt: skip
    file = read(SCENARIOS / "tweets.yaml", few)
    prepare_tweets(Registry(tmp_path), bind(file))
    report = run(file, home=tmp_path)
    expected = next(e.expected for e in EXHIBITS if e.file == "tweets.yaml")
    assert report.verdict.word == expected, [(f.id, f.message) for f in report.findings if f.gated]
    assert not [f for f in report.findings if f.status in ("error", "void", "not_applicable")]


def test_loans_gives_the_verdict_expected_of_it(home: Path) -> None:
    report = run(SCENARIOS / "loans.yaml", home=home)
    expected = next(e.expected for e in EXHIBITS if e.file == "loans.yaml")
    assert report.verdict.word == expected, report.verdict
    undecided = [f.id for f in report.findings if f.status == "inconclusive"]
    assert undecided == [
        "performance.classification/accuracy[group=black:1]",
        "robustness.evasion/attack_success[class=deny]",
    ]


def test_imagenet_is_read_right_and_broken_by_one_grey_level(home: Path) -> None:
    file = read(SCENARIOS / "imagenet.yaml", ["preflight.model_contract.samples=3"])
    prepare_imagenet(Registry(home), bind(file))
    raw = file.raw
    raw["checks"] = [entry for entry in raw["checks"] if "explanation" not in next(iter(entry))]
    report = run(parse(_dump(raw), base=SCENARIOS), home=home)
    found = {f.id: f for f in report.findings}
    accuracy = found["performance.classification/accuracy"]
    robust = found["robustness.evasion/robust_accuracy"]
    assert accuracy.estimate is not None
    assert robust.estimate is not None
    assert (accuracy.estimate.value, accuracy.status) == (17 / 20, "inconclusive")
    assert robust.estimate.value <= 5 / 20, "PGD breaks at least 12 of the 17"
    assert robust.status == "fail"
    assert report.verdict.word == "fail"


@pytest.mark.parametrize("change", ["data.split.seed=1", "data.split.test=0.4", "data={source: sklearn.digits}"])
def test_a_split_that_tests_on_members_is_refused(home: Path, change: str) -> None:
    with pytest.raises(UserError, match=r"that model digits-cnn was trained on: give data\.split") as caught:
        run(SCENARIOS / "digits.yaml", home=home, overrides=[change])
    assert "\n" not in str(caught.value)


SUITES = ("ci-robustness.yaml", "robustness-thorough.yaml")
"""Scenarios on a model of the demo that the demo does not run."""


def test_the_suite_for_every_commit_passes_as_it_stands(home: Path) -> None:
    report = run(SCENARIOS / "ci-robustness.yaml", home=home)
    assert report.verdict.word == "pass", [(f.id, f.message) for f in report.findings if f.gated]


def test_the_thorough_suite_measures_whatever_it_names(home: Path) -> None:
    """On a few rows, and with shallow searches: that every step runs and nothing is void.

    The search for back doors needs its rows, and AutoAttack takes its thousands of steps however few they are: one norm of it.
    """
    shallow = {
        "samples": 8, "restarts": 1, "n": 200, "epochs": 3, "budgets": [50, 100], "points": 3,
    }  # fmt: skip
    file = read(SCENARIOS / "robustness-thorough.yaml")
    raw = file.raw
    left_out = ("autoattack-l2", "autoattack-l1")
    raw["checks"] = [e for e in raw["checks"] if "robustness.backdoor" not in e and e.get("id") not in left_out]
    for entry in raw["checks"]:
        (name,) = (key for key in entry if "." in key)
        known = resolve("checks", name).model_fields
        entry[name] = {**(entry[name] or {}), **{key: value for key, value in shallow.items() if key in known}}
    report = run(parse(_dump(raw), base=SCENARIOS), home=home)
    bad = [(f.id, f.status, f.message) for f in report.findings if f.status in ("error", "void", "not_applicable")]
    assert not bad, bad


def test_every_scenario_of_the_folder_is_run() -> None:
    every = (*EXHIBITS, *FAMILIES, *PRIVACY)
    assert {path.name for path in SCENARIOS.glob("*.yaml")} == {exhibit.file for exhibit in every} | set(SUITES)
    for exhibit in every:
        assert load_scenario(SCENARIOS / exhibit.file, exhibit.overrides).model == exhibit.models


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_scenario_of_the_readme_runs(home: Path) -> None:
    scenario = next(block for block in blocks("yaml") if block.startswith("name: digits-release"))
    waivers = next(block for block in blocks("yaml") if block.startswith("waivers:"))
    report = run(parse(scenario + waivers, overrides=["robustness.evasion.samples=30"]), home=home)
    assert not [f for f in report.findings if f.status in ("error", "void", "not_applicable")]


def test_the_python_of_the_readme_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toys import trained_cnn

    stored, memory = blocks("python")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("AUDIT_HOME", str(home))
    small = parse((SCENARIOS / "loans.yaml").read_text(), base=SCENARIOS)
    monkeypatch.setattr("audit.engine.read", lambda path, overrides=(): small)
    exec(compile(stored, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "performance.classification/accuracy" in said
    monkeypatch.undo()
    net = trained_cnn()
    x = np.random.default_rng(0).uniform(0, 16, (12, 1, 8, 8)).astype(np.float32)
    text = "name: m\nmodel: candidate\ndata: {source: given}\nchecks:\n  - performance.classification: {}\n    require: {accuracy: '>= 0'}\n"
    names = {"scenario": parse(text), "net": net, "x": x, "y": net(torch.from_numpy(x)).argmax(dim=1).numpy()}
    monkeypatch.setenv("AUDIT_HOME", str(home))
    exec(compile(memory, "README.md", "exec"), names)
    assert names["report"].exit_code == 0


def test_the_commands_of_the_readme_exist() -> None:
    from typer.main import get_command

    from audit.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for block in blocks("console"):
        for words in re.findall(r"^\$ audit ([a-z]+)(?: ([a-z]+))?", block, re.MULTILINE):
            assert words[0] in commands
            if words[0] == "model":
                assert words[1] in commands["model"].commands


def test_imagenet_names_stand_in_the_labels_file() -> None:
    rows = (SCENARIOS / "imagenet-samples.csv").read_text().splitlines()[1:]
    assert len(rows) == 20
    for row in rows:
        name, label = row.split(",")
        assert imagenet.NAMES[int(name.removesuffix(".jpg").rsplit("_", 1)[1])] == label


def test_arrays_from_python_are_checked() -> None:
    with pytest.raises(ValueError) as caught:
        from_arrays(np.zeros((3, 2)), np.zeros(4))
    assert "\n" not in str(caught.value)
