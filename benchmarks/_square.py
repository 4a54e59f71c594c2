"""Square with 500 queries: torchattacks (AutoAttack's code) and ART.

AutoAttack's ensemble sets ``resc_schedule=False``: the patches then shrink as if there were 10,000 queries, and with 500 never become
small. ART asks about every row three times per proposal; it is given as many proposals, not as many queries.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from _autoattack import theirs
from _compare import Contender, Workload
from _pgd import ours
from _subjects import Subject, subject
from torch import nn

from audit.attacks.square import Square

QUERIES = 500
NORMS = {"linf": ("Linf", np.inf, (1.6, 2.4)), "l2": ("L2", 2, (6.0,))}


def torchattacks_square(norm: str, rescaled: bool) -> Contender:
    import torchattacks

    attack = partial(torchattacks.Square, n_queries=QUERIES, n_restarts=1, resc_schedule=rescaled)
    return theirs([lambda: attack], NORMS[norm][0])


def art_square(norm: str) -> Contender:
    def run(subject: Subject, eps: float, seed: int) -> np.ndarray:
        from art.attacks.evasion import SquareAttack
        from art.estimators.classification import PyTorchClassifier

        np.random.seed(seed)
        shape = tuple(subject.batch.x.shape[1:])
        classifier = PyTorchClassifier(
            subject.module, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, subject.high), device_type="cpu"
        )
        attack = SquareAttack(classifier, norm=NORMS[norm][1], eps=eps, max_iter=QUERIES, batch_size=512, verbose=False)
        with np.errstate(all="ignore"):
            moved = attack.generate(subject.batch.x, subject.batch.labels)
        return classifier.predict(moved, batch_size=512).argmax(1) == subject.batch.labels

    return run


def _contenders(norm: str) -> dict[str, Contender]:
    return {
        "audit": ours(Square(queries=QUERIES), norm),
        "torchattacks, schedule rescaled": torchattacks_square(norm, rescaled=True),
        "torchattacks as AutoAttack sets it": torchattacks_square(norm, rescaled=False),
        "ART": art_square(norm),
    }


WORKLOADS = tuple(
    Workload(
        f"square_{norm}",
        f"Square, {QUERIES} queries, {norm}",
        partial(subject, "digits", "standard", 200),
        NORMS[norm][2],
        _contenders(norm),
        "torchattacks, schedule rescaled",
    )
    for norm in NORMS
)
STRENGTH = {
    "square": (ours(Square(queries=QUERIES)), torchattacks_square("linf", rescaled=True)),
    "square_art": (ours(Square(queries=QUERIES)), art_square("linf")),
}
