"""ART through the bridge: names from its source, closed forms, honest counts, and generators given back."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from toys import Linear, audited, digits, trained_cnn

from audit.attacks import Candidates, build, confirm
from audit.attacks.art import Art
from audit.bridges import art, art_catalogue
from audit.finding import ThreatModel
from audit.model import AuditedModel, Capability, NonFiniteOutput
from audit.parameters import UserError
from audit.rng import ExampleRng


def threat(eps: float, norm: str = "linf", bounds: tuple[float, float] | None = (0.0, 16.0)) -> ThreatModel:
    return ThreatModel(access="white_box", norm=norm, eps=eps, bounds=bounds)


def streams(n: int, seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "test", [f"row-{i}" for i in range(n)], "attack")


def attack(name: str, **parameters: object) -> Art:
    built = build({name: parameters})[1]
    assert isinstance(built, Art)
    return built


@pytest.fixture(scope="module")
def cnn() -> AuditedModel:
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))


def right_digits(model: AuditedModel, n: int) -> tuple[Tensor, Tensor]:
    test = digits().test
    x, y = torch.from_numpy(test.x), torch.from_numpy(test.labels)
    at = (model.predict(x) == y).nonzero().flatten()[:n]
    return x[at], y[at]


# --- what ART offers ---------------------------------------------------------------------------------------------


def test_names_and_parameters_are_read_without_importing_art() -> None:
    code = (
        "import sys; from audit.bridges import art_catalogue as c; from audit.attacks import build; c.signatures(); "
        "build({'art.square_attack': {'max_iter': 5}}); "
        "print(sorted({'art', 'torch', 'numpy', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_what_the_source_says_is_what_art_takes() -> None:
    import inspect

    from art.attacks import evasion

    found = art_catalogue.signatures()
    assert len(found) > 50
    for signature in found.values():
        cls = getattr(evasion, signature.class_name)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        assert list(signature.parameters) == [p.name for p in parameters], signature.name
        for p in parameters:
            assert (signature.parameters[p.name] is None) == (p.default is inspect.Parameter.empty), signature.name
        required = {c.__name__ for r in cls._estimator_requirements for c in (r if isinstance(r, tuple) else (r,))}
        assert signature.requires == required, signature.name


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("SquareAttack", "square_attack"),
        ("CarliniL2Method", "carlini_l2_method"),
        ("CarliniLInfMethod", "carlini_linf_method"),
        ("GeoDA", "geoda"),
        ("SimBA", "simba"),
        ("SignOPTAttack", "sign_opt_attack"),
        ("ProjectedGradientDescentPyTorch", "projected_gradient_descent_pytorch"),
        ("GRAPHITEBlackbox", "graphite_blackbox"),
    ],
)
def test_names_are_the_class_names_in_lower_case(class_name: str, name: str) -> None:
    assert art_catalogue.attack_name(class_name) == name
    assert art_catalogue.signature(name).class_name == class_name


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("art.squar_attack", "did you mean 'art.square_attack'"),
        ({"art.square_attack": {"max_itr": 5}}, "did you mean 'max_iter'"),
        ({"art.square_attack": {"eps": 5}}, "'eps' comes from the check"),
        ({"art.projected_gradient_descent": {"targeted": True}}, "'targeted' comes from the check"),
        ({"art.square_attack": {"rows_per_call": 0}}, "greater than or equal to 1"),
        ("art.auto_attack", "not the standard AutoAttack"),
        ("art.dpatch", "ObjectDetectorMixin"),
        ("art.adversarial_patch_pytorch", "no eps bounds it"),
        ("art.malware_gd_tensorflow", "another framework"),
    ],
)
def test_a_wrong_name_or_parameter_is_refused_before_anything_runs(spec: str | dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        build(spec)
    assert said in str(raised.value)


def test_every_offered_attack_says_what_it_needs() -> None:
    offered = Art.members()
    assert {"square_attack", "hop_skip_jump", "projected_gradient_descent", "carlini_l2_method", "zoo_attack"} <= set(
        offered
    )
    assert "auto_attack" not in offered
    for name in offered:
        built = Art(member=name)
        assert (Capability.GRADIENTS in built.needs) == (built.access == "white_box"), name
        assert built.norms <= {"linf", "l2", "l1"}
    assert Art(member="hop_skip_jump").needs == {Capability.LABELS}
    assert Art(member="square_attack").access == "black_box_scores"
    assert Art(member="basic_iterative_method").norms == {"linf"}


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "distance"), [("linf", 20 / 7), ("l2", 4.0)])
@pytest.mark.parametrize("name", ["art.fast_gradient_method", "art.projected_gradient_descent"])
def test_gradient_attacks_flip_a_linear_model_just_beyond_its_distance(name: str, norm: str, distance: float) -> None:
    # A hundredth of the logits: ART's own cross-entropy has no gradient left where a label leads by 20.
    model = audited(Linear([0.03, 0.04], -0.05), (2,), bounds=(-10.0, 10.0))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    for factor, flips in ((1.001, True), (0.999, False)):
        limits = threat(factor * distance, norm, (-10.0, 10.0))
        found = attack(name).run(model, x, y, limits, streams(1))
        confirmed = confirm(model, x, y, found.x, limits)
        assert bool(confirmed.success) == flips
        assert not bool(confirmed.refused)


@pytest.mark.parametrize(
    ("name", "parameters", "norm", "distance", "reach"),
    [
        ("art.hop_skip_jump", {"max_iter": 10}, "l2", 4.0, 1.35),
        ("art.hop_skip_jump", {"max_iter": 10}, "linf", 20 / 7, 1.35),
        ("art.boundary_attack", {"max_iter": 300, "delta": 0.1, "epsilon": 0.1}, "l2", 4.0, 1.1),
        ("art.deep_fool", {}, "l2", 4.0, 1.001),
    ],
)
def test_attacks_that_seek_the_nearest_example_count_only_within_eps(
    name: str, parameters: dict[str, object], norm: str, distance: float, reach: float
) -> None:
    model = audited(Linear([0.03, 0.04], -0.05), (2,), bounds=(-10.0, 10.0))
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    near = attack(name, **parameters).run(model, x, y, threat(reach * distance, norm, (-10.0, 10.0)), streams(1))
    confirmed = confirm(model, x, y, near.x, threat(reach * distance, norm, (-10.0, 10.0)))
    assert bool(confirmed.success), f"found {near.x.tolist()}"
    far = attack(name, **parameters).run(model, x, y, threat(0.999 * distance, norm, (-10.0, 10.0)), streams(1))
    assert torch.equal(far.x, x), "what lies beyond eps is not found, and not a refusal either"


def test_square_attack_breaks_an_image_beyond_its_distance_and_never_within() -> None:
    # Sixteen equal weights: the Linf distance is the margin over their sum, and Square gets there only roughly.
    model = audited(Linear([1.0] * 16, -8.0), (1, 4, 4), bounds=(0.0, 1.0))
    x, y = torch.full((4, 1, 4, 4), 0.75), torch.ones(4, dtype=torch.int64)
    for eps, flips in ((0.4, True), (0.2499, False)):
        limits = threat(eps, "linf", (0.0, 1.0))
        found = attack("art.square_attack", max_iter=100, p_init=0.3).run(model, x, y, limits, streams(4))
        confirmed = confirm(model, x, y, found.x, limits)
        assert bool(confirmed.success.any()) == flips
        assert not confirmed.refused.any()


# --- on digits ---------------------------------------------------------------------------------------------------

FIVE = {
    "art.fast_gradient_method": {},
    "art.projected_gradient_descent": {"max_iter": 10},
    "art.square_attack": {"max_iter": 60},
    "art.hop_skip_jump": {"max_iter": 2, "init_eval": 20, "max_eval": 100},
    "art.boundary_attack": {"max_iter": 20},
}


@pytest.mark.parametrize("name", FIVE)
def test_what_it_finds_on_digits_is_confirmed_and_every_row_is_counted(cnn: AuditedModel, name: str) -> None:
    x, y = right_digits(cnn, 5)
    limits = threat(6.0)
    forward, backward = cnn.rows_forward, cnn.rows_backward
    found = attack(name, **FIVE[name]).run(cnn, x, y, limits, streams(5))
    assert int(found.queries.sum()) == cnn.rows_forward - forward
    assert int(found.gradients.sum()) == cnn.rows_backward - backward
    white = attack(name).access == "white_box"
    assert (int(found.gradients.sum()) > 0) == white
    assert (found.zero_gradients is not None) == white
    confirmed = confirm(cnn, x, y, found.x, limits)
    assert confirmed.success.any()
    assert not confirmed.refused.any()
    unmoved = (found.x == x).flatten(1).all(1)
    assert (confirmed.success | unmoved | (confirmed.size > 0)).all()
    again = attack(name, **FIVE[name]).run(cnn, x, y, limits, streams(5))
    assert torch.equal(again.x, found.x)
    assert torch.equal(again.queries, found.queries)


@pytest.mark.parametrize("name", ["art.square_attack", "art.hop_skip_jump", "art.boundary_attack"])
def test_an_example_gets_the_same_whatever_stands_beside_it(cnn: AuditedModel, name: str) -> None:
    x, y = right_digits(cnn, 4)
    together = attack(name, **FIVE[name]).run(cnn, x, y, threat(6.0), streams(4))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = attack(name, **FIVE[name]).run(cnn, x[order], y[order], threat(6.0), streams(4).take(order))
    assert torch.equal(shuffled.x, together.x[order])
    assert torch.equal(shuffled.queries, together.queries[order])
    other = attack(name, **FIVE[name]).run(cnn, x, y, threat(6.0), streams(4, seed=1))
    assert not torch.equal(other.x, together.x)


def test_rows_per_call_hands_rows_over_together(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 8)
    forward = cnn.rows_forward
    alone = attack("art.projected_gradient_descent", max_iter=5).run(cnn, x, y, threat(2.0), streams(8))
    together = attack("art.projected_gradient_descent", max_iter=5, rows_per_call=3).run(
        cnn, x, y, threat(2.0), streams(8)
    )
    assert torch.allclose(alone.x, together.x, atol=1e-5), "without random starts PGD treats rows apart"
    assert together.queries.unique().tolist() == alone.queries.unique().tolist()
    assert cnn.rows_forward - forward == int(alone.queries.sum() + together.queries.sum())


def test_eps_step_is_in_the_users_units_and_a_quarter_of_eps_by_default(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 3)
    name, one = "art.projected_gradient_descent", {"max_iter": 1}
    by_default = attack(name, **one).run(cnn, x, y, threat(2.0), streams(3))
    assert float((by_default.x - x).abs().max()) == pytest.approx(0.5, rel=1e-4)
    told = attack(name, **one, eps_step="1/8").run(cnn, x, y, threat(2.0), streams(3))
    assert float((told.x - x).abs().max()) == pytest.approx(0.125, rel=1e-4)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-3.0, 5.0)])
def test_the_users_units_make_no_difference(cnn: AuditedModel, bounds: tuple[float, float]) -> None:
    low, width = bounds[0], bounds[1] - bounds[0]
    inner = trained_cnn()
    model = audited(lambda x: inner((x - low) / width * 16), (1, 8, 8), 10, bounds=bounds)
    x, y = right_digits(cnn, 2)
    usual = attack("art.simba", max_iter=300, attack="px").run(cnn, x, y, threat(16.0), streams(2))
    moved = attack("art.simba", max_iter=300, attack="px").run(
        model, x / 16 * width + low, y, threat(width, "linf", bounds), streams(2)
    )
    assert (usual.x != x).flatten(1).any(1).all()
    assert torch.allclose((moved.x - low) / width * 16, usual.x, atol=1e-3)


# --- planted -----------------------------------------------------------------------------------------------------


def test_arts_cross_entropy_is_blind_on_saturated_logits_and_square_is_not() -> None:
    inner = trained_cnn()
    model = audited(lambda x: 1000 * inner(x), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x, y = right_digits(model, 30)
    limits = threat(3.0)

    def broken(found: Candidates) -> int:
        return int(confirm(model, x, y, found.x, limits).success.sum())

    pgd = attack("art.projected_gradient_descent", max_iter=10, rows_per_call=30)
    weak = pgd.run(model, x, y, limits, streams(30))
    assert weak.zero_gradients is not None
    assert int((weak.zero_gradients > 0).sum()) >= 15
    square = attack("art.square_attack", max_iter=200, rows_per_call=30).run(model, x, y, limits, streams(30))
    assert broken(square) >= broken(weak) + 5


def test_labels_alone_suffice_for_a_decision_based_attack() -> None:
    inner = Linear([0.03, 0.04], -0.05)
    model = audited(lambda x: inner(x).argmax(1).float(), (2,), bounds=(-10.0, 10.0), output="label", gradients=False)
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    limits = threat(5.4, "l2", (-10.0, 10.0))
    found = attack("art.hop_skip_jump", max_iter=10).run(model, x, y, limits, streams(1))
    assert bool(confirm(model, x, y, found.x, limits).success)


def test_a_constant_model_is_never_broken() -> None:
    model = audited(lambda x: torch.eye(2)[1].expand(len(x), 2) + 0 * x.sum(), (2,), bounds=(0.0, 1.0))
    x, y = torch.full((2, 2), 0.5), torch.ones(2, dtype=torch.int64)
    for name in ("art.hop_skip_jump", "art.fast_gradient_method", "art.boundary_attack"):
        found = attack(name).run(model, x, y, threat(1.0, "linf", (0.0, 1.0)), streams(2))
        assert not confirm(model, x, y, found.x, threat(1.0, "linf", (0.0, 1.0))).success.any()


def test_a_model_that_answers_nan_is_an_error() -> None:
    model = audited(lambda x: torch.where(x[:, :1] < 0.45, torch.nan, x), (2,), bounds=(0.0, 1.0))
    x, y = torch.tensor([[0.5, 0.2]]), torch.tensor([0])
    for name in ("art.projected_gradient_descent", "art.hop_skip_jump"):
        with pytest.raises(NonFiniteOutput):
            attack(name).run(model, x, y, threat(0.5, "linf", (0.0, 1.0)), streams(1))


def test_an_attack_that_makes_nan_of_its_inputs_is_named_as_the_culprit(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 1)  # ART's l2 square divides by zero where an image is under ten pixels high
    with pytest.raises(ArithmeticError, match="the attack made NaN"):
        attack("art.square_attack").run(cnn, x, y, threat(3.0, "l2"), streams(1))


# --- what it leaves behind ---------------------------------------------------------------------------------------


def test_global_generators_and_parameters_are_given_back(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 1)
    genuine = np.random.RandomState
    parameter = next(iter(trained_cnn().parameters()))
    parameter.grad = None
    parameter.requires_grad_(True)

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    try:
        for name, fails in (("art.hop_skip_jump", False), ("art.square_attack", True)):
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            limits = threat(3.0, "l2") if fails else threat(3.0)
            if fails:
                with pytest.raises(ArithmeticError):
                    attack(name).run(cnn, x, y, limits, streams(1))
            else:
                attack(name, **FIVE[name]).run(cnn, x, y, limits, streams(1))
            after = draws()
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            assert after == draws()
            assert np.random.RandomState is genuine
            assert parameter.requires_grad
            assert parameter.grad is None
    finally:
        parameter.requires_grad_(False)


def test_the_audited_module_stays_in_eval_mode(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 2)
    attack("art.projected_gradient_descent", max_iter=2).run(cnn, x, y, threat(1.0), streams(2))
    assert cnn.module is not None
    assert not cnn.module.training


def test_no_rows_no_call(cnn: AuditedModel) -> None:
    none = torch.zeros((0, 1, 8, 8))
    found = attack("art.square_attack").run(cnn, none, torch.zeros(0, dtype=torch.int64), threat(1.0), streams(0))
    assert found.x.shape == none.shape


@pytest.mark.parametrize("limits", [threat(1.0, bounds=None), ThreatModel(access="white_box", norm="linf")])
def test_bounds_and_eps_are_needed(cnn: AuditedModel, limits: ThreatModel) -> None:
    x, y = right_digits(cnn, 1)
    with pytest.raises(UserError, match="bounds"):
        art.run("square_attack", {}, cnn, x, y, limits, 0)


def test_a_value_that_art_refuses_is_one_line(cnn: AuditedModel) -> None:
    x, y = right_digits(cnn, 1)
    with pytest.raises(UserError, match=r"art\.projected_gradient_descent refuses"):
        attack("art.projected_gradient_descent", max_iter=-1).run(cnn, x, y, threat(1.0), streams(1))
