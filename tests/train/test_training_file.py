"""A training file says one thing in one way, and every mistake in it is one line."""

from __future__ import annotations

import pytest

from audit.parameters import UserError
from audit.scenario import parse
from audit.train.training_file import Training, bind_training, read_training

GOOD = """\
name: private-digits
factory: audit.demo.digits:cnn
data: {source: sklearn.digits, split: {test: 0.2}}
epochs: 3
optimiser: {adam: {lr: 0.01}}
dp: {epsilon: 8, delta: 1e-5}
"""


def training(text: str = GOOD) -> Training:
    return bind_training(parse(text, "t.yaml")).training


def test_what_a_file_says() -> None:
    read = training()
    assert read.optimiser == ("adam", {"lr": 0.01})
    assert read.dp is not None
    assert (read.dp.epsilon, read.dp.delta, read.dp.accountant, read.dp.clipping) == (8, 1e-5, "prv", "flat")
    assert training(GOOD.replace("{adam: {lr: 0.01}}", "sgd")).optimiser == ("sgd", {})
    assert training(GOOD.replace("{adam: {lr: 0.01}}", "{sgd: }")).optimiser == ("sgd", {})
    assert training(GOOD.replace("1e-5", "1/100000")).dp == read.dp


@pytest.mark.parametrize("off", ["off", "false"])
def test_off_is_the_plain_baseline(off: str) -> None:
    assert training(GOOD.replace("{epsilon: 8, delta: 1e-5}", off)).dp is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("epochs: 3", "epoch: 3"), "t.yaml:4:1: epoch: unknown field 'epoch'; did you mean 'epochs'?"),
        (("epochs: 3", "epochs: 3\nsteps: 9"), "by 'epochs' or by 'steps', one of the two"),
        (("epochs: 3\n", ""), "by 'epochs' or by 'steps', one of the two"),
        (("epsilon: 8", "epsilon: 8, noise_multiplier: 1"), "t.yaml:6:1: dp: epsilon and noise_multiplier are both set"),
        (("epsilon: 8, ", ""), "t.yaml:6:1: dp: neither epsilon nor noise_multiplier is set"),
        (("epsilon: 8", "epsilon: 8, max_epsilon: 9"), "max_epsilon goes with noise_multiplier"),
        (("epsilon: 8", "epsilom: 8"), "unknown field 'epsilom'; did you mean 'epsilon'?"),
        ((", delta: 1e-5", ""), "'delta' is missing"),
        (("delta: 1e-5", "delta: 1"), "t.yaml:6:18: dp.delta: input should be less than 1, got 1"),
        (("dp: {epsilon: 8, delta: 1e-5}\n", ""), "dp: say how private the training is"),
        (("dp: {epsilon: 8, delta: 1e-5}", "dp: on"), "dp: say how private the training is"),
        (("sklearn.digits", "sklearn.digit"), "t.yaml:3:1: data.member: input should be 'breast_cancer'"),
        (("test: 0.2", "test: 2"), "data.split.test"),
        (("{adam: {lr: 0.01}}", "{adam: 3}"), "such as 'adam: {lr: 0.01}'"),
        (("demo.digits:cnn", "demo.digits.cnn"), "names no callable"),
        (("private-digits", "../x"), "is no name"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(change: tuple[str, str], line: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(UserError) as refused:
        training(GOOD.replace(*change))
    (said,) = str(refused.value).splitlines()
    assert line in said


def test_two_mistakes_are_two_lines() -> None:
    with pytest.raises(UserError) as refused:
        training(GOOD.replace("epochs", "epoch").replace("epsilon", "epsilom"))
    assert {line.split(":")[1] for line in str(refused.value).splitlines()} == {"4", "6"}


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match="there is no such file"):
        read_training("nowhere.yaml")
