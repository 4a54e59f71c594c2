"""Attacks with shadow models: a forest that remembers and a stump that cannot, an overfitted network and a bounded one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn
from toys import audited, batch, context, data, digits

from audit.checks.privacy._membership_shadows import POPULATION, draw_challenge, joined, likeness
from audit.checks.privacy.membership_inference import MembershipInference
from audit.context import Context
from audit.data import AuditData
from audit.engine import run
from audit.finding import Measurement
from audit.model import AuditedModel, Capability, Field, InputSpec, implied
from audit.privacy.blind_control import BlindAuc
from audit.recipe import Recipe
from audit.registry.store import Registry
from audit.run_folder import Run
from audit.scenario import parse

SPEC = InputSpec(fields=tuple(Field(name=f"x{i}", kind="number") for i in range(6)))


@cache
def people(n: int = 500, seed: int = 5) -> AuditData:
    """A class that one column half decides: the rest can only be remembered."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n, 6))
    y = ((x[:, 0] + rng.normal(size=2 * n)) > 0).astype(np.int64)
    return AuditData("people", batch(x[:n], y[:n]), SPEC, ("0", "1"), batch(x[n:], y[n:]))


@pytest.fixture(autouse=True)
def _alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members and non-members are drawn alike here: the blind control, tested by itself, need not look."""
    alike = BlindAuc(0.5, 20, 20, ("logistic regression", "logistic regression"))
    monkeypatch.setattr("audit.privacy.blind_control.blind_auc", lambda *args, **kwargs: alike)


class CountedForest(RandomForestClassifier):
    """Fits are counted."""

    fits = 0

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        CountedForest.fits += 1
        return super().fit(*args, **kwargs)


def audited_estimator(estimator: Any, rows: AuditData) -> AuditedModel:
    assert rows.train is not None
    fitted = clone(estimator).fit(rows.train.x, rows.train.labels)
    return AuditedModel(
        name="estimator", digest="estimator", task="classification", classes=("0", "1"), spec=SPEC, output="probability",
        capabilities=implied("probability", gradients=False, layers=False),
        forward=lambda x: torch.from_numpy(fitted.predict_proba(x.numpy())),
        fresh=lambda seed: clone(estimator).set_params(random_state=seed),
    )  # fmt: skip


@cache
def forest() -> AuditedModel:
    return audited_estimator(CountedForest(10, random_state=0), people())


@cache
def stump() -> AuditedModel:
    return audited_estimator(DecisionTreeClassifier(max_depth=1, random_state=0), people())


def measure(
    ctx: Context, model: AuditedModel, rows: AuditData | None = None, **parameters: object
) -> dict[str, Measurement]:
    check = MembershipInference(**parameters)  # type: ignore[arg-type]
    return {
        m.metric + "".join(f"/{k}={v}" for k, v in m.dims.items()): m for m in check.run(model, rows or people(), ctx)
    }


ALL = ("lira", "lira_offline", "rmia", "loss", "label_only")


def test_a_forest_that_remembers_leaks_most_to_who_knows_its_like(tmp_path: Path) -> None:
    found = measure(context(tmp_path), forest(), attacks=ALL)
    for name in ("lira", "lira_offline", "rmia"):
        low, _ = found[f"auc/attack={name}"].estimate.interval()
        assert low > found["auc/attack=loss"].estimate.interval()[1], f"{name} knows how hard each row is"
        assert low > 0.8
    assert found["auc"].estimate == found["auc/attack=lira"].estimate
    assert found["tpr_at_fpr/attack=lira/fpr=0.01"].estimate.value > 0.05
    assert "10 / FPR" in (found["tpr_at_fpr/attack=lira/fpr=0.01"].unresolved or "")
    exposed = found["exposed_records"]
    assert exposed.estimate.interval()[0] > 0.01
    assert "by the attack lira" in exposed.cautions[0]
    low, _ = found["advantage/attack=label_only"].estimate.interval()
    assert low > 0.1
    assert found["auc/attack=label_only"].threat_model.queries == 32  # type: ignore[union-attr]


def test_a_stump_cannot(tmp_path: Path) -> None:
    found = measure(context(tmp_path), stump(), attacks=ALL, shadows=8)
    for name in ALL:
        low, high = found[f"auc/attack={name}"].estimate.interval()
        assert low < 0.52, name  # its four answers speak for whole leaves: rows that go together are no 1,000 of them
        assert high < 0.6, name
    low, _ = found["exposed_records"].estimate.interval()
    assert low < 0.005


def scenario(attacks: str) -> Any:
    return parse(
        "name: mia\nmodel: toy\ndata: {source: given}\nchecks:\n"
        f"  - privacy.membership_inference: {{attacks: [{attacks}], shadows: 4, references: 2}}\n"
        '    require: {auc: "<= 0.6", "auc[attack=rmia]": "<= 0.6"}\n'
    )


def test_through_a_run_and_a_second_one_trains_nothing(tmp_path: Path) -> None:
    CountedForest.fits = 0
    first, second = (
        run(scenario("lira, rmia"), home=tmp_path, models={"toy": forest()}, data=people()) for _ in range(2)
    )
    assert CountedForest.fits == 4
    assert {f.status for f in first.findings if f.gated} == {"fail"}
    assert first.exit_code == 1
    for name in ("measurements.jsonl", "findings.jsonl"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    bounded = run(scenario("lira, rmia"), home=tmp_path, models={"toy": stump()}, data=people())
    assert {f.status for f in bounded.findings if f.gated} == {"pass"}


def test_the_most_exposed_are_told_by_row_and_not_by_content(tmp_path: Path) -> None:
    found = measure(context(tmp_path), forest(), attacks=["loss", "lira"], shadows=4, exposed=7, challenges=100)
    (ref,) = found["exposed_records"].evidence
    folder = next(path for path in tmp_path.iterdir() if (path / ref.path).exists())
    table = Run(folder).evidence(ref)
    train = people().train
    assert train is not None
    assert set(table.fields) == {"rank", "row", "score", "non_members_above"}
    rows = table.column("row")
    assert list(table.ids) == [train.ids[row] for row in rows]
    drawn = draw_challenge(people(), 100, context(tmp_path).generator("challenge"), with_population=False)
    assert set(rows.tolist()) <= set(drawn.members.tolist())
    assert table.column("rank").tolist() == list(range(1, 8))
    scores = table.column("score")
    assert (np.diff(scores) <= 0).all()
    assert table.column("non_members_above")[0] == 0
    without = measure(context(tmp_path), forest(), attacks=["loss", "lira"], shadows=4, exposed=0, challenges=100)
    assert without["exposed_records"].evidence == ()
    assert without["exposed_records"].estimate == found["exposed_records"].estimate
    assert "exposed_records" not in measure(context(tmp_path), forest(), attacks=["label_gap"])


def test_exposed_records_are_those_above_every_non_member(tmp_path: Path) -> None:
    found = measure(context(tmp_path), forest(), attacks=["loss"])
    members, others = (
        np.log(np.maximum(forest().outputs(part).numpy()[np.arange(len(part)), part.labels], np.finfo(float).tiny))
        for part in (people().train, people().test)  # type: ignore[arg-type]
    )
    assert found["exposed_records"].estimate.k == int((members > others.max()).sum())  # type: ignore[union-attr]
    assert "would show about 1 of 500" in found["exposed_records"].cautions[0]


def test_every_option_changes_the_result(tmp_path: Path) -> None:
    few = {"shadows": 4, "references": 2, "challenges": 100, "queries": 8}
    one = measure(context(tmp_path), forest(), attacks=["lira", "rmia", "label_only"], **few)
    for attack, changed in (
        ("lira", {"shadows": 6}),
        ("rmia", {"references": 3}),
        ("rmia", {"gamma": 1.05}),
        ("rmia", {"a": 1.0}),
        ("label_only", {"queries": 4}),
        ("label_only", {"challenges": 80}),
    ):
        other = measure(context(tmp_path), forest(), attacks=[attack], **{**few, **changed})
        assert one[f"auc/attack={attack}"].estimate != other["auc"].estimate, changed


def test_references_are_shadows_where_there_are_some(tmp_path: Path) -> None:
    few: dict[str, Any] = {"references": 2, "challenges": 100}
    CountedForest.fits = 0
    alone = measure(context(tmp_path), forest(), attacks=["rmia"], **few)
    assert CountedForest.fits == 4, "two that have not seen a row, two that have"
    beside = measure(context(tmp_path), forest(), attacks=["rmia", "lira"], shadows=6, **few)
    assert CountedForest.fits == 4 + 6
    assert beside["auc/attack=rmia"].estimate == alone["auc/attack=rmia"].estimate


def test_boosters_of_the_registry_are_trained_by_what_their_files_tell(tmp_path: Path) -> None:
    xgboost = pytest.importorskip("xgboost")
    members = people().train
    assert members is not None
    registry = Registry(tmp_path)
    rows = xgboost.DMatrix(members.x, members.labels)
    for name, depth, rounds in (("deep", 8, 60), ("shallow", 1, 5)):
        fitted = xgboost.train(
            {"objective": "binary:logistic", "max_depth": depth, "eta": 0.2, "nthread": 1}, rows, rounds
        )
        fitted.save_model(tmp_path / f"{name}.ubj")
        registry.add(name, tmp_path / f"{name}.ubj", spec=SPEC)
    text = (
        "name: mia\nmodel: [deep, shallow]\ndata: {source: given}\nchecks:\n"
        "  - privacy.membership_inference: {attacks: [lira, loss], shadows: 4}\n"
        '    require: {auc: "<= 0.6"}\n'
    )
    report = run(parse(text), home=tmp_path, data=people())
    found = {f.model: f for f in report.findings if f.gated}
    assert {name: f.status for name, f in found.items()} == {"deep": "fail", "shallow": "pass"}
    assert "read from the file's trees" in found["deep"].cautions[0]


# --- networks ---


class Net(nn.Module):
    """Digits in 0..16 → logits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / 16)  # type: ignore[no-any-return]


def fresh_net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net()


@cache
def few_digits() -> AuditData:
    """300 digits to train on and as many to test on; three labels in ten are drawn at random."""
    known, rng = digits(900), np.random.default_rng(1)
    parts = []
    for part in (known.test, known.train):
        assert part is not None
        rows = rng.permutation(len(part))[:300]
        labels = part.labels[rows].copy()
        wrong = rng.random(300) < 0.3
        labels[wrong] = rng.integers(0, 10, wrong.sum())
        parts.append(batch(part.x[rows], labels))
    return data(parts[0], parts[1], n_classes=10, bounds=(0.0, 16.0))


@cache
def network(epochs: int, weight_decay: float) -> AuditedModel:
    members = few_digits().train
    assert members is not None
    recipe = Recipe(epochs=epochs, batch=50, optimiser=("AdamW", {"lr": 1e-2, "weight_decay": weight_decay}))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(3)
        net = fresh_net(0)
        x, y = torch.from_numpy(members.x), torch.from_numpy(members.labels)
        optimiser = torch.optim.AdamW(net.parameters(), **recipe.optimiser[1])
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(50):
                loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    known = audited(net, (1, 8, 8), 10, bounds=(0.0, 16.0))
    known.fresh, known.recipe = fresh_net, recipe
    known.capabilities |= {Capability.RETRAIN}
    return known


@pytest.mark.parametrize(("epochs", "weight_decay", "status"), [(16, 0.0, "fail"), (3, 10.0, "pass")])
def test_an_overfitted_network_leaks_and_a_bounded_one_does_not(
    tmp_path: Path, epochs: int, weight_decay: float, status: str
) -> None:
    text = (
        "name: mia\nmodel: toy\ndata: {source: given}\nchecks:\n"
        "  - privacy.membership_inference: {attacks: [lira, rmia, loss], shadows: 8}\n"
        '    require: {auc: "<= 0.65"}\n'
    )
    model = network(epochs, weight_decay)
    report = run(parse(text), home=tmp_path, models={"toy": model}, data=few_digits())
    found = {f.dims.get("attack", ""): f for f in report.findings if f.metric == "auc"}
    assert found[""].status == status
    if status == "fail":
        above = found["loss"].estimate.interval()[1]  # type: ignore[union-attr]
        assert found["lira"].estimate.interval()[0] > above  # type: ignore[union-attr]
        assert found["rmia"].estimate.interval()[0] > 0.55  # type: ignore[union-attr]
        assert "by the model's own recipe: 16 epochs" in found["lira"].cautions[0]


def test_another_recipe_trains_other_shadows(tmp_path: Path) -> None:
    few = {"attacks": ["lira"], "shadows": 2, "challenges": 50}
    own = measure(context(tmp_path), network(3, 10.0), few_digits(), **few)
    other = measure(context(tmp_path), network(3, 10.0), few_digits(), **few, recipe={"epochs": 1, "batch": 16})
    assert own["auc"].estimate != other["auc"].estimate
    assert "1 epoch" in other["auc"].cautions[0]


# --- rows ---


def test_who_is_challenged() -> None:
    rows = people()
    assert rows.train is not None
    drawn = draw_challenge(rows, 10_000, np.random.default_rng(0), with_population=False)
    assert (drawn.n, len(drawn.pool), len(drawn.population)) == (500, 1000, 0)
    drawn = draw_challenge(rows, 10_000, np.random.default_rng(0), with_population=True)
    assert (drawn.n, len(drawn.pool), len(drawn.population)) == (375, 375 + 500, 125)
    assert not set(drawn.population.ids) & set(drawn.pool.ids)
    small = draw_challenge(rows, 20, np.random.default_rng(0), with_population=True)
    assert (small.n, len(small.pool)) == (20, 40)
    assert small.pool.ids[:20] == tuple(rows.train.ids[i] for i in small.members)
    assert small.pool.ids[20:] == tuple(rows.test.ids[i] for i in small.others)
    with_own = AuditData(rows.source, rows.test, rows.spec, rows.classes, rows.train, people(1500, 9).test)
    drawn = draw_challenge(with_own, 10_000, np.random.default_rng(0), with_population=True)
    assert (drawn.n, len(drawn.population)) == (500, 1500)
    assert len(drawn.population) <= POPULATION


def test_rows_that_two_batches_share_keep_names_of_their_own() -> None:
    part = batch(np.zeros((2, 3)), np.array([0, 1]))
    assert joined(part, part).ids == (*part.ids, *(f"{name}+1" for name in part.ids))


# --- what must be known of the shadows ---


class Shadows:
    """Four shadow models of ten rows, right in so much of their own and of other rows."""

    note = "trained somehow"
    inside = np.ones((4, 10), dtype=bool)

    def __init__(self, own: float, rest: float) -> None:
        self.accuracy_inside, self.accuracy_outside = np.full(4, own), np.full(4, rest)

    def __len__(self) -> int:
        return 4


def test_shadows_unlike_the_model_are_told_of() -> None:
    alike = likeness(stump(), Shadows(0.98, 0.70), 1.0, 0.72)  # type: ignore[arg-type]
    assert alike == ("4 shadow models of 10 rows each; trained somehow",)
    for shadows in (Shadows(0.93, 0.72), Shadows(1.0, 0.6)):
        _, told = likeness(stump(), shadows, 1.0, 0.72)  # type: ignore[arg-type]
        assert "unlike this model" in told


def test_noise_of_the_model_is_told_of() -> None:
    import copy

    private = copy.copy(stump())
    ledger = '{"stretches": [{"sampling_rate": 0.1, "sigma": %s, "steps": 10}], "dataset_size": 100, "delta": 1e-5}'
    private.ledger = ledger % 1.0
    assert "differential privacy" in likeness(private, Shadows(1.0, 0.7), 1.0, 0.7)[-1]  # type: ignore[arg-type]
    private.ledger = ledger % 0.0
    assert len(likeness(private, Shadows(1.0, 0.7), 1.0, 0.7)) == 1  # type: ignore[arg-type]


# --- what is needed ---


def test_requirements_follow_the_attacks() -> None:
    for name in ("lira", "lira_offline", "rmia"):
        assert MembershipInference(attacks=(name,)).requirements() == {  # type: ignore[arg-type]
            Capability.TRAIN_DATA, Capability.PROBABILITIES, Capability.RETRAIN,
        }  # fmt: skip
    assert MembershipInference(attacks=("label_only",)).requirements() == {Capability.TRAIN_DATA, Capability.LABELS}
    assert Capability.RETRAIN not in MembershipInference().requirements()


def test_a_model_that_cannot_be_trained_anew_is_told_so(tmp_path: Path) -> None:
    known = forest()
    once = AuditedModel(
        name="once", digest="once", task="classification", classes=("0", "1"), spec=SPEC, output="probability",
        capabilities=implied("probability", gradients=False, layers=False), forward=known._forward,
    )  # fmt: skip
    report = run(scenario("lira, rmia"), home=tmp_path, models={"toy": once}, data=people())
    assert {f.status for f in report.findings} == {"not_applicable"}
    assert "does not offer retrain" in report.findings[0].message
