"""Models in memory: the answers of the object itself, what it can do, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge
from toys import digits, trained_cnn

import audit
from audit.model import Capability
from audit.scenario import parse

SCENARIO = (
    "name: s\nmodel: m\ndata: {source: given}\nchecks:\n  - performance.NAME: {}\n    require: {METRIC: '>= 0.3'}\n"
)


def test_a_module_answers_as_itself_and_stays_as_it_was() -> None:
    rows, net = digits(), trained_cnn(0).train()
    model = audit.from_model(net, rows, name="net")
    x = torch.from_numpy(rows.test.x[:5])
    assert torch.equal(model.scores(x), net.eval()(x))
    assert next(net.parameters()).requires_grad
    assert (model.name, model.output, model.classes) == ("net", "logit", rows.classes)
    assert {Capability.GRADIENTS, Capability.LAYERS} <= model.capabilities
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert audit.from_model(net, rows).digest != model.digest
    assert torch.equal(model.scores(x), model.scores(x))


def test_an_estimator_is_audited_by_what_it_answers(tmp_path: Path) -> None:
    x, y = load_iris(return_X_y=True)
    forest = RandomForestClassifier(10, random_state=0).fit(x[::2], y[::2])
    rows = audit.from_arrays(x[1::2], y[1::2])
    model = audit.from_model(forest, rows)
    assert np.allclose(model.scores(torch.from_numpy(rows.test.x)), forest.predict_proba(x[1::2]))
    assert model.output == "probability"
    assert Capability.RETRAIN in model.capabilities
    text = SCENARIO.replace("NAME", "classification").replace("METRIC", "accuracy")
    report = audit.run(parse(text), home=tmp_path, models={"m": model}, data=rows)
    assert report.exit_code == 0
    assert audit.from_model(forest, rows, output="label").output == "label"


def test_a_regression(tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    rows = audit.from_arrays(x[::2], y[::2])
    model = audit.from_model(Ridge(0.1).fit(x[1::2], y[1::2]), rows)
    assert (model.task, model.output, model.classes) == ("regression", "value", ())
    text = SCENARIO.replace("NAME", "regression").replace("METRIC", "r2")
    assert audit.run(parse(text), home=tmp_path, models={"m": model}, data=rows).exit_code == 0


def test_what_is_no_model_and_what_does_not_fit() -> None:
    rows = digits()
    with pytest.raises(audit.UserError, match="a dict, neither a torch module nor an estimator"):
        audit.from_model({}, rows)
    x, y = load_iris(return_X_y=True)
    forest = RandomForestClassifier(2, random_state=0).fit(x, y)
    with pytest.raises(audit.UserError, match="4"):
        audit.from_model(forest, audit.from_arrays(x[:, :3], y))
