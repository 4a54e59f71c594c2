"""Trainings that keep their claim and trainings that do not, from the file to the verdict of their audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainable import known_entropy

from audit.engine import run
from audit.registry.store import Registry
from audit.scenario import parse
from audit.train.clipping import Clipping
from audit.train.randomness import Randomness
from audit.train.training import Trained, train
from audit.train.training_file import bind_training

FILE = """\
name: digits
factory: trainable:{factory}
data: {{source: sklearn.digits, split: {{test: 0.3, population: {population}}}}}
steps: {steps}
batch: 100
optimiser: {{adam: {{lr: 0.01}}}}
dp: {{noise_multiplier: {noise}, delta: 1e-6, accountant: rdp, canaries: {canaries}}}
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trained]:
    known_entropy(monkeypatch)

    def made(
        canaries: str, factory: str = "Softmax", population: float = 0.1, steps: int = 40, noise: float = 4
    ) -> Trained:
        registry = Registry(tmp_path / "home")
        registry.trust.allow_package("trainable")
        text = FILE.format(canaries=canaries, factory=factory, population=population, steps=steps, noise=noise)
        return train(bind_training(parse(text, "t.yaml")), registry, tmp_path / "home" / "trainings" / "digits")

    return made


def verdicts(made: Trained, *, accounting: bool = True) -> tuple[dict[str, str], str, int]:
    """Of the scenario that the training wrote, without checks that take long; what the audit by canaries says; the exit code."""
    text = made.scenario.read_text()
    head, *checks = text.split("\n- ")
    drop = ("privacy.membership", "preflight", *(() if accounting else ("privacy.dp_accounting",)))
    kept = [head, *(check for check in checks if not check.startswith(drop))]
    report = run(parse("\n- ".join(kept), base=made.folder), home=made.folder.parent.parent)
    gated = [finding for finding in report.findings if finding.gated]
    said = " ".join(finding.message for finding in gated if finding.check == "privacy.dp_audit")
    return {f"{f.check.split('.')[1]}/{f.metric}": str(f.status) for f in gated}, said, report.exit_code


def without_noise(self: Randomness, like: Tensor, deviation: float, step: int, place: int) -> Tensor:
    return torch.zeros_like(like)


def without_clipping(self: Clipping, squares: Tensor) -> Tensor:
    return torch.ones_like(squares[:1])


def test_a_training_that_keeps_its_claim_is_not_falsified(trained: Callable[..., Trained]) -> None:
    made = trained("{gradients: 400}")
    found, said, code = verdicts(made)
    assert found == dict.fromkeys(["dp_accounting/violations", "dp_accounting/excess", "dp_audit/excess"], "pass")
    assert "does not falsify" in said
    assert code == 0
    assert made.card.recipe is not None
    assert (made.card.recipe.epochs, made.card.recipe.batch) == (4, 100)  # 40 batches of 100 out of 1079 rows
    assert made.card.recipe.optimiser == ("adam", {"lr": 0.01})


@pytest.mark.parametrize(
    ("where", "name", "fault"), [(Randomness, "gaussian", without_noise), (Clipping, "factors", without_clipping)]
)
def test_a_training_without_noise_or_clipping_gives_itself_away(
    trained: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch, where: type, name: str, fault: object
) -> None:
    with monkeypatch.context() as planted:
        planted.setattr(where, name, fault)
        made = trained("400")
    found, said, code = verdicts(made)
    assert found["dp_accounting/excess"] == "pass", "the ledger is in order: it lies"
    assert found["dp_audit/excess"] == "fail", said
    assert code == 1


@pytest.mark.parametrize("planted", [True, False])
def test_examples_that_the_model_remembers_give_it_away(
    trained: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch, planted: bool
) -> None:
    with monkeypatch.context() as patched:
        if planted:
            patched.setattr(Randomness, "gaussian", without_noise)
            patched.setattr(Clipping, "factors", without_clipping)
        made = trained("{inputs: 200}", "perceptron", population=0.5, steps=200 if planted else 40, noise=10)
    assert made.record is not None
    assert made.record.canaries is not None
    assert (made.record.canaries.kind, len(made.record.canaries.scores)) == ("input", 200)
    assert made.record.dataset_size == 360 + 200
    assert (made.folder / "canaries.npz").exists()
    found, said, code = verdicts(made, accounting=not planted)
    assert found["dp_audit/excess"] == ("fail" if planted else "pass"), said
    assert found.get("dp_accounting/violations", "pass") == "pass"
    assert code == (1 if planted else 0)


def test_a_claim_beyond_the_ceiling_is_not_decided(trained: Callable[..., Trained]) -> None:
    made = trained("{gradients: 20}", noise=0.8, steps=20)
    found, said, code = verdicts(made, accounting=False)
    assert found["dp_audit/excess"] == "inconclusive"
    assert "could have shown at most" in said
    assert code == 4
