"""What the registry knows of one model version."""

from __future__ import annotations

from pydantic import Field

from audit.model import Capability, InputSpec, OutputSpace, Task
from audit.parameters import Parameters
from audit.recipe import Recipe


class ModelCard(Parameters):
    """One registered version of a model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    version: int = Field(ge=1)
    loader: str
    """Name of the loader: ``state_dict``, ``onnx`` …"""
    parameters: dict[str, object] = {}
    """Parameters of the loader (``factory``, ``module``, …)."""
    task: Task
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of the model's outputs."""
    spec: InputSpec
    output: OutputSpace
    capabilities: tuple[Capability, ...]
    files: dict[str, str] = {}
    """File name → SHA-256."""
    digest: str
    """SHA-256 over loader, parameters and the files' digests: what the model *is*."""
    source: str = ""
    """Where it was added from."""
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    added_by: str = ""
    added_at: str = ""
    """ISO 8601, UTC."""
    members: str | None = None
    """Digest of the stored list of row ids the model was trained on, where they are known."""
    ledger: str | None = None
    """Digest of the privacy ledger of a DP-SGD training (`audit.privacy.accounting.TrainingRecord` as JSON), where it wrote one."""

    recipe: Recipe | None = None
    """How it was trained, where that is known: reference models for membership inference are trained alike."""

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"
