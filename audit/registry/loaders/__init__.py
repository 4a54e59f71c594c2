"""Loaders: each opens one format of model file, after it was scanned. One file per format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from audit.model import Capability, InputSpec, OutputSpace, Task
from audit.parameters import Parameters

if TYPE_CHECKING:
    from audit.model import AuditedModel
    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust


@dataclass(frozen=True)
class Inferred:
    """What a model file says of itself; None where it says nothing, and the user must."""

    task: Task | None = None
    classes: tuple[str, ...] | None = None
    spec: InputSpec | None = None
    output: OutputSpace | None = None


class Loader(Parameters, ABC):
    """Base of every loader; its fields are what a registration stores besides the files."""

    formats: ClassVar[tuple[str, ...]]
    """Formats, as the scan names them, that this loader opens; empty for one that opens no file.

    ``unknown`` stands for formats of a plug-in's own: such a file opens only where its digest is trusted.
    """
    uri_field: ClassVar[str | None] = None
    """Of a loader that opens no file: the field that what is registered in a file's place goes into."""
    fixed_mode: ClassVar[bool] = False
    """Whether the format cannot switch dropout and batch norm to evaluation, so that registration must look at the answers."""

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """What the files (already digested and scanned) say of the model's task, classes, input and output.

        Raises:
            UserError: as `load`.
        """
        return Inferred()

    def pinned(self, trust: Trust) -> Self:
        """This loader with what a registration fixes besides the files: the digest of code that it names."""
        return self

    @abstractmethod
    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What a model of this format offers."""

    @abstractmethod
    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Open the files of a registered model (already digested and scanned by the registry).

        Raises:
            UserError: a file is damaged, of another format or shape, or needs trust that was not given.
        """
