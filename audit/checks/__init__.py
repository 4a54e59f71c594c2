"""Checks: each measures one thing about a model, and says nothing on whether that is good. One file per check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from audit.finding import Measurement, Metric
from audit.model import Capability, Task
from audit.parameters import Parameters

if TYPE_CHECKING:
    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel


class Check(Parameters, ABC):
    """Base of every check. Its fields are the parameters of a scenario entry; its docstring is what ``audit checks NAME`` shows:
    what is measured, ``Source:`` and ``Blind spots:``.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    """Every metric it may yield; the engine refuses another, or another kind of estimate."""
    needs: ClassVar[frozenset[Capability]] = frozenset()
    """What the model and data must offer; `requirements` may add to it by parameters."""
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification", "regression"})
    """The tasks it applies to."""
    controls: ClassVar[tuple[str, ...]] = ()
    """Where standards and catalogues of threats ask for what it measures, by their own ids: ``MITRE ATLAS AML.T0043``."""
    remedy: ClassVar[str] = ""
    """What to do when a gate on it is missed, in one or two sentences."""

    def requirements(self) -> frozenset[Capability]:
        """The capabilities this check needs with these parameters."""
        return self.needs

    @abstractmethod
    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        """Yield measurements as they come; what was yielded before an exception stays."""
