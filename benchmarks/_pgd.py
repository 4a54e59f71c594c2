"""PGD-40: `robustness.evasion`, the attack alone, torchattacks, foolbox and ART. Same eps, step and steps."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from _compare import Contender, Workload
from _subjects import Subject, subject
from torch import nn

from audit.attacks import Attack, confirm
from audit.attacks.pgd import Pgd
from audit.checks.robustness.evasion import Evasion
from audit.context import Context
from audit.data import AuditData
from audit.rng import ExampleRng
from audit.run_folder import RunWriter

STEPS = 40
STEP = 0.5
"""Step as a share of eps."""


def ours(attack: Attack, norm: str = "linf") -> Contender:
    """Clean answers, attack and confirmation, as the peers do them."""

    def run(subject: Subject, eps: float, seed: int) -> np.ndarray:
        model = subject.audited()
        threat = subject.threat(norm, eps, attack.access)
        right = model.correct(subject.batch)
        x, y = subject.x[right], subject.y[right]
        rng = ExampleRng(seed, "benchmark", subject.batch.take(right.numpy()).ids, "attack")
        stays = right.clone()
        chunks = [
            confirm(model, x[at], y[at], attack.run(model, x[at], y[at], threat, rng.take(at)).x, threat).success
            for at in torch.arange(len(x)).split(model.micro_batch)
        ]
        stays[right] = ~torch.cat(chunks)
        return stays.numpy()

    return run


def evasion(subject: Subject, eps: float, seed: int) -> np.ndarray:
    """The whole check: clean answers, attack, confirmation, controls, evidence on disk."""
    model = subject.audited()
    data = AuditData("digits", subject.batch, model.spec, model.classes)
    with tempfile.TemporaryDirectory() as folder, RunWriter(Path(folder) / "run", {}, "") as writer:
        ctx = Context(seed=seed, check_id="evasion", step="evasion", writer=writer, open_model=lambda name: model)
        check = Evasion(attacks=({"pgd": {"steps": STEPS, "step_size": STEP}},), eps=eps)
        found = [m for m in check.run(model, data, ctx) if m.metric == "robust_accuracy" and not m.dims]
    left = found[0].estimate.k
    return np.arange(len(subject.batch)) < left


def torchattacks_pgd(subject: Subject, eps: float, seed: int) -> np.ndarray:
    import torchattacks

    torch.manual_seed(seed)
    unit, high = subject.unit(), subject.high
    attack = torchattacks.PGD(unit, eps=eps / high, alpha=STEP * eps / high, steps=STEPS, random_start=True)
    return subject.right_after(attack(subject.x / high, subject.y) * high)


def foolbox_pgd(subject: Subject, eps: float, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of SciPy
        import foolbox

    torch.manual_seed(seed)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP * eps, steps=STEPS, random_start=True)
    model = foolbox.PyTorchModel(subject.module, bounds=(0.0, subject.high), device="cpu")
    _, _, fooled = attack(model, subject.x, subject.y, epsilons=eps)
    return (~fooled).numpy()


def art_pgd(batch_size: int | None) -> Contender:
    """ART's PGD with its own batch size (32), or another."""

    def run(subject: Subject, eps: float, seed: int) -> np.ndarray:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        np.random.seed(seed)
        torch.manual_seed(seed)
        shape = tuple(subject.batch.x.shape[1:])
        classifier = PyTorchClassifier(
            subject.module, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, subject.high), device_type="cpu"
        )
        sizes = {} if batch_size is None else {"batch_size": batch_size}
        attack = ProjectedGradientDescent(
            classifier, eps=eps, eps_step=STEP * eps, max_iter=STEPS, num_random_init=1, verbose=False, **sizes
        )
        moved = attack.generate(subject.batch.x, subject.batch.labels)
        return classifier.predict(moved, **sizes).argmax(1) == subject.batch.labels

    return run


PGD = Pgd(steps=STEPS, step_size=STEP)
WORKLOADS = (
    Workload(
        "pgd",
        f"PGD-{STEPS}, linf",
        subject,
        (0.8, 1.6, 2.4),
        {
            "robustness.evasion (whole check)": evasion,
            "  attack and confirmation alone": ours(PGD),
            "torchattacks": torchattacks_pgd,
            "foolbox": foolbox_pgd,
            "ART, batches of 512": art_pgd(512),
            "ART as it comes": art_pgd(None),
        },
        "torchattacks",
    ),
)
STRENGTH = {"pgd": (ours(PGD), torchattacks_pgd)}
