"""A loader for models that are one number in a JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from audit.model import AuditedModel, Capability, implied
from audit.registry.loaders import Loader


class ThresholdJson(Loader):
    """Class 1 where the first input is above a stored threshold."""

    formats: ClassVar = ("unknown",)

    def capabilities(self, output: Any) -> frozenset[Capability]:
        """What a margin offers."""
        return implied(output, gradients=False, layers=False)

    def load(self, card: Any, files: Mapping[str, Path], trust: Any) -> AuditedModel:
        """Read the number."""
        threshold = json.loads(next(iter(files.values())).read_text())["threshold"]
        return AuditedModel(
            name=card.name, digest=card.digest, task=card.task, classes=card.classes, spec=card.spec, output=card.output,
            capabilities=self.capabilities(card.output), forward=lambda x: x.flatten(1)[:, 0] - threshold,
        )  # fmt: skip
