"""``pytest --audit``: each gate is a test of the team's own suite."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas  # noqa: F401  loaded before: a run in this process forgets what it was the first to import
import pytest
import scipy.special  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch  # noqa: F401

from audit.registry.store import Registry

HEADER = "name: t\nmodel: m\ndata: {source: sklearn.breast_cancer, limit: 20}\nchecks:\n"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.Pytester:
    home = tmp_path / "home"
    monkeypatch.setenv("AUDIT_HOME", str(home))
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugin"))
    registry = Registry(home)
    model = tmp_path / "model.json"
    model.write_text('{"threshold": 15.0}')
    from audit.model import Field, InputSpec
    from audit.registry.scan import digest_file

    registry.trust.allow_digest(digest_file(model), "tests", "made here")
    registry.add(
        "m", model, loader="threshold_json", task="classification", classes=["benign", "malignant"], output="margin",
        spec=InputSpec(fields=(Field(name="mean radius", kind="number"),)),
    )  # fmt: skip
    return pytester


def run(suite: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    (suite.path / "scenarios").mkdir(exist_ok=True)
    (suite.path / "scenarios" / "a.yaml").write_text(HEADER + text)
    modules = set(sys.modules)
    result = suite.runpytest_inprocess("-rA", *options, "scenarios")
    assert modules <= set(sys.modules)
    return result


def test_each_gate_is_an_item_with_its_finding(suite: pytest.Pytester) -> None:
    text = (
        '  - toy.coins: {k: 90, parts: {left: 10}}\n    require: {heads: ">= 0.6", "heads[side=left]": [">= 0.6", "< 0.9"], mean: "> -100"}\n'
        '  - toy.coins: {k: 65}\n    id: second\n    require: {heads: ">= 0.6"}\n  - toy.control\n'
    )
    result = run(suite, text, "--audit")
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(
        ["*fail: toy.coins/heads[[]side=left] >= 0.6: 0.1 (95 % interval*misses >= 0.6*", "*remedy: Toss again.*"]
    )
    result.stdout.fnmatch_lines(["*inconclusive: second/heads*about n =*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_crash_fails_its_gates_and_ungated_steps(suite: pytest.Pytester) -> None:
    text = (
        '  - toy.coins: {k: 90, then: raise}\n    require: {heads: ">= 0.6"}\n'
        '  - toy.coins: {then: raise}\n    id: ungated\n  - toy.control: {voids: {"toy.coins:count": broken}}\n'
    )
    result = run(suite, text, "--audit")
    result.assert_outcomes(passed=1, failed=2)


def test_waived_and_optional_are_skipped(suite: pytest.Pytester) -> None:
    text = (
        '  - toy.coins: {k: 10}\n    require: {heads: ">= 0.6"}\n'
        '  - toy.coins: {needs_gradients: true}\n    id: blind\n    optional: true\n    require: {heads: ">= 0.6"}\n'
        "waivers: [{finding: toy.coins/heads, owner: Ada, reason: known, expires: 2999-01-01}]\n"
    )
    run(suite, text, "--audit").assert_outcomes(skipped=2)


def test_matrix_cells_are_items_and_options_reach_the_run(suite: pytest.Pytester) -> None:
    text = (
        '  - toy.coins: {n: 100}\n    matrix: {k: [90, 10]}\n    require: {heads: ">= 0.6", "heads[k=10]": "< 0.6"}\n'
    )
    run(suite, text, "--audit").assert_outcomes(passed=3, failed=1)
    run(suite, text, "--audit", "--audit-set", "toy.coins.n=90").assert_outcomes(passed=3, failed=1)


def test_wrong_scenarios_are_collection_errors_in_one_line(suite: pytest.Pytester) -> None:
    result = run(suite, "  - toy.coin: {}\n", "--audit")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*a.yaml:5:5:*did you mean 'toy.coins'?*"])
    run(suite, "  - toy.coins: {}\n", "--audit").stdout.fnmatch_lines(["*nothing is gated*"])


def test_without_the_option_yaml_files_are_left_alone(suite: pytest.Pytester) -> None:
    run(suite, '  - toy.coins: {k: 10}\n    require: {heads: ">= 0.6"}\n').assert_outcomes()
