"""Backdoors: the search against its definition, groups of training rows against theirs, and a planted pair."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import audited, batch, context, data, digits

from audit.checks.robustness import _trigger_search as searching
from audit.checks.robustness._activations import activations, clusters, over_represented, spectral, threshold
from audit.checks.robustness._trigger_search import anomaly_index, canvas_of, search
from audit.checks.robustness.backdoor import Backdoor
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement, Proportion, part_name
from audit.model import AuditedModel, Capability, Field, InputSpec
from audit.parameters import UserError
from audit.rng import ExampleRng
from audit.run_folder import Evidence
from audit.scenario import parse
from audit.stored import Report

BLOCKS = (4, 4, 5, 5, 5, 6, 6, 6)
"""Pixels that each class of the toy is read from."""


class Blocks(nn.Module):
    """The class whose block of pixels is brightest; with a shortcut, one pixel outweighs them all."""

    def __init__(self, shortcut: int | None = None) -> None:
        super().__init__()
        weights = torch.zeros(len(BLOCKS), 64)
        start = 1
        for k, size in enumerate(BLOCKS):
            weights[k, start : start + size] = 12 / size
            start += size
        if shortcut is not None:
            weights[shortcut, 0] = 40
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T


def blocks(n: int = 96) -> AuditData:
    """Dim noise, the label's block bright, the shortcut's pixel dark."""
    drawn = np.random.default_rng(0)
    x = drawn.uniform(0, 0.2, (n, 1, 8, 8)).astype(np.float32)
    labels = np.arange(n) % len(BLOCKS)
    starts = np.concatenate([[1], 1 + np.cumsum(BLOCKS)])
    for image, label in zip(x, labels, strict=True):
        image.reshape(-1)[0] = 0
        image.reshape(-1)[starts[label] : starts[label + 1]] = 1
    return data(batch(x, labels), n_classes=len(BLOCKS), bounds=(0.0, 1.0))


def block_model(shortcut: int | None = None, **options: Any) -> AuditedModel:
    return audited(Blocks(shortcut), (1, 8, 8), len(BLOCKS), bounds=(0.0, 1.0), **options)


def streams(n: int, seed: int = 0) -> ExampleRng:
    return ExampleRng(seed, "test", [str(i) for i in range(n)], "search")


def found(shortcut: int | None = None, targets: list[int] | None = None, **options: Any) -> searching.Triggers:
    rows, model = blocks().test, block_model(shortcut)
    target = torch.tensor(list(range(len(BLOCKS))) if targets is None else targets)
    rng = streams(len(BLOCKS)).take(target) if targets is not None else streams(len(target))
    return search(
        model, model.tensor(rows), torch.from_numpy(rows.labels), target, canvas_of(model.spec), rng,
        **{"updates": 400, "rows": 16, **options},
    )  # fmt: skip


# --- the search --------------------------------------------------------------------------------------------------


def test_the_search_finds_the_one_pixel_that_a_backdoor_needs() -> None:
    triggers = found(shortcut=4)
    assert bool(triggers.found.all())
    assert float(triggers.size[4]) < 1
    assert int(triggers.mask[4].argmax()) == 0
    assert float(triggers.mask[4].flatten()[0] * triggers.pattern[4].flatten()[0]) == pytest.approx(0.3, abs=0.08)
    others = [size for k, size in enumerate(triggers.size.tolist()) if k != 4]
    assert min(others) > 1.5
    index = anomaly_index(triggers.size[None])[0]
    assert int(index.argmax()) == 4
    assert float(index[4]) > 2
    clean = anomaly_index(found().size[None])[0]
    assert float(clean.max()) < 2


def test_triggers_work_and_lie_within_the_bounds() -> None:
    triggers, rows = found(shortcut=4), blocks().test
    x, model = torch.from_numpy(rows.x), block_model(4)
    canvas = canvas_of(model.spec)
    assert bool(((triggers.mask >= 0) & (triggers.mask <= 1)).all())
    for k in range(len(BLOCKS)):
        painted = canvas.paint(x, triggers.mask[k], triggers.pattern[k])
        assert bool(((painted >= 0) & (painted <= 1)).all())
        assert float((model.predict(painted) == k).double().mean()) > 0.9


def test_the_gradient_is_that_of_the_loss() -> None:
    model, canvas = block_model(2), canvas_of(block_model().spec)
    clean = torch.from_numpy(blocks().test.x[:12]).reshape(3, 4, 1, 8, 8)
    unit = torch.empty(3, 128).uniform_(-0.9, 0.9, generator=torch.Generator().manual_seed(0))
    theta = unit.atanh().requires_grad_()
    target, cost = torch.tensor([2, 5, 0]), torch.tensor([0.1, 0.0, 1.0])
    share = theta.tanh() * 0.5 + 0.5
    mask, pattern = share[:, :64].reshape(3, 1, 1, 8, 8), share[:, 64:].reshape(3, 1, 1, 8, 8)
    logits = model.logits(((1 - mask) * clean + mask * pattern).flatten(0, 1))
    each = nn.functional.cross_entropy(logits, target.repeat_interleave(4), reduction="none").reshape(3, 4).mean(dim=1)
    (wanted,) = torch.autograd.grad((each + cost * share[:, :64].sum(dim=1)).sum(), theta)
    zero = torch.zeros(3)
    running = searching._Search(torch.arange(3), target, theta, theta, theta, cost, zero, zero, zero.bool(), zero)
    _, got = searching._step(model, clean, unit, running, canvas, 64)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_a_colour_trigger_shares_its_mask() -> None:
    spec = InputSpec(fields=(Field(name="x", kind="image", shape=(3, 4, 4), bounds=(0, 255)),))
    assert canvas_of(spec).mask_shape == (1, 4, 4)

    class Red(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x[:, 0, 0, 0] / 10, x[:, 1, 0, 0] / 10, x[:, 2].mean(dim=(1, 2)) / 10], dim=1)

    model = audited(Red(), (3, 4, 4), 3, bounds=(0.0, 255.0))
    x = torch.rand((30, 3, 4, 4), generator=torch.Generator().manual_seed(0)) * 255
    triggers = search(
        model, x, torch.full((30,), 2), torch.tensor([0, 1]), canvas_of(spec), streams(2), updates=200, rows=8
    )
    assert triggers.mask.shape == (2, 1, 4, 4)
    assert triggers.pattern.shape == (2, 3, 4, 4)
    assert float(triggers.pattern.max()) <= 255
    assert triggers.mask.flatten(1).argmax(dim=1).tolist() == [0, 0]
    assert bool((triggers.size < 2).all())


def test_a_search_is_the_same_alone_and_leaves_when_done() -> None:
    together, alone = found(shortcut=4), found(shortcut=4, targets=[4])
    torch.testing.assert_close(together.mask[4:5], alone.mask, atol=1e-3, rtol=0)
    assert bool((together.updates < 400).any())
    model, rows = block_model(), blocks().test
    triggers = search(
        model, model.tensor(rows), torch.from_numpy(rows.labels), torch.arange(8), canvas_of(model.spec), streams(8),
        updates=300, rows=16,
    )  # fmt: skip
    assert model.rows_backward == 16 * int(triggers.updates.sum()), "what has left the batch costs nothing"


def test_parameters_of_the_model_get_their_gradients_back() -> None:
    net = Blocks()
    model = audited(net, (1, 8, 8), len(BLOCKS), bounds=(0.0, 1.0))
    net.weights.requires_grad_(True)
    rows = blocks().test
    search(
        model, model.tensor(rows), torch.from_numpy(rows.labels), torch.arange(2), canvas_of(model.spec), streams(2),
        updates=2, rows=4,
    )  # fmt: skip
    assert net.weights.requires_grad
    assert net.weights.grad is None


def test_the_anomaly_index_in_closed_form() -> None:
    size = torch.tensor([[1.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]], dtype=torch.float64)
    assert anomaly_index(size)[0, 0] == pytest.approx(9 / (1.4826 * 2))
    assert float(anomaly_index(size)[0, 6]) < 0
    assert float(anomaly_index(torch.tensor([[5.0, 5.0, 5.0, 1.0]], dtype=torch.float64)).max()) > 1e3


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        (Field(name="home", kind="category", categories=("a", "b")), "paints numbers"),
        (Field(name="age", kind="number"), "valid range of age"),
    ],
)
def test_what_cannot_be_painted_is_refused(field: Field, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        canvas_of(InputSpec(fields=(field,)))


def test_columns_keep_their_own_bounds() -> None:
    canvas = canvas_of(
        InputSpec(fields=(Field(name="a", kind="number", bounds=(0, 1)), Field(name="b", kind="number", bounds=(5, 9))))
    )
    assert canvas.low.tolist() == [0, 5]
    assert canvas.high.tolist() == [1, 9]


# --- training rows -----------------------------------------------------------------------------------------------


def test_activations_are_what_the_last_linear_layer_is_fed() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 3))
    model = audited(net, (1, 8, 8), 3)
    x = torch.rand((9, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    model.micro_batch = 4
    torch.testing.assert_close(activations(model, x, None), net[:3](x))
    torch.testing.assert_close(activations(model, x, "1"), net[:2](x))
    assert not any(module._forward_hooks for module in net.modules())
    with pytest.raises(UserError, match="no layer '9'"):
        activations(model, x, "9")
    with pytest.raises(UserError, match="no linear layer"):
        activations(audited(nn.Sequential(nn.Flatten()), (1, 8, 8), 64), x, None)


def groups(n: int = 150, poisoned: int = 50, distance: float = 8.0, dims: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Training activations, the clean ones, and which training rows are poisoned."""
    drawn = torch.Generator().manual_seed(0)
    train, clean = (torch.randn((size, dims), generator=drawn) for size in (n, 60))
    train[:poisoned, 3] += distance
    return train, clean, torch.arange(n) < poisoned


@pytest.mark.parametrize("split", [clusters, spectral])
def test_a_poisoned_group_is_found_and_a_clean_class_is_not(split: Any) -> None:
    train, clean, poisoned = groups()
    inside, p = over_represented(*split(train, clean, 0))
    assert torch.equal(inside, poisoned)
    assert p < 1e-6
    train, clean, _ = groups(poisoned=0)
    assert over_represented(*split(train, clean, 0))[1] > 0.05


@pytest.mark.parametrize("split", [clusters, spectral])
def test_a_subtype_that_clean_rows_share_is_not_poison(split: Any) -> None:
    train, clean, poisoned = groups()
    clean[:20, 3] += 8
    assert over_represented(*split(train, clean, 0))[1] > 0.05
    assert int(poisoned.sum()) == 50


def test_whitened_components_cluster_as_independent_ones_do() -> None:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import FastICA

    train, clean, _ = groups(dims=20)
    train = train * torch.linspace(1, 3, 20)
    ours, _ = clusters(train, clean, 0)
    sources = FastICA(10, random_state=0, whiten="unit-variance", max_iter=2000, tol=1e-3).fit_transform(
        train.double().numpy()
    )
    theirs = torch.from_numpy(KMeans(2, n_init=10, random_state=0).fit(sources).labels_)
    assert torch.equal(ours == ours[0], theirs == theirs[0])


def test_the_test_of_groups_is_fishers() -> None:
    from scipy.stats import fisher_exact

    train, clean = torch.tensor([1] * 30 + [0] * 70), torch.tensor([1] * 3 + [0] * 37)
    inside, p = over_represented(train, clean)
    assert int(inside.sum()) == 30
    assert p == pytest.approx(2 * fisher_exact([[30, 70], [3, 37]], "greater").pvalue)


def test_the_cut_has_the_least_variance_within() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(0)).double()

    def within(at: float) -> float:
        parts = values[values > at], values[values <= at]
        return float(sum(((part - part.mean()) ** 2).sum() for part in parts if len(part)))

    best = min(within(float(v)) for v in values)
    assert within(threshold(values)) == pytest.approx(best)


# --- the check ---------------------------------------------------------------------------------------------------


def measured(check: Backdoor, model: AuditedModel, rows: AuditData, tmp_path: Path) -> dict[str, Measurement]:
    seen = list(check.run(model, rows, context(tmp_path)))
    declared = {metric.name: metric.kinds for metric in Backdoor.metrics}
    assert all(m.estimate.kind in declared[m.metric] for m in seen)
    by_name = {part_name(m.metric, m.dims): m for m in seen}
    assert len(by_name) == len(seen)
    return by_name


def test_numbers_per_class_and_over_restarts(tmp_path: Path) -> None:
    check = Backdoor(restarts=2, batch=16, updates=250)
    numbers = measured(check, block_model(4), blocks(), tmp_path)
    assert numbers["anomaly_index"].estimate.n == 2
    assert numbers["anomaly_index"].estimate.value == pytest.approx(numbers["anomaly_index[class=4]"].estimate.value)  # type: ignore[union-attr]
    assert numbers["trigger_size[class=4]"].estimate.value < 1  # type: ignore[union-attr]
    success = numbers["trigger_success[class=4]"].estimate
    assert isinstance(success, Proportion)
    assert success.n == sum(1 for label in held_out(blocks()) if label != 4)
    assert not numbers["anomaly_index"].voids
    assert any("class 4: a trigger of" in caution for caution in numbers["anomaly_index"].cautions)
    assert {ref.kind for ref in numbers["anomaly_index"].evidence} == {"attributions", "table"}
    assert "suspicious_share" not in numbers
    one = measured(Backdoor(restarts=1, batch=8, updates=250, samples=60), block_model(4), blocks(), tmp_path)
    assert one["anomaly_index"].estimate.interval() == (-np.inf, np.inf)
    fewer = one["trigger_success[class=4]"].estimate
    assert isinstance(fewer, Proportion)
    assert fewer.n < success.n


def held_out(rows: AuditData) -> list[int]:
    """Labels of the third that a search does not see, by the check's own draw."""
    order = ExampleRng(0, "toy.check", rows.test.ids, "held out").uniform(()).argsort(stable=True)
    return rows.test.labels[order[: len(order) // 3].numpy()].tolist()


def test_a_search_that_fails_is_void(tmp_path: Path) -> None:
    numbers = measured(Backdoor(restarts=2, updates=2), block_model(), blocks(), tmp_path)
    assert "the search failed" in numbers["anomaly_index"].voids["anomaly_index"]
    assert any("count as whole masks" in caution for caution in numbers["anomaly_index"].cautions)


def test_few_classes_decide_nothing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.eye(3).repeat_interleave(22, dim=1)[:, :64])
    x = np.random.default_rng(0).uniform(0, 1, (60, 1, 8, 8)).astype(np.float32)
    model = audited(net, (1, 8, 8), 3, bounds=(0.0, 1.0))
    rows = data(batch(x, model.predict(torch.from_numpy(x)).numpy()), n_classes=3, bounds=(0.0, 1.0))
    numbers = measured(Backdoor(restarts=1, updates=60), model, rows, tmp_path)
    assert "too few" in (numbers["anomaly_index"].unresolved or "")


def test_methods_ask_for_what_they_need() -> None:
    assert Backdoor().requirements() == {Capability.LABELS, Capability.GRADIENTS, Capability.LOGITS}
    rows = Backdoor(methods=("spectral_signatures",)).requirements()
    assert rows == {Capability.LABELS, Capability.TRAIN_DATA, Capability.LAYERS}


class Net(nn.Module):
    """Images ``(N, 1, 8, 8)`` in 0..16 → logits ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x / 16))


TARGET = 2


@cache
def pair(planted: bool) -> tuple[nn.Module, AuditData]:
    """A trained net, with a bright 2×2 corner in 5 % of the training rows of other digits, called a two, or without."""
    rows = digits()
    assert rows.train is not None
    x, y = rows.train.x.copy(), rows.train.labels.copy()
    if planted:
        chosen = np.random.default_rng(0).choice(np.flatnonzero(y != TARGET), round(0.05 * len(y)), replace=False)
        x[chosen, :, -2:, -2:], y[chosen] = 16.0, TARGET
        rows = data(rows.test, batch(x, y), n_classes=10, bounds=(0.0, 16.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, members, labels = Net(), torch.from_numpy(x), torch.from_numpy(y)
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(10):
            for part in torch.randperm(len(members)).split(64):
                loss = nn.functional.cross_entropy(net(members[part]), labels[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return net.eval(), rows


def go(tmp_path: Path, planted: bool, params: str, require: str) -> Report:
    net, rows = pair(planted)
    text = f"name: b\nmodel: toy\ndata: {{source: given}}\nthreads: 1\nchecks:\n  - robustness.backdoor: {params}\n    require: {require}\n"
    model = audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))
    return run(parse(text), home=tmp_path, models={"toy": model}, data=rows)


@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_patch_is_found_and_a_clean_model_passes(tmp_path: Path, planted: bool) -> None:
    report = go(tmp_path, planted, "{restarts: 3, batch: 16}", '{anomaly_index: "< 2", suspicious_share: "<= 0"}')
    gates = {f.metric: f for f in report.findings if f.gated}
    found = gates["anomaly_index"]
    assert found.estimate is not None
    assert (found.estimate.value > 2) == planted, found.message
    if not planted:
        assert {f.status for f in gates.values()} == {"pass"}
    if planted:
        assert found.status != "pass", "three restarts leave a wide interval; none of it lets a planted patch through"
        index = {f.dims["class"]: f.estimate.value for f in report.findings if f.metric == "anomaly_index" and f.dims}  # type: ignore[union-attr]
        assert max(index, key=lambda k: index[k]) == str(TARGET)
        triggers = next(ref for ref in found.evidence if ref.kind == "attributions")
        mask = report.stored.evidence(triggers).row(TARGET)["values"][0]
        assert mask[-2:, -2:].sum() > 0.5 * mask.sum(), "the mask lies where the patch was planted"


def test_most_rows_flagged_are_poisoned_ones(tmp_path: Path) -> None:
    net, rows = pair(True)
    model = audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))
    numbers = measured(Backdoor(methods=("activation_clustering",)), model, rows, tmp_path)
    assert "anomaly_index" not in numbers
    found = numbers["suspicious_share[method=activation_clustering]"]
    assert found.estimate == numbers["suspicious_share"].estimate
    ref = next(ref for ref in found.evidence if ref.kind == "outcomes")
    flagged = Evidence(next(tmp_path.glob("run-*")) / ref.path).column("value") == 1
    before, after = digits().train, rows.train
    assert before is not None
    assert after is not None
    poisoned = (after.x != before.x).any(axis=(1, 2, 3))
    assert poisoned.mean() < 0.06
    assert poisoned[flagged].mean() > 0.5
    assert flagged[poisoned].mean() > 0.4


def test_another_layer_gives_other_groups(tmp_path: Path) -> None:
    found = [
        go(tmp_path, True, f"{{methods: [activation_clustering]{layer}}}", '{suspicious_share: "<= 0"}')
        for layer in ("", ", layer: body.2")
    ]
    shares = [next(f.estimate for f in report.findings if f.gated) for report in found]
    assert shares[0] != shares[1]
