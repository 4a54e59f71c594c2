"""Shadow models of digits, side by side: a plain loop one after another, ``torch.func`` vmap, ours; and the attack they serve.

The goals are ratios of processor time at an equal attack: all contenders train the same shadows on the same batches, so that LiRA's
AUC, printed with its 95 % interval, is the same but for rounding.

    python benchmarks/_privacy_shadows.py [--shadows 64] [--rows 10000] [--epochs 10] [--threads 2]

times LiRA with shadows of a small CNN on Fashion-MNIST (Debian's dataset-fashion-mnist) from the first step to its AUC.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _privacy_workload import Run, Workload
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from audit.finding import RankAuc
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.privacy.membership import auc, confidence_scores
from audit.privacy.reference_attacks import lira_online
from audit.privacy.shadow_models import halves, train_shadows
from audit.recipe import Recipe
from audit.rng import generator, key

SHADOWS = 16
ROWS = 512
RECIPE = Recipe(epochs=24, batch=64, optimiser=("adam", {"lr": 2e-3}))
FASHION = Path("/usr/share/datasets/fashion-mnist")
Maker = Callable[[], nn.Module]
Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def normed_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def fashion_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


@cache
def digits() -> Rows:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))[:ROWS]
    return (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels[order]


@cache
def fashion(n: int) -> Rows:
    from audit.datasets.idx import read_idx

    images, labels = (read_idx(FASHION / f"train-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))
    order = np.random.default_rng(0).permutation(len(images))[:n]
    return (images[order] / 255).astype(np.float32)[:, None], labels[order].astype(np.int64)


def made(maker: Maker, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return maker().train()


def batches(rows: NDArray[np.intp], seed: int, shadow: int) -> list[Tensor]:
    """Every step's rows of one shadow; the same for every contender, so that all train the same shadows."""
    orders = [generator(seed, "order", shadow, epoch).permutation(rows) for epoch in range(RECIPE.epochs)]
    return [part for order in orders for part in torch.from_numpy(order).split(RECIPE.batch)]


def untrained(maker: Maker, seed: int, count: int) -> list[nn.Module]:
    return [made(maker, key(seed, "shadow", shadow) % 2**31) for shadow in range(count)]


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, **RECIPE.optimiser[1])


def one_after_another(maker: Maker, x: Tensor, y: Tensor, inside: NDArray[np.bool_], seed: int = 0) -> Tensor:
    """Logits of every shadow, ``(S, N, C)``."""
    modules = untrained(maker, seed, len(inside))
    for shadow, module in enumerate(modules):
        optimiser = adam(module.parameters())
        for part in batches(np.flatnonzero(inside[shadow]), seed, shadow):
            optimiser.zero_grad()
            functional.cross_entropy(module(x[part]), y[part]).backward()
            optimiser.step()
        module.eval()
    with torch.no_grad():
        return torch.stack([module(x) for module in modules])


def vmapped(maker: Maker, x: Tensor, y: Tensor, inside: NDArray[np.bool_]) -> Tensor:
    """The same, all shadows at once as PyTorch's tutorial on model ensembling has it."""
    modules = untrained(maker, 0, len(inside))
    base = modules[0]
    found, buffers = torch.func.stack_module_state(modules)
    optimiser = adam(found.values())

    def answers(parameters: dict[str, Tensor], held: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.func.functional_call(base, (parameters, held), (inputs,))

    each = [batches(np.flatnonzero(own), 0, shadow) for shadow, own in enumerate(inside)]
    for taken in zip(*each, strict=True):
        part = torch.stack(taken)
        out = torch.vmap(answers, randomness="different")(found, buffers, x[part])
        optimiser.zero_grad()
        loss = functional.cross_entropy(out.flatten(0, 1), y[part].flatten(), reduction="sum") / part.shape[1]
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return torch.vmap(answers, in_dims=(0, 0, None))(found, buffers, x)


def audited(maker: Maker, shape: tuple[int, ...]) -> AuditedModel:
    module = made(maker, 0).eval()
    return AuditedModel(
        name="benchmark", digest="benchmark", task="classification", classes=tuple(map(str, range(10))),
        spec=InputSpec(fields=(Field(name="x", kind="image", shape=shape),)), output="logit",
        capabilities=implied("logit", gradients=True, layers=True), forward=module, module=module,
        fresh=partial(made, maker),
    )  # fmt: skip


@cache
def target(maker: Maker) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Who was a member of a model under audit, and its confidence in every row."""
    x, labels = digits()
    (member, _) = halves(len(x), 2, np.random.default_rng(99))
    logits = one_after_another(maker, torch.from_numpy(x), torch.from_numpy(labels), member[None], seed=99)[0]
    return member, confidence_scores(labels, logits=logits.numpy())


def attacked(member: NDArray[np.bool_], scores: NDArray[np.float64]) -> dict[str, float | str]:
    area = auc(scores[member], scores[~member])
    low, high = RankAuc(value=area.value, n_pos=area.n_members, n_neg=area.n_non_members).interval(0.95)
    return {"LiRA AUC": area.value, "95 %": f"{low:.3f} … {high:.3f}"}


def contender(maker: Maker, train: Callable[[Maker, Rows, NDArray[np.bool_]], NDArray[np.float64]]) -> Run:
    rows, inside = digits(), halves(ROWS, SHADOWS, np.random.default_rng(1))
    target(maker)

    def run() -> Mapping[str, float | str]:
        confidence = train(maker, rows, inside)
        member, own = target(maker)
        return attacked(member, lira_online(own, confidence, inside))

    return run


def by_hand(
    train: Callable[[Maker, Tensor, Tensor, NDArray[np.bool_]], Tensor], maker: Maker, rows: Rows, inside: NDArray[np.bool_]
) -> NDArray[np.float64]:  # fmt: skip
    logits = train(maker, *(torch.from_numpy(part) for part in rows), inside).numpy()
    return np.stack([confidence_scores(rows[1], logits=one) for one in logits])


def ours(maker: Maker, rows: Rows, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """With choosing the way, proving it, and writing the cache."""
    folder = Path(tempfile.mkdtemp())
    try:
        model = audited(maker, rows[0].shape[1:])
        return train_shadows(model, *rows, inside, recipe=RECIPE, seed=0, cache=folder).pool.confidence
    finally:
        shutil.rmtree(folder)


def workload(name: str, maker: Maker, largest: float) -> Workload:
    return Workload(
        name=f"shadows-{name}",
        title=f"{SHADOWS} shadows, each on {ROWS // 2} digits, {RECIPE.epochs} epochs, batches of {RECIPE.batch}",
        contenders={
            "one after another": partial(contender, maker, partial(by_hand, one_after_another)),
            "torch.func vmap": partial(contender, maker, partial(by_hand, vmapped)),
            "ours": partial(contender, maker, ours),
        },
        reference="one after another",
        goals={"one after another": largest},
    )


WORKLOADS = [workload("mlp", mlp, 0.25), workload("cnn", cnn, 0.6), workload("normed-cnn", normed_cnn, 0.6)]


def lira(shadows: int, n: int, epochs: int) -> None:
    """LiRA against a CNN trained on half of n images of Fashion-MNIST, from the first step to the AUC."""
    x, labels = fashion(n)
    recipe = RECIPE.model_copy(update={"epochs": epochs})
    inside = halves(n, shadows + 2, np.random.default_rng(0))
    start, processor, said = time.perf_counter(), time.process_time(), [0.0]

    def progress(done: int, total: int, what: str) -> None:
        if time.perf_counter() - said[0] > 20:
            said[0] = time.perf_counter()
            print(f"  {done / total:.0%} of the steps after {time.perf_counter() - start:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        found = train_shadows(
            audited(fashion_cnn, (1, 28, 28)), x, labels, inside, recipe=recipe, seed=0, cache=Path(folder), progress=progress
        )  # fmt: skip
    # the last pair is no shadow: one of it is the model under audit
    confidence, member = found.pool.confidence, inside[shadows]
    result = attacked(member, lira_online(confidence[shadows], confidence[:shadows], inside[:shadows]))
    wall, spent = time.perf_counter() - start, time.process_time() - processor
    print(
        f"LiRA with {shadows} shadows on {n} images, {epochs} epochs: {wall / 60:.1f} minutes of the clock, {spent / 60:.1f} of the "
        f"processor, {torch.get_num_threads()} threads; accuracy {found.accuracy_inside.mean():.3f} inside, "
        f"{found.accuracy_outside.mean():.3f} outside; {result}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shadows", type=int, default=64)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lira(options.shadows, options.rows, options.epochs)
