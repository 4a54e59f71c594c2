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
    folder: ClassVar[bool] = False
    """Whether a model of this kind is a folder; else it is one file."""
    companions: ClassVar[frozenset[str]] = frozenset()
    """Of a folder: names of the files that stand beside the weights, JSON or text; the others are scanned as `formats`."""
    uri_field: ClassVar[str | None] = None
    """Of a loader that opens no file: the field that what is registered in a file's place goes into."""
    fixed_mode: ClassVar[bool] = False
    """Whether the format cannot switch dropout and batch norm to evaluation, so that registration must look at the answers."""

    @classmethod
    def files_in(cls, folder: Path) -> tuple[Path, ...]:
        """The files of a folder that make up a model; the others are left where they are.

        Raises:
            UserError: one is missing, or is of a kind that is not opened.
        """
        raise NotImplementedError(f"{cls.__name__} opens no folder")

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
