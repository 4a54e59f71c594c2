"""Shadows of estimators: as trained by hand, trained once, in processes as here, and never a fitted object on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_expit
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from audit.model import AuditedModel, Field, InputSpec, OutputSpace, implied
from audit.parameters import NotApplicable, UserError
from audit.privacy import _estimators
from audit.privacy.shadow_models import ShadowModels, halves, train_shadows

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = (X[:, 0] + RNG.normal(size=120) > 0).astype(np.int64) + (X[:, 1] > 1)
INSIDE = halves(120, 4, np.random.default_rng(1))


def made_by(fresh: Callable[[int], Any], output: OutputSpace = "probability", classes: int = 3) -> AuditedModel:
    spec = InputSpec(fields=tuple(Field(name=f"x{i}", kind="number") for i in range(3)))
    return AuditedModel(
        name="toy", digest="toy", task="classification", classes=tuple("abc"[:classes]), spec=spec, output=output,
        capabilities=implied(output, gradients=False, layers=False), forward=lambda x: x, fresh=fresh,
    )  # fmt: skip


def forest(seed: int) -> RandomForestClassifier:
    return RandomForestClassifier(4, max_depth=4, random_state=seed)


def trained(
    cache: Path, fresh: Callable[[int], Any] = forest, y: Any = Y, inside: Any = INSIDE, **how: Any
) -> ShadowModels:
    return train_shadows(made_by(fresh, **how), X, y, inside, seed=5, cache=cache)


def test_each_is_trained_on_its_rows_by_its_seed(tmp_path: Path) -> None:
    shadows = trained(tmp_path)
    assert (len(shadows), shadows.fresh) == (4, 4)
    for number, rows in enumerate(INSIDE):
        by_hand = forest(5 + number).fit(X[rows], Y[rows])
        np.testing.assert_allclose(np.exp(shadows.log_probabilities(X)[number]), by_hand.predict_proba(X), atol=1e-12)
        assert shadows.accuracy_inside[number] == pytest.approx(by_hand.score(X[rows], Y[rows]))
        assert shadows.accuracy_outside[number] == pytest.approx(by_hand.score(X[~rows], Y[~rows]))
    assert np.isfinite(shadows.pool.confidence).all()


def test_two_classes_by_their_margin(tmp_path: Path) -> None:
    y = (Y > 0).astype(np.int64)
    line = LogisticRegression(random_state=0)
    shadows = trained(tmp_path, lambda seed: LogisticRegression(), y, output="margin", classes=2)
    margin = line.fit(X[INSIDE[0]], y[INSIDE[0]]).decision_function(X)
    np.testing.assert_allclose(shadows.log_probabilities(X)[0], np.stack([log_expit(-margin), log_expit(margin)], 1))


def test_many_classes_by_their_scores(tmp_path: Path) -> None:
    shadows = trained(tmp_path, lambda seed: LogisticRegression(), output="logit")
    by_hand = LogisticRegression().fit(X[INSIDE[0]], Y[INSIDE[0]])
    np.testing.assert_allclose(shadows.log_probabilities(X)[0], by_hand.predict_log_proba(X), atol=1e-9)


def test_a_class_that_a_shadow_has_never_seen_is_ruled_out(tmp_path: Path) -> None:
    inside = np.stack([Y != 1, np.ones(120, dtype=bool)])
    found = trained(tmp_path, inside=inside).log_probabilities(X)
    assert (found[0, :, 1] < -700).all()
    assert np.exp(found[0][:, [0, 2]]).sum(axis=1) == pytest.approx(1)


class Counted(RandomForestClassifier):
    """Fits are counted."""

    fits = 0

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        Counted.fits += 1
        return super().fit(*args, **kwargs)


def counted(seed: int) -> Counted:
    return Counted(4, max_depth=4, random_state=seed)


def test_what_was_trained_is_not_trained_again(tmp_path: Path) -> None:
    Counted.fits = 0
    first = trained(tmp_path, counted)
    other = first.answers(X[:7] + 1, Y[:7])
    assert Counted.fits == 4, "further questions go to the models in memory"
    again = trained(tmp_path, counted)
    assert (again.fresh, Counted.fits) == (0, 4)
    assert np.array_equal(again.pool.confidence, first.pool.confidence)
    assert np.array_equal(again.answers(X[:7] + 1, Y[:7]).confidence, other.confidence)
    assert Counted.fits == 4
    assert not np.array_equal(again.answers(X[:7] - 1, Y[:7]).confidence, other.confidence)
    assert Counted.fits == 8, "rows that nobody was asked about take models"


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nonsense", None])
def test_a_damaged_answer_is_made_again_and_the_others_are_kept(tmp_path: Path, damage: bytes | None) -> None:
    first = trained(tmp_path)
    files = sorted(tmp_path.rglob("*.npy"))
    assert len(files) == 4
    if damage is None:
        np.save(files[0], np.full((120, 3), np.nan))
    else:
        files[0].write_bytes(damage)
    files[1].unlink()  # as if killed before
    again = trained(tmp_path)
    assert again.fresh == 2
    assert np.array_equal(again.pool.confidence, first.pool.confidence)


@pytest.mark.parametrize("change", ["parameters", "labels", "rows", "seed"])
def test_whatever_bears_on_a_model_trains_another(tmp_path: Path, change: str) -> None:
    trained(tmp_path)
    other = {
        "parameters": lambda: trained(tmp_path, lambda seed: forest(seed).set_params(max_depth=3)),
        "labels": lambda: trained(tmp_path, y=(Y + 1) % 3),
        "rows": lambda: trained(tmp_path, inside=~INSIDE),
        "seed": lambda: trained(tmp_path, lambda seed: forest(seed + 1)),
    }[change]()
    assert other.fresh == 4


def test_only_plain_numbers_are_written(tmp_path: Path) -> None:
    trained(tmp_path)
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        assert np.load(path, allow_pickle=False).dtype == np.float64


def test_processes_train_the_same_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = trained(tmp_path / "here")
    monkeypatch.setattr(_estimators, "WORTH_PROCESSES", -1.0)
    monkeypatch.setattr(_estimators, "_processes", lambda: 2)
    there = trained(tmp_path / "there")
    assert np.array_equal(there.pool.confidence, here.pool.confidence)
    assert np.array_equal(there.answers(X[:5] + 1, Y[:5]).confidence, here.answers(X[:5] + 1, Y[:5]).confidence)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    train_shadows(
        made_by(forest),
        X,
        Y,
        INSIDE,
        seed=5,
        cache=tmp_path,
        progress=lambda done, total, what: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"makes a dict afresh, which has no fit\(\)"):
        trained(tmp_path, lambda seed: {})
    with pytest.raises(UserError, match=r"shadow model 0 cannot be trained: .*max_depth"):
        trained(tmp_path, lambda seed: DecisionTreeClassifier(max_depth=-3))
