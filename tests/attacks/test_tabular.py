"""Constrained changes of table rows: closed forms on linear models, rules kept whatever is drawn, planted pairs, both searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Linear, batch, context
from torch import Tensor, nn

from audit.attacks import Candidates, build, confirm
from audit.attacks._relations import parse_relation
from audit.attacks.tabular import Tabular
from audit.data import AuditData
from audit.finding import ThreatModel
from audit.model import AuditedModel, Field, InputSpec, OutputSpace, implied
from audit.parameters import UserError
from audit.rng import ExampleRng

ANY = ThreatModel(access="black_box_scores")


def table(
    forward: Any,
    names: str,
    *,
    output: OutputSpace = "logit",
    gradients: bool = False,
    categories: dict[str, int] | None = None,
) -> AuditedModel:
    """A model of table rows, its columns named by words."""
    codes = categories or {}
    fields = tuple(
        Field(name=name, kind="category", categories=tuple(f"c{i}" for i in range(codes[name])))
        if name in codes
        else Field(name=name, kind="number")
        for name in names.split()
    )
    module = forward if isinstance(forward, nn.Module) and gradients else None
    if module is not None:
        module.requires_grad_(False)
    return AuditedModel(
        name="toy", digest="toy", task="classification", classes=("no", "yes"), spec=InputSpec(fields=fields), output=output,
        capabilities=implied(output, gradients=gradients, layers=gradients), forward=forward, module=module,
    )  # fmt: skip


def rows_of(model: AuditedModel, train: Any, test: Any | None = None) -> AuditData:
    seen = np.asarray(train, dtype=np.float64)
    asked = seen if test is None else np.asarray(test, dtype=np.float64)
    none = np.zeros(len(seen), dtype=np.int64)
    return AuditData(
        "toy", batch(asked, np.zeros(len(asked), dtype=np.int64)), model.spec, model.classes, batch(seen, none)
    )


def streams(n: int, seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "test", [f"row-{i}" for i in range(n)], "attack")


def attack(
    tmp_path: Path, model: AuditedModel, data: AuditData, x: Any, threat: ThreatModel = ANY, **rules: Any
) -> tuple[Tabular, Tensor, Tensor, Candidates]:
    """Fit and run on what the model says of `x`; the attack, inputs, labels and what was found, all of it confirmed."""
    built = build({"tabular": rules})[1]
    fitted = built.fit(model, data, context(tmp_path))
    assert isinstance(fitted, Tabular)
    x = torch.as_tensor(np.asarray(x), dtype=torch.float32 if model.module is not None else torch.float64)
    y = model.predict(x)
    forward, backward = model.rows_forward, model.rows_backward
    found = fitted.run(model, x, y, threat, streams(len(x)))
    assert int(found.queries.sum()) == model.rows_forward - forward
    assert int(found.gradients.sum()) == model.rows_backward - backward
    moved = differs(found.x, x).any(dim=1)
    confirmed = confirm(model, x[moved], y[moved], found.x[moved], threat, fitted)
    assert bool(confirmed.success.all()), "what is proposed is always admissible and misclassified"
    return fitted, x, y, found


def differs(a: Tensor, b: Tensor) -> Tensor:
    return (a != b) & ~(a.isnan() & b.isnan())


def ladder(columns: int, low: float = -10.0, high: float = 10.0, steps: int = 41) -> np.ndarray[Any, Any]:
    """Training rows with every column evenly between two ends, in different orders."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(np.linspace(low, high, steps)) for _ in range(columns)], axis=1)


# --- closed forms: a linear model ------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("search", ["black_box", "white_box"])


def line(w: list[float], b: float, names: str) -> AuditedModel:
    return table(Linear(w, b), names, gradients=True)


@BOTH
def test_the_cheapest_flip_of_a_linear_model_is_found(tmp_path: Path, search: str) -> None:
    # Margin 3a + 4b - 5 = 20 at (3, 4): a alone must fall by 20/3, b alone by 5. With one unit of cost per unit of either, b is cheaper.
    model = line([3.0, 4.0], -5.0, "a b")
    data, x = rows_of(model, ladder(2)), [[3.0, 4.0]]
    one = {"a": 1.0, "b": 1.0}
    for rules, column, length in (
        ({"scales": one}, 1, 5.0),
        ({"scales": {"a": 2.0, "b": 1.0}}, 0, 20 / 3),
        ({"scales": one, "immutable": ["b"]}, 0, 20 / 3),
        ({"scales": one, "mutable": ["a"]}, 0, 20 / 3),
    ):
        _, clean, _, found = attack(tmp_path, model, data, x, search=search, **rules)
        change = (found.x - clean)[0]
        assert -change[column] == pytest.approx(length, rel=2e-3)
        assert -change[column] > length * 0.9999
        assert change[1 - column] == 0
        assert int(found.queries) < 500


@BOTH
def test_two_columns_where_one_cannot_do_it(tmp_path: Path, search: str) -> None:
    # b may fall to -1 alone, which takes 20 of the 20.4 needed... and a does the rest: 0.4 / 3.
    model = line([3.0, 4.0], -4.6, "a b")
    ranges = {"a": [-10, 10], "b": [-1, 10]}
    _, clean, _, found = attack(
        tmp_path,
        model,
        rows_of(model, ladder(2)),
        [[3.0, 4.0]],
        search=search,
        ranges=ranges,
        immutable=[],
        max_changed=2,
        mutable=["a", "b"],
        scales={"a": 0.1, "b": 10},
    )
    change = (found.x - clean)[0]
    # One column suffices (a by 20.4 / 3 = 6.8): fewer columns come before a lower cost.
    assert change.tolist() == [pytest.approx(-6.8, rel=2e-3), 0]
    ranges["a"] = [-3, 10]
    _, clean, _, found = attack(
        tmp_path,
        model,
        rows_of(model, ladder(2)),
        [[3.0, 4.0]],
        search=search,
        ranges=ranges,
        scales={"a": 0.1, "b": 10},
    )
    change = (found.x - clean)[0]
    # Now a reaches -6 (18 of 20.4) and b -5 (20): the dear one, a, moves no more than it must.
    assert change[1] == pytest.approx(-5, rel=2e-3)
    assert change[0] == pytest.approx(-0.4 / 3, rel=2e-2)


@BOTH
@pytest.mark.parametrize(("budget", "flips"), [(5.01, True), (4.99, False)])
def test_a_cost_budget_is_sharp(tmp_path: Path, search: str, budget: float, flips: bool) -> None:
    model = line([3.0, 4.0], -5.0, "a b")
    _, clean, _, found = attack(
        tmp_path,
        model,
        rows_of(model, ladder(2)),
        [[3.0, 4.0]],
        search=search,
        max_cost=budget,
        scales={"a": 1.0, "b": 1.0},
    )
    assert bool(differs(found.x, clean).any()) == flips


@BOTH
@pytest.mark.parametrize(("most", "flips"), [(3, True), (2, False)])
def test_a_budget_of_columns_is_sharp(tmp_path: Path, search: str, most: int, flips: bool) -> None:
    # Each of five columns can take 20 of the 50 from the margin: three are needed.
    model = line([1.0] * 5, 0.0, "a b c d e")
    _, clean, _, found = attack(
        tmp_path, model, rows_of(model, ladder(5)), [[10.0] * 5], search=search, max_changed=most
    )
    assert bool(differs(found.x, clean).any()) == flips
    if flips:
        assert int(differs(found.x, clean).sum()) == 3
