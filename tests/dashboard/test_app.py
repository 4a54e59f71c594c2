"""The frame: addresses, languages, and what the pages may not import."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

DASHBOARD = Path(__file__).parents[2] / "dashboard"
WORKER = "answers.py"
"""What the worker process of the live page does; it imports what no page may."""


def test_an_address_leads_to_its_page_and_stays_an_address(audited_home, opened):
    app = opened("run", run="a-long", part="manifest")
    assert app.query_params == {"run": "a-long", "part": "manifest"}
    assert app.subheader[0].value == "Scenario as it was run"


def test_an_unknown_page_is_the_overview(home, opened):
    app = opened("nowhere")
    assert app.title[0].value == "Overview"
    assert not app.query_params


def test_an_address_is_relative_and_keeps_the_language(audited_home, opened):
    app = opened("compare", lang="zh_CN")
    links = [link.proto for link in app.get("page_link")]
    assert {link.query_string for link in links} == {"lang=zh_CN&run=a-long", "lang=zh_CN&run=b-short"}


def test_the_language_is_chosen_in_the_sidebar_and_stays(home, opened):
    app = opened()
    assert app.title[0].value == "Overview"
    app.selectbox(key="choice-lang").set_value("zh_CN").run()
    assert app.query_params["lang"] == "zh_CN"
    assert app.title[0].value == "总览"
    app.query_params.clear()  # as the menu of pages does
    app.run()
    assert app.title[0].value == "总览"
    app.selectbox(key="choice-lang").set_value("en").run()
    assert app.title[0].value == "Overview"
    assert "lang" not in app.query_params


def test_an_unknown_language_is_english(home, opened):
    assert opened(lang="xx").title[0].value == "Overview"


@pytest.mark.parametrize("path", sorted(DASHBOARD.rglob("*.py")), ids=lambda path: path.name)
def test_no_page_names_torch(path):
    if path.name == WORKER:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [name for name in names if name.split(".")[0] in ("torch", "captum", "art", "shap", "opacus")]
        assert not [name for name in names if name.startswith(("audit.train", "audit.bridges", "audit.engine"))]
        if path.name != "worker.py":
            assert "dashboard.working.answers" not in names


def test_pages_of_stored_runs_load_no_torch(audited_home):
    """Every page with a real run behind it, in a process of its own."""
    code = f"""
import sys
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
manifest_scanner.scan_component_manifests = list
for query in (
    {{"page": "overview"}},
    {{"page": "run", "run": "a-long", "finding": "robustness.evasion/robust_accuracy"}},
    {{"page": "run", "run": "a-long", "part": "evidence"}},
    {{"page": "compare"}},
    {{"page": "saliency", "run": "a-long"}},
    {{"page": "attacks", "run": "a-long"}},
    {{"page": "privacy", "run": "a-long"}},
    {{"page": "models"}},
):
    app = AppTest.from_file({str(DASHBOARD / "app.py")!r}, default_timeout=60)
    app.query_params.update(query)
    app.run()
    assert not app.exception, app.exception
print("HEAVY", *(name for name in ("torch", "sklearn", "captum", "art", "shap", "opacus") if name in sys.modules))
"""
    environment = {**os.environ, "AUDIT_HOME": str(audited_home.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]
