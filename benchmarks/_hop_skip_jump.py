"""HopSkipJump at equal queries: foolbox and ART.

Under linf ART 1.20.1 may halve a step for ever, and is left out. The peers start from given points, for their own noise leaves rows without one; ours pays for its starts. As a workload of
`robustness.py`: which rows lie further than eps. By itself: medians of the distance.

    python benchmarks/_hop_skip_jump.py [l2 linf] [--rows 40] [--seeds 3]
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from _compare import Contender, Workload, metered
from _subjects import Subject, subject
from torch import Tensor, nn

from audit.attacks import perturbation_size
from audit.attacks.hop_skip_jump import HopSkipJump
from audit.rng import ExampleRng

STEPS = 8
"""Steps of the peers."""
QUERIES = 1650
"""What the thriftier of the two takes for them, per row; all that ours has."""

Attack = Callable[[Subject, str, int], Tensor]
"""Subject, norm and seed in; ``(N, C, H, W)`` out, the input itself where there was nothing to find."""


def _attack(subject: Subject, norm: str, seed: int, queries: int) -> Tensor:
    model = subject.audited()
    right = model.correct(subject.batch)
    rng = ExampleRng(seed, "benchmark", subject.batch.take(right.numpy()).ids, "attack")
    threat = subject.threat(norm, 1.0, "black_box_labels").model_copy(update={"eps": None})
    moved = subject.x.clone()
    moved[right] = HopSkipJump(queries=queries).run(model, subject.x[right], subject.y[right], threat, rng).x
    return moved


def ours(subject: Subject, norm: str, seed: int) -> Tensor:
    return _attack(subject, norm, seed, QUERIES)


@cache
def _starts(name: str, rows: int) -> Tensor:
    return _attack(_SUBJECTS[name, rows], "l2", 0, 40)


_SUBJECTS: dict[tuple[str, int], Subject] = {}


def _begun(subject: Subject) -> tuple[Tensor, Tensor]:
    """Positions of the rows that a start was found for, and the starts; the same for every contender."""
    key = subject.name, len(subject.batch)
    _SUBJECTS.setdefault(key, subject)
    starts = _starts(*key)
    return (starts != subject.x).flatten(1).any(1).nonzero().flatten(), starts


def foolbox(subject: Subject, norm: str, seed: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # foolbox imports deprecated names of SciPy
        import foolbox

    torch.manual_seed(seed)
    at, starts = _begun(subject)
    model = foolbox.PyTorchModel(subject.unit(), bounds=(0.0, 1.0), device="cpu")
    attack = foolbox.attacks.HopSkipJumpAttack(steps=STEPS, constraint=norm)
    criterion = foolbox.criteria.Misclassification(subject.y[at])
    moved = subject.x.clone()
    moved[at] = subject.high * attack.run(
        model, subject.x[at] / subject.high, criterion, starting_points=starts[at] / subject.high
    )
    return moved


class Single(nn.Module):
    """The network for the doubles that ART makes on the way."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float())


def art(subject: Subject, norm: str, seed: int) -> Tensor:
    from art.attacks.evasion import HopSkipJump as Peer
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(seed)
    at, starts = _begun(subject)
    classifier = PyTorchClassifier(
        Single(subject.module).eval(), nn.CrossEntropyLoss(), tuple(subject.x.shape[1:]), 10,
        clip_values=(0.0, subject.high), device_type="cpu",
    )  # fmt: skip
    attack = Peer(
        classifier, norm=2 if norm == "l2" else np.inf, max_iter=STEPS, max_eval=10_000, init_eval=100,
        batch_size=512, verbose=False,
    )  # fmt: skip
    moved = subject.x.clone()
    found = attack.generate(subject.x[at].numpy(), subject.y[at].numpy(), x_adv_init=starts[at].numpy().copy())
    moved[at] = torch.from_numpy(found).float()
    return moved


ATTACKS: dict[str, dict[str, Attack]] = {
    "l2": {"audit": ours, "foolbox": foolbox, "ART": art},
    "linf": {"audit": ours, "foolbox": foolbox},
}
EPS = {"l2": 8.0, "linf": 2.0}


def distances(subject: Subject, moved: Tensor, norm: str) -> Tensor:
    """``(N,)``; infinite where the network is not fooled."""
    wrong = torch.from_numpy(~subject.right_after(moved))
    return perturbation_size(moved.double() - subject.x.double(), norm).where(wrong, torch.inf)


def beyond(attack: Attack, norm: str) -> Contender:
    def run(subject: Subject, eps: float, seed: int) -> np.ndarray:
        return (distances(subject, attack(subject, norm, seed), norm) > eps).numpy()

    return run


WORKLOADS = tuple(
    Workload(
        f"hop_skip_jump_{norm}",
        f"HopSkipJump, about {QUERIES} queries, {norm}",
        partial(subject, "digits", "standard", 40),
        (eps,),
        {name: beyond(attack, norm) for name, attack in ATTACKS[norm].items()},
        "foolbox",
    )
    for norm, eps in EPS.items()
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("norms", nargs="*", default=list(EPS))
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    attacked = subject("digits", "standard", options.rows)
    _begun(attacked)
    for norm in options.norms:
        print(f"{norm:24}{'seconds':>9}{'ratio':>7}{'queries':>9}  median distance by seed")
        seconds: dict[str, list[float]] = {name: [] for name in ATTACKS[norm]}
        medians: dict[str, list[float]] = {name: [] for name in ATTACKS[norm]}
        for seed in range(options.seeds):
            for name, attack in ATTACKS[norm].items():
                start = time.process_time()
                moved = attack(attacked, norm, seed)
                seconds[name].append(time.process_time() - start)
                right = torch.from_numpy(attacked.right_after(attacked.x))
                medians[name].append(float(distances(attacked, moved, norm)[right].median()))
        for name, attack in ATTACKS[norm].items():
            meter, _ = metered(beyond(attack, norm), attacked, 1.0, 0)
            shown = " ".join(f"{value:.3f}" for value in medians[name])
            took, theirs = np.median(seconds[name]), np.median(seconds["foolbox"])
            print(
                f"{name:24}{took:9.2f}{took / theirs:7.2f}{meter.rows_forward // options.rows:9}  {shown}", flush=True
            )


if __name__ == "__main__":
    main()
