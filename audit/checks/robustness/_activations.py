"""What a network's last layer is fed, and the groups of training rows in it that clean rows stay out of.

Poisoned rows carry the target's label and another class's content: among the activations of that label they form a group. The papers
call the smaller or the further group poisoned, which honest subtypes of a class are as well: on networks for digits, clusters of clean
and of poisoned classes had the same sizes and silhouettes (0.07 to 0.22). So a group counts only where clean rows of the same class,
correctly classified, are significantly rarer in it.

Source: clusters: Chen et al. 2018, arXiv:1811.03728; spectral signatures: Tran et al. 2018, arXiv:1811.00636.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from audit.model import AuditedModel

Split = Callable[["Tensor", "Tensor", int], tuple["Tensor", "Tensor"]]
"""Activations of one class, ``(N, D)`` of training rows and ``(M, D)`` of clean ones, and a seed → group 0 or 1 of each row."""

_COMPONENTS = 10
"""As many as Chen et al. take."""


def activations(model: AuditedModel, x: Tensor, layer: str | None) -> Tensor:
    """Activations of rows, ``(N, D)`` float32.

    Args:
        x: ``(N, *shape)``.
        layer: the module whose output is taken, flattened. None: what the last linear layer is fed, the penultimate activations.

    Raises:
        UserError: the model has no module, no such layer, or no linear layer.
    """
    import torch

    if model.module is None:
        raise UserError(f"model '{model.name}' has no layers to look into")
    named = dict(model.module.named_modules())
    if layer is not None and layer not in named:
        raise UserError(
            f"model '{model.name}' has no layer '{layer}'; its last ones are {', '.join(list(named)[-6:])}: name one of its layers"
        )
    watched = {n: m for n, m in named.items() if (n == layer if layer is not None else isinstance(m, torch.nn.Linear))}

    def one(part: Tensor) -> Tensor:
        with _watching(watched, inputs=layer is None) as seen:
            model.scores(part)
        if not seen:
            raise UserError(
                f"model '{model.name}' calls no {'linear layer' if layer is None else f'layer {layer!r}'}: name one with `layer`"
            )
        last = seen[-1][0]
        return torch.cat([values.flatten(1).float() for name, values in seen if name == last])

    return torch.cat(model.in_parts(x, one))


@contextmanager
def _watching(layers: dict[str, nn.Module], inputs: bool) -> Iterator[list[tuple[str, Tensor]]]:
    """What each layer was fed (`inputs`) or gave, in the order of the calls; the hooks come off again."""
    seen: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], gave: Tensor) -> None:
            seen.append((name, given[0] if inputs else gave))

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def clusters(train: Tensor, clean: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two clusters of the activations; see `Split`.

    Chen et al. cluster ten independent components. Those are a rotation of the whitened principal components, and k-means sees no
    rotation: the clusters are the same, without FastICA's iterations.
    """
    import torch
    from sklearn.cluster import KMeans

    centre, directions, scale = _principal(train, _COMPONENTS)
    found = KMeans(2, n_init=10, random_state=seed).fit(((train.double() - centre) @ directions / scale).cpu().numpy())
    others = ((clean.double() - centre) @ directions / scale).cpu().numpy()
    return torch.from_numpy(found.labels_), torch.from_numpy(found.predict(others))


def spectral(train: Tensor, clean: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two groups along the activations' top singular direction, parted where their variances within are least; see `Split`.

    Tran et al. remove a fixed share with the largest squared projections, found or not. Where a third of a class is poisoned the mean
    lies between the groups and the square tells them apart less well than the projection itself.
    """
    centre, directions, _ = _principal(train, 1)
    along, others = (((part.double() - centre) @ directions)[:, 0].cpu() for part in (train, clean))
    at = threshold(along)
    return (along > at).long(), (others > at).long()


def threshold(values: Tensor) -> float:
    """The cut ``(N,)`` → two groups with the least variance within: 2-means in one dimension, exactly (Otsu 1979)."""
    import torch

    ordered = values.double().sort().values
    n = len(ordered)
    if n < 2:
        return float("inf")
    left = torch.arange(1, n, dtype=torch.float64)
    sums = ordered.cumsum(0)
    between = left * (n - left) * (sums[:-1] / left - (sums[-1] - sums[:-1]) / (n - left)) ** 2
    at = int(between.argmax())
    return float((ordered[at] + ordered[at + 1]) / 2)


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(D,)``, up to `count` principal directions ``(D, k)`` and the standard deviations along them ``(k,)``, in float64."""
    import torch

    values = rows.double()
    centre = values.mean(dim=0)
    variance, directions = torch.linalg.eigh((values - centre).T @ (values - centre) / len(values))
    kept = max(1, int((variance[-count:] > 1e-9 * variance[-1]).sum()))
    variance = variance[-kept:].flip(0).clamp_min(torch.finfo(torch.float64).tiny)
    return centre, directions[:, -kept:].flip(1), variance.sqrt()


def over_represented(train: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """The group that training rows are in more often than clean ones.

    Args:
        train: ``(N,)`` group 0 or 1 of each training row, clean: ``(M,)`` of each clean row.

    Returns:
        which training rows are in it ``(N,)`` bool, and the p-value: Fisher's exact test, one-sided, doubled for the choice of group.
    """
    from scipy.stats import hypergeom

    n, m = len(train), len(clean)
    tails = []
    for group in (0, 1):
        inside, others = int((train == group).sum()), int((clean == group).sum())
        tails.append(float(hypergeom.sf(inside - 1, n + m, inside + others, n)))
    chosen = tails.index(min(tails))
    return train == chosen, min(1.0, 2 * min(tails))
