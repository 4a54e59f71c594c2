"""Labels alone: a linear model's answers by hand, the changes themselves, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from toys import Linear, audited, batch, context

from audit.model import AuditedModel, Field, InputSpec, implied
from audit.parameters import NotApplicable
from audit.privacy import label_only
from audit.privacy.label_only import LabelRobustness, label_robustness
from audit.rng import ExampleRng


def robustness(model: AuditedModel, x: np.ndarray, labels: np.ndarray, queries: int) -> LabelRobustness:
    rows = batch(x, labels)
    right = model.correct(rows).numpy()
    before = model.rows_forward
    found = label_robustness(model, rows, right, queries, ExampleRng(0, "toy", rows.ids, "label_only"))
    assert model.rows_forward - before == right.sum() * (found.queries - 1), "a wrong row is asked about once"
    return found


def stripe(x: Tensor) -> Tensor:
    """Class 1 where the brightest column is the third."""
    third = (x.sum(dim=(1, 2)).argmax(dim=1) == 2).float()
    return torch.stack([1 - third, third], dim=1)


def test_shifts_are_counted_by_hand() -> None:
    pictures = np.zeros((2, 1, 4, 4), dtype=np.float32)
    pictures[0, 0, :, 2] = 1.0  # moves of rows keep it
    pictures[1, 0, :, 0] = 1.0
    model = audited(stripe, (1, 4, 4), bounds=(0.0, 1.0), gradients=False)
    found = robustness(model, pictures, np.array([1, 1]), queries=6)  # as it is, mirrored, four shifts by one
    assert found.queries == 6
    assert found.scores.tolist() == [1 + 2, 0]  # up and down; mirroring loses every label, and so does not count


def test_mirroring_counts_where_it_is_apt() -> None:
    pictures = np.zeros((4, 1, 5, 5), dtype=np.float32)
    pictures[:, 0, :, 2] = 1.0
    model = audited(stripe, (1, 5, 5), bounds=(0.0, 1.0), gradients=False)
    assert robustness(model, pictures, np.ones(4, dtype=int), queries=2).scores.tolist() == [2, 2, 2, 2]


def test_mirroring_does_not_count_where_it_changes_what_is_seen() -> None:
    def leaning(x: Tensor) -> Tensor:
        columns = x.sum(dim=(1, 2))
        left = (columns[:, 1] > columns[:, 3]).float()
        return torch.stack([1 - left, left], dim=1)

    pictures = np.zeros((3, 1, 5, 5), dtype=np.float32)
    pictures[:2, 0, :, 1] = 1.0
    pictures[2, 0, :, 2] = 1.0  # the one of three that looks the same
    model = audited(leaning, (1, 5, 5), bounds=(0.0, 1.0), gradients=False)
    assert robustness(model, pictures, np.array([1, 1, 0]), queries=2).scores.tolist() == [1, 1, 1]


def test_rings_and_rotations_are_what_they_say() -> None:
    for distance in (1, 2, 3):
        ring = list(label_only._ring(distance))
        assert len(set(ring)) == 4 * distance
        assert {abs(down) + abs(right) for down, right in ring} == {distance}
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(label_only._shifted(picture, 1, 0)[0, 0, 1:], picture[0, 0, :-1])
    assert torch.equal(label_only._shifted(picture, 0, -1)[0, 0, :, -1], picture[0, 0, :, -1])
    quarter = label_only._rotated(picture, 90.0)
    assert torch.allclose(quarter, torch.rot90(picture, -1, (-2, -1)), atol=1e-4) or torch.allclose(
        quarter, torch.rot90(picture, 1, (-2, -1)), atol=1e-4
    )
    oblong = torch.zeros(1, 1, 5, 9)
    oblong[0, 0, 2, 2:7] = 1.0
    upright = label_only._rotated(oblong, 90.0)
    assert upright[0, 0, :, 4].tolist() == pytest.approx([1.0] * 5, abs=1e-4)  # no wider and no narrower than before
    assert float(upright[0, 0, :, :4].abs().max()) < 1e-4


def columns(*fields: Field) -> InputSpec:
    return InputSpec(fields=fields)


def table_model(spec: InputSpec, forward: object) -> AuditedModel:
    return AuditedModel(
        name="table", digest="table", task="classification", classes=("0", "1"), spec=spec, output="label",
        capabilities=implied("label", gradients=False, layers=False), forward=forward,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_farther_from_the_boundary_the_more_noise_a_label_stands() -> None:
    x = np.stack([np.linspace(0.01, 3, 300), np.random.default_rng(0).normal(size=300)], axis=1)
    model = table_model(columns(Field(name="a", kind="number"), Field(name="b", kind="number")), lambda x: x[:, 0] > 0)
    found = robustness(model, x, np.ones(300, dtype=int), queries=40)
    assert found.queries == 40
    sizes = x[:, 0].std() * np.geomspace(*label_only.NOISE, 39)
    expected = 1 + norm.cdf(x[:, :1] / sizes).sum(axis=1)
    near, far = slice(0, 100), slice(200, 300)
    for part in (near, far, slice(None)):
        assert found.scores[part].mean() == pytest.approx(expected[part].mean(), abs=0.6)
    assert found.scores[far].mean() > found.scores[near].mean() + 5
    assert found.scores.max() == 40
    few = robustness(model, x, np.ones(300, dtype=int), queries=5)
    assert few.scores.max() == 5


def test_noise_stays_in_bounds_missing_stays_missing_and_ids_stay() -> None:
    asked: list[Tensor] = []

    def remember(x: Tensor) -> Tensor:
        asked.append(x)
        return torch.zeros(len(x))

    spec = columns(
        Field(name="a", kind="number", bounds=(0, 1)),
        Field(name="city", kind="category", categories=("x", "y", "z")),
        Field(name="who", kind="id"),
        Field(name="b", kind="number"),
    )
    rng = np.random.default_rng(0)
    x = np.stack([rng.random(80), rng.integers(0, 3, 80), np.arange(80.0), rng.normal(size=80)], axis=1)
    x[::5, 3] = np.nan
    robustness(table_model(spec, remember), x, np.zeros(80, dtype=int), queries=12)
    first, *changed = asked
    seen = torch.stack(changed)
    assert float(seen[..., 0].min()) >= 0
    assert float(seen[..., 0].max()) <= 1
    assert set(seen[..., 1].unique().tolist()) == {0, 1, 2}
    assert torch.equal(seen[..., 2], first[:, 2].expand(len(changed), -1))
    assert torch.equal(seen[..., 3].isnan(), first[:, 3].isnan().expand(len(changed), -1))
    turned = [(part[:, 1] != first[:, 1]).double().mean().item() for part in changed]
    moved = [(part[:, 3] - first[:, 3]).nan_to_num().abs().mean().item() for part in changed]
    assert turned[0] < turned[-1]
    assert moved[0] < moved[-1] / 10


def test_noise_does_not_depend_on_who_else_is_asked() -> None:
    model = audited(Linear([1.0, 1.0, 1.0], -0.5), (3,), kind="series", bounds=(-9.0, 9.0))
    x = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    labels = (x.sum(axis=1) > 0.5).astype(int)
    whole = robustness(model, x, labels, queries=9).scores
    assert np.array_equal(robustness(model, x[::-1].copy(), labels[::-1].copy(), queries=9).scores, whole[::-1])


def test_texts_are_refused(tmp_path: Path) -> None:
    model = table_model(columns(Field(name="said", kind="text", shape=(4,))), lambda x: torch.zeros(len(x)))
    rows = batch(np.zeros((2, 4), dtype=np.int32), np.zeros(2, dtype=int))
    with pytest.raises(NotApplicable, match="reads text; leave the attack out"):
        label_robustness(model, rows, np.ones(2, dtype=bool), 4, context(tmp_path).rng(rows.ids, "x"))
