"""assay: the audit a machine-learning model passes before it is released.

The public API mirrors the command line; nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "load_scenario": "audit.scenario",
    "ScenarioError": "audit.scenario.problems",
    "UserError": "audit.parameters",
    "from_arrays": "audit.datasets._arrays",
    "from_model": "audit.registry.in_memory",
    "run": "audit.engine",
    "rejudge": "audit.stored",
    "find_run": "audit.stored",
    "Report": "audit.stored",
    "Run": "audit.run_folder",
    "Registry": "audit.registry.store",
    "AuditedModel": "audit.model",
    "InputSpec": "audit.model",
    "Field": "audit.model",
}

if TYPE_CHECKING:
    from audit.datasets._arrays import from_arrays
    from audit.engine import run
    from audit.model import AuditedModel, Field, InputSpec
    from audit.parameters import UserError
    from audit.registry.in_memory import from_model
    from audit.registry.store import Registry
    from audit.run_folder import Run
    from audit.scenario import load_scenario
    from audit.scenario.problems import ScenarioError
    from audit.stored import Report, find_run, rejudge

__all__ = [
    "AuditedModel",
    "Field",
    "InputSpec",
    "Registry",
    "Report",
    "Run",
    "ScenarioError",
    "UserError",
    "find_run",
    "from_arrays",
    "from_model",
    "load_scenario",
    "rejudge",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'audit' has no attribute {name!r}")
