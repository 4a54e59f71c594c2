"""An epoch of digits by clipped per-example gradients: ours beside Opacus's three ways, and plain training. No noise, SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

import torch
from _privacy_workload import Contender, Run, Workload
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from sklearn.datasets import load_digits
from torch import Tensor, nn

from audit.train.clipping import Clipping, trained
from audit.train.gradients.choosing import choose
from audit.train.gradients.converting import converted

BATCH = 256
RATE = 0.05
Maker = Callable[[], nn.Module]


@cache
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    x, y = digits()
    return zip(x.split(BATCH), y.split(BATCH), strict=True)


def losses(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y, reduction="none")


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(4, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def resnet() -> nn.Module:
    stem = (nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.GroupNorm(4, 32), nn.ReLU())
    return nn.Sequential(
        *stem, Block(32), Block(32), Block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


class Positions(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.place


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class Lines(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class Last(nn.Module):
    def forward(self, x: tuple[Tensor, object]) -> Tensor:
        return x[0][:, -1]


def transformer() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True) for _ in range(2)]
    return nn.Sequential(Lines(), nn.Linear(8, 64), Positions(8, 64), *layers, Mean(), nn.Linear(64, 10))


def lstm() -> nn.Module:
    return nn.Sequential(Lines(), nn.LSTM(8, 64, batch_first=True), Last(), nn.Linear(64, 10))


def made(maker: Maker) -> nn.Module:
    torch.manual_seed(0)
    return maker().train()


def plain(maker: Maker) -> Run:
    module = made(maker)
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE)

    def run() -> Mapping[str, float | str]:
        for x, y in batches():
            optimiser.zero_grad()
            losses(module(x), y).mean().backward()
            optimiser.step()
        return {}

    return run


def opacus(maker: Maker, *, functorch: bool = False) -> Run:
    module = GradSampleModule(converted(made(maker))[0], loss_reduction="mean", force_functorch=functorch)
    sgd = torch.optim.SGD(module.parameters(), lr=RATE)
    optimiser = DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=BATCH)

    def run() -> Mapping[str, float | str]:
        for x, y in batches():
            optimiser.zero_grad()
            losses(module(x), y).mean().backward()
            optimiser.step()
        return {}

    return run


def opacus_ghost(maker: Maker) -> Run:
    module = GradSampleModuleFastGradientClipping(converted(made(maker))[0], loss_reduction="mean", max_grad_norm=1.0)
    sgd = torch.optim.SGD(module.parameters(), lr=RATE)
    optimiser = DPOptimizerFastGradientClipping(sgd, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=BATCH)
    criterion = DPLossFastGradientClipping(module, optimiser, nn.CrossEntropyLoss())

    def run() -> Mapping[str, float | str]:
        for x, y in batches():
            optimiser.zero_grad()
            criterion(module(x), y).backward()
            optimiser.step()
        return {}

    return run


def ours(maker: Maker) -> Run:
    module = converted(made(maker))[0]
    mode = choose(module, losses, Clipping(norm=1.0), *next(batches()))
    parameters = [parameter for _, parameter in trained(module)]
    optimiser = torch.optim.SGD(parameters, lr=RATE)

    def run() -> Mapping[str, float | str]:
        for x, y in batches():
            for parameter, total in zip(parameters, mode.clipped_sum(x, y).gradients, strict=True):
                parameter.grad = total / BATCH
            optimiser.step()
        return {"took": mode.name}

    return run


def workload(name: str, maker: Maker) -> Workload:
    contenders: dict[str, Contender] = {
        "plain (no privacy)": partial(plain, maker),
        "opacus hooks": partial(opacus, maker),
        "opacus functorch": partial(opacus, maker, functorch=True),
        "opacus ghost": partial(opacus_ghost, maker),
        "ours": partial(ours, maker),
    }
    count = sum(parameter.numel() for parameter in made(maker).parameters())
    return Workload(
        name=f"gradients-{name}",
        title=f"an epoch of digits, batches of {BATCH}, {count:,} parameters",
        contenders=contenders,
        reference="plain (no privacy)",
        goals={contender: 1.0 for contender in contenders if contender.startswith("opacus")},
    )


WORKLOADS = [
    workload("cnn", cnn),
    workload("resnet", resnet),
    workload("transformer", transformer),
    workload("lstm", lstm),
]
