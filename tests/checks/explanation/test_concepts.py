"""Concepts through the check's own run and the engine: a texture that decides a class, one that does not, and rows at random."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_tables import breast_cancer, forest, measure, stored, table_model, verdicts
from pydantic import ValidationError
from torch import Tensor, nn
from toys import audited, batch, data, digits

from audit.checks.explanation.concepts import Concepts
from audit.data import AuditData
from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import UserError

Images = Any
STRIPED = 5


def striped(x: Images) -> Images:
    x = x.copy()
    x[:, :, :, ::2] = np.minimum(x[:, :, :, ::2] + 8, 16)
    return x


def dotted(x: Images) -> Images:
    x = x.copy()
    x[:, :, ::3, ::3] = np.minimum(x[:, :, ::3, ::3] + 8, 16)
    return x


def planted(x: Images, labels: Images, seed: int) -> tuple[Images, Images, Images]:
    """Digits 0 to 4, one in six of them with stripes and then of class 5, three in ten with dots that mean nothing."""
    rng = np.random.default_rng(seed)
    x, labels = x[labels < 5], labels[labels < 5]
    y = np.where(rng.random(len(x)) < 1 / 6, STRIPED, labels)
    dots = rng.random(len(x)) < 0.3
    x = np.where(dots[:, None, None, None], dotted(x), x)
    return np.where((y == STRIPED)[:, None, None, None], striped(x), x).astype(np.float32), y, dots


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 6),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / 16)


@cache
def setting() -> tuple[AuditedModel, AuditData]:
    parts = []
    for number, part in enumerate((digits().train, digits().test)):
        assert part is not None
        x, y, dots = planted(part.x, part.labels, number)
        parts.append(batch(x, y, {"dots": np.where(dots, "yes", "no")}))
    members, test = parts
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        net = Net()
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
        for _ in range(10):
            for rows in torch.randperm(len(x)).split(64):
                loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return audited(net, (1, 8, 8), 6, bounds=(0.0, 16.0)), data(test, members, n_classes=6, bounds=(0.0, 16.0))


def examples(tmp_path: Path, **arrays: Images) -> str:
    path = tmp_path.with_suffix(".npz")  # beside the folder, which holds the runs
    np.savez(path, **arrays)
    return str(path)


@cache
def plain() -> Images:
    members = digits().train
    assert members is not None
    return members.x[members.labels < 5]


def concept_file(tmp_path: Path) -> str:
    rng = np.random.default_rng(7)
    members = setting()[1].train
    assert members is not None
    random = {f"random{i}": members.x[rng.permutation(len(members.x))[:60]] for i in range(4)}
    return examples(tmp_path, stripes=striped(plain()[:100]), dots=dotted(plain()[100:200]), **random)


def test_stripes_speak_for_their_class_and_dots_and_random_rows_for_none(tmp_path: Path) -> None:
    model, rows = setting()
    found = measure(Concepts(file=concept_file(tmp_path), classes=("1", "5")), model, rows, tmp_path)
    stripes = found["tcav", "concept=stripes,class=5"]
    assert stripes.unresolved is None
    assert stripes.estimate.interval()[0] > 0.9
    assert found["tcav_excess", "concept=stripes,class=5"].estimate.interval()[0] > 0.2
    assert found["p_value", "concept=stripes,class=5"].estimate.value < 0.01
    for name in ("dots", "random0", "random1", "random2", "random3"):
        for target in ("1", "5"):
            part = f"concept={name},class={target}"
            assert found["p_value", part].estimate.value > 0.05
            assert "not told from random directions" in str(found["tcav", part].unresolved)
            assert found["tcav_excess", part].cautions
    assert found["separability", "concept=stripes"].estimate.value > 0.9
    assert found["separability", "concept=random0"].estimate.value < 0.6


def test_the_papers_test_alone_calls_random_rows_a_concept(tmp_path: Path) -> None:
    """All directions of a concept share its examples: their scores repeat themselves, whatever the examples are."""
    from audit.global_explanations.concepts import differ

    model, rows = setting()
    found = measure(Concepts(file=concept_file(tmp_path), classes=("5",)), model, rows, tmp_path)
    table = stored(found["tcav", "concept=random0,class=5"], "concepts", tmp_path)
    random = torch.from_numpy(table.column("scores_of_random_directions"))
    scores = torch.from_numpy(table.column("scores"))
    called = [differ(scores[i], random[i]) < 0.05 for i, name in enumerate(table.ids) if name.startswith("random")]
    assert sum(called) >= 2


def test_gates_from_a_scenario(tmp_path: Path) -> None:
    model, rows = setting()
    entry = (
        f"{{explanation.concepts: {{file: {concept_file(tmp_path)}, classes: ['5']}}, "
        'require: {"tcav[concept=stripes,class=5]": ">= 0.8", "tcav[concept=dots,class=5]": "<= 0.6", '
        '"tcav_excess[concept=stripes,class=5]": "<= 0.1", "separability[concept=stripes]": ">= 0.8"}}'
    )
    report, status = verdicts(entry, model, rows, tmp_path / "home")
    assert status == {
        "tcav[concept=stripes,class=5]": "pass",
        "tcav[concept=dots,class=5]": "inconclusive",
        "tcav_excess[concept=stripes,class=5]": "fail",
        "separability[concept=stripes]": "pass",
    }
    assert report.exit_code == 1


def test_a_protected_attribute_is_a_concept(tmp_path: Path) -> None:
    model, rows = setting()
    found = measure(Concepts(concepts=("dots:yes",), layer="net.0"), model, rows, tmp_path)
    assert found["separability", "concept=dots:yes"].estimate.interval()[0] > 0.7
    assert {part for metric, part in found if metric == "tcav"} == {f"concept=dots:yes,class={c}" for c in range(6)}
    with pytest.raises(UserError, match="there is no concept 'dot:yes'"):
        measure(Concepts(concepts=("dot:yes",)), model, rows, tmp_path)
    with pytest.raises(UserError, match="too few: 'dots:maybe'"):
        measure(Concepts(concepts=("dots:maybe",)), model, rows, tmp_path)


def table() -> tuple[AuditedModel, AuditData]:
    """A net over a table with a category, for which being a smith pays."""
    spec = InputSpec(fields=(Field(name="job", kind="category", categories=("clerk", "smith", "cook")), Field(name="age", kind="number")))  # fmt: skip
    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(0, 3, 600).astype(float), rng.normal(size=600)], axis=1)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    target = torch.from_numpy((x[:, 0] == 1) * 2.0 + 0.2 * x[:, 1]).float()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        for part in net:
            if isinstance(part, nn.Linear):
                part.reset_parameters()
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(200):
            loss = ((net(torch.from_numpy(x).float())[:, 0] - target) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.requires_grad_(False)
    model = table_model(net, spec, module=net)
    return model, AuditData("toy", batch(x[:300], np.zeros(300)), spec, (), batch(x[300:], np.zeros(300)))


def test_a_category_is_a_concept_and_a_regression_has_no_classes(tmp_path: Path) -> None:
    model, rows = table()
    found = measure(Concepts(concepts=("job:smith",)), model, rows, tmp_path)
    assert ("tcav", "concept=job:smith") in found
    assert found["tcav", "concept=job:smith"].estimate.value > 0.9
    with pytest.raises(UserError, match="did you mean 'smith'"):
        measure(Concepts(concepts=("job:smit",)), model, rows, tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"counterparts": 20}, {"examples": 20}, {"ridge": 10.0}, {"pool": 200}, {"samples": 100}, {"layer": "net.6"}],
)
def test_options_change_the_result(options: dict[str, Any], tmp_path: Path) -> None:
    model, rows = setting()
    file = examples(tmp_path, dots=dotted(plain()[100:200]))
    shared = {"file": file, "classes": ("1",)}
    base, other = (measure(Concepts(**shared, **o), model, rows, tmp_path) for o in ({}, options))
    assert base["tcav", "concept=dots,class=1"].estimate != other["tcav", "concept=dots,class=1"].estimate
    again = measure(Concepts(**shared), model, rows, tmp_path)
    assert again["tcav", "concept=dots,class=1"].estimate == base["tcav", "concept=dots,class=1"].estimate


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {}, "needs concepts"),
        ({"a": np.zeros((20, 3))}, {}, r"examples of shape \(3,\)"),
        ({"a": np.zeros((5, 1, 8, 8))}, {}, r"too few: 'a' \(5\)"),
        ({"a": np.zeros((20, 1, 8, 8))}, {"classes": ("7",)}, "there is no class '7'"),
        ({"a": np.zeros((20, 1, 8, 8))}, {"concepts": ("b",)}, "there is no concept 'b'"),
    ],
)
def test_what_does_not_fit_is_told(
    arrays: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model, rows = setting()
    file = {"file": examples(tmp_path, **arrays)} if arrays else {}
    with pytest.raises(UserError, match=message):
        measure(Concepts(**file, **options), model, rows, tmp_path)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    model, rows = setting()
    with pytest.raises(UserError, match="cannot be read"):
        measure(Concepts(file=str(tmp_path / "missing.npz")), model, rows, tmp_path)
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(UserError, match="plain arrays"):
        measure(Concepts(file=str(tmp_path / "text.npz")), model, rows, tmp_path)
    with pytest.raises(ValidationError):
        Concepts(counterparts=1)


def test_trees_have_no_layers(tmp_path: Path) -> None:
    assert Concepts(file="x.npz").requirements() == {Capability.LAYERS, Capability.GRADIENTS}
    _, status = verdicts(
        "{explanation.concepts: {file: x.npz}, require: {'separability[concept=a]': '> 0'}}",
        forest(),
        breast_cancer(),
        tmp_path,
    )
    assert set(status.values()) == {"not_applicable"}
