"""The shift of maps under an attack: a linear model's in closed form, a planted pair through the engine, and what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from texts import reviews, word_model
from toys import audited, batch, context, data, digits, trained_cnn

from audit.checks.explanation._attack_damage import at_random, damage_share, first_of
from audit.checks.explanation.adversarial_shift import AdversarialShift
from audit.data import AuditData
from audit.engine import run
from audit.explainers._features import features_of
from audit.finding import Measurement
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable, UserError
from audit.rng import ExampleRng
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.text import encode

W = (3.0, -2.0, 1.0, 0.5)
ONE_STEP: dict[str, Any] = {"pgd": {"steps": 1, "step_size": 1.0, "random_start": False}}


def linear(w: tuple[float, ...] = W) -> tuple[AuditedModel, AuditData]:
    """Logits ``(−m/2, m/2)`` of the margin m = w·x: each class has the other's map with its signs turned round."""
    weights = torch.tensor(w)
    model = audited(
        lambda x: torch.stack([-(x @ weights) / 2, (x @ weights) / 2], dim=1), (len(w),), kind="number", bounds=(-9.0, 9.0)
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(40, len(w))).astype(np.float32)
    rows = data(batch(x, (x @ np.array(w) > 0).astype(np.int64)), bounds=(-9.0, 9.0), kind="number")
    return model, rows


def measure(check: AdversarialShift, model: AuditedModel, rows: AuditData, to: Path) -> dict[str, Measurement]:
    return {m.metric: m for m in check.run(model, rows, context(to))}


def stored(measurement: Measurement, to: Path) -> dict[str, Evidence]:
    return {
        ref.path.rsplit("/", 1)[-1]: Evidence(to / "run-0" / ref.path)
        for ref in measurement.evidence
        if ref.kind == "attributions"
    }


# --- closed form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "power", "eps"), [("linf", 1, 0.5), ("l2", 2, 1.0)])
def test_a_linear_model_in_closed_form(norm: str, power: int, eps: float, tmp_path: Path) -> None:
    """The step is −eps·sign(w) or along −w: of its damage Σ|w|ᵖ the first k features do theirs, and the map never moves."""
    model, rows = linear()
    for top, k in ((0.25, 1), (0.5, 2)):
        (folder := tmp_path / str(k)).mkdir()
        check = AdversarialShift(
            explainer={"saliency": {"absolute": False}}, attack=ONE_STEP, norm=norm, eps=eps, samples=40, top=top, random_sets=60, noise_draws=2
        )  # fmt: skip
        found = measure(check, model, rows, folder)
        values = {metric: one.estimate.value for metric, one in found.items()}
        sizes = np.sort(np.abs(W))[::-1] ** power
        assert values["damage_by_top"] == pytest.approx(sizes[:k].sum() / sizes.sum(), abs=1e-5)
        gain = sizes[:k].sum() / sizes.sum() - k / 4
        assert values["damage_by_top_gain"] == pytest.approx(gain, abs=0.03)
        for still in ("rank_correlation", "top_k_intersection", "correlation_under_noise", "top_k_under_noise"):
            assert values[still] == pytest.approx(1)
        assert values["own_answer_correlation"] == pytest.approx(-1)


def test_the_rows_that_break_are_those_within_reach_of_the_boundary(tmp_path: Path) -> None:
    model, rows = linear()
    check = AdversarialShift(explainer="saliency", attack=ONE_STEP, eps=0.2, samples=40, keep=40)
    found = measure(check, model, rows, tmp_path)
    margin = np.abs(rows.test.x @ np.array(W))
    within = margin < 0.2 * np.abs(W).sum()
    success = found["attack_success"].estimate
    assert (success.k, success.n) == (int(within.sum()), 40)  # type: ignore[union-attr]
    assert found["rank_correlation"].estimate.n == within.sum()
    assert set(stored(found["rank_correlation"], tmp_path)["before"].ids) == {
        row for row, near in zip(rows.test.ids, within, strict=True) if near
    }
    threat = found["damage_by_top"].threat_model
    assert threat is not None
    assert (threat.norm, threat.eps, threat.access) == ("linf", 0.2, "white_box")
    assert threat.realised == pytest.approx(0.2, abs=1e-6)


def test_damage_is_counted_on_the_chosen_features_alone() -> None:
    model, _ = linear()
    x = torch.zeros(2, 4)
    changed = x - torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 2.0, 0.0]])
    features = features_of(x, model.spec)
    answers = torch.ones(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    chosen = torch.tensor([[True, False, False, True], [True, True, False, True]])
    torch.testing.assert_close(
        damage_share(model, x, changed, features, chosen, answers),
        torch.tensor([3.5 / 6.5, 0.0], dtype=torch.float64),
    )
    known, k = features.known(), torch.tensor([2, 1])
    assert first_of(torch.tensor([[1.0, 3, 2, 3], [0, 0, 0, 0]]), known, k).tolist() == [[False, True, False, True], [True, False, False, False]]  # fmt: skip
    drawn = torch.stack(list(at_random(known, k, 400, ExampleRng(0, "", ["a", "b"], "")))).double()
    assert drawn.sum(dim=2).tolist() == [[2.0, 1.0]] * 400
    assert (drawn.mean(dim=0) - k[:, None] / 4).abs().max() < 0.08


# --- planted -----------------------------------------------------------------------------------------------------

SCENARIO = """\
name: shift
model: toy
data: {{source: given}}
seed: 3
checks:
  - explanation.adversarial_shift: {{explainer: {explainer}, attack: {attack}, eps: {eps}, samples: 30, top: 0.25, noise_draws: 2}}
    require: {{{gate}}}
"""


def judged(to: Path, model: AuditedModel, rows: AuditData, **options: Any) -> dict[str | None, Any]:
    report = run(parse(SCENARIO.format(**options)), home=to, models={"toy": model}, data=rows)
    return {finding.metric: finding for finding in report.findings}


def hidden() -> tuple[AuditedModel, AuditData]:
    """The first feature weighs most and is 0 in every row: input times gradient gives it nothing, its gradient everything."""
    model, rows = linear((6.0, 1.0, -0.5, 0.2))
    x = rows.test.x.copy()
    x[:, 0] = 0
    return model, data(batch(x, (x @ np.array([6.0, 1.0, -0.5, 0.2]) > 0).astype(np.int64)), bounds=(-9.0, 9.0), kind="number")  # fmt: skip


@pytest.mark.parametrize(("explainer", "status"), [("saliency", "pass"), ("input_x_gradient", "fail")])
def test_a_map_that_leads_away_from_where_the_attack_acts_is_found(explainer: str, status: str, tmp_path: Path) -> None:
    model, rows = hidden()
    gate = 'damage_by_top_gain: "> 0"'
    found = judged(tmp_path, model, rows, explainer=explainer, attack="pgd", eps=0.5, gate=gate)
    assert found["damage_by_top_gain"].status == status, found["damage_by_top_gain"].message


def test_a_net_s_map_moves_and_a_linear_model_s_does_not(tmp_path: Path) -> None:
    gate = 'rank_correlation: ">= 0.95"'
    options = {"explainer": "saliency", "attack": "{pgd: {steps: 10}}", "gate": gate}
    net = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    found = judged(tmp_path / "net", net, digits(), eps=2, **options)
    assert found["rank_correlation"].status == "fail"
    moved, noise = found["rank_correlation"].estimate, found["correlation_under_noise"].estimate
    assert moved.value < noise.value
    assert found["attack_success"].estimate.k == moved.n
    still = judged(tmp_path / "linear", *linear(), eps=0.5, **options)
    assert still["rank_correlation"].status == "pass"


def test_where_no_row_breaks_there_is_no_number(tmp_path: Path) -> None:
    found = judged(tmp_path, *linear(), explainer="saliency", attack="pgd", eps=1e-5, gate='rank_correlation: ">= 0"')
    assert found["rank_correlation"].status == "not_applicable"
    assert "of none of 30 rows" in found["rank_correlation"].message
    assert found["rank_correlation"].estimate is None
    assert found["attack_success"].estimate.k == 0


# --- what is stored ----------------------------------------------------------------------------------------------


def test_the_three_maps_of_each_broken_row(tmp_path: Path) -> None:
    model, rows = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0)), digits()
    check = AdversarialShift(explainer="saliency", attack={"pgd": {"steps": 10}}, eps=2, samples=24, keep=5)
    found = measure(check, model, rows, tmp_path)
    maps = stored(found["rank_correlation"], tmp_path)
    before, after, same = (maps[name] for name in ("before", "after", "after-same-class"))
    assert before.ids == after.ids == same.ids
    assert len(before) == 5
    labels, taken_for = before.column("label"), after.column("prediction")
    assert (before.column("target") == labels).all()
    assert (before.column("prediction") == labels).all()
    assert (same.column("target") == labels).all()
    assert (after.column("target") == taken_for).all()
    assert (same.column("prediction") == taken_for).all()
    assert (taken_for != labels).all()
    x = torch.from_numpy(np.array(after.column("x")))
    assert model.predict(x).tolist() == taken_for.tolist()
    assert np.abs(after.column("x") - before.column("x")).max() <= 2 + 1e-5
    for evidence in (after, same):
        z = torch.from_numpy(np.array(evidence.column("x"))).requires_grad_()
        slope = torch.autograd.grad(model.target_score(z, torch.from_numpy(np.array(evidence.column("target")))).sum(), z)[0]  # fmt: skip
        np.testing.assert_allclose(np.abs(evidence.column("values")), slope.abs().numpy(), atol=1e-5)
        sure = model.confidence_of(model.scores(x))
        assert sure is not None
        np.testing.assert_allclose(evidence.column("confidence"), sure.numpy(), atol=1e-6)
    rows_of = {one.path.rsplit("/", 1)[-1]: one for one in found["own_answer_correlation"].evidence}
    told = Evidence(tmp_path / "run-0" / rows_of["own_answer_correlation"].path)
    assert told.ids[:5] == after.ids
    assert {"quality_rank_correlation", "quality_correlation_under_noise", "quality_top_k_under_noise"} <= set(
        same.fields
    )
    np.testing.assert_allclose(told.column("value")[:5], after.column("quality_own_answer_correlation"))


def test_a_sampled_explainer_has_the_same_random_numbers_before_and_after(tmp_path: Path) -> None:
    """The gradient of |x|² is 2x: with the same noise its mean around x and around a hair's breadth away is all but the same."""
    model = audited(
        lambda x: torch.stack([1 - x.square().sum(1), x.square().sum(1) - 1], dim=1), (4,), kind="number", bounds=(-9.0, 9.0)
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(12, 4))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True) * 1.0005).astype(np.float32)
    rows = data(batch(x, np.ones(12, dtype=np.int64)), bounds=(-9.0, 9.0), kind="number")
    check = AdversarialShift(explainer={"smoothgrad": {"samples": 2}}, attack=ONE_STEP, eps=1e-3, samples=12)
    maps = stored(measure(check, model, rows, tmp_path)["rank_correlation"], tmp_path)
    before, same = (np.array(maps[name].column("values")) for name in ("before", "after-same-class"))
    assert len(before) == 12
    assert np.abs(np.abs(before) - 2 * 2 * np.abs(x)).max() > 0.1  # noise there is
    np.testing.assert_allclose(before, same, atol=0.01)


def test_noise_that_changes_the_answer_does_not_count(tmp_path: Path) -> None:
    """A hair's breadth from the boundary half of all noise does; the others are compared, and the reader is told."""
    model, rows = linear()
    near = rows.test.x - np.outer(rows.test.x @ np.array(W) / np.square(W).sum(), W) + 1e-4 * np.array(W)
    rows = data(batch(near.astype(np.float32), np.ones(40, dtype=np.int64)), bounds=(-9.0, 9.0), kind="number")
    check = AdversarialShift(explainer="saliency", attack=ONE_STEP, eps=0.5, samples=40, noise_draws=1)
    found = measure(check, model, rows, tmp_path)
    compared = found["correlation_under_noise"].estimate.n
    assert found["rank_correlation"].estimate.n == 40
    assert compared is not None
    assert 8 < compared < 32
    assert any(
        f"changes the answer of {40 - compared} of 40 rows" in said for said in found["rank_correlation"].cautions
    )


# --- what it takes -----------------------------------------------------------------------------------------------


def test_series_have_maps_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 2, 20)).astype(np.float32)
    model = audited(lambda x: torch.stack([x[:, 1].sum(1), -x[:, 1].sum(1)], dim=1), (2, 20), kind="series", bounds=(-9.0, 9.0))  # fmt: skip
    rows = data(batch(x, (x[:, 1].sum(1) < 0).astype(np.int64)), kind="series", bounds=(-9.0, 9.0))
    check = AdversarialShift(explainer="saliency", attack=ONE_STEP, eps=0.5, samples=12, top=0.5)
    found = measure(check, model, rows, tmp_path)
    assert found["damage_by_top"].estimate.value == pytest.approx(1)


def test_an_attack_bound_by_its_own_constraints_has_no_noise_of_its_size(tmp_path: Path) -> None:
    plain, rows = linear()
    spec = InputSpec(fields=tuple(Field(name=name, kind="number") for name in "abcd"))
    model = AuditedModel(
        name="toy", digest="toy", task="classification", classes=plain.classes, spec=spec, output="logit",
        capabilities=implied("logit", gradients=True, layers=False), forward=lambda x: plain.logits(x.float()),
    )  # fmt: skip
    rows = AuditData(rows.source, rows.test, spec, rows.classes, rows.test)
    check = AdversarialShift(explainer="saliency", attack="tabular", samples=12)
    found = measure(check, model, rows, tmp_path)
    assert "damage_by_top" in found
    assert not {"correlation_under_noise", "top_k_under_noise"} & set(found)
    threat = found["damage_by_top"].threat_model
    assert threat is not None
    assert (threat.norm, threat.eps) == (None, None)


def test_a_text_is_not_compared(tmp_path: Path) -> None:
    said, labels = reviews(8)
    model = word_model()
    rows = AuditData("reviews", batch(encode(said, model.spec.shape[0]), labels), model.spec, model.classes, None)
    check = AdversarialShift(explainer="occlusion", attack="word_edits")
    with pytest.raises(NotApplicable, match="place by place"):
        list(check.run(model, rows, context(tmp_path)))


def test_a_model_that_is_always_wrong_is_a_mistake(tmp_path: Path) -> None:
    model, rows = linear()
    rows = data(batch(rows.test.x, 1 - rows.test.labels), bounds=(-9.0, 9.0), kind="number")
    with pytest.raises(UserError, match="none of 40 rows right"):
        list(AdversarialShift(explainer="saliency", eps=1).run(model, rows, context(tmp_path)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "'eps' is missing"),
        ({"attack": "word_edits", "eps": 1}, "leave eps out"),
        ({"attack": "fab_t", "norm": "l7", "eps": 1}, "linf"),
        ({"attack": "nope", "eps": 1}, "nope"),
        ({"explainer": "nope", "eps": 1}, "nope"),
        ({"eps": 1, "top": 1.0}, "less than 1"),
    ],
)
def test_mistakes_are_told_before_anything_runs(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AdversarialShift(**options)
