"""Model inversion: what a class looks like to a model, by climbing its probability from nothing; and whether that lies nearer to the
rows it was trained on than to others.

Inputs are worked on as shares of their range: 0 is the lower bound, 1 the upper.

Source: Fredrikson, Jha & Ristenpart 2015, "Model Inversion Attacks that Exploit Confidence Information and Basic Countermeasures",
doi 10.1145/2810103.2813677 (gradient descent on the class's confidence); priors: no further from the start than it takes, Simonyan et al.
2014, arXiv:1312.6034, and total variation, Mahendran & Vedaldi 2015, arXiv:1412.0035; gradients estimated from answers by evolution strategies:
Ilyas et al. 2018, arXiv:1804.08598.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from audit import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.model import AuditedModel

Distance = Literal["correlation", "euclidean"]
NOISE = 0.1
"""Standard deviation of the noise that each climb starts with, as a share of the range."""
PROBE = 0.05
"""Standard deviation of the steps aside from whose answers a gradient is estimated, as a share of the range."""
_SSIM_WINDOW = 7


@dataclass(frozen=True)
class Range:
    """Smallest and largest valid inputs, ``(1, *shape)`` or ``(1, 1, …)`` float."""

    low: Tensor
    high: Tensor

    def share(self, x: Tensor) -> Tensor:
        """Inputs as shares of the range."""
        return (x - self.low) / (self.high - self.low)

    def input(self, u: Tensor) -> Tensor:
        """Shares of the range as inputs."""
        return self.low + u * (self.high - self.low)


@dataclass(frozen=True)
class Prior:
    """What an input is taken to look like before the model is asked.

    Args:
        start: where climbs start, as a share of the range.
        decay: weight of the mean squared distance from the start: what the class does not need stays as it was.
        total_variation: weight of the mean difference between neighbouring pixels, or moments of a series.
    """

    start: float
    decay: float
    total_variation: float

    def __call__(self, u: Tensor) -> Tensor:
        """The loss that it adds, ``(N,)``."""
        loss = self.total_variation * total_variation(u)
        return loss + self.decay * ((u - self.start) ** 2).flatten(1).mean(dim=1)


@dataclass(frozen=True)
class Inversions:
    """Inputs that the model is led to.

    Args:
        u: ``(N, *shape)`` as shares of the range.
        target: ``(N,)`` the class that each was led to.
        probability: ``(N,)`` of that class.
        reached: ``(N,)`` bool: the model gives it to that class.
        loss: ``(N,)`` what was minimised: the less, the better.
    """

    u: Tensor
    target: Tensor
    probability: Tensor
    reached: Tensor
    loss: Tensor

    def take(self, mask: Tensor) -> Inversions:
        """Those that a mask ``(N,)`` is true for."""
        return Inversions(*(getattr(self, field.name)[mask] for field in fields(self)))

    @property
    def best(self) -> int:
        """Which has the least loss."""
        return int(self.loss.argmin())


def invert(
    model: AuditedModel,
    target: Tensor,
    noise: Tensor,
    valid: Range,
    prior: Prior,
    *,
    steps: int,
    step: float,
    directions: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Inversions:
    """Climb each target's log-probability, less a prior, by Adam; inputs stay within their range.

    Args:
        target: ``(N,)`` classes; one climb for each.
        noise: ``(N, *shape)`` standard normal, so that climbs to one class differ.
        step: Adam's, as a share of the range.
        directions: asks the model at so many pairs of points beside each input instead of for its gradient.
        seed: of these directions.
        progress: is told how many steps are done.
    """
    import torch

    u = (prior.start + NOISE * noise).clamp(0, 1).to(valid.low)
    target = target.to(u.device)
    optimiser = torch.optim.Adam([u], lr=step)
    rows = torch.arange(len(u), device=u.device)
    random = torch.Generator().manual_seed(seed)
    for done in range(steps):
        if directions is None:
            u.grad = torch.cat(model.in_parts(rows, lambda at: _gradient(model, u[at], target[at], valid, prior)))
        else:
            aside = torch.randn(directions, *u.shape[1:], generator=random).to(u)
            u.grad = _estimated_gradient(model, u, target, valid, prior, aside)
        optimiser.step()
        u.clamp_(0, 1)
        progress(done + 1)
    u.grad = None
    with torch.no_grad():
        loss = torch.cat(model.in_parts(rows, lambda at: _loss(model, u[at], target[at], valid, prior)))
    scores = model.scores(valid.input(u))
    probability = model.probabilities_of(scores).gather(1, target[:, None]).squeeze(1)
    return Inversions(u, target, probability, model.labels_of(scores) == target, loss)


def _gradient(model: AuditedModel, u: Tensor, target: Tensor, valid: Range, prior: Prior) -> Tensor:
    import torch

    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_loss(model, u, target, valid, prior).sum(), u)
    return gradient


def _estimated_gradient(
    model: AuditedModel, u: Tensor, target: Tensor, valid: Range, prior: Prior, aside: Tensor
) -> Tensor:
    """Mean of the slope along each direction ``(Q, *shape)``, times the direction: in expectation the gradient."""
    import torch

    with torch.enable_grad():
        own = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(prior(own).sum(), own)
    steps = PROBE * torch.cat([aside, -aside])
    asked = (u[:, None] + steps).clamp(0, 1).flatten(0, 1)
    with torch.no_grad():
        logits = torch.cat(model.in_parts(asked.to(model.input_dtype), lambda part: model.logits(valid.input(part))))
    each = target.repeat_interleave(len(steps))
    loss = torch.nn.functional.cross_entropy(logits, each, reduction="none").reshape(len(u), 2, len(aside)).to(u)
    slope = (loss[:, 0] - loss[:, 1]) / (2 * PROBE)
    return gradient + torch.einsum("nq,q...->n...", slope, aside) / len(aside)


def _loss(model: AuditedModel, u: Tensor, target: Tensor, valid: Range, prior: Prior) -> Tensor:
    import torch

    loss = torch.nn.functional.cross_entropy(model.logits(valid.input(u)), target, reduction="none")
    return loss + prior(u)


def total_variation(u: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along every axis but channels, ``(N,)``; 0 of a table.

    Args:
        u: ``(N, C, H, W)`` images, ``(N, C, L)`` series, or ``(N, F)`` rows of a table.
    """
    total = u.new_zeros(len(u))
    for axis in range(2, u.ndim):
        total = total + u.diff(dim=axis).abs().flatten(1).mean(dim=1)
    return total


# --- nearer to whom --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nearness:
    """How near members and held-out rows of one class are to its inversions.

    Args:
        member, held_out: ``(M, Z)`` and ``(H, Z)`` distances to each of the Z inversions.
    """

    member: NDArray[np.float64]
    held_out: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Chance that a member is nearer to its nearest inversion than a held-out row is to its own, ties half."""
        return stats.auc(-self.member.min(axis=1), -self.held_out.min(axis=1))

    @property
    def pairs(self) -> int:
        """Pairs of a member and a held-out row."""
        return len(self.member) * len(self.held_out)

    def nearest_members(self, rng: np.random.Generator) -> tuple[int, int]:
        """Of as many members as held-out rows, drawn by chance: how many different rows are nearest to an inversion, and how many
        of them are members.

        Without a leak members and held-out rows are exchangeable, so that one half are members; a row counts once however many
        inversions end beside it.

        Returns:
            ``(k, n)``: members, and all.
        """
        size = min(len(self.member), len(self.held_out))
        mine, others = (side[rng.permutation(len(side))[:size]] for side in (self.member, self.held_out))
        nearest = np.unique(np.concatenate([mine, others]).argmin(axis=0))
        return int((nearest < size).sum()), len(nearest)


def nearness(inversions: Tensor, members: Tensor, held_out: Tensor, distance: Distance) -> Nearness:
    """Distances of a class's rows to its inversions, all as shares of the range.

    Args:
        inversions: ``(Z, *shape)``; members ``(M, *shape)``, held_out ``(H, *shape)``.
        distance: ``correlation``: 1 less Pearson's correlation, deaf to brightness and contrast, which climbing overdoes; or ``euclidean``.
    """
    to = _points(inversions, distance)
    scale = 0.5 if distance == "correlation" else 1.0

    def apart(rows: Tensor) -> NDArray[np.float64]:
        import torch

        between = torch.cdist(_points(rows, distance), to, compute_mode="donot_use_mm_for_euclid_dist")
        return np.asarray((scale * between**2 if scale != 1.0 else between).cpu().numpy())

    return Nearness(apart(members), apart(held_out))


def _points(rows: Tensor, distance: Distance) -> Tensor:
    """Rows as points, ``(N, D)`` float64; for the correlation, centred and of length 1 (squared distance 2 - 2r)."""
    import torch

    points = rows.flatten(1).double()
    if distance == "euclidean":
        return points
    return torch.nn.functional.normalize(points - points.mean(dim=1, keepdim=True))


def pooled_auc(classes: list[Nearness]) -> float:
    """The classes' AUCs together: chance that of a member and a held-out row of one class the member is nearer."""
    weights = np.array([of.pairs for of in classes], dtype=np.float64)
    return float(np.average([of.auc for of in classes], weights=weights))


def structural_similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Structural similarity of two images ``(C, H, W)`` in 0 … 1: 1 where they are equal; None where a side is below 3 pixels.

    Source: Wang et al. 2004, doi 10.1109/TIP.2003.819861, as in scikit-image.
    """
    from skimage.metrics import structural_similarity as ssim

    side = min(first.shape[1:])
    if side < 3:
        return None
    window = min(_SSIM_WINDOW, side - 1 + side % 2)
    return float(ssim(first, second, win_size=window, data_range=1.0, channel_axis=0))
