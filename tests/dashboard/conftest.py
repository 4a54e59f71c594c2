"""Real runs for the dashboard's pages, made once, and a way to open a page on them."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from toys import Linear, SmallCnn, audited, batch, data, digits, trained_cnn

from audit.data import AuditData
from audit.engine import run
from audit.model import AuditedModel
from audit.scenario import parse
from audit.stored import Report

APP = Path(__file__).parents[2] / "dashboard" / "app.py"

DIGITS = """\
name: digits-small
description: May the small digit reader go out?
model: reader
data: {source: given}
seed: 3
checks:
  - performance.classification: {}
    require: {accuracy: ">= 0.85", "recall[*]": ">= 0.2"}
  - robustness.evasion: {attacks: [{pgd: {steps: 10}}], norm: linf, eps: 2, samples: 40}
    require: {robust_accuracy: ">= 0.6"}
    severity: critical
  - explanation.faithfulness: {explainer: saliency, samples: 12}
    require: {deletion_gain: "> 0"}
    severity: medium
  - privacy.membership_inference: {attacks: [loss], blind_rows: 200}
    require: {auc: "<= 0.7"}
"""
COINS = "name: coins\nmodel: toy\ndata: {source: given}\nseed: 3\nchecks:\n"
COIN_ROWS = data(batch(np.arange(16, dtype=np.float32).reshape(8, 2), np.arange(8) % 2), kind="series")


def reader(net: SmallCnn, digest: str) -> AuditedModel:
    """A trained net as a version of one model."""
    model = audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0), name="reader")
    model.digest = digest
    return model


@dataclass
class Home:
    """A home with runs.

    Args:
        path: of the home.
    """

    path: Path

    @property
    def runs(self) -> Path:
        """Where they lie."""
        return self.path / "runs"

    def go(self, text: str, models: dict[str, AuditedModel], rows: AuditData, name: str, **options: Any) -> Report:
        """Audit models that are in memory."""
        return run(parse(text), home=self.path, models=models, data=rows, out=self.runs / name, **options)

    def coins(self, name: str, *checks: str, top: str = "", **options: Any) -> Report:
        """A run whose every number is set."""
        text = COINS.replace("checks:", f"{top}checks:") + "".join(f"  - {check}\n" for check in checks)
        model = audited(Linear([3.0, 4.0], -5.0), (2,), kind="series", name="toy")
        return self.go(text, {"toy": model}, COIN_ROWS, name, **options)

    def take(self, source: Path, name: str, **manifest: Any) -> Path:
        """A copy of a run under another name, with other facts in its manifest."""
        target = self.runs / name
        shutil.copytree(source, target)
        path = target / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **manifest}))
        return target


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two versions of one digit reader under one scenario: the first learnt for long, the second hardly."""
    home = Home(tmp_path_factory.mktemp("made"))
    for name, digest, epochs in (("a-long", "1" * 64, 3), ("b-short", "2" * 64, 1)):
        home.go(DIGITS, {"reader": reader(trained_cnn(epochs), digest)}, digits(200), name)
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home that the dashboard reads."""
    monkeypatch.setenv("AUDIT_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def audited_home(made: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The home with the two versions; for reading only."""
    monkeypatch.setenv("AUDIT_HOME", str(made.path))
    return made


Opened = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def _no_foreign_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server looks once for components of other packages, a test for each page: it reads every installed package's facts."""
    from streamlit.components.v2 import manifest_scanner

    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", list)


@pytest.fixture
def opened() -> Opened:
    """Opens a page of the dashboard as its address does, and sees that nothing broke."""

    def open_(page: str = "overview", *, fine: bool = True, **query: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=60)
        app.query_params["page"] = page
        for name, value in query.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception[0].message
        if fine:
            assert not app.error, app.error[0].value
        return app

    return open_


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where a test of a page in a browser fails, keep what was seen."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.when == "call" and report.failed and hasattr(page, "screenshot"):
        folder = Path(tempfile.gettempdir()) / "dashboard-failures"
        folder.mkdir(exist_ok=True)
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', item.name)}.png"
        page.screenshot(path=str(path))
        report.sections.append(("What the page showed", f"{page.url}\n{path}"))
    return report
