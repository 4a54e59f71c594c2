"""Permutation importance: closed forms, scikit-learn with the same permutations, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.inspection import permutation_importance as reference
from sklearn.linear_model import LinearRegression
from toys import audited

from audit.global_explanations.permutation_importance import donors, permutation_importance, row_losses
from audit.model import AuditedModel
from audit.parameters import NotApplicable, UserError
from audit.stats import mean_and_se, t_interval


def by_shuffling(n: int, repeats: int, seed: int) -> torch.Tensor:
    """The permutations that scikit-learn draws: one index shuffled again and again, applied to what the last one left."""
    state = np.random.RandomState(np.random.RandomState(seed).randint(np.iinfo(np.int32).max + 1))
    index, taken, found = np.arange(n), np.arange(n), []
    for _ in range(repeats):
        state.shuffle(index)
        taken = taken[index]
        found.append(taken.copy())
    return torch.from_numpy(np.stack(found))


def classifier(estimator: RandomForestClassifier, columns: int) -> AuditedModel:
    return audited(
        lambda z: torch.from_numpy(estimator.predict_proba(z.numpy())), (columns,), 3, output="probability",
        kind="number", gradients=False,
    )  # fmt: skip


def test_as_scikit_learn_with_the_same_permutations() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    x[:, 3] = x[:, 3] > 0
    y = (x[:, 0] + x[:, 1] * x[:, 3] > 0).astype(int) + (x[:, 0] > 1)
    forest = RandomForestClassifier(10, random_state=0, min_samples_leaf=5).fit(x, y)
    model, rows, labels = classifier(forest, 4), torch.from_numpy(x), torch.from_numpy(y)
    answers, sources = model.scores(rows), [by_shuffling(80, 3, 7)] * 4
    features = [[0], [1], [2], [3]]
    for score, name in (("accuracy", "accuracy"), ("log_loss", "neg_log_loss")):
        theirs = reference(forest, x, y, scoring=name, n_repeats=3, random_state=7)
        ours = permutation_importance(model, rows, labels, answers, features, sources, score)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours.repeats.numpy(), theirs.importances, atol=1e-12)
        np.testing.assert_allclose(ours.value.numpy(), theirs.importances_mean, atol=1e-12)


def test_r2_as_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3))
    y = x @ [2.0, -1.0, 0.0] + rng.normal(size=60)
    fitted = LinearRegression().fit(x, y)
    weights, offset = torch.from_numpy(fitted.coef_), float(fitted.intercept_)
    model = audited(lambda z: z @ weights + offset, (3,), output="value", kind="number")
    theirs = reference(fitted, x, y, n_repeats=4, random_state=3)
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    sources = [by_shuffling(60, 4, 3)] * 3
    ours = permutation_importance(model, rows, labels, model.scores(rows), [[0], [1], [2]], sources, "r2")
    np.testing.assert_allclose(ours.repeats.numpy(), theirs.importances, atol=1e-12)


def test_columns_of_a_group_move_together() -> None:
    """f = a − b with a = b in every row: torn from one another they matter, together they do not."""
    model = audited(lambda z: z[:, 0] - z[:, 1], (2,), output="value", kind="number")
    x = torch.arange(6.0, dtype=torch.float64)[:, None].expand(6, 2).clone()
    labels = torch.tensor([0.0, 0, 0, 0, 0, 1], dtype=torch.float64)
    taken = donors(torch.rand(2, 6, generator=torch.Generator().manual_seed(0)))
    found = permutation_importance(model, x, labels, model.scores(x), [[0], [0, 1]], [taken, taken], "r2")
    assert found.value[0] > 1
    assert found.value[1] == 0


def test_only_changed_rows_are_asked() -> None:
    model = audited(lambda z: z[:, 0], (2,), output="value", kind="number")
    x = torch.tensor([[1.0, float("nan")], [1, float("nan")], [1, float("nan")], [2, float("nan")]])
    labels, answers = torch.tensor([1.0, 1, 1, 2]), model.scores(x)
    asked = model.rows_forward
    taken = donors(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    permutation_importance(model, x, labels, answers, [[0], [1]], [taken, taken], "r2")
    assert model.rows_forward - asked == 2


@pytest.mark.parametrize("cells", [None, torch.tensor([0, 1, 0, 1, 0, 2, 1])])
def test_donors_give_once_and_are_any_other_row_of_the_cell(cells: torch.Tensor | None) -> None:
    n, repeats = 7, 4000
    taken = donors(torch.rand(repeats, n, generator=torch.Generator().manual_seed(0)), cells)
    assert torch.equal(taken.sort(dim=1).values, torch.arange(n).expand(repeats, n))
    counts = torch.zeros(n, n).index_put_((torch.arange(n).repeat(repeats), taken.flatten()), torch.ones(()), True)
    same = torch.ones(n, n, dtype=torch.bool) if cells is None else cells[:, None] == cells
    others = same & ~torch.eye(n, dtype=torch.bool)
    wanted = others / others.sum(dim=1, keepdim=True).clamp_min(1)
    if cells is not None:
        wanted[5, 5] = 1  # alone in its cell
    torch.testing.assert_close(counts / repeats, wanted.float(), atol=0.04, rtol=0)


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    model = audited(lambda z: z, (2,), 2, output="probability", kind="number")
    scores = torch.tensor([[1.0, 0.0]])
    loss = row_losses(model, scores, torch.tensor([1]), "log_loss")
    assert float(loss) == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_intervals_cover_and_means_are_unbiased() -> None:
    """f = x in mean square: importance 2 var(x) cov(x, y)/var(x) / var(y); here y = x + noise of variance 1: 2 · 1 / 2 = 1."""
    model = audited(lambda z: z[:, 0], (1,), output="value", kind="number")
    rng = np.random.default_rng(0)
    values, covered, trials = [], 0, 300
    for _ in range(trials):
        x = rng.normal(size=(60, 1))
        y = torch.from_numpy(x[:, 0] + rng.normal(size=60))
        rows = torch.from_numpy(x)
        taken = donors(torch.from_numpy(rng.random((5, 60))))
        found = permutation_importance(model, rows, y, model.scores(rows), [[0]], [taken], "r2")
        assert found.influence.mean() == pytest.approx(float(found.value), abs=1e-12)
        low, high = t_interval(*mean_and_se(found.influence[0].numpy()))
        values.append(float(found.value))
        covered += low <= 1 <= high
    assert np.mean(values) == pytest.approx(1, abs=0.05)
    assert 0.91 <= covered / trials <= 0.99


def test_what_cannot_be_scored() -> None:
    model = audited(lambda z: (z[:, 0] > 0).long(), (1,), 2, output="label", kind="number", gradients=False)
    x, labels = torch.randn(4, 1), torch.tensor([0, 1, 0, 1])
    taken = donors(torch.rand(1, 4))
    with pytest.raises(NotApplicable, match="log-loss needs probabilities"):
        permutation_importance(model, x, labels, model.scores(x), [[0]], [taken], "log_loss")
    value = audited(lambda z: z[:, 0], (1,), output="value", kind="number")
    with pytest.raises(NotApplicable, match="R² is not defined"):
        permutation_importance(value, x, torch.ones(4), value.scores(x), [[0]], [taken], "r2")
    with pytest.raises(UserError, match="two rows"):
        permutation_importance(value, x[:1], labels[:1], x[:1, 0], [[0]], [taken], "r2")
