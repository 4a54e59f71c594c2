"""The scenario that audits a training: written beside the model, on the rows that it was trained on and those that it was not."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.scenario.marked_yaml import dump_yaml
from audit.train.training_file import Training, TrainingFile

if TYPE_CHECKING:
    from audit.registry.card import ModelCard

NAME = "audit.yaml"
CANARIES = "canaries.npz"
_CONTRACT = {"preflight.model_contract": {}, "require": {"violations": "== 0"}, "severity": "critical"}


def scenario_of(file: TrainingFile, card: ModelCard) -> str:
    """Text of the scenario: what was promised is gated; put the gates on what the model is for beside them."""
    training = file.training
    head = {
        "name": f"{card.name}-audit",
        "model": card.ref,
        "data": _data(training.data, file.base),
        "seed": 0,
        "checks": [_CONTRACT, *_privacy(training), *_leaks(training), *_performance(training)],
    }
    return (
        f"# Does {card.ref} keep what its training promised? Written by `audit train {file.origin}`.\n"
        "# Add the gates that your release must meet: `audit checks NAME` explains every check.\n" + dump_yaml(head)
    )


def _privacy(training: Training) -> list[dict[str, Any]]:
    if training.dp is None:
        return []
    checks: list[dict[str, Any]] = [
        {"privacy.dp_accounting": {}, "require": {"violations": "== 0", "excess": "<= 0"}, "severity": "critical"}
    ]
    if training.dp.canaries is not None:
        scored = {"examples": CANARIES} if training.input_canaries else {}
        checks.append({"privacy.dp_audit": scored, "require": {"excess": "<= 0"}, "severity": "critical"})
    return checks


def _leaks(training: Training) -> list[dict[str, Any]]:
    if training.loss != "cross_entropy":
        return []
    return [{"privacy.membership_inference": {}, "require": {"auc": "<= 0.60"}, "severity": "high"}]


def _performance(training: Training) -> list[dict[str, Any]]:
    kind = "classification" if training.loss == "cross_entropy" else "regression"
    return [{f"performance.{kind}": {}}]


def _data(declared: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The training's data, its files named so that they are found from anywhere."""
    found = copy.deepcopy(dict(declared))
    for key, value in found.items():
        if isinstance(value, str) and key != "source" and (base / value).exists() and not Path(value).is_absolute():
            found[key] = str(base / value)
    return found
