"""Gradient explainers side by side: integrated gradients and SmoothGrad on small CNNs and a residual network, gradient SHAP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from _explain_workload import Run, Workload
from torch import Tensor, nn

from audit.explainers import Explainer
from audit.explainers.gradient_shap import GradientShap
from audit.explainers.integrated_gradients import IntegratedGradients
from audit.explainers.smoothgrad import Smoothgrad
from audit.model import AuditedModel, Field, InputSpec, implied
from audit.rng import ExampleRng

STEPS = 50
DRAWS = 50
BACKGROUND = 32
SIZES = (50, 100, 250, 500)
"""Rows per pass that are tried for the passes alone, and by hand."""


def small_cnn() -> nn.Module:
    """For images of 1x28x28: two convolutions of stride 2, and a dense layer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 10),
    )  # fmt: skip
    return net.eval().requires_grad_(False)


def pooling_cnn() -> nn.Module:
    """For images of 1x28x28: two convolutions at full resolution, each followed by a pool, and two dense layers."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    return net.eval().requires_grad_(False)


class Block(nn.Module):
    """Two convolutions with batch normalisation, and a shortcut."""

    def __init__(self, fed: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(fed, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Sequential()
        if stride > 1 or fed != width:
            self.shortcut = nn.Sequential(nn.Conv2d(fed, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet() -> nn.Module:
    """ResNet-18's plan at a quarter of its width, for images of 3x32x32.

    Source: He et al. 2016, arXiv:1512.03385.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    fed = 16
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        layers += [Block(fed, width, stride), Block(width, width, 1)]
        fed = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fed, 10))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.running_mean, 0.0, 0.1)
    return net.eval().requires_grad_(False)


class Rows:
    """Images in 0..1 with some black in them, the classes they are explained for, and background images."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = (torch.rand(count + BACKGROUND, *shape, generator=generator) - 0.3).clamp_min(0) / 0.7
        self.x, self.background = drawn[:count], drawn[count:]
        self.target = torch.arange(count) % 10
        self.shape = shape

    def ours(self, explainer: Explainer, network: nn.Module) -> Run:
        """The explainer of this project."""
        model = AuditedModel(
            name="subject", digest="subject", task="classification", classes=tuple("0123456789"),
            spec=InputSpec(fields=(Field(name="x", kind="image", shape=self.shape, bounds=(0.0, 1.0)),)), output="logit",
            capabilities=implied("logit", gradients=True, layers=True), forward=network, module=network,
        )  # fmt: skip

        def run() -> Tensor:
            streams = ExampleRng(0, "benchmark", [str(i) for i in range(len(self.x))], "explainer")
            return explainer.run(model, self.x, self.target, self.background, streams).values

        return run

    def passes_alone(self, points: int, network: nn.Module) -> Run:
        """Forward and back for as many rows, and nothing else."""
        total = points * len(self.x)

        def of(size: int) -> Run:
            fed, aim = self.x[torch.arange(size) % len(self.x)], self.target[torch.arange(size) % len(self.x)]

            def run() -> Tensor:
                for first in range(0, total, size):
                    slopes(network, fed[: total - first], aim[: total - first])
                return torch.zeros(0)

            return run

        return fastest(of(size) for size in SIZES if size <= total)

    def by_hand(self, draw: Callable[[Tensor], Tensor], weights: Tensor, times_input: bool, network: nn.Module) -> Run:
        """As one would write it for this one network: rows with all their points in a pass, gradients averaged."""

        def of(rows: int) -> Run:
            def run() -> Tensor:
                parts = []
                for x, aim in zip(self.x.split(rows), self.target.split(rows), strict=True):
                    found = slopes(network, draw(x).flatten(0, 1), aim.repeat_interleave(len(weights)))
                    mean = torch.einsum("s,ns...->n...", weights, found.unflatten(0, (len(x), -1)))
                    parts.append(mean * x if times_input else mean)
                return torch.cat(parts)

            return run

        counts = {min(len(self.x), max(1, size // len(weights))) for size in SIZES}
        return fastest(of(rows) for rows in sorted(counts))

    def captum_integrated(self, internal: int | None, network: nn.Module) -> Run:
        from captum.attr import IntegratedGradients as Theirs

        return lambda: Theirs(network).attribute(
            self.x, torch.zeros_like(self.x), target=self.target, n_steps=STEPS, internal_batch_size=internal
        )

    def captum_smoothgrad(self, together: int | None, network: nn.Module) -> Run:
        from captum.attr import NoiseTunnel, Saliency

        tunnel = NoiseTunnel(Saliency(network))
        options: Any = {} if together is None else {"nt_samples_batch_size": together}

        def run() -> Tensor:
            torch.manual_seed(0)
            return tunnel.attribute(
                self.x.clone().requires_grad_(), nt_samples=DRAWS, stdevs=0.15, abs=False, target=self.target, **options
            ).detach()

        return run

    def captum_gradient_shap(self, network: nn.Module) -> Run:
        from captum.attr import GradientShap as Theirs

        def run() -> Tensor:
            torch.manual_seed(0)
            np.random.seed(0)
            return Theirs(network).attribute(self.x, self.background, n_samples=DRAWS, target=self.target).detach()

        return run

    def shap(self, network: nn.Module) -> Run:
        """As it comes: every class of every row is explained."""
        from audit.bridges.shap import library

        explainer = library().GradientExplainer(network, self.background, batch_size=50)

        def run() -> Tensor:
            found = torch.from_numpy(explainer.shap_values(self.x, nsamples=DRAWS, rseed=0))
            return found[torch.arange(len(self.x)), ..., self.target]

        return run

    def shap_one_class(self, network: nn.Module) -> Run:
        from audit.bridges.shap import library

        # The target's logit alone, for shap would explain each of the ten; one model for each class among the rows.
        chosen = [(aim, self.target == aim) for aim in self.target.unique()]
        explainers = [
            library().GradientExplainer(nn.Sequential(network, Pick(int(aim))).eval(), self.background, batch_size=50)
            for aim, _ in chosen
        ]

        def run() -> Tensor:
            values = torch.zeros(self.x.shape)
            for theirs, (_, rows) in zip(explainers, chosen, strict=True):
                found = theirs.shap_values(self.x[rows], nsamples=DRAWS, rseed=0)
                values[rows] = torch.from_numpy(np.asarray(found)).reshape(self.x[rows].shape).float()
            return values

        return run


class Pick(nn.Module):
    """One of the answers."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, answers: Tensor) -> Tensor:
        return answers[:, self.place : self.place + 1]


def slopes(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    fed = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(network(fed).gather(1, target[:, None]).sum(), fed)
    return found


def fastest(runs: Iterable[Run]) -> Run:
    """The run that takes least processor time."""

    def seconds(run: Run) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    return min(runs, key=seconds)


def tuned(contender: Callable[[int, nn.Module], Run], choices: tuple[int, ...], network: nn.Module) -> Run:
    """A peer with the fastest of its own settings."""
    return fastest(contender(choice, network) for choice in choices)


def on_the_line(x: Tensor) -> Tensor:
    points = torch.from_numpy(np.polynomial.legendre.leggauss(STEPS)[0]).float()
    return x[:, None] * ((1 + points) / 2).reshape(-1, *[1] * (x.ndim - 1))


def with_noise(x: Tensor) -> Tensor:
    return x[:, None] + 0.15 * torch.randn(len(x), DRAWS, *x.shape[1:])


def integrated(name: str, network: Callable[[], nn.Module], rows: Rows, goals: dict[str, float]) -> Workload:
    count = len(rows.x)
    weights = torch.from_numpy(np.polynomial.legendre.leggauss(STEPS)[1] / 2).float()
    return Workload(
        name=f"integrated-gradients-{name}",
        title=f"integrated gradients, {STEPS} steps, {count} images of {'x'.join(map(str, rows.shape))}, {name}",
        network=network,
        contenders={
            "ours": partial(rows.ours, IntegratedGradients(steps=STEPS, max_steps=STEPS)),
            "captum": partial(rows.captum_integrated, None),
            "captum, tuned": partial(tuned, rows.captum_integrated, tuple(count * k for k in (1, 2, 4, 8))),
            "by hand": partial(rows.by_hand, on_the_line, weights, True),
            "passes alone": partial(rows.passes_alone, STEPS),
        },
        reference="captum",
        truth="captum",
        goals=goals,
    )


def smoothed(name: str, network: Callable[[], nn.Module], rows: Rows, goals: dict[str, float]) -> Workload:
    count = len(rows.x)
    return Workload(
        name=f"smoothgrad-{name}",
        title=f"SmoothGrad, {DRAWS} noisy copies, {count} images of {'x'.join(map(str, rows.shape))}, {name}",
        network=network,
        contenders={
            "ours": partial(rows.ours, Smoothgrad(samples=DRAWS)),
            "captum": partial(rows.captum_smoothgrad, None),
            "captum, tuned": partial(tuned, rows.captum_smoothgrad, (1, 2, 5, 10)),
            "by hand": partial(rows.by_hand, with_noise, torch.full((DRAWS,), 1 / DRAWS), False),
            "passes alone": partial(rows.passes_alone, DRAWS),
        },
        reference="captum",
        truth="captum",
        goals=goals,
    )


SMALL, FEW, RESIDUAL = Rows(256, (1, 28, 28)), Rows(32, (1, 28, 28)), Rows(4, (3, 32, 32))
GOALS = {"captum": 0.3, "captum, tuned": 0.65, "passes alone": 1.2}
RESIDUAL_GOALS = {"captum, tuned": 1.05, "passes alone": 1.2}

WORKLOADS = [
    integrated("small-CNN", small_cnn, SMALL, GOALS),
    integrated("pooling-CNN", pooling_cnn, SMALL, GOALS),
    integrated("ResNet", resnet, RESIDUAL, RESIDUAL_GOALS),
    smoothed("small-CNN", small_cnn, SMALL, GOALS),
    smoothed("ResNet", resnet, RESIDUAL, RESIDUAL_GOALS),
    Workload(
        name="gradient-shap",
        title=f"gradient SHAP, {DRAWS} draws from {BACKGROUND} background images, {len(FEW.x)} images of 1x28x28, small CNN",
        network=small_cnn,
        contenders={
            "ours": partial(FEW.ours, GradientShap(samples=DRAWS)),
            "captum": FEW.captum_gradient_shap,
            "shap": FEW.shap,
            "shap, one class each": FEW.shap_one_class,
            "passes alone": partial(FEW.passes_alone, DRAWS),
            "ours, 3200 draws (not timed)": partial(FEW.ours, GradientShap(samples=3200)),
        },
        reference="shap",
        truth="ours, 3200 draws (not timed)",
        goals={"shap": 0.3, "passes alone": 1.2},
    ),
]
