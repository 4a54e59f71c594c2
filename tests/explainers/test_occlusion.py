"""Occlusion: captum's values, closed forms, words and columns, windows that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import Occlusion as CaptumOcclusion
from games import explained, rows, table
from pydantic import ValidationError
from torch import nn
from toys import audited, digits, trained_cnn

from audit.explainers.occlusion import Occlusion
from audit.model import AuditedModel
from audit.parameters import UserError
from audit.text import decode_all, encode


@pytest.mark.parametrize(("window", "stride"), [(3, 1), (3, 2), (2, 2), (5, 4), (8, 1), (4, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_captum(window: int, stride: int, channels: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 7, 3))
    x, target = torch.rand(3, channels, 8, 7), torch.tensor([0, 2, 1])
    model = audited(net, (channels, 8, 7), 3)
    found = explained(Occlusion(window=window, stride=stride, absent=0.25), model, x, target)
    expected = CaptumOcclusion(net).attribute(
        x, (channels, window, min(window, 7)), (channels, stride, stride), target=target, baselines=0.25
    )
    assert found.features is not None
    by_pixel = found.features.total(found.values).reshape(3, 8, 7).float()
    torch.testing.assert_close(by_pixel, expected[:, 0].detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.values.sum(dim=1).float(), by_pixel)  # spread over the channels


def test_linear_in_single_pixels_is_weight_times_distance() -> None:
    w = torch.arange(6.0).reshape(1, 2, 3)
    model = audited(lambda x: (x * w).flatten(1).sum(dim=1), (1, 2, 3), output="value", bounds=(0.0, 1.0))
    found = explained(Occlusion(window=1), model, torch.ones(2, 1, 2, 3))
    torch.testing.assert_close(found.values, w.double().expand(2, 1, 2, 3))
    assert found.method == "sliding windows, absent is black"
    assert found.base_value is None


def test_two_places_that_stand_in_for_each_other() -> None:
    """Either is enough: only a window that hides both is missed."""
    model = audited(lambda x: x[:, 0, 0, :2].amax(dim=1), (1, 1, 4), output="value", bounds=(0.0, 1.0))
    x = torch.ones(1, 1, 1, 4)
    assert explained(Occlusion(window=1), model, x).values.flatten().tolist() == [0, 0, 0, 0]
    assert explained(Occlusion(window=2, stride=2), model, x).values.flatten().tolist() == [1, 1, 0, 0]
    assert explained(Occlusion(window=2, stride=1), model, x).values.flatten().tolist() == [1, 0.5, 0, 0]


def test_background_rows_in_place_of_one_baseline() -> None:
    model = table(lambda z: z[:, 0] ** 2, 1, "value")
    given = rows((-2,), (2,))
    by_mean = explained(Occlusion(), model, rows((1,)), background=given)
    by_rows = explained(Occlusion(absent="background"), model, rows((1,)), background=given)
    assert (float(by_mean.values), float(by_rows.values)) == (1.0, -3.0)
    assert by_rows.method == "column, interventional, 2 background rows"
    one = explained(Occlusion(absent="background", background=1), model, rows((1,)), background=rows((0,), (2,)))
    assert float(one.values) == 1.0


def series() -> AuditedModel:
    weight = torch.arange(1.0, 7)
    return audited(lambda x: (x * weight).flatten(1).sum(dim=1), (2, 6), output="value", kind="series")


def test_stretches_of_a_series_leave_all_channels() -> None:
    found = explained(Occlusion(window=2, stride=2), series(), torch.ones(1, 2, 6))
    by_step = [3 * 2, 3 * 2, 7 * 2, 7 * 2, 11 * 2, 11 * 2]  # of both channels together
    torch.testing.assert_close(found.values, rows(by_step).expand(2, 6)[None] / 2)
    by_default = explained(Occlusion(), series(), torch.ones(1, 2, 6))
    torch.testing.assert_close(by_default.values[0, 0], torch.arange(1.0, 7).double())


def test_words_in_a_row() -> None:
    """'not good' scores −1 and 'good' alone 1; ends of texts of different lengths."""

    def forward(x: Any) -> Any:
        return torch.tensor([-1.0 if "not good" in t else float("good" in t) for t in decode_all(x)])

    model = audited(forward, (16,), output="value", kind="text", gradients=False)
    x = torch.from_numpy(encode(["so not good", "good", ""], 16))
    single = explained(Occlusion(), model, x)
    assert single.features is not None
    assert single.features.total(single.values).tolist() == [[0, -2, -1], [1, 0, 0], [0, 0, 0]]
    double = explained(Occlusion(window=2, stride=1), model, x)
    assert single.features.total(double.values)[0].tolist() == [-2, -1.5, -1]


def test_segments_one_at_a_time() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:3])
    found = explained(Occlusion(segments=9), model, x, model.predict(x))
    assert found.features is not None
    assert found.features.unit == "segment"
    assert found.features.most <= 9
    kept = torch.where(found.features.number == 2, 0.0, x)
    fall = model.target_score(x, model.predict(x)) - model.target_score(kept, model.predict(x))
    torch.testing.assert_close(found.features.total(found.values)[:, 2].float(), fall, atol=1e-5, rtol=0)
    fewer = explained(Occlusion(segments=4), model, x, model.predict(x))
    assert fewer.features is not None
    assert fewer.features.most <= 4


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model = audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
    x = torch.from_numpy(digits().test.x[:3])
    whole = explained(Occlusion(), model, x, model.predict(x))
    alone = explained(Occlusion(), model, x[1:2], model.predict(x)[1:2])
    torch.testing.assert_close(whole.values[1:2], alone.values, atol=1e-5, rtol=0)


def test_mistakes_are_told() -> None:
    with pytest.raises(ValidationError, match="either windows slide, or segments"):
        Occlusion(segments=4, stride=2)
    with pytest.raises(UserError, match="a stride of 3 leaves places that no window of 2 hides"):
        explained(Occlusion(window=2, stride=3), series(), torch.ones(1, 2, 6))
    with pytest.raises(UserError, match="columns of a table one by one"):
        explained(Occlusion(window=2), table(lambda z: z.sum(axis=1), 2, "value"), rows((1, 2)))
    with pytest.raises(UserError, match="unit 'segment' needs an image"):
        explained(Occlusion(segments=2), series(), torch.ones(1, 2, 6))
