"""Robust accuracy: exact where it is known, void where it means nothing, and only of what was confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from measuring import DIGITS, digit_model, measured, some_digits, value
from pydantic import ValidationError
from torch import Tensor, nn
from toys import Linear, SmallCnn, audited, batch, context, data, digits, trained_cnn

from audit.attacks import Attack, Candidates
from audit.checks.robustness import _attack_list as module
from audit.checks.robustness.evasion import Evasion
from audit.data import AuditData
from audit.finding import Access, Measurement, ThreatModel
from audit.model import AuditedModel, Capability, Field, InputSpec, implied
from audit.parameters import UserError
from audit.rng import ExampleRng
from audit.run_folder import Run


def evidence(measurement: Measurement, kind: str, tmp_path: Path) -> Any:
    (ref,) = [ref for ref in measurement.evidence if ref.kind == kind]
    (run,) = [path for path in tmp_path.iterdir() if (path / ref.path).exists()]
    return Run(run).evidence(ref)


# --- closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_model_loses_exactly_the_rows_nearer_than_eps(norm: str, tmp_path: Path) -> None:
    w, b = np.array([0.6, 0.8]), -0.1
    x = np.random.default_rng(0).uniform(-2, 2, (200, 2)).astype(np.float32)
    labels = (x @ w + b > 0).astype(np.int64)
    labels[:10] = 1 - labels[:10]  # the model gets these wrong before anything is attacked
    distance = np.abs(x @ w + b) / (np.abs(w).sum() if norm == "linf" else 1.0)
    eps = float(np.quantile(distance, 0.4))
    expected = int((distance[10:] > eps).sum())
    model = audited(Linear(w.tolist(), b), (2,), bounds=(-4.0, 4.0))
    found = measured(Evasion(norm=norm, eps=eps), model, data(batch(x, labels)), tmp_path)
    assert value(found["robust_accuracy"]) == (expected, 200)
    assert value(found["robust_accuracy[attack=pgd]"]) == (expected, 200)
    assert value(found["clean_accuracy"]) == (190, 200)
    assert value(found["attack_success"]) == (190 - expected, 190)
    by_class = [value(found[f"attack_success[class={c}]"]) for c in "01"]
    assert sum(k for k, _ in by_class) == 190 - expected
    assert sum(n for _, n in by_class) == 190
    assert found["robust_accuracy"].voids == {}
    assert found["robust_accuracy"].cautions == ()


def test_the_threat_model_is_told_with_every_number(tmp_path: Path) -> None:
    found = measured(Evasion(eps="8/5"), digit_model(), some_digits(), tmp_path)
    for name, measurement in found.items():
        if name == "clean_accuracy":
            continue
        threat = measurement.threat_model
        assert threat is not None
        assert (threat.access, threat.goal, threat.norm, threat.eps) == ("white_box", "untargeted", "linf", 1.6)
        assert threat.bounds == DIGITS
        assert threat.realised is not None
        assert 0.5 < threat.realised <= 1.6
    queries = found["queries[attack=pgd]"].estimate
    assert 1 < queries.value < 41
    assert queries.n == value(found["attack_success"])[1]


def test_larger_eps_is_never_better(tmp_path: Path) -> None:
    robust = [
        value(measured(Evasion(eps=eps), digit_model(), some_digits(), tmp_path)["robust_accuracy"])[0]
        for eps in (0.4, 1.6, 4.0, 16.0)
    ]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[1] > robust[-1] == 0


def adversarially_trained() -> nn.Module:
    """A small net trained on PGD examples of eps 2, 0..16."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCnn()
        members = digits().train
        assert members is not None
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(8):
            for part in torch.randperm(len(x)).split(64):
                clean = x[part]
                moved = (clean + torch.empty_like(clean).uniform_(-2, 2)).clamp(0, 16)
                for _ in range(3):
                    moved.requires_grad_()
                    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(moved), y[part]), moved)
                    moved = (moved.detach() + gradient.sign()).clamp(clean - 2, clean + 2).clamp(0, 16)
                loss = nn.functional.cross_entropy(net(moved), y[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval()


def test_adversarial_training_holds_where_plain_training_breaks(tmp_path: Path) -> None:
    robust = measured(Evasion(eps=2.0), digit_model(adversarially_trained()), some_digits(300), tmp_path)
    plain = measured(Evasion(eps=2.0), digit_model(), some_digits(300), tmp_path)
    assert robust["robust_accuracy"].voids == plain["robust_accuracy"].voids == {}
    low, high = robust["robust_accuracy"].estimate.interval(), plain["robust_accuracy"].estimate.interval()
    assert low[0] > 0.5 > high[1], "the same gate passes one and fails the other"


# --- rows --------------------------------------------------------------------------------------------------------


class Watched(Attack):
    """Notes what it is given, and gives it back."""

    access: ClassVar[Access] = "white_box"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.GRADIENTS})
    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        self.seen.append((x.clone(), y.clone()))
        one = torch.ones(len(x), dtype=torch.int64)
        return Candidates(x, one, one)


def plant(monkeypatch: pytest.MonkeyPatch, attack: Attack, name: str = "planted") -> None:
    monkeypatch.setattr(module, "build", lambda spec: (name, attack))


def test_rows_that_are_wrong_anyway_are_never_attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Watched())
    Watched.seen.clear()
    model, rows = digit_model(), some_digits()
    measured(Evasion(eps=0.5), model, rows, tmp_path)
    x, y = Watched.seen[0]
    assert 0 < len(x) < len(rows.test)
    assert (model.predict(x) == y).all()


def test_a_model_that_is_always_wrong_is_measured_and_said_so(tmp_path: Path) -> None:
    rows = data(batch(np.full((20, 2), 0.5, dtype=np.float32), np.zeros(20, dtype=np.int64)))
    model = audited(Linear([1.0, 1.0], 0.0), (2,), bounds=(0.0, 1.0))
    found = measured(Evasion(eps=0.1), model, rows, tmp_path)
    assert value(found["robust_accuracy"]) == (0, 20)
    assert "nothing to attack" in found["robust_accuracy"].cautions[0]
    assert not any(name.startswith("attack_success") for name in found)


def test_samples_are_the_same_whatever_the_order_and_fewer_are_among_more(tmp_path: Path) -> None:
    rows = some_digits(80)

    def ids(samples: int | None, of: AuditData, seed: int = 0) -> set[str]:
        found = measured(
            Evasion(eps=0.5, samples=samples, attacks=[{"pgd": {"steps": 1}}]), digit_model(), of, tmp_path, seed
        )
        folder = sorted(tmp_path.iterdir(), key=lambda p: int(p.name.split("-")[1]))[-1]
        (ref,) = found["clean_accuracy"].evidence
        return set(Run(folder).evidence(ref).ids)

    few, more = ids(10, rows), ids(30, rows)
    assert len(few) == 10
    assert len(more) == 30
    assert few < more
    backwards = data(rows.test.take(np.arange(80)[::-1]), n_classes=10, bounds=DIGITS)
    assert ids(10, backwards) == few
    assert ids(10, rows, seed=1) != few
    assert ids(500, rows) == ids(None, rows) == set(rows.test.ids)


# --- only what is confirmed counts -------------------------------------------------------------------------------


class Liar(Watched):
    """Claims success with something that must not count."""

    how: str

    def run(self, model: AuditedModel, x: Tensor, y: Tensor, threat: ThreatModel, rng: ExampleRng) -> Candidates:
        other = {"beyond eps": 16 - x, "outside the box": x - 1e6, "nan": x * torch.nan, "clean": x.clone()}[self.how]
        return Candidates(other, y, y)


@pytest.mark.parametrize("how", ["beyond eps", "outside the box", "nan", "clean"])
def test_an_attack_that_misreports_itself_gains_nothing(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, Liar(how=how), "liar")
    found = measured(Evasion(eps=0.01), digit_model(), some_digits(), tmp_path)
    clean = value(found["clean_accuracy"])[0]
    assert value(found["robust_accuracy[attack=liar]"])[0] == clean
    told = [c for c in found["robust_accuracy[attack=liar]"].cautions if "do not count" in c]
    assert bool(told) == (how in ("beyond eps", "outside the box"))
    assert not [ref for ref in found["robust_accuracy"].evidence if ref.kind == "adversarial"]


def test_stored_examples_are_what_they_say(tmp_path: Path) -> None:
    model = digit_model()
    found = measured(Evasion(eps=1.6, keep=5), model, some_digits(), tmp_path)
    stored = evidence(found["robust_accuracy"], "adversarial", tmp_path)
    assert len(stored) == 5
    assert stored.meta == {
        "kind": "adversarial", "attack": "pgd", "norm": "linf", "eps": 1.6, "units": "", "bounds": [0.0, 16.0],
        "classes": [str(c) for c in range(10)], "input_kind": "image",
    }  # fmt: skip
    x, adversarial = (torch.from_numpy(np.array(stored.column(name))) for name in ("x", "adversarial"))
    label = torch.from_numpy(np.array(stored.column("label")))
    assert (model.predict(x) == label).all()
    assert (model.predict(adversarial) != label).all()
    assert torch.equal(model.predict(adversarial), torch.from_numpy(np.array(stored.column("adversarial_prediction"))))
    size = (adversarial.double() - x.double()).flatten(1).abs().amax(1)
    assert np.allclose(size.numpy(), stored.column("size"), rtol=0, atol=0)
    assert float(size.max()) <= 1.6
    assert (stored.column("queries") >= 1).all()


@pytest.mark.parametrize(("keep", "stored"), [(0, 0), (3, 3), (64, 64), (10_000, None)])
def test_keep_caps_what_is_stored_and_nothing_else(keep: int, stored: int | None, tmp_path: Path) -> None:
    model = digit_model()
    model.micro_batch = 40  # several chunks
    found = measured(Evasion(eps=2.4, keep=keep), model, some_digits(), tmp_path)
    k, _ = value(found["attack_success"])
    refs = [ref for ref in found["robust_accuracy"].evidence if ref.kind == "adversarial"]
    assert len(refs) == (keep > 0)
    if refs:
        assert len(evidence(found["robust_accuracy"], "adversarial", tmp_path)) == (k if stored is None else stored)


def test_outcomes_pair_up_with_the_estimates(tmp_path: Path) -> None:
    rows = some_digits()
    found = measured(Evasion(eps=1.6), digit_model(), rows, tmp_path)
    for name in ("clean_accuracy", "robust_accuracy", "robust_accuracy[attack=pgd]"):
        outcomes = evidence(found[name], "outcomes", tmp_path)
        assert outcomes.ids == rows.test.ids
        assert outcomes.column("value").dtype == np.float64
        assert int(outcomes.column("value").sum()) == value(found[name])[0]


# --- several attacks ---------------------------------------------------------------------------------------------


def test_the_undivided_number_is_the_worst_case_per_row(tmp_path: Path) -> None:
    attacks = ["pgd", {"pgd": {"steps": 2, "random_start": False}}, "art.fast_gradient_method"]
    found = measured(Evasion(eps=1.6, attacks=attacks), digit_model(), some_digits(60), tmp_path)
    names = ["pgd", "pgd#2", "art.fast_gradient_method"]
    robust = {
        name: evidence(found[f"robust_accuracy[attack={name}]"], "outcomes", tmp_path).column("value") for name in names
    }
    worst = np.min(list(robust.values()), axis=0)
    undivided = evidence(found["robust_accuracy"], "outcomes", tmp_path).column("value")
    assert (undivided <= worst).all(), "controls may add"
    assert value(found["robust_accuracy"])[0] <= min(value(found[f"robust_accuracy[attack={n}]"])[0] for n in names)
    assert len({tuple(v) for v in robust.values()}) > 1
    assert found["queries[attack=pgd#2]"].estimate.value <= 3


def test_an_attack_gives_the_same_numbers_whatever_else_is_listed(tmp_path: Path) -> None:
    lists = (["pgd"], ["pgd", {"pgd": {"loss": "margin"}}], ["art.fast_gradient_method", "pgd"])
    found = [measured(Evasion(eps=1.6, attacks=names), digit_model(), some_digits(40), tmp_path) for names in lists]
    for metric in ("robust_accuracy[attack=pgd]", "queries[attack=pgd]"):
        assert len({str(numbers[metric].estimate) for numbers in found}) == 1


def test_two_runs_agree_in_every_number(tmp_path: Path) -> None:
    check = Evasion(eps=1.6, attacks=["pgd", {"art.square_attack": {"max_iter": 20, "rows_per_call": 20}}], samples=60)
    first, second = (measured(check, digit_model(), some_digits(), tmp_path) for _ in range(2))
    strip = lambda found: {k: m.model_dump(exclude={"evidence"}) for k, m in found.items()}  # noqa: E731
    assert strip(first) == strip(second)
    other = measured(check, digit_model(), some_digits(), tmp_path, seed=5)
    assert strip(other) != strip(first)


# --- what it needs -----------------------------------------------------------------------------------------------


def test_it_needs_what_its_attacks_need() -> None:
    white = Evasion(eps=1.0).requirements()
    assert {Capability.GRADIENTS, Capability.LOGITS} <= white
    black = Evasion(eps=1.0, attacks=["art.hop_skip_jump", "art.square_attack"]).requirements()
    assert black == {Capability.LABELS, Capability.PROBABILITIES}
    both = Evasion(eps=1.0, attacks=["art.square_attack", "art.fast_gradient_method"]).requirements()
    assert Capability.GRADIENTS in both


def test_a_black_box_model_is_attacked_by_queries_alone(tmp_path: Path) -> None:
    model = digit_model(lambda x: trained_cnn()(x).softmax(1).detach(), output="probability", gradients=False)
    check = Evasion(eps=3.0, attacks=[{"art.square_attack": {"max_iter": 30, "rows_per_call": 50}}])
    assert check.requirements() <= model.capabilities
    found = measured(check, model, some_digits(60), tmp_path)
    threat = found["robust_accuracy"].threat_model
    assert threat is not None
    assert threat.access == "black_box_scores"
    assert value(found["attack_success"])[0] > 5
    assert model.rows_backward == 0
    assert found["robust_accuracy"].voids == {}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"attacks": ["pdg"]}, "did you mean 'pgd'"),
        ({"attacks": [{"pgd": {"step": 3}}]}, "pgd"),
        ({"attacks": ["art.squar_attack"]}, "did you mean 'art.square_attack'"),
        ({"attacks": ["art.auto_attack"]}, "not the standard AutoAttack"),
        ({"attacks": [{"pgd": {"steps": 0}}]}, "steps"),
        ({"attacks": ["art.basic_iterative_method"], "norm": "l2"}, "defined for linf"),
        ({"attacks": []}, "attacks"),
        ({"attacks": [{"pgd": {}, "art.square_attack": {}}]}, "one name"),
        ({"eps": 0}, "eps"),
        ({"eps": -1}, "eps"),
        ({"norm": "l3"}, "norm"),
        ({"samples": 0}, "samples"),
        ({"keep": -1}, "keep"),
    ],
)
def test_a_wrong_parameter_is_refused_at_construction(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Evasion(**{"eps": 1.0, **parameters})
    assert said in str(raised.value)


def test_a_model_without_bounds_says_where_to_declare_them(tmp_path: Path) -> None:
    rows = data(batch(np.ones((4, 2), dtype=np.float32), np.ones(4, dtype=np.int64)))
    with pytest.raises(UserError, match=r"no bounds for x.*input spec"):
        measured(Evasion(eps=0.1), audited(Linear([1.0, 1.0], 0.0), (2,)), rows, tmp_path)


def test_data_outside_the_declared_bounds_is_refused(tmp_path: Path) -> None:
    for bad in (5.0, np.nan):
        rows = data(batch(np.array([[1.0, 1.0], [1.0, bad]], dtype=np.float32), np.ones(2, dtype=np.int64)))
        with pytest.raises(UserError, match="1 of 2 rows"):
            measured(Evasion(eps=0.1), audited(Linear([1.0, 1.0], 0.0), (2,), bounds=(0.0, 2.0)), rows, tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            (Field(name="a", kind="number", bounds=(0, 1)), Field(name="b", kind="number", bounds=(0, 9))),
            "different bounds",
        ),
        ((Field(name="a", kind="number", bounds=(0, 1)), Field(name="b", kind="number")), "no bounds for b"),
        ((Field(name="a", kind="category", categories=("x", "y")), Field(name="b", kind="number")), "needs numbers"),
    ],
)
def test_tables_for_which_one_eps_means_nothing_are_refused(
    fields: tuple[Field, ...], said: str, tmp_path: Path
) -> None:
    model = AuditedModel(
        name="table", digest="", task="classification", classes=("0", "1"), spec=InputSpec(fields=fields), output="logit",
        capabilities=implied("logit", gradients=True, layers=False), forward=Linear([1.0, 1.0], 0.0),
    )  # fmt: skip
    rows = data(batch(np.zeros((4, 2)), np.zeros(4, dtype=np.int64)))
    with pytest.raises(UserError, match=said):
        measured(Evasion(eps=0.1), model, rows, tmp_path)


def test_progress_moves_in_chunks_and_a_spent_budget_ends_it(tmp_path: Path) -> None:
    import time

    from audit.context import BudgetExceeded

    seen: list[tuple[int, int]] = []
    ctx = context(tmp_path)
    ctx._report = lambda done, total, what: seen.append((done, total))
    model = digit_model()
    model.micro_batch = 30
    list(Evasion(eps=0.5, attacks=["pgd", {"pgd": {"steps": 1}}]).run(model, some_digits(60), ctx))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert len(seen) == 4
    ctx = context(tmp_path)
    ctx._deadline = time.monotonic() - 1
    with pytest.raises(BudgetExceeded):
        list(Evasion(eps=0.5).run(model, some_digits(60), ctx))
