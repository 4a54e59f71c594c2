"""Common corruptions of images at five severities, batched, relative to the image's bounds and size.

Constants are those of ImageNet-C for images of 85 pixels and more, with lengths in proportion to 224, and those of CIFAR-10-C below, with
lengths in proportion to 32 but never less: no blur is narrower than a pixel. Frost overlays photographs in the paper; here it is ridges of a
fractal. Glass blur, a loop over swapped pixels, is left out. Borders are mirrored. The geometric family is not in the paper; its fifth
severity is the range that Engstrom et al. search.

Source: Hendrycks & Dietterich 2019, arXiv:1903.12261, and the authors' code; Engstrom et al. 2019, arXiv:1712.02779.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from audit.rng import ExampleRng

Constants = tuple[Any, Any, Any, Any, Any]
Corruption = Callable[["Tensor", Any, float, "ExampleRng"], "Tensor"]
"""Images ``(N, C, H, W)`` in 0..1, the severity's constants, pixels per pixel of the constants' own size, one stream per image."""

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    "blur": ("defocus_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
    "geometric": ("rotate", "translate", "scale", "shear"),
}
_LARGE, _SMALL = 224, 32
_BETWEEN = math.sqrt(_LARGE * _SMALL)

_IMAGENET: Mapping[str, Constants] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "speckle_noise": (0.15, 0.2, 0.35, 0.45, 0.6),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "gaussian_blur": (1, 2, 3, 4, 6),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic": ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg": (25, 18, 15, 10, 7),
}  # fmt: skip
_CIFAR: Mapping[str, Constants] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg": (80, 65, 58, 50, 40),
}  # fmt: skip
_GEOMETRIC: Mapping[str, Constants] = {
    "rotate": (6, 12, 18, 24, 30),
    "translate": (0.02, 0.04, 0.06, 0.08, 0.1),
    "scale": (0.05, 0.1, 0.15, 0.2, 0.3),
    "shear": (0.05, 0.1, 0.15, 0.2, 0.3),
}
"""Degrees; share of the shorter side; share by which the image grows or shrinks; horizontal shift per pixel of height."""


def corrupt(x: Tensor, name: str, severity: int, rng: ExampleRng) -> Tensor:
    """One corruption of images ``(N, C, H, W)`` in 0..1, in 0..1 again.

    Args:
        name: one of `FAMILIES`.
        severity: 1 to 5.
        rng: one stream per image; equal streams at every severity make severities comparable.
    """
    side = min(x.shape[2:])
    table, own = (_IMAGENET, _LARGE) if side >= _BETWEEN else (_CIFAR, _SMALL)
    scale = side / own if own == _LARGE else max(1.0, side / own)
    constants = _GEOMETRIC[name] if name in _GEOMETRIC else table[name]
    return _BY_NAME[name](x, constants[severity - 1], scale, rng).clamp(0, 1)


# --- noise -------------------------------------------------------------------------------------------------------


def _gaussian_noise(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    return x + c * rng.normal(tuple(x.shape[1:])).to(x)


def _shot_noise(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    return rng.poisson(x * c) / c


def _impulse_noise(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    """Salt and pepper, in each channel by itself."""
    import torch

    hit, salt = rng.uniform((2, *x.shape[1:])).to(x).unbind(1)
    return torch.where(hit < c, (salt < 0.5).to(x), x)


def _speckle_noise(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    return x + x * c * rng.normal(tuple(x.shape[1:])).to(x)


# --- blur --------------------------------------------------------------------------------------------------------


def _defocus_blur(x: Tensor, c: tuple[float, float], scale: float, rng: ExampleRng) -> Tensor:
    """A disk, its edge softened."""
    import torch

    radius, softness = c[0] * scale, c[1]
    half = math.ceil(radius) + 2
    at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    disk = ((at[:, None] ** 2 + at**2) <= radius**2).to(x)
    return _convolve(x, _smooth(disk[None, None] / disk.sum(), softness, 1 if radius <= 8 else 2)[0, 0])


def _gaussian_blur(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    return _smooth(x, c * scale, math.ceil(4 * c * scale))


def _motion_blur(x: Tensor, c: tuple[float, float], scale: float, rng: ExampleRng) -> Tensor:
    return _along(x, c[0] * scale, c[1] * scale, rng.uniform((), -45, 45).to(x))


def _zoom_blur(x: Tensor, c: tuple[float, float], scale: float, rng: ExampleRng) -> Tensor:
    import numpy as np

    factors = np.arange(1, *c).tolist()
    return (x + sum(_zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel with one odd kernel, no wider than the mirrored image allows."""
    from torch.nn import functional

    for dim in (0, 1):
        spare = max(0, kernel.shape[dim] // 2 - (x.shape[2 + dim] - 1))
        kernel = kernel.narrow(dim, spare, kernel.shape[dim] - 2 * spare)
    kernel = kernel / kernel.sum()
    height, width = (size // 2 for size in kernel.shape)
    padded = functional.pad(x, (width, width, height, height), mode="reflect")
    return functional.conv2d(padded, kernel.expand(x.shape[1], 1, -1, -1), groups=x.shape[1])


def _smooth(x: Tensor, sigma: float, half: int) -> Tensor:
    """A Gaussian, cut `half` pixels from its centre."""
    import torch

    if sigma <= 0:
        return x
    at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    return _convolve(_convolve(x, weights[:, None]), weights[None])


def _along(x: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Half a Gaussian in a direction of each image's own, ``(N,)``, as ImageMagick's motion blur."""
    import torch

    weights = torch.exp(-(torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    weights = weights[weights > 1e-3 * weights.sum()] / weights[weights > 1e-3 * weights.sum()].sum()
    angle = degrees.deg2rad()
    step = torch.stack([angle.cos(), angle.sin()], dim=1)[:, None, None]
    pixels = _pixels(x)
    return sum((w * _sample(x, pixels + i * step) for i, w in enumerate(weights.tolist())), torch.zeros_like(x))


# --- weather -----------------------------------------------------------------------------------------------------


def _snow(x: Tensor, c: tuple[float, ...], scale: float, rng: ExampleRng) -> Tensor:
    """Blurred flakes from above and below over a whitened image."""
    import torch

    mean, spread, flake, floor, radius, sigma, keep = c
    layer = _zoom(mean + spread * rng.normal((1, *x.shape[2:])).to(x), max(1.0, flake * scale))
    layer = torch.where(layer < floor, 0.0, layer).clamp(0, 1)
    layer = _along(layer, radius * scale, sigma * scale, rng.uniform((), -135, -45).to(x))
    whitened = keep * x + (1 - keep) * torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return whitened + layer + layer.flip(2, 3)


def _frost(x: Tensor, c: tuple[float, float], scale: float, rng: ExampleRng) -> Tensor:
    """Ridges of a fractal, as crystals."""
    ridges = 1 - (2 * _plasma(x, 1.7, rng) - 1).abs()
    return c[0] * x + c[1] * ridges**2


def _fog(x: Tensor, c: tuple[float, float], scale: float, rng: ExampleRng) -> Tensor:
    brightest = x.flatten(1).amax(dim=1).reshape(-1, 1, 1, 1)
    return (x + c[0] * _plasma(x, c[1], rng)) * brightest / (brightest + c[0])


def _brightness(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    """More HSV value: all channels of a pixel by one factor; black becomes grey."""
    import torch

    value = x.amax(dim=1, keepdim=True)
    brighter = (value + c).clamp_max(1)
    return torch.where(value > 0, x * brighter / value.clamp_min(1e-12), brighter)


def _grey(x: Tensor) -> Tensor:
    weights = (0.299, 0.587, 0.114)
    return x.mean(dim=1, keepdim=True) if x.shape[1] != 3 else (x * x.new_tensor(weights)[:, None, None]).sum(1, True)


def _plasma(x: Tensor, decay: float, rng: ExampleRng) -> Tensor:
    """A fractal height map for each image, ``(N, 1, H, W)`` in 0..1: diamond-square on a torus.

    `decay` divides the spread of the random part, squared, at each halving of the step.
    """
    import torch

    size = 2 ** max(1, math.ceil(math.log2(max(x.shape[2:]))))
    noise = rng.uniform((size, size), -1, 1).to(x)
    height = torch.zeros_like(noise)
    step, spread = size, 1.0
    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        beside = corners + corners.roll(-1, 1)
        centres = (beside + beside.roll(-1, 2)) / 4 + spread * noise[:, half::step, half::step]
        height[:, half::step, half::step] = centres
        for rows, columns, across, along in ((0, half, 1, 2), (half, 0, 2, 1)):
            around = centres + centres.roll(1, across) + corners + corners.roll(-1, along)
            height[:, rows::step, columns::step] = around / 4 + spread * noise[:, rows::step, columns::step]
        step, spread = half, spread / decay**2
    height = height - height.flatten(1).amin(dim=1)[:, None, None]
    height = height / height.flatten(1).amax(dim=1).clamp_min(1e-12)[:, None, None]
    return height[:, None, : x.shape[2], : x.shape[3]]


# --- digital -----------------------------------------------------------------------------------------------------


def _contrast(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) * c + mean


def _elastic(x: Tensor, c: tuple[float, float, float], scale: float, rng: ExampleRng) -> Tensor:
    """An affine map that moves three points at random, then a smoothed random displacement."""
    import torch

    side = min(x.shape[2:])
    strength, sigma, spread = (share * side for share in c)
    centre, reach = x.new_tensor([x.shape[3] // 2, x.shape[2] // 2]), side // 3
    before = centre + reach * x.new_tensor([[1, 1], [1, -1], [-1, -1]])
    after = before + rng.uniform((3, 2), -spread, spread).to(x)
    one = torch.ones_like(after[..., :1])
    back = torch.linalg.solve(torch.cat([after, one], dim=2).double(), before.expand_as(after).double()).to(x)
    pixels = _pixels(x)
    moved = _sample(x, pixels @ back[:, None, :2] + back[:, None, None, 2])
    if not strength:
        return moved
    shift = _smooth(rng.uniform((2, *x.shape[2:]), -1, 1).to(x), sigma, math.ceil(3 * sigma)) * strength
    return _sample(moved, pixels + shift.movedim(1, 3))


def _pixelate(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    from torch.nn import functional

    small = [max(1, int(size * c)) for size in x.shape[2:]]
    return functional.interpolate(functional.interpolate(x, small, mode="area"), x.shape[2:], mode="nearest")


def _jpeg(x: Tensor, c: int, scale: float, rng: ExampleRng) -> Tensor:
    """Through the codec, colour images whole, others by channel."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    def once(image: Any) -> Any:
        stored = io.BytesIO()
        Image.fromarray(image).save(stored, "JPEG", quality=c)
        return np.asarray(Image.open(stored))

    levels = (x * 255).round().byte().cpu().numpy()
    if x.shape[1] == 3:
        back = np.stack([np.moveaxis(once(np.ascontiguousarray(np.moveaxis(image, 0, -1))), -1, 0) for image in levels])
    else:
        back = np.stack([np.stack([once(channel) for channel in image]) for image in levels])
    return torch.from_numpy(back).to(x) / 255


# --- geometric ---------------------------------------------------------------------------------------------------


def _rotate(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    angle = (c * _sign(x, rng)).deg2rad()
    return _linear(x, angle.cos(), -angle.sin(), angle.sin(), angle.cos())


def _translate(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    import torch

    angle = rng.uniform((), 0, 2 * math.pi).to(x)
    shift = c * min(x.shape[2:]) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _sample(x, _pixels(x) + shift[:, None, None])


def _scale(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    factor = (1 + c) ** _sign(x, rng)
    return _linear(x, factor, 0 * factor, 0 * factor, factor)


def _shear(x: Tensor, c: float, scale: float, rng: ExampleRng) -> Tensor:
    slope = c * _sign(x, rng)
    return _linear(x, slope**0, slope, 0 * slope, slope**0)


def _sign(x: Tensor, rng: ExampleRng) -> Tensor:
    """-1 or 1 for each image, ``(N,)``."""
    return (2 * rng.integers(2) - 1).to(x)


def _linear(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Each image through its own linear map about its centre: output pixel (x, y) shows input (ax + by, cx + dy)."""
    import torch

    matrix = torch.stack([torch.stack([a, c], dim=1), torch.stack([b, d], dim=1)], dim=1)
    centre = x.new_tensor([(x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2])
    return _sample(x, (_pixels(x) - centre) @ matrix[:, None] + centre)


def _zoom(x: Tensor, factor: float) -> Tensor:
    """The middle of each image, enlarged to its size."""
    centre = x.new_tensor([(x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2])
    return _sample(x, (_pixels(x) - centre) / factor + centre)


def _pixels(x: Tensor) -> Tensor:
    """Column and row of each pixel, ``(1, H, W, 2)``."""
    import torch

    rows, columns = (torch.arange(size, device=x.device, dtype=x.dtype) for size in x.shape[2:])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]


def _sample(x: Tensor, points: Tensor) -> Tensor:
    """Values at points ``(N or 1, H, W, 2)`` given as column and row, between pixels by interpolation, beyond the border mirrored."""
    from torch.nn import functional

    size = x.new_tensor([x.shape[3], x.shape[2]])
    grid = ((2 * points + 1) / size - 1).expand(len(x), -1, -1, -1)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


_BY_NAME: Mapping[str, Corruption] = {name: globals()[f"_{name}"] for names in FAMILIES.values() for name in names}
