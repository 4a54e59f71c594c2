"""The house keeps its order: imports go one way, heavy packages stay where they belong, names resolve to files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.names import available, class_name, resolve

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"parameters", "language", "whole_file"},
    {"gate", "names", "stats", "numbers"},
    {"finding"},
    {"rng", "scenario", "run_folder", "model", "data", "text", "context", "pairing", "recipe"},
    {"registry", "datasets", "bridges"},
    {"attacks", "certificates", "explainers", "global_explanations", "privacy"},
    {"checks"},
    {"plan", "contradictions", "judge", "schema", "starter", "stored", "comparing", "engine", "executors", "train"},
    {"report"},
    {"cli", "pytest_plugin", "demo", "dashboard", "catalogues"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
BRIDGED = {"art": "art", "captum": "captum", "shap": "shap", "opacus": "opacus"}
LIGHT = (
    "parameters",
    "gate",
    "names",
    "stats",
    "numbers",
    "finding",
    "scenario",
    "run_folder",
    "pairing",
    "plan",
    "contradictions",
    "judge",
    "schema",
    "report",
)
DECLARING = ("checks", "attacks", "explainers", "datasets", "registry/loaders")
HEAVY = {
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "sqlalchemy",
    "sklearn",
    "matplotlib",
    "xgboost",
    "lightgbm",
    "onnxruntime",
    "skops",
    "safetensors",
    *BRIDGED,
}


def files() -> list[Path]:
    return sorted((ROOT / "audit").rglob("*.py")) + sorted((ROOT / "dashboard").rglob("*.py"))


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "dashboard" if parts[0] == "dashboard" else parts[1]


def imports(path: Path, *, inside_functions: bool = True) -> Iterator[tuple[str, int]]:
    """Every imported module of a file with its line; blocks for type checkers do not count."""

    def walk(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                continue
            if not inside_functions and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                if child.level:
                    raise AssertionError(f"{path}:{child.lineno}: relative import")
                for alias in child.names:
                    yield (
                        (
                            f"{child.module}.{alias.name}"
                            if child.module in ("audit", "audit.bridges")
                            else str(child.module)
                        ),
                        child.lineno,
                    )
            else:
                yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_up_one_way(path: Path) -> None:
    own = layer_of(path)
    if own == "__init__":
        return
    assert own in RANK, f"{own} has no place in the layers"
    for module, line in imports(path):
        top, *rest = module.split(".")
        if top not in ("audit", "dashboard"):
            continue
        other = "dashboard" if top == "dashboard" else (rest[0] if rest else "__init__")
        if other in RANK:
            assert RANK[other] <= RANK[own], f"{path}:{line}: {own} imports {module}, which stands above it"


@pytest.mark.parametrize("path", sorted((ROOT / "audit/checks").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_check_never_imports_another_check(path: Path) -> None:
    for module, line in imports(path):
        shared = module == "audit.checks" or module.rsplit(".", 1)[-1].startswith("_")
        assert not module.startswith("audit.checks") or shared, f"{path}:{line}: {module}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_audit_libraries_live_in_bridges(path: Path) -> None:
    inside = path.relative_to(ROOT).parts[:2] in (("audit", "bridges"), ("audit", "train"))
    for module, line in imports(path):
        assert inside or module.split(".")[0] not in BRIDGED, f"{path}:{line}: {module} is imported outside bridges/"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_wait_until_they_are_used(path: Path) -> None:
    relative = path.relative_to(ROOT / "audit").as_posix() if "audit" in path.parts else ""
    light = layer_of(path) in LIGHT
    declares = any(relative.startswith(folder) for folder in DECLARING)
    if not (
        light or declares or layer_of(path) in ("model", "data", "rng", "context", "cli", "pytest_plugin", "starter")
    ):
        return
    for module, line in imports(path, inside_functions=False):
        assert module.split(".")[0] not in HEAVY, f"{path}:{line}: {module} is imported at the top"
    if light:
        for module, line in imports(path):
            assert module.split(".")[0] != "torch", f"{path}:{line}: {module}"


@pytest.mark.parametrize("group", ["checks", "attacks", "explainers", "datasets", "loaders", "reports"])
def test_a_name_is_a_path_and_its_class(group: str) -> None:
    for name in available(group):  # type: ignore[arg-type]
        found = resolve(group, name)  # type: ignore[arg-type]
        if found.__module__.startswith("audit."):
            assert found.__module__.endswith(name)
            assert found.__name__ == class_name(name.rsplit(".", 1)[-1])


HEAVY_FOR_USERS = [
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "sqlalchemy",
    "sklearn",
    "matplotlib",
    "art",
    "captum",
    "shap",
    "opacus",
]


@pytest.mark.parametrize(
    "code",
    [
        "from audit.cli import app; app(['--help'], standalone_mode=False)",
        "from audit.plan import bind; from audit.scenario import read; bind(read('scenarios/digits.yaml'))",
        "from audit.plan import bind; from audit.scenario import read; bind(read('scenarios/imagenet.yaml'))",
        "from audit.plan import bind; from audit.scenario import read; bind(read('scenarios/loans.yaml'))",
        "from audit.schema import scenario_schema; scenario_schema()",
    ],
)
def test_help_and_validation_import_nothing_heavy(code: str) -> None:
    report = f"import sys\n{code}\nprint('HEAVY', *[m for m in {HEAVY_FOR_USERS} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]


def test_no_path_of_a_machine_in_the_tree() -> None:
    pattern = re.compile(r"(?<![\w.~])/(?:home|root|work)/[A-Za-z]")
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in names:
        path = ROOT / name
        if (
            path.suffix in (".py", ".yaml", ".md", ".toml", ".html", ".j2", "")
            and path.is_file()
            and path != Path(__file__)
        ):
            found = pattern.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{name}: {found[0] if found else ''}"
