"""Randomisation through the check's own run: maps that owe nothing to the model fail, gradients pass; layers and labels anew."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted_maps import install
from pydantic import ValidationError
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from texts import LENGTH, reviews
from torch import Tensor, nn
from toys import SmallCnn, audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._crossed import crossed_mean, draws_decide
from audit.checks.explanation._randomised import layers_from_top, randomised
from audit.checks.explanation._retrained import retrained
from audit.checks.explanation.randomisation import Randomisation
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Capability, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.registry.loaders.skops import row_layout
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.text import encode

GRADIENT = {"saliency": {"absolute": False}}
DEFAULT = Gate.parse("<= 0.5")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def measure(
    explainer: Any, tmp_path: Path, model: AuditedModel | None = None, rows: AuditData | None = None, **options: Any
) -> dict[tuple[str, str], Measurement]:
    """Measurements by metric and layer; the undivided one under ''."""
    check = Randomisation(explainer=explainer, **{"samples": 32, "draws": 3, **options})
    found = list(check.run(model or cnn(), rows or digits(), context(tmp_path)))
    return {(m.metric, m.dims.get("layer", "")): m for m in found}


def interval(found: dict[tuple[str, str], Measurement], metric: str, layer: str = "") -> tuple[float, float]:
    return found[metric, layer].estimate.interval()


def value(found: dict[tuple[str, str], Measurement], metric: str, layer: str = "") -> float:
    return found[metric, layer].estimate.value


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


# --- planted maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explainer", ["edges", "constant_map", "no_map", "given_map"])
@pytest.mark.parametrize("over", ["all", "nonzero"])
def test_maps_that_owe_nothing_to_the_model_fail(explainer: str, over: Any, tmp_path: Path) -> None:
    found = measure(explainer, tmp_path, over=over)
    for metric in ("rank_correlation", "signed_rank_correlation"):
        assert value(found, metric) == 1
        assert DEFAULT.misses(*interval(found, metric))
        assert DEFAULT.misses(*interval(found, metric, "net.8"))


def test_the_gradient_of_a_trained_net_passes(tmp_path: Path) -> None:
    found = measure(GRADIENT, tmp_path, samples=64, draws=5)
    for metric in ("rank_correlation", "signed_rank_correlation"):
        assert DEFAULT.holds_for(*interval(found, metric))


def test_integrated_gradients_by_sign_by_size_and_by_what_the_input_gives(tmp_path: Path) -> None:
    short = {"integrated_gradients": {"steps": 8, "max_steps": 8}}
    nonzero = measure(short, tmp_path, draws=5, stages=1)
    every = measure(short, tmp_path, draws=5, stages=1, over="all")
    assert DEFAULT.holds_for(*interval(nonzero, "rank_correlation"))
    assert DEFAULT.holds_for(*interval(nonzero, "signed_rank_correlation"))
    assert DEFAULT.holds_for(*interval(every, "signed_rank_correlation"))
    # Zeros in both maps share a rank: a model that has learnt nothing gives as much as the model itself.
    assert DEFAULT.misses(*interval(every, "rank_correlation"))
    assert value(every, "between_random") == pytest.approx(value(every, "rank_correlation"), abs=0.03)


def test_stages_go_from_the_top_down(tmp_path: Path) -> None:
    found = measure(GRADIENT, tmp_path, stages=4)
    layers = [layer for metric, layer in found if metric == "rank_correlation" and layer]
    assert layers == ["net.8", "net.6", "net.2", "net.0"]
    assert value(found, "rank_correlation", "net.8") > value(found, "rank_correlation", "net.6")
    assert found["rank_correlation", "net.0"].estimate == found["rank_correlation", ""].estimate
    assert "one random model" in found["rank_correlation", "net.8"].cautions[-1]
    two = measure(GRADIENT, tmp_path, stages=2)
    assert [layer for metric, layer in two if metric == "rank_correlation"] == ["net.6", "net.0", ""]
    many = measure(GRADIENT, tmp_path, stages=50)
    assert [layer for metric, layer in many if metric == "rank_correlation"] == [*layers, ""]


def test_what_is_stored(tmp_path: Path) -> None:
    found = measure(GRADIENT, tmp_path, keep=3, stages=2)
    undivided = found["rank_correlation", ""]
    evidence = [Evidence(tmp_path / "run-0" / ref.path) for ref in undivided.evidence]
    rows, curve, own, anew = evidence
    assert rows.column("value").mean() == pytest.approx(undivided.estimate.value)
    assert (len(own), len(anew)) == (3, 3)
    assert not np.allclose(own.column("values"), anew.column("values"))
    assert own.column("quality_rank_correlation").tolist() == pytest.approx(
        [rows.column("value")[rows.ids.index(i)] for i in own.ids]
    )
    sizes = curve.column("series") == "sizes"
    assert curve.column("x")[sizes].tolist() == [0, 2, 4]
    assert curve.column("y")[sizes][[0, 2]].tolist() == pytest.approx([1, undivided.estimate.value])
    assert (curve.column("low") <= curve.column("y")).all()


def test_the_interval_is_over_rows_and_draws() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(200, 1)) * 0.1 + rng.normal(size=(1, 4)) + rng.normal(size=(200, 4)) * 0.1
    low, high = crossed_mean(shared).interval()
    over_draws = shared.mean(axis=0)
    assert crossed_mean(shared).value == pytest.approx(shared.mean())
    # Nearly all of the spread is between the four draws: the interval is theirs, t on three degrees of freedom.
    assert (high - low) / 2 == pytest.approx(3.182 * over_draws.std(ddof=1) / 2, rel=0.05)
    assert draws_decide(shared)
    assert not draws_decide(shared.T[:, :3] + 0.0)
    independent = rng.normal(size=(200, 4))
    low, high = crossed_mean(independent).interval()
    least = 1.97 * independent.std() / np.sqrt(800)  # four draws cannot rule out that they differ
    assert least <= (high - low) / 2 < 3 * least
    assert crossed_mean(np.ones((9, 3))).interval() == (1, 1)


def test_the_variance_of_rows_and_draws_by_hand() -> None:
    """Rows 0 to 3 plus draws 0 to 2, and nothing else: (5/3) / 4 + 1 / 3."""
    found = crossed_mean(np.arange(4.0)[:, None] + np.arange(3.0))
    assert (found.value, found.n) == (2.5, 4)
    assert found.se == pytest.approx(np.sqrt(5 / 12 + 1 / 3))


def test_intervals_over_rows_and_draws_cover() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        numbers = rng.normal(size=(30, 1)) * 0.5 + rng.normal(size=(1, 5)) * 0.3 + rng.normal(size=(30, 5)) * 0.5
        low, high = crossed_mean(numbers).interval()
        held += low <= 0 <= high
    assert held >= 0.93 * 300


def test_more_draws_are_more_random_models(tmp_path: Path) -> None:
    one, three = (measure(GRADIENT, tmp_path, draws=n, stages=1) for n in (1, 3))
    assert ("between_random", "") not in one
    assert ("between_random", "") in three
    assert value(one, "rank_correlation") != value(three, "rank_correlation")
    assert any("one random model" in caution for caution in one["rank_correlation", ""].cautions)


def test_an_interval_that_rows_would_not_narrow_is_told(tmp_path: Path) -> None:
    found = measure(GRADIENT, tmp_path, draws=2, stages=1, samples=64)
    told = {metric: any("more draws" in c for c in m.cautions) for (metric, layer), m in found.items() if not layer}
    assert told["signed_rank_correlation"]
    assert not any(
        "more draws" in c for m in measure("edges", tmp_path, draws=2, stages=1).values() for c in m.cautions
    )


def test_maps_that_become_constant_are_told(tmp_path: Path) -> None:
    class Dying(nn.Module):
        """Whatever is drawn anew ends below zero, and is cut off."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0, 1.0, 3.0]))

        def forward(self, x: Tensor) -> Tensor:
            learnt = (self.w == torch.tensor([2.0, 1.0, 3.0])).all()
            return torch.where(learnt, x @ self.w, (x @ self.w) * 0)[:, None]

    model = audited(Dying(), (3,), output="value", kind="number")
    rows = data(batch(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.zeros(8)), kind="number")
    found = measure(GRADIENT, tmp_path, model, rows, draws=1)
    assert value(found, "rank_correlation") == 0
    assert any("8 of 8 maps of random models are constant" in c for c in found["rank_correlation", ""].cautions)
    assert "no ranks to compare" in str(found["rank_correlation", ""].unresolved)


def test_a_constant_model_decides_nothing(tmp_path: Path) -> None:
    """Its maps are 0 everywhere, and any other has other ranks."""
    net = nn.Linear(3, 1)
    nn.init.zeros_(net.weight)
    rows = data(batch(np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), np.zeros(8)), kind="number")
    found = measure(GRADIENT, tmp_path, audited(net, (3,), output="value", kind="number"), rows, draws=2)
    assert value(found, "rank_correlation") == 0
    assert any("16 of 16 maps were constant before" in c for c in found["rank_correlation", ""].cautions)
    assert "no ranks to compare" in str(found["rank_correlation", ""].unresolved)
    noisy = measure("constant_map", tmp_path)
    assert noisy["rank_correlation", ""].unresolved is None


# --- layers anew -------------------------------------------------------------------------------------------------


class Crooked(nn.Module):
    """Registered in one order, called in another; attention's output projection is never called; a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.embed = nn.Linear(4, 8)
        self.scale = nn.Parameter(torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x * self.scale)[:, None]
        mixed, _ = self.attention(tokens, tokens, tokens)
        return self.head(self.norm(mixed[:, 0]))


def crooked() -> tuple[Crooked, AuditedModel, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, x = Crooked(), torch.randn(40, 4)
        module.norm.running_mean.fill_(7)
    return module, audited(module, (4,), 3, kind="number"), x


def test_layers_are_in_the_order_of_their_calls() -> None:
    module, model, x = crooked()
    layers = layers_from_top(model, x)
    assert [layer.name for layer in layers] == ["head", "norm", "attention", "embed", "(model)"]
    assert layers[2].modules == ("attention", "attention.out_proj")
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_only_the_chosen_layers_are_anew_and_the_model_stays() -> None:
    module, model, x = crooked()
    before = copy.deepcopy(module.state_dict())
    layers = layers_from_top(model, x)
    other = randomised(model, layers[:3], x, seed=3)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert other.module is not None
    changed = {name for name, value in other.module.state_dict().items() if not torch.equal(value, before[name])}
    assert {"head.weight", "attention.in_proj_weight", "attention.out_proj.weight"} <= changed
    assert not changed & {"embed.weight", "embed.bias", "scale"}
    assert not any(part.training for part in other.module.modules())
    assert not any(parameter.requires_grad for parameter in other.module.parameters())
    again, further, whole = (randomised(model, layers[:n], x, seed).module for n, seed in ((3, 3), (3, 4), (5, 3)))
    weights = [m.state_dict() for m in (other.module, again, further, whole) if m is not None]
    assert torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])
    assert not torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])
    assert torch.equal(weights[0]["head.weight"], weights[3]["head.weight"])  # a stage goes on from the one before
    assert sorted(weights[3]["scale"].tolist()) == [0, 1, 2, 3]  # what cannot initialise itself is shuffled
    assert weights[3]["scale"].tolist() != [0, 1, 2, 3]


def test_layers_initialise_themselves_where_they_know_how() -> None:
    """All alike, shuffled weights would be the same."""
    module, model, x = crooked()
    module.head.weight.fill_(5)
    other = randomised(model, layers_from_top(model, x)[:1], x, seed=0)
    assert other.module is not None
    weight = other.module.head.weight  # type: ignore[union-attr]
    assert float(weight.abs().max()) <= 1 / np.sqrt(8)  # type: ignore[union-attr]


def test_batch_normalisation_learns_the_new_statistics() -> None:
    _, model, x = crooked()
    other = randomised(model, layers_from_top(model, x), x, seed=0)
    assert other.module is not None
    seen: list[Tensor] = []
    other.module.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # type: ignore[union-attr]
    other.scores(x)
    torch.testing.assert_close(other.module.norm.running_mean, seen[0].mean(dim=0), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    assert other.module.norm.momentum == 0.1  # type: ignore[union-attr]
    alone = randomised(model, layers_from_top(model, x), x[:1], seed=0)
    assert bool(alone.scores(x).isfinite().all())


def test_parametrised_weights_are_anew_too() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    model, x = audited(module, (4,), 2, kind="number"), torch.randn(6, 4)
    other = randomised(model, layers_from_top(model, x), x, seed=0)
    assert other.module is not None
    assert not torch.equal(other.module[0].weight, module[0].weight)  # type: ignore[index]


def test_answers_that_do_not_come_from_the_module_are_told(tmp_path: Path) -> None:
    model = audited(SmallCnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    own = trained_cnn()
    model._forward = lambda x: own(x)
    with pytest.raises(UserError, match="do not come from its module"):
        measure(GRADIENT, tmp_path, model)


# --- labels permuted ---------------------------------------------------------------------------------------------


@cache
def small() -> tuple[nn.Module, AuditData]:
    """A multilayer perceptron on the digits' first members, which it knows by heart."""
    members = digits().train
    assert members is not None
    rows = AuditData("toy", digits().test, digits().spec, digits().classes, members.take(np.arange(128)))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        x, y = torch.from_numpy(rows.train.x), torch.from_numpy(rows.train.labels)  # type: ignore[union-attr]
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    return net.eval(), rows


def mlp() -> AuditedModel:
    return audited(small()[0], (1, 8, 8), 10, bounds=(0.0, 16.0))


def test_a_net_trained_on_permuted_labels(tmp_path: Path) -> None:
    before = copy.deepcopy(small()[0].state_dict())
    edges = measure("edges", tmp_path, mlp(), small()[1], randomise="data", epochs=1)
    slopes = measure(GRADIENT, tmp_path, mlp(), small()[1], randomise="data")
    assert set(edges) == {("data_rank_correlation", ""), ("data_signed_rank_correlation", "")}
    for metric, _ in edges:
        assert DEFAULT.misses(*interval(edges, metric))
        assert DEFAULT.holds_for(*interval(slopes, metric))
    assert all(torch.equal(v, before[name]) for name, v in small()[0].state_dict().items())
    assert not any(p.requires_grad for p in small()[0].parameters())
    assert any("learnt" in caution for caution in edges["data_rank_correlation", ""].cautions)
    assert not any("learnt" in caution for caution in slopes["data_rank_correlation", ""].cautions)


def test_permuted_labels_are_learnt_by_heart(tmp_path: Path) -> None:
    members = small()[1].train
    assert members is not None
    other, learnt = retrained(mlp(), members, context(tmp_path), epochs=200)
    assert learnt > 0.95
    assert float((other.predict(torch.from_numpy(members.x)) == torch.from_numpy(members.labels)).double().mean()) < 0.3
    assert other.module is not None
    assert not other.module.training
    assert retrained(mlp(), members, context(tmp_path), epochs=2)[1] < 0.9


def test_one_training_serves_every_explainer(tmp_path: Path) -> None:
    model = mlp()
    slopes, sizes = (
        measure(explainer, tmp_path, model, small()[1], randomise="data", epochs=2)
        for explainer in (GRADIENT, "saliency")
    )
    # The same two models: by size, the gradient and its size say the same.
    assert value(slopes, "data_rank_correlation") == value(sizes, "data_rank_correlation")
    members = small()[1].train
    assert members is not None
    ctx = context(tmp_path)
    assert retrained(model, members, ctx, epochs=2)[0] is retrained(model, members, ctx, epochs=2)[0]
    assert retrained(model, members, ctx, epochs=1)[0] is not retrained(model, members, ctx, epochs=2)[0]


def test_fewer_members_are_another_model(tmp_path: Path) -> None:
    few, many = (
        measure(GRADIENT, tmp_path, mlp(), small()[1], randomise="data", members=n, epochs=3) for n in (20, None)
    )
    assert value(few, "data_rank_correlation") != value(many, "data_rank_correlation")


def test_both_at_once(tmp_path: Path) -> None:
    found = measure(GRADIENT, tmp_path, mlp(), small()[1], randomise="both", epochs=1, stages=1)
    assert {metric for metric, _ in found} == {m.name for m in Randomisation.metrics}


def test_a_regression_is_trained_on_permuted_values(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    rows = data(batch(x, x[:, 0].astype(np.float64) * 50), batch(x, x[:, 0].astype(np.float64) * 50), kind="number")
    net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 1))
    model = audited(net, (6,), output="value", kind="number")
    assert rows.train is not None
    first, more = (retrained(model, rows.train, context(tmp_path), epochs=n)[1] for n in (1, 150))
    assert more > first
    assert ("data_rank_correlation", "") in measure(GRADIENT, tmp_path, model, rows, randomise="data", epochs=2)


def table(estimator: Any, output: Any = "probability") -> tuple[AuditedModel, AuditData]:
    """An estimator fitted on a table whose label is in its first two columns."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    labels = (x[:, 0] + 0.5 * x[:, 1] > 0).astype(np.int64)
    fitted = estimator.fit(x[100:], labels[100:])
    spec = InputSpec(fields=tuple(Field(name=f"c{j}", kind="number") for j in range(5)))
    model = AuditedModel(
        name="table", digest="", task="classification", classes=("no", "yes"), output=output, spec=spec,
        capabilities=implied(output, gradients=False, layers=False),
        forward=lambda z: torch.as_tensor(fitted.predict_proba(z.numpy())), native=fitted,
    )  # fmt: skip
    return model, AuditData("toy", batch(x[:100], labels[:100]), spec, ("no", "yes"), batch(x[100:], labels[100:]))


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(12, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=["forest", "pipeline"],
)
def test_estimators_are_fitted_again(estimator: Any, tmp_path: Path) -> None:
    model, rows = table(estimator)
    before = model.scores(torch.from_numpy(rows.test.x))
    found = measure("exact_shap", tmp_path, model, rows, randomise="data", samples=24)
    assert DEFAULT.holds_for(*interval(found, "data_rank_correlation"))
    fixed = measure("given_map", tmp_path, model, rows, randomise="data", samples=24)
    assert value(fixed, "data_rank_correlation") == 1
    assert torch.equal(model.scores(torch.from_numpy(rows.test.x)), before)
    forest = type(estimator) is RandomForestClassifier
    assert forest != any("learnt" in caution for caution in found["data_rank_correlation", ""].cautions)


def test_estimators_are_fed_again_what_they_were_fed(tmp_path: Path) -> None:
    """A data frame with categories under their names; a list of texts."""
    rng = np.random.default_rng(0)
    spec = InputSpec(
        fields=(Field(name="age", kind="number"), Field(name="job", kind="category", categories=("clerk", "smith")))
    )
    x = np.stack([rng.normal(size=120), rng.integers(0, 2, 120)], axis=1)
    labels = x[:, 1].astype(np.int64)
    frame = pd.DataFrame({"job": np.array(["clerk", "smith"], dtype=object)[labels], "age": x[:, 0]})
    encode_jobs = ColumnTransformer([("jobs", OneHotEncoder(), ["job"])], remainder="passthrough")
    texts, kinds = reviews()
    said = InputSpec(fields=(Field(name="said", kind="text", shape=(LENGTH,)),))
    cases = [
        (make_pipeline(encode_jobs, RandomForestClassifier(20, random_state=0)).fit(frame, labels), spec, x, labels),
        (
            make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(texts, kinds),
            said,
            encode(texts, LENGTH),
            kinds,
        ),
    ]
    for estimator, own, inputs, known in cases:
        layout = row_layout(estimator, own, "toy")
        model = AuditedModel(
            name="toy", digest="", task="classification", classes=("0", "1"), output="probability", spec=own,
            capabilities=implied("probability", gradients=False, layers=False), native=estimator,
            forward=lambda z, e=estimator, lay=layout: torch.as_tensor(e.predict_proba(lay(z.numpy()))),
        )  # fmt: skip
        rows = batch(inputs, known.astype(np.int64))
        other, learnt = retrained(model, rows, context(tmp_path), epochs=1)
        right = [float(m.correct(rows).double().mean()) for m in (model, other)]
        assert right[0] > 0.95
        assert abs(right[1] - 0.5) < 0.25
        assert learnt > 0.6


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosters_are_grown_again(library: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    labels = (x[:, 2] > 0).astype(np.int64)
    if library == "xgboost":
        import xgboost

        booster = xgboost.train(
            {"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(x, labels), num_boost_round=20
        )
        ask = lambda rows: booster.predict(xgboost.DMatrix(rows))  # noqa: E731
    else:
        import lightgbm

        options = {"objective": "binary", "num_threads": 1, "verbosity": -1, "num_leaves": 60, "min_data_in_leaf": 2}
        grown = lightgbm.train(options, lightgbm.Dataset(x, labels), num_boost_round=40)
        booster = lightgbm.Booster(model_str=grown.model_to_string())
        ask = lambda rows: booster.predict(rows)  # noqa: E731
    spec = InputSpec(fields=tuple(Field(name=f"c{j}", kind="number") for j in range(4)))
    model = AuditedModel(
        name="trees", digest="", task="classification", classes=("no", "yes"), output="probability", spec=spec,
        capabilities=implied("probability", gradients=False, layers=False), native=booster,
        forward=lambda z: torch.as_tensor(np.stack([1 - ask(z.numpy()), ask(z.numpy())], axis=1), dtype=torch.float64),
    )  # fmt: skip
    rows = AuditData("toy", batch(x[:60], labels[:60]), spec, ("no", "yes"), batch(x, labels))
    before = model.scores(torch.from_numpy(rows.test.x))
    found = measure("tree_shap", tmp_path, model, rows, randomise="data", samples=16, background=8)
    assert DEFAULT.holds_for(*interval(found, "data_rank_correlation"))
    assert torch.equal(model.scores(torch.from_numpy(rows.test.x)), before)


def test_members_must_hold_every_class(tmp_path: Path) -> None:
    model, rows = table(LogisticRegression())
    assert rows.train is not None
    only = rows.train.take(rows.train.labels == 1)
    with pytest.raises(UserError, match="the members lack class 'no'"):
        retrained(model, only, context(tmp_path), epochs=1)


def test_what_cannot_be_trained_is_not_applicable(tmp_path: Path) -> None:
    model = audited(lambda x: x[:, :2], (4,), 2, kind="number")
    rows = data(batch(np.zeros((3, 4), dtype=np.float32), np.zeros(3, dtype=np.int64)), kind="number")
    with pytest.raises(NotApplicable, match="neither a torch module"):
        retrained(model, rows.test, context(tmp_path), epochs=1)


# --- needs and scenarios -----------------------------------------------------------------------------------------


def test_needs_follow_what_is_randomised() -> None:
    needs = {
        what: Randomisation(explainer="exact_shap", randomise=what).requirements()
        for what in ("parameters", "data", "both")
    }
    layers, rows = {Capability.LAYERS}, {Capability.TRAIN_DATA}
    assert needs == {"parameters": layers, "data": rows, "both": layers | rows}
    assert Randomisation(explainer="saliency").requirements() == {Capability.GRADIENTS, Capability.LAYERS}


@pytest.mark.parametrize("options", [{"draws": 0}, {"stages": 0}, {"members": 1}, {"epochs": 0}, {"over": "some"}])
def test_mistakes_are_told_when_the_scenario_is_read(options: Any) -> None:
    with pytest.raises(ValidationError):
        Randomisation(**options)


def test_from_a_scenario_to_a_verdict(tmp_path: Path) -> None:
    text = (
        "name: sane\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - explanation.randomisation: {explainer: {saliency: {absolute: false}}, samples: 32}\n"
        "    id: gradient\n    require: {rank_correlation: '<= 0.5', 'signed_rank_correlation[layer=net.0]': '<= 0.5'}\n"
        "  - explanation.randomisation: {explainer: edges, samples: 32}\n"
        "    id: edges\n    require: {rank_correlation: '<= 0.5'}\n"
    )
    report = run(parse(text), home=tmp_path, models={"toy": cnn()}, data=digits())
    gated = {(f.step, f.gate): f.status for f in report.findings if f.gated}
    assert gated == {
        ("gradient", "rank_correlation"): "pass",
        ("gradient", "signed_rank_correlation[layer=net.0]"): "pass",
        ("edges", "rank_correlation"): "fail",
    }
