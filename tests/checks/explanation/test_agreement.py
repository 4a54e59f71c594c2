"""Agreement through the check's own run: rank correlation against scipy, overlaps by hand, planted disagreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_maps import install
from pydantic import ValidationError
from scipy.stats import spearmanr
from texts import word_model
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._correlation import average_ranks, in_top, rank_correlation, top_overlap
from audit.checks.explanation.agreement import Agreement
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.gate import Gate
from audit.model import AuditedModel, Capability
from audit.parameters import UserError
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.text import encode

GRADIENT = {"saliency": {"absolute": False}}
TIMES_INPUT = "input_x_gradient"


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def measure(
    explainers: Any, tmp_path: Path, model: AuditedModel | None = None, rows: AuditData | None = None, **options: Any
) -> dict[tuple[str, str], Measurement]:
    """Measurements by metric and pair; the undivided one under ''."""
    check = Agreement(explainers=explainers, **{"samples": 48, **options})
    found = list(check.run(model or cnn(), rows or digits(), context(tmp_path)))
    return {(m.metric, m.dims.get("pair", "")): m for m in found}


def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def value(found: dict[tuple[str, str], Measurement], metric: str, pair: str = "") -> float:
    return found[metric, pair].estimate.value


# --- the mathematics ---------------------------------------------------------------------------------------------


def test_rank_correlation_is_scipy_s_with_ties_and_with_missing_features() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (2, 20, 12)).astype(float)
    known = torch.from_numpy(rng.random((20, 12)) < 0.7)
    found = rank_correlation(torch.from_numpy(a), torch.from_numpy(b), known)
    expected = [spearmanr(x[k], y[k]).statistic for x, y, k in zip(a, b, known.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_ranks_are_scipy_s() -> None:
    from scipy.stats import rankdata

    values = np.random.default_rng(1).integers(0, 4, (5, 9)).astype(float)
    known = torch.ones(5, 9, dtype=torch.bool)
    np.testing.assert_allclose(average_ranks(torch.from_numpy(values), known), rankdata(values, axis=1) - 1)


def test_constant_maps() -> None:
    rows = torch.tensor([[1.0, 1, 1], [1, 2, 3], [3, 2, 1]])
    known = torch.ones(3, 3, dtype=torch.bool)
    assert rank_correlation(rows, torch.ones(3, 3), known).tolist() == [1, 0, 0]
    assert rank_correlation(rows, rows, known).tolist() == [1, 1, 1]
    assert rank_correlation(rows, rows.flip(1), known).tolist() == [1, -1, -1]


def test_top_features_that_tie_at_the_edge_count_as_shares() -> None:
    values = torch.tensor([[5.0, 3, 3, 3, 0], [1, 1, 1, 1, 1]])
    known = torch.ones(2, 5, dtype=torch.bool)
    k = torch.tensor([2, 2])
    torch.testing.assert_close(
        in_top(values, known, k), torch.tensor([[1, 1 / 3, 1 / 3, 1 / 3, 0], [0.4] * 5], dtype=torch.float64)
    )
    assert top_overlap(values, values, known, k).tolist() == pytest.approx([1, 1])
    others = torch.tensor([[9.0, 8, 0, 0, 0], [9, 8, 0, 0, 0]])
    assert top_overlap(values, others, known, k).tolist() == pytest.approx([2 / 3, 2 / 5])
    known[:, 0] = False
    assert in_top(values, known, k)[0].tolist() == pytest.approx([0, 2 / 3, 2 / 3, 2 / 3, 0])


# --- planted pairs -----------------------------------------------------------------------------------------------


def test_the_same_up_to_scale_agrees_and_a_random_map_does_not(tmp_path: Path) -> None:
    found = measure((GRADIENT, "doubled", "random_map"), tmp_path)
    for metric in ("rank_correlation", "signed_rank_correlation", "top_overlap"):
        assert value(found, metric, "saliency and doubled") == pytest.approx(1)
        low, high = found[metric, "saliency and random_map"].estimate.interval()
        assert high < 0.3
        # The undivided number is the mean over the three pairs.
        parts = [m.estimate.value for (name, pair), m in found.items() if name == metric and pair]
        assert len(parts) == 3
        assert value(found, metric) == pytest.approx(np.mean(parts))
    gate = Gate.parse(">= 0.5")
    assert gate.holds_for(*found["top_overlap_gain", "saliency and doubled"].estimate.interval())
    low, high = found["top_overlap_gain", "saliency and random_map"].estimate.interval()
    assert low < 0 < high
    assert found["top_overlap_gain", "saliency and random_map"].estimate.value == pytest.approx(
        value(found, "top_overlap", "saliency and random_map") - 6 / 64
    )


def test_signs_are_only_seen_by_the_signed_correlation(tmp_path: Path) -> None:
    found = measure((GRADIENT, "saliency"), tmp_path)  # the second one takes sizes
    pair = next(pair for _, pair in found if pair)
    assert value(found, "rank_correlation", pair) == pytest.approx(1)
    assert value(found, "signed_rank_correlation", pair) < 0.3


def test_integrated_gradients_and_gradient_times_input_on_a_linear_model(tmp_path: Path) -> None:
    model = audited(lambda x: x @ torch.tensor([3.0, -2.0, 1.0, 0.5]), (4,), output="value", kind="number")
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    rows = data(batch(x, np.zeros(8)), kind="number")
    found = measure(({"integrated_gradients": {"baseline": "zero"}}, TIMES_INPUT), tmp_path, model, rows)
    assert value(found, "signed_rank_correlation") == pytest.approx(1)


def test_seeds_of_a_noisy_explainer_disagree_and_of_a_deterministic_one_do_not(tmp_path: Path) -> None:
    noisy = measure(("jittery",), tmp_path, draws=3)
    assert value(noisy, "rank_correlation", "jittery between seeds") < 0.7
    assert value(noisy, "rank_correlation") == value(noisy, "rank_correlation", "jittery between seeds")
    assert value(measure((GRADIENT,), tmp_path, draws=2), "rank_correlation") == 1


def test_baselines_are_told_apart_by_their_parameters(tmp_path: Path) -> None:
    found = measure(({"integrated_gradients": {"baseline": "mean"}}, "integrated_gradients"), tmp_path, samples=16)
    assert {pair for _, pair in found} == {"", "integrated_gradients baseline mean and integrated_gradients"}
    assert 0.1 < value(found, "rank_correlation") < 0.95


def test_what_neither_map_speaks_of_agrees_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """Empty pixels are 0 in both maps, whatever else they say."""
    maps = ("given_map", "input_x_gradient")
    by = {over: measure(maps, tmp_path, over=over) for over in ("nonzero", "all")}
    assert value(by["nonzero"], "rank_correlation") < value(by["all"], "rank_correlation") - 0.3
    assert value(by["nonzero"], "top_overlap") == value(by["all"], "top_overlap")


def test_constant_maps_agree_and_are_told(tmp_path: Path) -> None:
    model = audited(lambda x: x.sum(dim=1) * 0, (4,), output="value", kind="number")
    rows = data(batch(np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), np.zeros(5)), kind="number")
    found = measure((GRADIENT, "integrated_gradients"), tmp_path, model, rows)["rank_correlation", ""]
    assert found.estimate.value == 1
    assert "5 of 5 rows have constant maps only" in found.cautions[-1]
    other = measure((GRADIENT, TIMES_INPUT), tmp_path)["rank_correlation", ""]
    assert not any("constant maps" in caution for caution in other.cautions)


# --- features and options ----------------------------------------------------------------------------------------


def test_top_is_a_share_or_a_number(tmp_path: Path) -> None:
    model = audited(lambda x: x @ torch.tensor([3.0, -2.0, 1.0, 0.5]), (4,), output="value", kind="number")
    rows = data(batch(np.array([[1, 4, 1, 1]], dtype=np.float32), np.zeros(1)), kind="number")
    explainers = (GRADIENT, "given_map")  # by size: columns 0, 1, 2, 3 against 1, then the others tied
    for top, expected in ((1, 0.0), (0.5, (1 + 1 / 3) / 2), (2, (1 + 1 / 3) / 2), (0.01, 0.0)):
        assert value(measure(explainers, tmp_path, model, rows, top=top), "top_overlap") == pytest.approx(expected)
    with pytest.raises(UserError, match="the top 4 of 4 features are all"):  # any two maps share them
        measure(explainers, tmp_path, model, rows, top=4)


def test_texts_are_compared_word_by_word(tmp_path: Path) -> None:
    model = word_model()
    texts = encode(["good film", "a b c d e f", "word", ""], *model.spec.shape)
    rows = AuditData("toy", batch(texts, np.zeros(4, dtype=np.int64)), model.spec, model.classes)
    found = measure(("given_map", "constant_map"), tmp_path, model, rows)
    assert found["rank_correlation", ""].estimate.n == 2
    assert found["rank_correlation", ""].cautions[-1] == "2 of 4 rows have fewer than two features and are left out"


def test_what_is_stored(tmp_path: Path) -> None:
    found = measure((GRADIENT, TIMES_INPUT), tmp_path, keep=3)
    refs = found["rank_correlation", ""].evidence
    maps = [Evidence(tmp_path / "run-0" / ref.path) for ref in refs if ref.kind == "attributions"]
    assert [len(m) for m in maps] == [3, 3]
    assert [m.meta["explainer"] for m in maps] == ["saliency", "input_x_gradient"]
    per_row = Evidence(tmp_path / "run-0" / refs[0].path)
    assert per_row.column("value").mean() == pytest.approx(value(found, "rank_correlation"))
    by_id = dict(zip(per_row.ids, per_row.column("value"), strict=True))
    assert maps[0].column("quality_rank_correlation").tolist() == pytest.approx([by_id[i] for i in maps[0].ids])
    assert not [
        r for r in measure((GRADIENT, "edges"), tmp_path, keep=0)["top_overlap", ""].evidence if r.kind != "outcomes"
    ]


def test_background_and_target_reach_the_explainers(tmp_path: Path) -> None:
    explainers = ({"integrated_gradients": {"baseline": "mean"}}, GRADIENT)
    few, many = (measure(explainers, tmp_path, background=n, samples=16) for n in (1, 100))
    assert value(few, "rank_correlation") != value(many, "rank_correlation")
    model = audited(lambda x: torch.stack([x[:, 0], 5 * x[:, 1]], dim=1), (2,), 2, kind="number")
    rows = data(batch(np.array([[3, 1], [3, 0.1]], dtype=np.float32), np.array([0, 0])), kind="number")
    by = {t: measure((GRADIENT, "given_map"), tmp_path, model, rows, target=t) for t in ("prediction", "label")}
    # Both rows' largest value is in the first column; the first row's prediction looks at the second.
    assert value(by["prediction"], "top_overlap") == 0.5
    assert value(by["label"], "top_overlap") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explainers": ("saliency",)}, "agrees with nothing"),
        ({"explainers": ("saliency", "saliency")}, "listed twice"),
        ({"explainers": ("saliency", "grad")}, "'grad'"),
        ({"top": 2.5}, "whole number of features"),
        ({"explainers": ()}, "at least 1"),
    ],
)
def test_mistakes_are_told_when_the_scenario_is_read(options: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Agreement(**options)


def test_it_needs_what_its_explainers_need() -> None:
    assert Agreement(explainers=("shap_values", "saliency")).requirements() == {Capability.GRADIENTS}
    assert Agreement(explainers=("shap_values",), draws=2).requirements() == frozenset()


def test_from_a_scenario_to_a_verdict(tmp_path: Path) -> None:
    text = (
        "name: agree\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - explanation.agreement: {explainers: [saliency, edges], samples: 32}\n"
        "    require: {'rank_correlation[pair=saliency and edges]': '>= 0.9', 'top_overlap_gain[*]': '> -1'}\n"
    )
    report = run(parse(text), home=tmp_path, models={"toy": cnn()}, data=digits())
    gated = {f.gate: f.status for f in report.findings if f.gated}
    assert gated == {"rank_correlation[pair=saliency and edges]": "fail", "top_overlap_gain[*]": "pass"}
