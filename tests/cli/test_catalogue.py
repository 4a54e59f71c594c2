"""What the program says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from audit.names import available, resolve
from audit.scenario import parse

Audit = Callable[..., Any]


@pytest.mark.parametrize("group", ["checks", "attacks", "explainers"])
def test_every_part_explains_itself(audit: Audit, group: Any) -> None:
    listed = audit(group)
    assert listed.code == 0
    for name in available(group):
        assert name in listed.out
        told = audit(group, name)
        assert told.code == 0, told.err
        found = resolve(group, name)
        if found.__module__.startswith("audit."):
            assert "Source:" in told.out, f"{name} names no source"
            undocumented = set(found.model_fields) - set(found.documentation()) - {"member"}
            assert not undocumented, f"{name} has undocumented parameters"


@pytest.mark.parametrize("name", available("checks"))
def test_every_check_names_its_blind_spots_and_metrics(audit: Audit, name: str) -> None:
    told = audit("checks", name).out
    assert "Blind spots:" in told
    for metric in resolve("checks", name).metrics:
        assert metric.name in told


KNOWN = re.compile(
    r"MITRE ATLAS AML\.T\d{4}(\.\d{3})?|OWASP (ML|LLM)\d\d:20\d\d|NIST AI RMF MEASURE 2\.\d+|NIST SP 800-226|EU AI Act Art\. \d+\(\d\)"
)


@pytest.mark.parametrize("name", available("checks"))
def test_every_check_of_ours_names_the_standards_that_ask_for_it(audit: Audit, name: str) -> None:
    found = resolve("checks", name)
    if found.__module__.startswith("audit."):
        assert found.controls
        assert all(KNOWN.fullmatch(control) for control in found.controls)
        assert found.controls[0] in " ".join(audit("checks", name).out.split())


def test_unknown_names_get_the_nearest(audit: Audit) -> None:
    told = audit("checks", "performance.clasification")
    assert (told.code, "did you mean 'performance.classification'" in told.err) == (2, True)


def test_doctor(audit: Audit) -> None:
    told = audit("doctor")
    assert told.code == 0
    assert "ready" in told.out
    assert "torch" in told.out


def test_help_of_every_command(audit: Audit) -> None:
    for words in (
        [],
        ["run"],
        ["validate"],
        ["model"],
        ["model", "add"],
        ["judge"],
        ["report"],
        ["init"],
        ["demo"],
        ["schema"],
    ):
        told = audit(*words, "--help")
        assert told.code == 0
        assert "Usage" in told.out


def schema(audit: Audit) -> Any:
    return json.loads(audit("schema").out)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent.parent / "scenarios").glob("*.yaml")), ids=lambda p: p.name
)
def test_the_schema_takes_every_shipped_scenario(audit: Audit, path: Path) -> None:
    found = schema(audit)
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate(parse(path.read_text()).raw, found)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no name!"},
        {"sed": 3},
        {"data": {"source": "nowhere"}},
        {"data": {"source": "csv"}},
        {"data": {"source": "sklearn"}},
        {"data": {"source": "sklearn.digits", "member": "digits"}},
        {"checks": []},
        {"checks": [{"toy.coins": {"kk": 3}}]},
        {"checks": [{"toy.coins": {}, "require": {"heads": "0.5"}}]},
        {"checks": [{"toy.coins": {}, "toy.control": {}}]},
        {"checks": ["toy.nothing"]},
        {"checks": [{"robustness.gradient_masking": {"norm": "linf"}}]},
    ],
)
def test_the_schema_refuses_what_validation_refuses(audit: Audit, change: dict[str, Any]) -> None:
    good = {
        "name": "x",
        "data": {"source": "given"},
        "checks": [{"toy.coins": {"bias": "8/255"}, "require": {"heads": ">= 0.5"}}, "toy.control"],
    }
    found = schema(audit)
    jsonschema.validate(good, found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, **change}, found)
