"""Two runs compared, with coins whose every number is set."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from toys import Linear, audited, batch, data

from audit.comparing import Change, Judgement, _change, changes, flips, tally
from audit.engine import run
from audit.finding import Exact
from audit.pairing import independent_difference
from audit.run_folder import Run
from audit.scenario import parse

ROWS = data(batch([[float(i), 1.0] for i in range(40)], [i % 2 for i in range(40)]), kind="series")


def tossed(home: Path, *checks: str, name: str = "toy", seed: int = 3) -> Run:
    text = f"name: coins\nmodel: {name}\ndata: {{source: given}}\nseed: {seed}\nchecks:\n"
    text += "".join(f"  - {check}\n" for check in checks)
    model = audited(Linear([3.0, 4.0], -5.0), (2,), kind="series", name=name)
    return run(parse(text), home=home, models={name: model}, data=ROWS, explore=True).stored


def heads(before: Run, after: Run, metric: str = "heads") -> Change:
    (found,) = (c for c in changes(before, after) if c.finding.metric == metric and not c.finding.dims)
    return found


@pytest.mark.parametrize(
    ("before", "after", "judgement"),
    [(90, 10, Judgement.WORSE), (10, 90, Judgement.BETTER), (50, 53, Judgement.UNTOLD), (50, 50, Judgement.SAME)],
)
def test_a_share_that_is_better_when_higher(tmp_path: Path, before: int, after: int, judgement: Judgement) -> None:
    change = heads(tossed(tmp_path, f"toy.coins: {{k: {before}}}"), tossed(tmp_path, f"toy.coins: {{k: {after}}}"))
    assert change.judgement is judgement
    assert not change.paired
    assert change.difference is not None
    assert change.difference.value == pytest.approx((after - before) / 100)


def test_a_count_that_is_better_when_lower_has_no_sampling_error(tmp_path: Path) -> None:
    change = heads(tossed(tmp_path, "toy.coins: {k: 10}"), tossed(tmp_path, "toy.coins: {k: 11}"), "count")
    assert change.judgement is Judgement.WORSE
    assert change.difference is not None
    assert (change.difference.low, change.difference.high) == (1, 1)


def test_equal_numbers_without_sampling_error_are_the_same_whatever_their_rows(tmp_path: Path) -> None:
    run = tossed(tmp_path, "toy.coins: {k: 10}")
    counted = next(finding for finding in run.findings if finding.metric == "count")
    one, two, other = (
        counted.model_copy(update={"estimate": Exact(value=value, n=n)}) for value, n in ((0, 9), (0, 5), (1, 5))
    )
    assert _change(run, run, one, two).judgement is Judgement.SAME
    assert _change(run, run, one, other).judgement is Judgement.WORSE


def test_outcomes_of_the_same_rows_are_compared_in_pairs(tmp_path: Path) -> None:
    old = [1] * 28 + [0] * 12
    new = [1] * 16 + [0] * 24
    runs = [tossed(tmp_path, f"toy.coins: {{k: {sum(o)}, n: 40, outcomes: {o}}}") for o in (old, new)]
    change = heads(*runs)
    assert (change.paired, change.judgement) == (True, Judgement.WORSE)
    assert change.difference is not None
    assert change.difference.value == pytest.approx(-0.3)
    flipped = flips(*runs, change)
    assert [(flip.before, flip.after) for flip in flipped] == [(1.0, 0.0)] * 12
    assert {flip.row for flip in flipped} == set(ROWS.test.ids[16:28])


def test_outcomes_that_the_number_is_not_the_mean_of_are_left_alone(tmp_path: Path) -> None:
    runs = [tossed(tmp_path, f"toy.coins: {{k: {k}, n: 40, outcomes: {[1] * 20 + [0] * 20}}}") for k in (20, 35)]
    change = heads(*runs)
    assert not change.paired
    assert change.judgement is Judgement.BETTER


def test_rows_that_all_came_out_alike_are_the_same(tmp_path: Path) -> None:
    text = f"toy.coins: {{k: 20, n: 40, outcomes: {[1] * 20 + [0] * 20}}}"
    change = heads(tossed(tmp_path, text), tossed(tmp_path, text))
    assert (change.paired, change.judgement) == (True, Judgement.SAME)


def test_what_only_one_run_holds(tmp_path: Path) -> None:
    before = tossed(tmp_path, "toy.coins: {k: 10, parts: {left: 3}}")
    found = changes(before, tossed(tmp_path, "toy.coins: {k: 10, parts: {right: 3}}"))
    only = {change.finding.dims["side"]: change for change in found if change.finding.dims}
    assert only["right"].before is None
    assert only["left"].after is None
    assert only["left"].why == f"only in {before.name}"
    assert {change.judgement for change in only.values()} == {Judgement.INCOMPARABLE}


def test_a_void_number_is_not_compared(tmp_path: Path) -> None:
    control = 'toy.control: {voids: {"toy.coins:heads": the coin has two heads}}'
    change = heads(tossed(tmp_path, "toy.coins: {k: 90}"), tossed(tmp_path, "toy.coins: {k: 10}", control))
    assert change.judgement is Judgement.INCOMPARABLE
    assert "two heads" in change.why


def test_a_bound_has_no_difference(tmp_path: Path) -> None:
    runs = [tossed(tmp_path, f"toy.coins: {{bound: [{value}, 5]}}") for value in (1, 3)]
    change = heads(*runs, "bound")
    assert change.judgement is Judgement.INCOMPARABLE
    assert "one-sided bound" in change.why


def test_other_parameters_are_said(tmp_path: Path) -> None:
    change = heads(tossed(tmp_path, "toy.coins: {k: 10}"), tossed(tmp_path, "toy.coins: {k: 90, n: 200}"))
    assert change.why == "asked differently: k 10 → 90, n 100 → 200"


def test_the_status_of_a_gate_changes(tmp_path: Path) -> None:
    gate = '{{toy.coins: {{k: {k}}}, require: {{heads: ">= 0.6"}}}}'
    runs = [tossed(tmp_path, gate.format(k=k)) for k in (90, 10)]
    assert heads(*runs).status_changed
    assert not heads(runs[0], runs[0]).status_changed
    counts = tally(changes(*runs))
    assert (counts[Judgement.WORSE], counts[Judgement.BETTER]) == (1, 1), (
        "the share fell, and so did the count, which is good"
    )


def test_models_of_other_names_answer_to_one_another(tmp_path: Path) -> None:
    old, new = tossed(tmp_path, "toy.coins: {k: 10}"), tossed(tmp_path, "toy.coins: {k: 90}", name="successor")
    assert heads(old, new).judgement is Judgement.BETTER


def test_the_difference_of_independent_shares_is_newcombes() -> None:
    """Newcombe 1998, table II, case (a): 56/70 − 48/80 with Wilson's intervals, method 10: 0.0524 to 0.3339."""

    def wilson(k: int, n: int) -> tuple[float, float]:
        z = 1.959963984540054
        middle, half = (
            (2 * k + z * z) / (2 * (n + z * z)),
            z * math.sqrt(z * z + 4 * k * (1 - k / n)) / (2 * (n + z * z)),
        )
        return middle - half, middle + half

    found = independent_difference((56 / 70, 48 / 80), wilson(56, 70), wilson(48, 80), 70)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
