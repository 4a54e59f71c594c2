"""The demo of privacy: models trained from the project's own training files, and the one that leaks beside the one that does not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from audit.demo.tour import Exhibit
from audit.parameters import UserError

if TYPE_CHECKING:
    from audit.plan import Plan
    from audit.registry.store import Registry


def _prepare(name: str, registry: Registry, plan: Plan) -> None:
    """Train as ``trainings/NAME.yaml`` says, or go on where that was interrupted, and register."""
    from audit.train.training import train
    from audit.train.training_file import read_training

    path = plan.scenario.data.get("path")
    if path is not None and not Path(path).is_dir():
        raise UserError(
            f"{path} is missing: install Debian's dataset-fashion-mnist (apt-get install dataset-fashion-mnist), or see the digits "
            "alone: audit demo --only privacy-digits"
        )
    registry.trust.allow_package("audit.demo")
    train(
        read_training(plan.file.base.parent / "trainings" / f"{name}.yaml"),
        registry,
        registry.home / "trainings" / name,
    )


def _trained(file: str, name: str, expected: str, *overrides: str) -> Exhibit:
    return Exhibit(file, (name,), expected, partial(_prepare, name), overrides)


PRIVACY = (
    _trained("privacy.yaml", "fashion-private", "pass"),
    _trained("privacy.yaml", "fashion-plain", "fail", "model=fashion-plain"),
    _trained("privacy-digits.yaml", "digits-private", "pass"),
)
