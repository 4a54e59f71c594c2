"""Reading scenarios: what is accepted, and the one line for what is not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from audit.parameters import UserError
from audit.plan import bind
from audit.scenario import MAX_BYTES, load_scenario, parse, parse_part, read
from audit.scenario.problems import ScenarioError

GOOD = """\
name: coins
model: toy@1
data: {source: given}
seed: 7
checks:
  - toy.coins: {k: 90, bias: 8/255}
    require: {heads: ">= 0.60", "heads[side=left]": [">= 0.65", "< 1"]}
    severity: medium
  - toy.control
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        bind(parse(text, "s.yaml"))
    return str(caught.value).splitlines()


def test_a_good_scenario_binds() -> None:
    plan = bind(parse(GOOD))
    assert [step.name for step in plan.steps] == ["toy.coins", "toy.control"]
    assert plan.steps[0].check.bias == pytest.approx(8 / 255)  # type: ignore[attr-defined]
    assert plan.gate_count == 3


@pytest.mark.parametrize(
    ("old", "new", "line", "wanted"),
    [
        ("seed: 7", "sed: 7", "s.yaml:4:1: sed:", "did you mean 'seed'"),
        ("toy.coins:", "toy.coin:", "s.yaml:6:5:", "did you mean 'toy.coins'"),
        ("k: 90", "kk: 90", "s.yaml:6:17:", "did you mean 'k'"),
        ("k: 90", "k: ninety", "s.yaml:6:17:", "valid integer"),
        ("8/255", "8/0", "s.yaml:6:24:", "divides by zero"),
        ("heads:", "haeds:", "s.yaml:7:15:", "did you mean 'heads'"),
        ('">= 0.60"', '"0.60"', "s.yaml:7:15:", "is no gate"),
        ("medium", "meduim", "s.yaml:8:5:", "'low', 'medium', 'high' or 'critical'"),
        ("severity", "sevrity", "s.yaml:6:5:", "did you mean 'severity'"),
        ("source: given", "source: gven", "s.yaml:3:8:", "did you mean 'given'"),
        ("source: given", "path: x", "s.yaml:3:1:", "'source' is missing"),
        ("toy@1", "pkg.module:function", "s.yaml:2:1:", "audit model add"),
        ("toy@1", "../weights.pt", "s.yaml:2:1:", "audit model add"),
        ("seed: 7", "trust: [abc]", "s.yaml:4:1: trust:", "cannot grant trust"),
        ("seed: 7", "seed: 7\nseed: 8", "s.yaml:5:1:", "a key may stand once"),
        ("seed: 7", "seed: !!python/object/apply:os.system [ls]", "s.yaml:4:1:", "not allowed"),
        ("  - toy.control", "  - control", "s.yaml:9:5:", "exactly one key"),
        ("  - toy.control", "  - toy.control: 3", "s.yaml:9:5:", "mapping of parameters"),
        ("  - toy.control", "  - toy.coins", "s.yaml", "two checks have the id 'toy.coins'"),
        ("  - toy.control", "  - ../../evil.check", "s.yaml:9:5:", "no check name"),
        ("name: coins\n", "", "s.yaml: name:", "'name' is missing"),
        ("name: coins", "name: [", "s.yaml:", "no valid YAML"),
    ],
)
def test_what_is_wrong_has_its_line_and_a_hint(old: str, new: str, line: str, wanted: str) -> None:
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1))
    assert any(text.startswith(line) and wanted in text for text in found), found


def test_every_problem_is_told_at_once() -> None:
    found = problems(GOOD.replace("k: 90", "k: x").replace("medium", "m").replace("seed: 7", "seed: -1"))
    assert len(found) == 2  # parameters of checks are looked at once the frame is right


@pytest.mark.parametrize(
    ("check", "wanted"),
    [
        (
            "explanation.faithfulness: {baselines: [mean, grey]}",
            "input should be 'rows', or 'zero', 'black'.* got 'grey'",
        ),
        ("explanation.faithfulness: {explainer: 3}", "input should be a valid string, or a valid dictionary, got 3"),
        ("explanation.shortcut: {region: [1, 2]}", r"region: too few items, got \[1, 2\]"),
    ],
)
def test_a_value_that_fits_none_of_several_types_is_one_line(check: str, wanted: str) -> None:
    found = problems(f"name: x\nmodel: toy\ndata: {{source: given}}\nchecks:\n  - {check}\n")
    assert len(found) == 1
    assert re.search(wanted, found[0])


def test_yaml_1_2() -> None:
    raw = parse("a: yes\nb: on\nc: 1e-5\nd: true\ne: 010\n").raw
    assert raw == {"a": "yes", "b": "on", "c": 1e-5, "d": True, "e": 10}


def test_alias_bombs_are_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ScenarioError, match="unfolds to more than"):
        parse("\n".join(lines))


def test_files_that_are_no_scenario(tmp_path: Path) -> None:
    cases = {
        "empty.yaml": b"",
        "list.yaml": b"- 1",
        "binary.yaml": b"\xff\xfe\x00",
        "large.yaml": b"a" * (MAX_BYTES + 1),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScenarioError) as caught:
            load_scenario(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
        assert name in str(caught.value)
    for path in (tmp_path, tmp_path / "absent.yaml"):
        with pytest.raises(ScenarioError, match=str(path)):
            load_scenario(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "closed.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    with pytest.raises(ScenarioError, match="Permission denied"):
        load_scenario(path)


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    file = read(path, ["toy.coins.k=3", "toy.coins.bias=1/4", "seed=9", "toy.coins.severity=low", "data.limit=5"])
    entry = file.scenario.checks[0]
    assert (entry.params["k"], file.scenario.seed, entry.severity, file.scenario.data["limit"]) == (3, 9, "low", 5)
    assert bind(file).steps[0].check.bias == 0.25  # type: ignore[attr-defined]
    assert parse(file.text).scenario == file.scenario, "the stored text is the scenario as it ran"
    for wrong in ("toy.coin.k=3", "k", "toy.coins.k.x=3"):
        with pytest.raises(UserError, match="--set"):
            read(path, [wrong])


def test_matrix_makes_a_step_per_cell_and_gates_may_name_one() -> None:
    text = GOOD.replace("{k: 90, bias: 8/255}", "{n: 100}").replace(
        "    severity: medium", "    matrix: {k: [50, 90], bias: [8/255]}"
    )
    plan = bind(parse(text))
    assert [step.name for step in plan.steps][:2] == [
        "toy.coins[bias=0.0313725,k=50]",
        "toy.coins[bias=0.0313725,k=90]",
    ]
    bind(parse(text.replace("side=left", "k=90")))
    assert any("no cell of the matrix" in line for line in problems(text.replace("side=left", "k=70")))
    assert any(
        "both below the check and in its matrix" in line for line in problems(text.replace("{n: 100}", "{k: 3}"))
    )


def test_a_list_of_models_is_a_sweep() -> None:
    plan = bind(parse(GOOD.replace("model: toy@1", "model: [a, b]")))
    assert [(step.name, step.model) for step in plan.steps][:2] == [
        ("toy.coins[model=a]", "a"),
        ("toy.coins[model=b]", "b"),
    ]


def test_parts() -> None:
    assert parse_part("a") == ("a", {})
    assert parse_part("a[*]") == ("a", "*")
    assert parse_part("a[b=c, d=8/255]") == ("a", {"b": "c", "d": "8/255"})
    for wrong in ("", "A", "a[", "a[b]", "a[=c]", "a[b=]"):
        with pytest.raises(ValueError):
            parse_part(wrong)
