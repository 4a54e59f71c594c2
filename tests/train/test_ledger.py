"""What a training may spend, in closed form and against the known values; what its ledger says it spent."""

from __future__ import annotations

import json

import pytest

from audit.parameters import UserError
from audit.privacy import rdp
from audit.privacy.accounting import parse_training_record, recompute
from audit.train.ledger import Accounting, Release, as_json, budget_of, privacy_ledger
from audit.train.training_file import Training


def training(**changes: object) -> Training:
    given: dict[str, object] = {
        "name": "m", "factory": "trainable:Softmax", "data": {"source": "sklearn.digits"}, "epochs": 90, "batch": 40,
        "optimiser": "sgd", "dp": {"noise_multiplier": 1.5, "delta": 1e-5, "accountant": "rdp"}, **changes,
    }  # fmt: skip
    return Training.model_validate(given)


@pytest.mark.parametrize(("accountant", "sigma"), [("rdp", 1.416), ("prv", 1.34765625)])
def test_the_known_noise_levels(accountant: str, sigma: float) -> None:
    budget = budget_of(training(dp={"epsilon": 8, "delta": 1e-5, "accountant": accountant}), 1000)
    assert budget.accounting is not None
    assert (budget.steps, budget.accounting.rate) == (2250, 0.04)
    assert budget.accounting.sigma == pytest.approx(sigma, abs=5e-4)
    assert budget.accounting.spent(budget.steps)[0] <= 8


def test_the_rate_is_the_one_that_is_drawn_with() -> None:
    """Opacus takes q = 1/23 and a normaliser of 62 here."""
    budget = budget_of(training(batch=64, epochs=2), 1437)
    assert budget.accounting is not None
    assert budget.accounting.rate == 64 / 1437
    assert budget.steps == 45  # 2 · 1437 / 64 = 44.9
    assert budget_of(training(batch=64, epochs=2, sampler="shuffle"), 1437).steps == 2 * 23
    assert budget_of(training(batch=64, epochs=None, steps=7), 1437).steps == 7


def test_a_limit_is_kept_to_the_step() -> None:
    dp = {"noise_multiplier": 1.5, "max_epsilon": 2, "delta": 1e-5, "accountant": "rdp"}
    budget = budget_of(training(dp=dp), 1000)
    assert budget.accounting is not None
    assert 0 < budget.steps < 2250
    assert rdp.rdp_epsilon([(0.04, 1.5, budget.steps)], 1e-5).epsilon <= 2
    assert rdp.rdp_epsilon([(0.04, 1.5, budget.steps + 1)], 1e-5).epsilon > 2
    assert budget_of(training(dp=dp | {"max_epsilon": 100}), 1000).steps == 2250
    with pytest.raises(
        UserError, match=r"one step at noise_multiplier 1.5 spends epsilon .*, more than max_epsilon 0.01"
    ):
        budget_of(training(dp=dp | {"max_epsilon": 0.01}), 1000)


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(UserError, match="batch 40 is larger than the 39 rows"):
        budget_of(training(), 39)


def test_a_resumed_training_claims_what_an_uninterrupted_one_does() -> None:
    accounting = Accounting(64 / 1437, 1.1, 1e-5, "rdp")
    facts = {"n": 1437, "data_digest": "d", "noise": "entropy", "gradient_mode": "functorch"}
    whole = privacy_ledger(training(batch=64, trials=3), accounting, [Release(0, k, 60 + k) for k in range(9)], **facts)  # type: ignore[arg-type]
    parts = [Release(0 if k < 4 else 2, k, 60 + k) for k in range(9)]
    resumed = privacy_ledger(training(batch=64), accounting, parts, **facts)  # type: ignore[arg-type]
    assert [stretch.steps for stretch in resumed.stretches] == [4, 5]
    assert resumed.claim == whole.claim
    assert resumed.batch_sizes == whole.batch_sizes == tuple(range(60, 69))
    assert (whole.trials, resumed.trials) == (3, None)
    read = parse_training_record(json.loads(as_json(resumed)))
    assert read == resumed
    assert recompute(read).claim_verdict == "holds"
    assert not [c for c in recompute(read).cautions if c.code in ("rate_below_batch", "rate_above_batch")]
    with pytest.raises(UserError, match="released nothing"):
        privacy_ledger(training(), accounting, [], **facts)  # type: ignore[arg-type]


def test_the_curve_of_a_training_is_what_each_of_its_steps_spends() -> None:
    known = Accounting(0.04, 1.5, 1e-5, "prv")
    zero, few, many = known.curve([0, 100, 2250])
    assert zero == 0
    assert few == pytest.approx(known.spent(100)[0], abs=0.011), "meshed for the longest: pessimistic by the same error"
    assert many == pytest.approx(6.779132, abs=1e-3)
    by_rdp = Accounting(0.04, 1.5, 1e-5, "rdp")
    assert by_rdp.curve([0, 2250]) == [0, pytest.approx(7.32911117, abs=1e-4)]


def test_shuffled_batches_spend_an_epoch_at_a_time() -> None:
    known = Accounting(1 / 25, 1.0, 1e-5, "gaussian")
    assert known.spent(1) == known.spent(25) == (pytest.approx(4.377178, abs=1e-6), "gaussian")
    assert known.spent(26)[0] == known.spent(50)[0] > known.spent(25)[0]
    assert known.spent(100)[0] == pytest.approx(9.997256, abs=1e-6)  # four epochs of mu = 1
    dp = {"epsilon": 9.997256, "delta": 1e-5}
    budget = budget_of(training(dp=dp, sampler="shuffle", epochs=4), 1000)
    assert budget.accounting is not None
    assert budget.accounting.sigma == pytest.approx(1, abs=1e-6)
    assert budget.steps == 100
    limited = {"noise_multiplier": 1, "max_epsilon": 4.4, "delta": 1e-5}
    assert budget_of(training(dp=limited, sampler="shuffle", epochs=4), 1000).steps == 25
