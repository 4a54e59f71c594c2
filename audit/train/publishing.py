"""What comes of a training: model, ledger, canaries and the scenario of its audit in its folder, and the model in the registry."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from audit.data import AuditData, Batch
from audit.privacy.accounting import TrainingRecord
from audit.recipe import Recipe
from audit.registry.card import ModelCard
from audit.registry.store import Registry
from audit.train import audit_scenario
from audit.train.ledger import as_json
from audit.train.training_file import Training, TrainingFile
from audit.whole_file import write_whole

if TYPE_CHECKING:
    from audit.train.canaries import InputCanaries


def published(
    file: TrainingFile,
    registry: Registry,
    module: nn.Module,
    data: AuditData,
    members: Batch,
    record: TrainingRecord | None,
    canaries: InputCanaries | None,
    folder: Path,
) -> ModelCard:
    """Write everything, and register the model with its members, its recipe and its ledger."""
    training, model = file.training, folder / "model.safetensors"
    _save(module, model)
    _place(folder / "privacy.json", None if record is None else as_json(record))
    _place(folder / audit_scenario.CANARIES, None if canaries is None else _as_npz(data, canaries))
    group_norm = {"group_norm": True} if training.dp is not None and training.dp.group_norm else {}
    card = registry.add(
        training.name, model, loader="state_dict",
        parameters={"factory": training.factory, "kwargs": training.kwargs, **group_norm},
        task="classification" if data.classes else "regression", classes=data.classes or None, spec=data.spec,
        output="logit" if data.classes else "value", members=members.ids, ledger=as_json(record) if record else None,
        recipe=recipe_of(training, len(members)),
    )  # fmt: skip
    _place(folder / audit_scenario.NAME, audit_scenario.scenario_of(file, card).encode())
    return card


def recipe_of(training: Training, n: int) -> Recipe:
    """How to train another model like it on `n` rows, without privacy."""
    epochs = training.epochs or -(-(training.steps or 1) * training.batch // n)
    return Recipe(epochs=epochs, batch=training.batch, optimiser=training.optimiser, loss=training.loss)


def _save(module: nn.Module, path: Path) -> None:
    """Weights as safetensors, whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    new = path.with_name(f"{path.name}.new")
    try:
        save_model(module.eval(), str(new))
        new.replace(path)
    except SafetensorError as error:
        new.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


def _place(path: Path, content: bytes | None) -> None:
    """Write a file, or see that none of an earlier training is taken for this one's."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_whole(path, content)


def _as_npz(data: AuditData, canaries: InputCanaries) -> bytes:
    """As ``privacy.dp_audit`` takes its ``examples``."""
    pool, content = data.population, io.BytesIO()
    if pool is None:
        raise ValueError("input canaries come out of the population")
    np.savez(
        content, x=pool.x[canaries.rows.numpy()], labels=canaries.y.numpy(), included=canaries.included.numpy()
    )  # fmt: skip
    return content.getvalue()
