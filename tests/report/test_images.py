"""Pictures: the palette's steps are equal, zero is its middle, pixels are the stored ones."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from audit.report._images import (
    MAX_SIDE,
    Picture,
    magnified_change,
    palette,
    photograph,
    planes,
    scale_bar,
    signed_map,
)


def pixels(picture: Picture) -> np.ndarray:
    """The decoded picture."""
    return np.asarray(decoded(picture).convert("RGB"))


def decoded(picture: Picture) -> Image.Image:
    """The embedded PNG."""
    return Image.open(io.BytesIO(base64.b64decode(picture.src.removeprefix("data:image/png;base64,"))))


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB bytes → OKLab, by Ottosson's forward formulas."""
    c = rgb / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    m = np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
    return np.asarray(np.cbrt(lms) @ m)


def test_the_palette_is_perceptually_uniform_and_balanced() -> None:
    lab = oklab(palette().astype(float))
    steps = np.linalg.norm(np.diff(lab[::8], axis=0), axis=1)  # steps of eight, above the rounding to bytes
    left, right = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    for side in (left[:-1], right[1:]):
        assert side.max() / side.min() < 1.15
    assert np.abs(lab[:, 0] - lab[::-1, 0]).max() < 0.01  # both sides equally dark
    assert lab[127, 0] > 0.96
    assert np.abs(lab[127, 1:]).max() < 0.005  # zero has no colour
    assert lab[0, 2] < -0.1 < 0.05 < lab[-1, 2]  # blue against yellow-red: the axis that colour-blind readers keep


def test_a_photograph_keeps_every_pixel() -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    picture = photograph(x, (0, 63), "alt", "label")
    assert (pixels(picture)[..., 0] == np.round(x[0] / 63 * 255)).all()
    assert (picture.width, picture.height, picture.enlarged) == (112, 112, True)


@pytest.mark.parametrize(
    ("shape", "result"),
    [
        ((8, 8), (8, 8)),
        ((1, 8, 8), (8, 8)),
        ((3, 8, 9), (8, 9, 3)),
        ((8, 9, 3), (8, 9, 3)),
        ((4, 8, 9), (8, 9, 3)),
        ((5, 8, 9), (8, 9)),
    ],
)
def test_layouts(shape: tuple[int, ...], result: tuple[int, ...]) -> None:
    assert planes(np.zeros(shape)).shape == result


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="is no image"):
        planes(np.zeros(7))


def test_a_map_is_zero_in_the_middle_and_signed() -> None:
    values = np.array([[-2.0, 0.0, 1.0]])
    picture, limit = signed_map(values[None], "alt", "label")
    assert limit == 2.0
    assert pixels(picture)[0].tolist() == [palette()[i].tolist() for i in (0, 127, 190)]


def test_channels_of_a_map_add_up() -> None:
    values = np.array([[[1.0, 1.0]], [[1.0, -1.0]], [[1.0, 0.0]]])
    picture, limit = signed_map(values, "alt", "label")
    assert limit == 3.0
    assert pixels(picture)[0].tolist() == [palette()[254].tolist(), palette()[127].tolist()]


def test_one_outlier_does_not_hide_a_large_map() -> None:
    values = np.ones((1, 64, 64))
    values[0, 0, 0] = 1e6
    assert signed_map(values, "alt", "label")[1] == 1.0
    values[0, 0, 0] = np.nan
    assert signed_map(values, "alt", "label")[1] == 1.0


def test_an_empty_map_is_white() -> None:
    picture, limit = signed_map(np.zeros((1, 4, 4)), "alt", "label")
    assert limit == 0
    assert (pixels(picture) == palette()[127]).all()


def test_a_change_is_magnified_to_the_full_range() -> None:
    x = np.zeros((1, 2, 2))
    changed = np.array([[[0.5, 0.0], [-0.25, 0.0]]])
    picture, factor = magnified_change(x, changed, (0, 16), "alt")
    assert factor == 16.0
    assert picture.label == "change, × 16"
    assert pixels(picture)[0, 0].tolist() == palette()[254].tolist()
    assert pixels(picture)[1, 0].tolist() == palette()[64].tolist()
    colour, _ = magnified_change(np.zeros((3, 2, 2)), np.full((3, 2, 2), -0.1), (0, 1), "alt")
    assert (pixels(colour) == 0).all()
    assert magnified_change(x, x, (0, 16), "alt")[0].label == "no change"


def test_large_pictures_are_averaged_down() -> None:
    x = np.zeros((3, 600, 500))
    x[:, ::2] = 1
    picture = photograph(x, (0, 1), "alt", "label")
    assert decoded(picture).size == (166, 200)
    assert max(picture.width, picture.height) <= MAX_SIDE
    assert not picture.enlarged
    assert 80 < pixels(picture).mean() < 175


def test_the_scale_bar_runs_through_the_palette() -> None:
    bar = Picture(scale_bar(), "", "", 1, 1, True)
    assert (pixels(bar)[0] == palette()).all()
