"""Shapley values side by side: kernel SHAP on superpixels of small images, and its error against its time on a table.

``python benchmarks/_explain_shapley.py`` prints the second: how long each takes to come as close to the exact values.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from _explain_workload import NOT_TIMED, Run, Workload
from torch import Tensor, nn

from audit.explainers._features import Features, features_of
from audit.explainers._game import FeatureGame, GameExplainer
from audit.explainers.exact_shap import ExactShap
from audit.explainers.kernel_shap import KernelShap
from audit.explainers.permutation_shap import PermutationShap
from audit.explainers.tree_shap import TreeShap
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.rng import ExampleRng

IMAGES, SUPERPIXELS, COALITIONS = 8, 16, 200
COLUMNS, ROWS, BACKGROUND = 12, 16, 16
TREE_ROWS, TREE_BACKGROUND = 128, 100


def small_cnn() -> nn.Module:
    """Two convolutions for images of 3x64x64: about 0.5 million multiplications each."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    return net.eval().requires_grad_(False)


@cache
def images() -> tuple[Tensor, Tensor, Features]:
    """Smooth images in 0..1, the class each is explained for, and their superpixels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, 3, 6, 6, generator=generator)
    x = nn.functional.interpolate(coarse, size=64, mode="bilinear")
    spec = InputSpec(fields=(Field(name="x", kind="image", shape=(3, 64, 64)),))
    with torch.no_grad():
        target = small_cnn()(x).argmax(dim=1)
    return x, target, features_of(x, spec, "segment", SUPERPIXELS)


def audited(network: nn.Module, kind: str, shape: tuple[int, ...]) -> AuditedModel:
    """Ours."""
    return AuditedModel(
        name="subject", digest="subject", task="classification", classes=tuple("0123456789"),
        spec=InputSpec(fields=(Field(name="x", kind=kind, shape=shape, bounds=(0.0, 1.0)),)), output="logit",
        capabilities=implied("logit", gradients=True, layers=True), forward=network, module=network,
    )  # fmt: skip


def streams(rows: int, seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "benchmark", [str(i) for i in range(rows)], "explainer")


def ours(explainer: GameExplainer, network: nn.Module) -> Run:
    """On the superpixels that everybody is given."""
    x, target, features = images()
    model = audited(network, "image", (3, 64, 64))

    def run() -> Tensor:
        with torch.no_grad():
            game = FeatureGame(model, x, target, torch.zeros_like(x)[:, None], features)
            return explainer.play(game, streams(IMAGES)).values

    return run


def captum(perturbations: int, network: nn.Module) -> Run:
    from captum.attr import KernelShap as Theirs

    x, target, features = images()
    theirs = Theirs(network)

    def run() -> Tensor:
        torch.manual_seed(0)
        found = theirs.attribute(
            x, baselines=0.0, target=target, feature_mask=features.number, n_samples=COALITIONS,
            perturbations_per_eval=perturbations,
        )  # fmt: skip
        sizes = features.total(torch.ones_like(x)).clamp_min(1)
        return features.spread(features.total(found) / sizes)  # it gives each element the whole value of its superpixel

    return run


def shap_on_images(network: nn.Module) -> Run:
    """shap's KernelExplainer is given coalitions, not images: it knows no superpixels."""
    from audit.bridges.shap import library

    x, target, features = images()

    def worth(row: int, coalitions: Any) -> Any:
        there = torch.from_numpy(coalitions != 0)
        there = nn.functional.pad(there, (0, features.most - there.shape[1]))
        kept = features.elements(there, torch.full((len(there),), row))
        with torch.no_grad():
            return network(torch.where(kept, x[row], 0.0))[:, target[row]].double().numpy()

    def run() -> Tensor:
        values = torch.zeros(IMAGES, features.most, dtype=torch.float64)
        for row, players in enumerate(features.count.tolist()):
            np.random.seed(row)
            theirs = library().KernelExplainer(partial(worth, row), np.zeros((1, players)))
            found = theirs.shap_values(np.ones((1, players)), nsamples=COALITIONS, l1_reg=False, silent=True)
            values[row, :players] = torch.from_numpy(found[0])
        return features.spread(values)

    return run


@cache
def every_coalition_of_images() -> Tensor:
    return ours(KernelShap(coalitions=2**SUPERPIXELS), small_cnn())()


def prepared(values: Callable[[], Tensor], _: nn.Module) -> Run:
    """Values worked out beforehand: its time says nothing."""
    found = values()
    return lambda: found


def small_net() -> nn.Module:
    """A classifier of rows with interactions of every order."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(COLUMNS, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    for layer in (net[0], net[2]):
        layer.weight.data *= 3
    return net.eval().requires_grad_(False)


@cache
def rows() -> tuple[Tensor, Tensor]:
    """Rows explained and background rows."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(ROWS + BACKGROUND, COLUMNS, generator=generator)
    return drawn[:ROWS], drawn[ROWS:]


def ours_on_rows(explainer: GameExplainer, network: nn.Module, seed: int = 0) -> Run:
    x, background = rows()
    model = audited(network, "number", (COLUMNS,))
    target = torch.ones(ROWS, dtype=torch.int64)
    return lambda: explainer.run(model, x, target, background, streams(ROWS, seed)).values


def shap_on_rows(coalitions: int, network: nn.Module, seed: int = 0) -> Run:
    from audit.bridges.shap import library

    x, background = rows()

    def answer(inputs: Any) -> Any:
        with torch.no_grad():
            return network(torch.from_numpy(inputs).float())[:, 1].numpy()

    theirs = library().KernelExplainer(answer, background.numpy())

    def run() -> Tensor:
        np.random.seed(seed)
        return torch.from_numpy(theirs.shap_values(x.numpy(), nsamples=coalitions, l1_reg=False, silent=True))

    return run


@cache
def every_coalition_of_rows() -> Tensor:
    return ours_on_rows(ExactShap(), small_net())()


@cache
def forest() -> tuple[AuditedModel, Tensor, Tensor]:
    """A hundred trees on a table of thirty columns; rows explained and background rows."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_breast_cancer(return_X_y=True)
    trees = RandomForestClassifier(100, random_state=0).fit(x, y)
    fields = tuple(Field(name=f"column {j}", kind="number") for j in range(x.shape[1]))
    model = AuditedModel(
        name="forest", digest="forest", task="classification", classes=("0", "1"), spec=InputSpec(fields=fields),
        output="probability", capabilities=implied("probability", gradients=False, layers=False),
        forward=lambda z: torch.from_numpy(trees.predict_proba(z.numpy())), native=trees,
    )  # fmt: skip
    return model, torch.from_numpy(x[:TREE_ROWS]), torch.from_numpy(x[-TREE_BACKGROUND:])


def our_trees(_: nn.Module) -> Run:
    model, x, background = forest()
    explainer, target = TreeShap(background=len(background)), torch.ones(len(x), dtype=torch.int64)
    return lambda: explainer.run(model, x, target, background, streams(len(x))).values


def shap_trees(_: nn.Module) -> Run:
    """Its thresholds are narrowed to float32 (shap#5116): the largest difference is its own."""
    from audit.bridges.shap import library

    model, x, background = forest()
    shap = library()
    masker = shap.maskers.Independent(background.numpy(), max_samples=len(background))

    def run() -> Tensor:
        theirs = shap.TreeExplainer(model.native, masker, feature_perturbation="interventional")
        return torch.from_numpy(theirs.shap_values(x.numpy(), check_additivity=False)[:, :, 1].copy())

    return run


WORKLOADS = [
    Workload(
        name="tree-shap",
        title=f"interventional Tree SHAP, 100 trees, 30 columns, {TREE_ROWS} rows, {TREE_BACKGROUND} background rows",
        network=nn.Identity,
        contenders={"ours": our_trees, "shap": shap_trees},
        reference="shap",
        truth="shap",
        goals={"shap": 1.0},
    ),
    Workload(
        name="kernel-shap",
        title=f"kernel SHAP, {SUPERPIXELS} superpixels, {COALITIONS} coalitions, {IMAGES} images of 3x64x64, small CNN",
        network=small_cnn,
        contenders={
            "ours": partial(ours, KernelShap(coalitions=COALITIONS)),
            "captum": partial(captum, 1),
            "captum, tuned": partial(captum, COALITIONS),
            "shap": shap_on_images,
            f"all coalitions {NOT_TIMED}": partial(prepared, every_coalition_of_images),
        },
        reference="captum",
        truth=f"all coalitions {NOT_TIMED}",
        goals={"captum": 0.1},
    ),
    *(
        Workload(
            name=f"kernel-shap-table-{coalitions}",
            title=f"kernel SHAP, {COLUMNS} columns, {coalitions} coalitions, {BACKGROUND} background rows, {ROWS} rows",
            network=small_net,
            contenders={
                "ours": partial(ours_on_rows, KernelShap(coalitions=coalitions)),
                "ours, random orders": partial(
                    ours_on_rows, PermutationShap(permutations=max(2, coalitions // (2 * COLUMNS)))
                ),
                "shap": partial(shap_on_rows, coalitions),
                f"all coalitions {NOT_TIMED}": partial(prepared, every_coalition_of_rows),
            },
            reference="shap",
            truth=f"all coalitions {NOT_TIMED}",
            goals={"shap": 1.0},
        )
        for coalitions in (100, 400, 1600)
    ),
]


def _measured(make: Callable[[int], Run], seeds: int = 3) -> tuple[float, float]:
    """CPU seconds and root mean square error against the exact values, over some seeds."""
    exact, seconds, squares = every_coalition_of_rows(), [], []
    for seed in range(seeds):
        run = make(seed)
        run()
        start = time.process_time()
        found = run()
        seconds.append(time.process_time() - start)
        squares.append(float((found - exact).square().mean()))
    return min(seconds), math.sqrt(sum(squares) / seeds)


def main() -> None:
    """Error against time for several budgets."""
    torch.set_num_threads(1)
    network = small_net()
    exact = every_coalition_of_rows()
    print(f"exact values: mean size {float(exact.abs().mean()):.3f}")
    print("coalitions        ours: ms     error        shap: ms     error   random orders: ms     error")
    for coalitions in (100, 200, 400, 800, 1600, 3200):
        orders = max(2, coalitions // (2 * COLUMNS))
        cells = [
            _measured(lambda seed, c=coalitions: ours_on_rows(KernelShap(coalitions=c), network, seed)),
            _measured(lambda seed, c=coalitions: shap_on_rows(c, network, seed)),
            _measured(lambda seed, p=orders: ours_on_rows(PermutationShap(permutations=p), network, seed)),
        ]
        print(f"{coalitions:10d}" + "".join(f"{1000 * seconds:16.1f}{error:10.4f}" for seconds, error in cells))


if __name__ == "__main__":
    main()
