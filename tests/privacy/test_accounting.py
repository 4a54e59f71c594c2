"""Training records: what recomputing says of claims, and every caution with the record it must not fire on."""

import json
import math

import numpy as np
import pytest

from audit.bridges.opacus import PrvEpsilon
from audit.parameters import UserError
from audit.privacy.accounting import (
    Caution,
    Claim,
    parse_training_record,
    read_training_record,
    recompute,
    record_cautions,
)


def record(**changes):
    values = {
        "stretches": [{"sampling_rate": 0.04, "sigma": 1.5, "steps": 2250}],
        "dataset_size": 1500,
        "sampler": "poisson",
        "noise": "entropy",
        "clipping": "flat",
        "delta": 1e-5,
    }
    return parse_training_record({**values, **changes})


def prv(upper, lower=None, fallback=None):
    def answer(stretches, delta, *, eps_error):
        below = upper - 2 * eps_error if lower is None else lower
        return PrvEpsilon(upper, "rdp" if fallback else "prv", eps_error, delta / 1000, below, None, fallback)

    return answer


def codes(found):
    return {caution.code for caution in found.cautions}


def understating(found):
    return {caution.code for caution in found.cautions if caution.understates}


def test_known_record_by_every_accountant():
    found = recompute(record())
    assert found.rdp.epsilon == pytest.approx(7.32911117, abs=1e-4)
    assert found.prv.epsilon == pytest.approx(6.779132, abs=1e-3)
    assert found.clt.epsilon == pytest.approx(6.601567, abs=1e-4)
    assert found.epsilon == found.prv.epsilon
    assert found.lower == found.prv.lower
    assert (found.exact, found.claim_verdict) == (None, None)
    assert found.cautions == ()


def test_full_batch_record_is_exact():
    claim = {"epsilon": 4.378, "delta": 1e-5}
    found = recompute(record(stretches=[{"sampling_rate": 1, "sigma": 1, "steps": 1}], claim=claim))
    assert found.exact == pytest.approx(4.377178, abs=1e-6)
    assert found.exact < found.prv.epsilon < found.rdp.epsilon + found.prv.eps_error
    assert found.epsilon == found.lower == found.exact
    assert found.claim_verdict == "holds"  # though numerical composition alone could not tell
    found = recompute(
        record(stretches=[{"sampling_rate": 1, "sigma": 1, "steps": 1}], claim={**claim, "epsilon": 4.377})
    )
    assert found.claim_verdict == "refuted"


def test_no_noise_is_infinite():
    found = recompute(
        record(stretches=[{"sampling_rate": 0.1, "sigma": 0, "steps": 1}], claim={"epsilon": 8, "delta": 1e-5})
    )
    assert found.epsilon == found.lower == math.inf
    assert found.claim_verdict == "refuted"


@pytest.mark.parametrize(
    ("epsilon", "verdict"), [(8, "holds"), (3.0000001, "holds"), (3.0, "holds"), (2.99, "undecided"), (2.97, "refuted")]
)
def test_claims(epsilon, verdict):
    found = recompute(record(claim={"epsilon": epsilon, "delta": 1e-5}), prv=prv(3.0, 2.98))
    assert found.claim_verdict == verdict


def test_a_claim_inside_the_numerical_error_is_looked_at_more_closely():
    asked = []

    def answer(stretches, delta, *, eps_error):
        asked.append(eps_error)
        return PrvEpsilon(2.99 + eps_error, "prv", eps_error, delta / 1000, 2.99 - eps_error, 2.99)

    found = recompute(record(claim={"epsilon": 2.992, "delta": 1e-5}), prv=answer)
    assert asked == [0.01, 0.001]
    assert found.claim_verdict == "holds"
    assert recompute(record(claim={"epsilon": 2.985, "delta": 1e-5}), prv=answer).claim_verdict == "refuted"
    asked.clear()
    recompute(record(claim={"epsilon": 5, "delta": 1e-5}), prv=answer, eps_error=0.05)
    assert asked == [0.05]


def test_fallback_is_told():
    found = recompute(record(claim={"epsilon": 7, "delta": 1e-5}), prv=prv(7.32912, 0.0, "it crashed"))
    assert codes(found) == {"prv_fallback"}
    assert found.epsilon == found.rdp.epsilon
    assert found.claim_verdict == "undecided"


@pytest.mark.parametrize(
    "answer",
    [
        prv(7.5),  # PRV above RDP by more than its error
        prv(9.0, 0.0, "it crashed"),  # Opacus's RDP is not the project's own
    ],
)
def test_accountants_that_contradict_each_other_leave_the_larger(answer):
    found = recompute(record(), prv=answer)
    assert codes(found) >= {"accountants_disagree"}
    assert found.epsilon == found.prv.epsilon
    assert found.lower == 0


def test_an_upper_bound_below_the_exact_value_is_a_contradiction():
    found = recompute(record(stretches=[{"sampling_rate": 1, "sigma": 1, "steps": 1}]), prv=prv(4.0))
    assert "accountants_disagree" in understating(found)
    assert found.epsilon == found.rdp.epsilon


def test_rdp_at_the_edge_of_its_orders():
    weak = [{"sampling_rate": 1e-4, "sigma": 4, "steps": 10}]
    assert "rdp_order_at_edge" in codes(recompute(record(stretches=weak), prv=prv(9.0, 0.0, "it crashed")))
    assert "rdp_order_at_edge" not in codes(recompute(record(stretches=weak), prv=prv(0.01)))


def test_shuffled_batches_are_no_poisson_samples():
    one_epoch = record(
        sampler="shuffle", stretches=[{"sampling_rate": "1/25", "sigma": 1, "steps": 25}], claim=None, delta=1e-5
    )
    found = recompute(one_epoch, prv=prv(4.39, 0))
    assert found.epsilon == pytest.approx(4.377178, abs=1e-6), "an epoch is one Gaussian mechanism"
    assert (found.lower, understating(found)) == (0, set())
    claimed = one_epoch.model_copy(update={"claim": Claim(epsilon=1, delta=1e-5)})
    found = recompute(claimed, prv=prv(4.39, 0))
    assert understating(found) == {"sampler_shuffle"}
    assert found.claim_verdict == "undecided"
    assert "epsilon 4.377 is proven" in found.cautions[0].message
    assert "2403.17673" in found.cautions[0].message
    held = claimed.model_copy(update={"claim": Claim(epsilon=4.3772, delta=1e-5)})
    again = recompute(held, prv=prv(4.39, 0))
    assert (again.claim_verdict, again.cautions) == ("holds", ())
    ten = recompute(held.model_copy(update={"trials": 4}), prv=prv(4.39, 0))
    assert ten.tuned is not None
    assert ten.tuned > 9.997, "four trials of mu = 1 are one of mu = 2"


def test_a_short_last_batch_of_an_epoch_is_no_other_rate():
    told = {"sampler": "shuffle", "dataset_size": 10, "expected_batch_size": 4, "claim": {"epsilon": 90, "delta": 0.01}}
    for batches in (2, 3):
        stretch = {"sampling_rate": f"1/{batches}", "sigma": 1, "steps": 6}
        assert not codes(recompute(record(stretches=[stretch], **told))) & {"rate_below_batch", "rate_above_batch"}
    stretch = {"sampling_rate": "1/4", "sigma": 1, "steps": 6}
    assert "rate_below_batch" in codes(recompute(record(stretches=[stretch], **told)))


def test_sampling_that_nobody_described():
    assert understating(recompute(record(sampler="unknown"), prv=prv(6.78))) == {"sampler_unknown"}


def test_reproducible_noise_is_no_noise():
    assert understating(recompute(record(noise="reproducible"), prv=prv(6.78))) == {"noise_reproducible"}
    assert recompute(record(noise="unknown"), prv=prv(6.78)).cautions == ()


def test_gradients_that_nothing_bounds():
    assert understating(recompute(record(clipping="none"), prv=prv(6.78))) == {"clipping_none"}
    assert understating(recompute(record(clipping="unknown"), prv=prv(6.78))) == {"clipping_unknown"}
    assert recompute(record(clipping="per_layer"), prv=prv(6.78)).cautions == ()


def test_batch_normalisation_is_named():
    found = recompute(record(batch_norm=["bn1", "bn2", "bn3", "bn4"]), prv=prv(6.78))
    assert understating(found) == {"batch_norm"}
    assert "(bn1, bn2, bn3 …)" in found.cautions[0].message


def test_choosing_among_trainings_is_counted():
    found = recompute(record(trials=4), prv=prv(6.78))
    assert understating(found) == {"trials_not_accounted"}
    assert (
        found.tuned == recompute(record(stretches=[{"sampling_rate": 0.04, "sigma": 1.5, "steps": 9000}])).rdp.epsilon
    )
    assert recompute(record(trials=1), prv=prv(6.78)).tuned is None
    enough = {"epsilon": found.tuned + 0.01, "delta": 1e-5}
    assert codes(recompute(record(trials=4, claim=enough), prv=prv(6.78))) == set()
    short = {"epsilon": found.tuned - 0.01, "delta": 1e-5}
    assert codes(recompute(record(trials=4, claim=short), prv=prv(6.78))) == {"trials_not_accounted"}


def test_a_number_of_trials_drawn_at_random_costs_less():
    fixed = recompute(record(trials=100), prv=prv(6.78)).tuned
    drawn = recompute(record(trials=100, trials_drawn={"eta": 0, "gamma": 0.002}), prv=prv(6.78))
    assert 6.78 < drawn.tuned < fixed
    assert "theorem 2" in drawn.cautions[0].message


def test_delta_above_one_over_n():
    assert codes(recompute(record(delta=1e-3), prv=prv(5.0))) == {"delta_above_1_over_n"}
    assert codes(recompute(record(delta=1 / 1500), prv=prv(5.0))) == set()


def test_the_claims_delta_is_the_one_accounted_at():
    found = recompute(record(delta=1e-6, claim={"epsilon": 8, "delta": 1e-5}))
    assert codes(found) == {"delta_differs"}
    assert found.delta == 1e-5
    assert found.rdp.epsilon == pytest.approx(7.32911117, abs=1e-4)


@pytest.mark.parametrize(
    ("rate", "size", "asked", "code"),
    [
        ("1/23", 1437, 64, "rate_below_batch"),  # sample_rate = 1 / len(loader), batches of 64 asked for
        ("1/23", 1437, 62, None),  # what Opacus then divides by
        ("64/1437", 1437, 64, None),
        ("0.0445", 1437, 64, None),
        ("1/11", 1437, 64, "rate_above_batch"),
        ("0.001", 100, 1, "rate_below_batch"),
        ("0.019", 100, 1, None),
    ],
)
def test_sampling_rate_and_batch_size(rate, size, asked, code):
    stretches = [{"sampling_rate": rate, "sigma": 1.5, "steps": 10}]
    found = recompute(record(stretches=stretches, dataset_size=size, expected_batch_size=asked), prv=prv(0.1))
    assert codes(found) == ({code} if code else set())
    if code:
        assert (
            ("understated" in found.cautions[0].message)
            == found.cautions[0].understates
            == (code == "rate_below_batch")
        )


def _drawn(rate, size, steps, seed):
    return np.random.default_rng(seed).binomial(size, rate, steps).tolist()


def test_realised_batches():
    def found(sizes, sampler="poisson"):
        stretches = [{"sampling_rate": "1/23", "sigma": 1.5, "steps": len(sizes)}]
        return recompute(
            record(stretches=stretches, dataset_size=1437, batch_sizes=sizes, sampler=sampler), prv=prv(1.5)
        )

    assert codes(found(_drawn(1 / 23, 1437, 230, 0))) == set()
    assert understating(found(_drawn(1 / 20, 1437, 230, 0))) >= {"batches_too_large"}
    assert "batches_too_small" in codes(found(_drawn(1 / 26, 1437, 230, 0)))
    shuffled = ([64] * 22 + [29]) * 10
    assert understating(found(shuffled)) == {"batches_not_poisson"}
    told = record(
        stretches=[{"sampling_rate": "1/23", "sigma": 1.5, "steps": 230}],
        dataset_size=1437,
        batch_sizes=shuffled,
        sampler="shuffle",
    )
    assert record_cautions(told) == []  # epochs of equal batches are what shuffling gives


def test_realised_batches_go_with_their_stretch():
    def found(sizes):
        stretches = [{"sampling_rate": q, "sigma": 1.5, "steps": 100} for q in (0.02, 0.06)]
        return recompute(record(stretches=stretches, batch_sizes=sizes), prv=prv(1.5))

    low, high = _drawn(0.02, 1500, 100, 1), _drawn(0.06, 1500, 100, 2)
    assert codes(found(low + high)) == set()
    swapped = found(high + low)
    assert codes(swapped) >= {"batches_too_large", "batches_too_small"}
    assert any(isinstance(c, Caution) and c.message.startswith("stretch 1: ") for c in swapped.cautions)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stretches": []}, "rec.yaml: stretches: "),
        ({"stretches": [{"sampling_rate": 1.5, "sigma": 1, "steps": 1}]}, "stretches.0.sampling_rate: .*got 1.5"),
        ({"stretches": [{"sampling_rate": 0, "sigma": 1, "steps": 1}]}, "stretches.0.sampling_rate"),
        ({"stretches": [{"sampling_rate": 0.5, "sigma": -1, "steps": 1}]}, "stretches.0.sigma: .*got -1"),
        ({"stretches": [{"sampling_rate": 0.5, "sigma": 1, "steps": 0}]}, "stretches.0.steps"),
        ({"stretches": [{"sampling_rate": 0.5, "sigma": 1}]}, "stretches.0.steps: Field required"),
        ({"stretches": [{"sampling_rate": 0.5, "sigma": math.inf, "steps": 1}]}, "stretches.0.sigma"),
        ({"stretches": [{"sampling_rate": "1/0", "sigma": 1, "steps": 1}]}, "divides by zero"),
        ({"dataset_size": 0}, "dataset_size"),
        ({"delta": 1.0}, "delta"),
        ({"delta": None}, "a record needs delta"),
        ({"sampler": "random"}, "sampler: .*'poisson', 'shuffle' or 'unknown'.*got 'random'"),
        ({"claim": {"epsilon": -1, "delta": 1e-5}}, "claim.epsilon"),
        ({"claim": {"epsilon": 1}}, "claim.delta: Field required"),
        ({"batch_sizes": [60]}, "1 entries for 2250 steps"),
        ({"batch_sizes": [1501] * 2250}, "batch of 1501"),
        ({"noise_multiplier": 1}, "noise_multiplier: Extra inputs"),
    ],
)
def test_bad_records_are_named_in_one_line(changes, says):
    values = {
        "stretches": [{"sampling_rate": 0.04, "sigma": 1.5, "steps": 2250}], "dataset_size": 1500, "delta": 1e-5, **changes
    }  # fmt: skip
    with pytest.raises(UserError, match=says) as error:
        parse_training_record(values, "rec.yaml")
    assert "\n" not in str(error.value)


def test_a_record_is_a_mapping():
    with pytest.raises(UserError, match="expected fields"):
        parse_training_record([1, 2])


def test_records_are_read_from_yaml_and_json(tmp_path):
    text = """
stretches:
  - {sampling_rate: 1/240, sigma: 1.3, steps: 3600}
dataset_size: 60000
sampler: poisson
claim: {epsilon: 0.95, delta: 1e-5}
"""
    (tmp_path / "training.yaml").write_text(text)
    found = read_training_record(tmp_path / "training.yaml")
    assert found.history == [(pytest.approx(1 / 240), 1.3, 3600)]
    assert found.target_delta == 1e-5
    (tmp_path / "training.json").write_text(found.model_dump_json())
    assert read_training_record(tmp_path / "training.json") == found
    assert recompute(found, prv=prv(0.863046)).claim_verdict == "holds"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("r.txt", b"", "json, .yaml or .yml"),
        ("r.json", b"{", "r.json"),
        ("r.yaml", b"a: [", "r.yaml"),
        ("r.yaml", b"a: 1\na: 2", "duplicate"),
        ("r.yaml", b"\xff\xfe\x00", "cannot be read"),
        ("r.json", json.dumps([]).encode(), "expected fields"),
    ],
)
def test_unreadable_files(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_training_record(tmp_path / name)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_training_record(tmp_path / "missing.json")
