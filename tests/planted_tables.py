"""Tables and models of them for the checks of global explanations, and the way from a check to its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from torch import Tensor
from toys import context

from audit.data import AuditData
from audit.datasets._arrays import from_arrays
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, InputSpec, OutputSpace, implied
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.stored import Report


def table_model(
    forward: Callable[[Tensor], Tensor],
    spec: InputSpec,
    *,
    classes: tuple[str, ...] = (),
    output: OutputSpace | None = None,
    module: Any = None,
) -> AuditedModel:
    """A function of table rows as a model; a classifier gives probabilities unless `output` says otherwise."""
    output = output or ("probability" if classes else "value")
    return AuditedModel(
        name="table", digest="table", task="classification" if classes else "regression", classes=classes, spec=spec,
        output=output, capabilities=implied(output, gradients=module is not None, layers=module is not None),
        forward=forward, module=module,
    )  # fmt: skip


def of_estimator(estimator: Any, data: AuditData) -> AuditedModel:
    """A fitted scikit-learn estimator as a model."""
    answer = estimator.predict_proba if data.classes else estimator.predict
    return table_model(lambda x: torch.as_tensor(answer(x.numpy())), data.spec, classes=data.classes)


@cache
def breast_cancer() -> AuditData:
    """scikit-learn's breast cancer, 30 columns: 200 test rows, the rest members."""
    bunch = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(bunch.data))
    x, y = bunch.data[order], bunch.target[order]
    return from_arrays(
        x[:200], y[:200], x_train=x[200:], y_train=y[200:], feature_names=list(bunch.feature_names),
        classes=["malignant", "benign"],
    )  # fmt: skip


@cache
def diabetes() -> AuditData:
    """scikit-learn's diabetes, 10 columns, a value to predict: 150 test rows, the rest members."""
    bunch = load_diabetes(scaled=False)
    order = np.random.default_rng(0).permutation(len(bunch.data))
    x, y = bunch.data[order], bunch.target[order]
    return from_arrays(
        x[:150], y[:150], x_train=x[150:], y_train=y[150:], feature_names=list(bunch.feature_names), task="regression"
    )


@cache
def forest(name: str = "breast_cancer") -> AuditedModel:
    """A forest of 20 trees trained on the members of a data set."""
    data = {"breast_cancer": breast_cancer, "diabetes": diabetes}[name]()
    kind = RandomForestClassifier if data.classes else RandomForestRegressor
    assert data.train is not None
    return of_estimator(kind(20, max_depth=6, random_state=0).fit(data.train.x, data.train.labels), data)


Part = tuple[str, str]


def measure(
    check: Any, model: AuditedModel, data: AuditData, tmp_path: Path, **options: Any
) -> dict[Part, Measurement]:
    """Measurements by metric and part, such as ``("effect_range", "feature=age")``."""
    found = check.run(model, data, context(tmp_path, **options))
    return {(m.metric, ",".join(f"{k}={v}" for k, v in m.dims.items())): m for m in found}


def stored(measurement: Measurement, name: str, tmp_path: Path, run_number: int = 0) -> Evidence:
    """A measurement's evidence by the last part of its path."""
    ref = next(ref for ref in measurement.evidence if ref.path.endswith(f"/{name}"))
    return Evidence(tmp_path / f"run-{run_number}" / ref.path)


def verdicts(entry: str, model: AuditedModel, data: AuditData, home: Path) -> tuple[Report, Mapping[str, str]]:
    """A scenario of one check through the whole engine: the report, and each gate's status."""
    text = f"name: planted\nmodel: table\ndata: {{source: given}}\nseed: 0\nchecks:\n  - {entry}\n"
    report = run(parse(text), home=home, models={"table": model}, data=data)
    return report, {f.gate or "": str(f.status.value) for f in report.findings if f.gate}
