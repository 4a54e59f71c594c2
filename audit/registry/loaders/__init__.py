"""Loaders: each opens one format of model file, after it was scanned. One file per format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from audit.model import Capability, OutputSpace
from audit.parameters import Parameters

if TYPE_CHECKING:
    from audit.model import AuditedModel
    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust


class Loader(Parameters, ABC):
    """Base of every loader; its fields are what a registration stores besides the files."""

    formats: ClassVar[tuple[str, ...]]
    """Formats, as the scan names them, that this loader opens."""

    @abstractmethod
    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What a model of this format offers."""

    @abstractmethod
    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Open the files of a registered model (already digested and scanned by the registry).

        Raises:
            UserError: a file is damaged, of another format or shape, or needs trust that was not given.
        """
