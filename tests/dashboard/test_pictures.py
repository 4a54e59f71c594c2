"""Pictures: every pixel is one pixel, colours mean amounts, and scales are shared where they must be."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from audit.report._images import palette
from dashboard.drawing import pictures
from dashboard.drawing.pictures import Look

MIDDLE = palette()[127].tolist()
AGAINST, FOR = palette()[0].tolist(), palette()[-1].tolist()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_picture_is_enlarged_pixel_by_pixel():
    x = np.array([[[0.0, 4.0], [8.0, 16.0]]])
    drawn = pixels(pictures.picture(x, (0.0, 16.0), size=6))
    assert drawn.shape == (6, 6)
    np.testing.assert_array_equal(drawn[::3, ::3], [[0, 64], [128, 255]])
    assert all(len(np.unique(drawn[r : r + 3, c : c + 3])) == 1 for r in (0, 3) for c in (0, 3))


def test_colour_channels_come_first_or_last():
    x = np.zeros((3, 5, 5))
    x[0] = 1.0
    for form in (x, np.moveaxis(x, 0, -1)):
        drawn = pixels(pictures.picture(form, (0.0, 1.0), size=5))
        assert (drawn == [255, 0, 0]).all()


def test_values_beyond_the_bounds_are_black_or_white():
    assert pixels(pictures.picture(np.array([[-5.0, 5.0]]), (0.0, 1.0), size=2)).tolist() == [[0, 255]]


def test_a_map_by_itself_is_the_palette():
    x, values = np.zeros((1, 1, 3)), np.array([[[-2.0, 0.0, 1.0]]])
    drawn = pixels(pictures.overlay(x, values, (0, 1), Look(1.0), 2.0, size=3))[0]
    assert drawn[0].tolist() == AGAINST
    assert drawn[1].tolist() == MIDDLE
    assert drawn[2].tolist() == palette()[190].tolist()


def test_opacity_mixes_the_map_with_the_input_in_grey():
    x, values = np.full((1, 1, 1), 0.5), np.ones((1, 1, 1))
    alone, half, none = (pixels(pictures.overlay(x, values, (0, 1), Look(o), 1.0, size=1))[0, 0] for o in (1, 0.5, 0))
    assert alone.tolist() == FOR
    assert none.tolist() == [128, 128, 128]
    np.testing.assert_allclose(half, (np.array(FOR) + 127.5) / 2, atol=1)


@pytest.mark.parametrize(
    ("part", "kept"),
    [("signed", [-3, 0, 1]), ("positive", [0, 0, 1]), ("negative", [-3, 0, 0]), ("absolute", [3, 0, 1])],
)
def test_a_look_keeps_its_part_of_the_contributions(part, kept):
    look = Look(part=part)
    assert look.of(np.array([-3.0, np.nan, 1.0])).tolist() == kept
    assert look.limit(np.array([-3.0, 0.0, 1.0])) == max(map(abs, kept))


def test_the_percentile_cuts_few_large_contributions_and_never_everything():
    many = np.concatenate([np.ones(99), [100.0]])
    assert Look(percentile=100).limit(many) == 100
    assert Look(percentile=90).limit(many) == 1
    assert Look(percentile=90).limit(np.array([0.0] * 99 + [7.0])) == 7
    assert Look().limit(np.zeros(4)) == 0


def test_maps_that_are_compared_share_one_scale():
    assert Look().limit(np.array([1.0, -2.0]), np.array([0.5, 4.0])) == 4


def test_sizes_alone_take_no_colour_of_a_sign():
    drawn = pictures.painted(np.array([1.0]), 1.0, "absolute")[0].round().tolist()
    assert drawn not in (AGAINST, FOR)
    assert pictures.painted(np.array([0.0]), 1.0, "absolute")[0].tolist() == MIDDLE


def test_edges_are_drawn_where_features_meet():
    x, values = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    feature = np.array([[[0, 1], [0, 1]]])
    drawn = pixels(pictures.overlay(x, values, (0, 1), Look(), 1.0, feature, size=8))
    assert (drawn[:, 4] == pictures.EDGE).all()
    assert (drawn[:, [0, 3, 5, 7]] == MIDDLE).all()


def test_what_was_added_is_stretched_to_the_full_range():
    x = np.zeros((1, 1, 3))
    png, largest = pictures.magnified(x, np.array([[[0.1, 0.0, -0.1]]]), size=3)
    assert largest == pytest.approx(0.1)
    assert pixels(png)[0].tolist() == [FOR, MIDDLE, AGAINST]
    colour, _ = pictures.magnified(np.zeros((3, 1, 1)), np.array([[[0.2]], [[0.0]], [[-0.2]]]), size=1)
    np.testing.assert_allclose(pixels(colour)[0, 0], [255, 128, 0], atol=1)
    same, none = pictures.magnified(x, x, size=3)
    assert none == 0
    assert (pixels(same) == MIDDLE).all()


def test_large_pictures_are_averaged_down():
    x = np.zeros((2 * pictures.MOST, 2 * pictures.MOST))
    x[::2] = 1.0
    drawn = pixels(pictures.picture(x, (0, 1)))
    assert drawn.shape == (pictures.MOST, pictures.MOST)
    assert (drawn == 128).all()


def test_an_address_holds_the_picture():
    png = pictures.picture(np.eye(2), (0, 1), size=2)
    head, _, body = pictures.address(png).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == png


def test_the_bar_goes_from_the_lowest_to_the_highest_amount():
    ends = {part: pixels(pictures.colour_bar(part))[0, [0, -1]].tolist() for part in ("signed", "positive", "negative")}
    assert ends == {"signed": [AGAINST, FOR], "positive": [MIDDLE, FOR], "negative": [AGAINST, MIDDLE]}


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="no image"):
        pictures.picture(np.zeros(3), (0, 1))
