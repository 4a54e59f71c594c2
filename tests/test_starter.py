"""Starter scenarios bind as they are written, and hold the checks that suit the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.model import Capability, Field, InputSpec, implied
from audit.parameters import UserError
from audit.plan import bind
from audit.registry.card import ModelCard
from audit.scenario import parse
from audit.starter import starter

IMAGE = InputSpec(fields=(Field(name="image", kind="image", shape=(1, 8, 8), bounds=(0, 16)),))
TABLE = InputSpec(fields=(Field(name="income", kind="number"), Field(name="age", kind="number")))
TEXT = InputSpec(fields=(Field(name="text", kind="text", shape=(80,)),))


def card(
    output: str = "logit", *, gradients: bool = True, spec: InputSpec = IMAGE, task: str = "classification"
) -> ModelCard:
    return ModelCard(
        name="m", version=1, loader="state_dict", task=task, classes=("a", "b") if task == "classification" else (), spec=spec, output=output,
        capabilities=tuple(sorted(implied(output, gradients=gradients, layers=gradients))), digest="0" * 64,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("made", "wanted", "unwanted"),
    [
        (card(), ["integrated_gradients", "randomisation", "attacks: [pgd]", "membership_inference"], []),
        (card("probability", gradients=False), ["shap_values", "attacks: [square]"], ["pgd", "randomisation"]),
        (card("label", gradients=False), ["attacks: [hop_skip_jump]"], ["faithfulness", "membership_inference"]),
        (card(spec=TABLE), ["faithfulness", "explanation.importance", "attacks: [tabular]"], ["eps"]),
        (card("probability", gradients=False, spec=TEXT), ["shap_values", "character_edits"], ["importance", "eps"]),
        (
            card("value", gradients=False, spec=TABLE, task="regression"),
            ["performance.regression"],
            ["performance.classification", "membership"],
        ),
    ],
)
def test_what_suits_the_model_is_there_and_binds(
    made: ModelCard, wanted: list[str], unwanted: list[str], tmp_path: Path
) -> None:
    text = starter(made, "m@1", "sklearn.digits", None, tmp_path)
    plan = bind(parse(text))
    assert plan.gated
    for part in wanted:
        assert part in text
    for part in unwanted:
        assert part not in text
    needs = {need for step in plan.steps for need in step.check.requirements()} - {Capability.TRAIN_DATA}
    assert needs <= set(made.capabilities)


def test_files_are_named_relative_to_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "loans 1.csv").write_text("income,age,ok\n1,2,yes\n2,3,no\n")
    text = starter(card(spec=TABLE), "m", str(tmp_path / "data" / "loans 1.csv"), "ok", tmp_path / "sub")
    assert "path: '../data/loans 1.csv'" in text
    source: Any = bind(parse(text)).source
    assert source.label == "ok"


@pytest.mark.parametrize(
    ("data", "label", "wanted"),
    [("absent.csv", "y", "no such file"), ("sklern.digits", None, "did you mean"), (__file__, None, "no such")],
)
def test_wrong_data_is_one_line(data: str, label: str | None, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        starter(card(), "m", data, label, tmp_path)
    assert "\n" not in str(caught.value)
    assert wanted in str(caught.value)
