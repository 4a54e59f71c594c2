"""Fairwashing through the check's own run and the engine: Slack's scaffold is caught, an open bias and an innocent model are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation import _real_or_perturbed
from audit.checks.explanation._matched import differing, effect, match
from audit.checks.explanation.fairwashing import Fairwashing
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.stats import auc
from audit.text import encode

NAMES = ("race", "coin", "a", "b", "c", "d", "e", "f", "g", "h")
SMALL = {"permutation_shap": {"permutations": 2}}


@cache
def people(n: int = 500) -> AuditData:
    """Eight columns go together; race and coin go with nothing."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(n, 1))
    x = np.concatenate([rng.integers(0, 2, (n, 2)), latent + 0.1 * rng.normal(size=(n, 8))], axis=1)
    fields = [Field(name=name, kind="category", categories=("0", "1")) for name in NAMES[:2]]
    fields += [Field(name=name, kind="number") for name in NAMES[2:]]
    labels = x[:, 0].astype(np.int64)
    half = n // 2
    return AuditData(
        "people", batch(x[:half], labels[:half]), InputSpec(fields=tuple(fields)), ("no", "yes"),
        batch(x[half:], labels[half:]),
    )  # fmt: skip


def model_of(probability: Callable[[np.ndarray[Any, Any]], Any], rows: AuditData) -> AuditedModel:
    def forward(z: torch.Tensor) -> torch.Tensor:
        p = torch.as_tensor(np.asarray(probability(z.numpy()), dtype=np.float64))
        return torch.stack([1 - p, p], dim=1)

    return AuditedModel(
        name="people", digest="", task="classification", classes=("no", "yes"), output="probability", spec=rows.spec,
        capabilities=implied("probability", gradients=False, layers=False), forward=forward,
    )  # fmt: skip


def biased(x: Any) -> Any:
    return np.where(x[:, 0] == 1, 0.95, 0.05)


def innocent(x: Any) -> Any:
    return np.where(x[:, 1] == 1, 0.95, 0.05)


def narrow(x: Any) -> Any:
    """By one of eight columns that go together: on real rows nobody can tell which."""
    return 1 / (1 + np.exp(-6 * x[:, 2]))


@cache
def scaffold() -> Callable[[Any], Any]:
    """Biased on rows that a forest takes for real, innocent on what it takes for perturbed (Slack et al. 2020)."""
    members = people().train
    assert members is not None
    rng = np.random.default_rng(1)
    real = np.repeat(members.x, 4, axis=0)
    perturbed = np.where(rng.random(real.shape) < 0.5, real, real[rng.permutation(len(real))])
    perturbed = perturbed[(perturbed[:, 2:] != real[:, 2:]).any(axis=1)]
    forest = RandomForestClassifier(15, min_samples_leaf=2, random_state=0)
    forest.fit(np.concatenate([real, perturbed])[:, 2:], np.repeat([0, 1], [len(real), len(perturbed)]))
    return lambda x: np.where(forest.predict(x[:, 2:]) == 0, biased(x), innocent(x))


def measure(check: Fairwashing, model: AuditedModel, rows: AuditData, tmp_path: Path) -> dict[str, Measurement]:
    return {m.metric: m for m in check.run(model, rows, context(tmp_path))}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forests of a size that a test can afford."""
    monkeypatch.setattr(_real_or_perturbed, "_TREES", 16)


# --- planted -----------------------------------------------------------------------------------------------------

SCENARIO = (
    "name: people\nmodel: people\ndata: {source: given}\nseed: 3\nchecks:\n"
    "  - explanation.fairwashing: {explainer: {permutation_shap: {permutations: 2}}, background: 16, samples: 48,"
    " queries: 16, protected: [race]}\n"
    '    require: {hidden_effect: "<= 0.15", behaviour_change: "<= 0.15"}\n'
)


@pytest.mark.parametrize(
    ("kind", "wanted"), [("scaffold", "fail"), ("biased", "pass"), ("innocent", "pass"), ("narrow", "pass")]
)
def test_a_scaffold_is_caught_and_open_bias_is_not(kind: str, wanted: str, tmp_path: Path) -> None:
    rule = {"biased": biased, "innocent": innocent, "narrow": narrow}.get(kind) or scaffold()
    rows = people()
    report = run(parse(SCENARIO), home=tmp_path, models={"people": model_of(rule, rows)}, data=rows)
    assert [f.status for f in report.findings if f.gated] == [wanted] * 2, [f.message for f in report.findings]
    # That a model could hide is true of all three.
    (auc,) = [f for f in report.findings if f.metric == "perturbation_auc"]
    assert auc.interval is not None
    assert (auc.interval[0] or 0) > 0.7


def test_effects_add_up(tmp_path: Path) -> None:
    """Of an additive model that asks nothing else: |Δ| = .9, and about half of the background has the other value."""
    rows = people()
    check = Fairwashing(explainer=SMALL, background=20, samples=16, queries=8, protected=("race",), keep=3)
    found = measure(check, model_of(biased, rows), rows, tmp_path)
    real, told = found["real_effect"].estimate.value, found["told_effect"].estimate.value
    assert real == pytest.approx(0.45, abs=0.15)
    assert told == pytest.approx(real, abs=1e-6)
    assert found["hidden_effect"].estimate.value == pytest.approx(0, abs=1e-6)
    kinds = {ref.kind: Evidence(tmp_path / "run-0" / ref.path) for m in found.values() for ref in m.evidence}
    assert len(kinds["attributions"]) == 3
    np.testing.assert_allclose(
        kinds["attributions"].column("quality_told_effect"), kinds["table"].column("told_effect")[:3]
    )
    assert {"fpr", "tpr"} <= set(kinds["roc"].fields)
    assert len(kinds["outcomes"]) == 16


def test_columns_that_are_independent_cannot_be_told_apart(tmp_path: Path) -> None:
    """Coin tosses exchanged one by one are coin tosses: no model could know."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (400, 10)).astype(np.float64) + 0.01 * rng.random((400, 10)).round(1)
    rows = data(batch(x, x[:, 0].astype(np.int64)), kind="number")
    model = audited(lambda z: torch.stack([0 * z[:, 0], z[:, 0] - 0.5], dim=1), (10,), kind="number")
    found = measure(Fairwashing(explainer=SMALL, background=40, samples=50, queries=8), model, rows, tmp_path)
    low, high = found["perturbation_auc"].estimate.interval()
    assert low < 0.6
    assert high < 0.75
    assert "hidden_effect" not in found


def test_an_honest_net_on_images(tmp_path: Path) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    check = Fairwashing(
        explainer={"permutation_shap": {"permutations": 2}}, background=16, samples=32, queries=24, pool=700
    )
    found = measure(check, model, digits(), tmp_path)
    assert found["perturbation_auc"].estimate.value > 0.6
    assert found["behaviour_change"].estimate.interval()[0] < 0.1
    assert any("a forest learns" in said for said in found["behaviour_change"].cautions)
    assert model.rows_forward > 1000


def test_change_of_rule_by_hand() -> None:
    """Real rows of classes 0, 0, 1 are right, wrong, wrong. What is asked is right in 3 of 4 of class 0 and in all of class 1:
    (2 · 3/4 + 1)/3 − 1/3 = 1/2."""
    right, answer = np.array([True, False, False]), np.array([0, 0, 1])
    right_asked, answer_asked = np.array([True, True, True, False, True]), np.array([0, 0, 0, 0, 1])
    row = np.array([0, 0, 1, 1, 2])
    part = _real_or_perturbed.change_of_rule(right, answer, right_asked, answer_asked, row)
    assert part.mean() == pytest.approx(0.5)
    # Row 0 has both of its queries right, a quarter above its class's rate; each query of class 0 weighs 2/3 · 3/4.
    assert part[0] == pytest.approx(3 / 4 - 1 + 2 * (1 / 4) * (2 / 3 * 3 / 4))
    never = _real_or_perturbed.change_of_rule(right, np.array([0, 0, 2]), right_asked, answer_asked, row)
    assert never.mean() == pytest.approx((2 * 3 / 4 + 4 / 5) / 3 - 1 / 3)


# --- matches by hand ---------------------------------------------------------------------------------------------


def numbers(columns: int) -> AuditedModel:
    return audited(lambda z: z[:, 0] + z[:, 1], (columns,), output="value", kind="number")


def test_matches_are_the_nearest_with_another_value() -> None:
    pool = torch.tensor([[0.0, 1.0], [1.0, 5.0], [1.0, 1.5], [0.0, 1.1]])
    found = match(numbers(2), pool[:1], pool, [0], 2)
    assert found.donor.tolist() == [[2, 1]]
    assert found.known.all()
    assert differing(pool[:1], pool, [0]).tolist() == [[False, True, True, False]]
    assert found.stretch == pytest.approx(5, rel=1e-5)  # 0.5 against 0.1
    moved = effect(numbers(2), pool[:1], torch.zeros(1, dtype=torch.int64), pool, found, [0])
    assert moved.tolist() == [-1.0]
    alone = match(numbers(2), pool[:1], pool[[0, 3]], [0], 2)
    assert not alone.known.any()


def test_a_category_counts_as_one_and_a_missing_number_as_the_mean() -> None:
    rows = people(40)
    model = model_of(biased, rows)
    own, pool = torch.zeros(1, 10), torch.zeros(4, 10)
    pool[:2, 0] = pool[0, 1] = 1
    pool[:, 2] = torch.tensor([0, float("nan"), 2, -2])
    assert match(model, own, pool, [0], 1).donor.tolist() == [[1]]


def test_protected_columns_that_follow_from_others_are_a_caution(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    race = rng.integers(0, 2, 200)
    x = np.stack([race, 10 * race + rng.normal(size=200), rng.normal(size=200)], axis=1)
    rows = data(batch(x, race), kind="number")
    model = audited(lambda z: torch.stack([0 * z[:, 0], z[:, 0] - 0.5], dim=1), (3,), kind="number")
    check = Fairwashing(explainer=SMALL, background=5, samples=10, queries=4, protected=("0",))
    assert any("nearly tell" in said for said in measure(check, model, rows, tmp_path)["hidden_effect"].cautions)


# --- parameters and mistakes -------------------------------------------------------------------------------------


def test_parameters_change_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_real_or_perturbed, "_TREES", 3)
    rows = people()
    base: dict[str, Any] = {
        "explainer": SMALL, "background": 8, "samples": 12, "queries": 6, "protected": ("a",), "pool": 60,
    }  # fmt: skip
    rule = lambda x: 0.5 + 0.4 * (x[:, 0] - 0.5) * np.tanh(x[:, 2])  # noqa: E731
    first = measure(Fairwashing(**base), model_of(rule, rows), rows, tmp_path)
    for other in ({"queries": 2}, {"pool": 200}, {"neighbours": 1}, {"protected": ("race",)}, {"background": 12}):
        again = measure(Fairwashing(**{**base, **other}), model_of(rule, rows), rows, tmp_path)
        assert any(again[name].estimate != m.estimate for name, m in first.items()), other
    assert first["perturbation_auc"].estimate.n_pos <= 12
    assert first["perturbation_auc"].estimate.n_neg == 72
    same = measure(Fairwashing(**base), model_of(rule, rows), rows, tmp_path)
    assert {name: m.estimate for name, m in same.items()} == {name: m.estimate for name, m in first.items()}


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    net = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    with pytest.raises(NotApplicable, match="about real rows alone"):
        measure(Fairwashing(explainer="saliency", samples=8), net, digits(), tmp_path)
    with pytest.raises(NotApplicable, match="columns of a table"):
        measure(Fairwashing(explainer=SMALL, protected=("race",), samples=8), net, digits(), tmp_path)
    rows = people()
    with pytest.raises(UserError, match="no column 'sex'"):
        measure(Fairwashing(explainer=SMALL, protected=("sex",)), model_of(biased, rows), rows, tmp_path)
    few = AuditData("few", rows.test.take(np.arange(4)), rows.spec, rows.classes)
    with pytest.raises(UserError, match="8 rows or more"):
        measure(Fairwashing(explainer=SMALL), model_of(biased, rows), few, tmp_path)
    one = AuditData("one", rows.test.take(rows.test.x[:, 0] == 1), rows.spec, rows.classes)
    with pytest.raises(UserError, match="every row has the same race"):
        measure(Fairwashing(explainer=SMALL, protected=("race",), samples=8), model_of(biased, one), one, tmp_path)


# --- told apart, by kind of input --------------------------------------------------------------------------------


def told(real: np.ndarray[Any, Any], asked: np.ndarray[Any, Any], model: AuditedModel) -> float:
    """AUC of telling what was asked from what is real, half of either held out in turn."""
    first, second = _real_or_perturbed.learnable(real, asked, model, 0)
    first, second = (
        _real_or_perturbed.with_edges(flat, part, model) for flat, part in ((first, real), (second, asked))
    )
    folds = [np.arange(len(part)) % _real_or_perturbed.FOLDS for part in (real, asked)]
    scores = _real_or_perturbed.told_apart(_real_or_perturbed.Samples(first, second, *folds), 0)
    return auc(scores[1], scores[0])


def test_columns_that_go_together_give_a_mixture_away() -> None:
    """Each column by itself looks as it should; only how they go together does not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 1)) + 0.2 * rng.normal(size=(200, 5))
    asked = np.stack([rng.permutation(column) for column in x.T], axis=1)
    assert told(x, asked, numbers(5)) > 0.95
    few = told(x[:20], asked[:20], numbers(5))  # too few rows to know the axes
    assert few < 0.9
    missing = x.copy()
    missing[::7, 2] = np.nan
    assert told(missing, asked, numbers(5)) > 0.9
    assert 0.4 < told(x[:100], x[100:], numbers(5)) < 0.6


def test_patched_images_and_blanked_texts_are_told() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.normal(size=(120, 1, 20, 20)), axis=3) / 5 + rng.normal(size=(120, 1, 1, 1))
    patched = x.copy()
    patched[:, :, 5:12, 5:12] = x[rng.permutation(120)][:, :, 5:12, 5:12]
    assert told(x, patched, audited(lambda z: z, (1, 20, 20), 2)) > 0.7
    said = [" ".join(rng.choice(["a", "film", "of", "great", "depth"], 6)) for _ in range(80)]
    blanked = [text.replace("film", "    ").replace("of", "  ") for text in said]
    texts = audited(lambda z: z, (40,), 2, kind="text", gradients=False)
    assert told(encode(said, 40), encode(blanked, 40), texts) > 0.8
