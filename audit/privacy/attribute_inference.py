"""Attribute inference: guessing one sensitive column of a record from the rest of it, its label and a model's answers.

The adversary puts every value into the record, asks the model, and weighs how well each answer suits the known label with what is known
without the model: ``P(value) · P(label | record with the value)``. Imputation, by learners that see the other columns and the label, is
both that prior and what the attack is measured against: a model whose answers do not depend on the column gains exactly nothing,
and a guess that could have been made without the model is no leak of it. (The label then counts twice, which costs the
adversary a little where the model and imputation say the same.) Nothing is learned from a member's sensitive value.

Source: Fredrikson et al. 2014, "Privacy in Pharmacogenetics", USENIX Security 23:17-32 (likelihood times prior; confusion matrix and
Gaussian errors for models that give labels or values); Yeom et al. 2018, arXiv:1709.01604 (members against non-members); Jayaraman &
Evans 2022, arXiv:2209.01292 (imputation as the baseline).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from audit import stats
from audit.parameters import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

    from audit.data import Batch
    from audit.model import AuditedModel, Field

REPLICATES = 2000
FOLDS = 3
"""Parts of the test rows: each part is imputed by learners that the others taught."""
FEWEST = 30
"""Reference rows without which nothing can be imputed."""
_MOST_CATEGORIES = 255
"""Boosted trees split columns with larger codes as numbers."""
_ASKED = 2**16
"""Records put to the model at a time."""
_TINY = float(np.finfo(np.float64).tiny)


# --- what is guessed -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guesses:
    """What the sensitive column may be guessed as: the values of a category, or bins of a number.

    Args:
        names: of the K guesses.
        tried: ``(K, P)`` values put into a record for each guess; answers to the P of one guess are averaged.
        edges: ``(K - 1,)`` largest value of each bin but the last; None of a category, whose codes are the guesses.
        centres: ``(K,)`` mean value of each bin; None of a category.
    """

    names: tuple[str, ...]
    tried: NDArray[np.float64]
    edges: NDArray[np.float64] | None = None
    centres: NDArray[np.float64] | None = None

    def of(self, column: NDArray[np.float64]) -> NDArray[np.intp]:
        """The right guess for each value ``(N,)``."""
        return column.astype(np.intp) if self.edges is None else self.edges.searchsorted(column, "left")


def guesses(field: Field, reference: NDArray[np.float64], bins: int, points: int) -> Guesses:
    """The guesses about a column.

    Args:
        reference: ``(N,)`` values that the adversary knows the distribution from; no member's.
        bins: of a number: bins of about equally many reference rows. A number of at most so many different values has each for a guess.
        points: values tried of each bin, evenly spaced quantiles of its reference rows.

    Raises:
        UserError: there are fewer than two guesses.
    """
    if field.kind == "category":
        codes = np.arange(len(field.categories), dtype=np.float64)
        found = Guesses(tuple(field.categories), codes[:, None])
    else:
        found = _bins(reference, bins, points)
    if len(found.names) < 2:
        raise UserError(f"column '{field.name}' has one value only: there is nothing to infer")
    return found


def _bins(reference: NDArray[np.float64], bins: int, points: int) -> Guesses:
    """A number's bins; edges are values that occur, so that no bin is empty."""
    different = np.unique(reference)
    edges = different[:-1]
    if len(different) > bins:
        quantiles = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf")
        edges = np.setdiff1d(quantiles, different[-1])
    where = edges.searchsorted(reference, "left")
    inside = [reference[where == k] for k in range(len(edges) + 1)]
    shares = (np.arange(points) + 0.5) / points
    tried = np.stack([np.quantile(values, shares, method="inverted_cdf") for values in inside])
    if (tried == tried[:, :1]).all():
        tried = tried[:, :1]
    names = [f"{values.min():g}" if values.min() == values.max() else f"{values.min():g} to {values.max():g}" for values in inside]  # fmt: skip
    return Guesses(tuple(names), tried, edges, np.array([values.mean() for values in inside]))


# --- without the model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imputed:
    """Log-probabilities of every guess without the model.

    Args:
        test: ``(N, K)`` of test rows, each by learners that never saw it.
        members: ``(M, K)``; each member belongs to a part by chance, so that both come from learners of equally many rows.
        learner: which kind was chosen, by its log loss on the test rows.
    """

    test: NDArray[np.float64]
    members: NDArray[np.float64]
    learner: str


def impute(
    test: NDArray[np.float64],
    truth: NDArray[np.intp],
    members: NDArray[np.float64],
    n_guesses: int,
    *,
    categorical: NDArray[np.bool_],
    population: tuple[NDArray[np.float64], NDArray[np.intp]] | None,
    rng: np.random.Generator,
) -> Imputed:
    """Learn the sensitive column from what else is known of test rows and population, and impute it for test rows and members.

    Args:
        test: ``(N, F)`` what is known of test rows; NaN where missing, codes where `categorical`.
        truth: ``(N,)`` their right guesses.
        members: ``(M, F)`` the same of members.
        population: further rows to learn from, with their right guesses.
        categorical: ``(F,)`` which columns are codes.

    Raises:
        UserError: fewer than `FEWEST` rows to learn from.
    """
    from threadpoolctl import threadpool_limits

    further, further_truth = population or (test[:0], truth[:0])
    if len(test) + len(further) < FEWEST:
        raise UserError(f"imputing takes {FEWEST} rows that are no members, got {len(test) + len(further)}")
    part, part_of_member = _parts(truth, rng), rng.integers(FOLDS, size=len(members))
    best: Imputed | None = None
    least = np.inf
    with threadpool_limits(1):  # trees this small lose more to waiting threads than they gain
        widest = np.nan_to_num(np.concatenate([test, members, further]), nan=0.0).max(axis=0)
        for name, learner in _learners(categorical, widest, int(rng.integers(2**31))).items():
            found = Imputed(np.empty((len(test), n_guesses)), np.empty((len(members), n_guesses)), name)
            for fold in range(FOLDS):
                held, asked = part == fold, part_of_member == fold
                known = np.concatenate([test[~held], further]), np.concatenate([truth[~held], further_truth])
                rows = np.concatenate([test[held], members[asked]])
                answers = _log_probabilities(learner, *known, rows, n_guesses)
                found.test[held], found.members[asked] = np.split(answers, [int(held.sum())])
            loss = float(-found.test[np.arange(len(test)), truth].mean())
            if loss < least:
                best, least = found, loss
    assert best is not None  # learners give finite probabilities
    return best


def _parts(truth: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """A part for each row, by chance, each guess spread evenly over the parts."""
    order = np.lexsort((rng.random(len(truth)), truth))
    part = np.empty(len(truth), dtype=np.intp)
    part[order] = np.arange(len(truth)) % FOLDS
    return part


def _learners(categorical: NDArray[np.bool_], widest: NDArray[np.float64], seed: int) -> dict[str, Any]:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    few = categorical & (widest < _MOST_CATEGORIES)
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    columns = make_column_transformer(
        (numbers, np.flatnonzero(~categorical)), (OneHotEncoder(handle_unknown="ignore"), np.flatnonzero(categorical))
    )
    return {
        "logistic regression": make_pipeline(columns, LogisticRegression(max_iter=300)),
        "boosted trees": HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, early_stopping=False, categorical_features=few, random_state=seed
        ),
    }  # fmt: skip


def _log_probabilities(
    learner: Any, known: NDArray[np.float64], truth: NDArray[np.intp], rows: NDArray[np.float64], n_guesses: int
) -> NDArray[np.float64]:
    """Of every guess ``(N, K)``, as if one more row with any of them had been seen, so that nothing is impossible."""
    import warnings

    probabilities = np.zeros((len(rows), n_guesses))
    if len(seen := np.unique(truth)) == 1:
        probabilities[:, seen] = 1.0
    elif len(rows):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lbfgs failed to converge")  # a ranking needs no last digit
            learner.fit(known, truth)
        probabilities[:, learner.classes_] = learner.predict_proba(rows)
    n = len(known)
    return np.asarray(np.log((n * probabilities + 1 / n_guesses) / (n + 1)))


# --- with the model ------------------------------------------------------------------------------------------------


def log_likelihood(
    model: AuditedModel, batch: Batch, column: int, found: Guesses, reference: Batch
) -> NDArray[np.float64]:
    """``log P(label | record, guess)`` by the model's answers, ``(N, K)``.

    Probabilities are the model's own. A model that gives labels is weighed by how often each of its answers was right on
    the reference rows, one that gives values by the Gaussian whose spread is that of its errors there.

    Args:
        batch: records whose column is overwritten; its labels are known to the adversary.
        reference: rows that are no members.
    """
    import torch

    k, points = found.tried.shape
    x, labels = model.tensor(batch), torch.as_tensor(batch.labels)
    tried = torch.as_tensor(found.tried.ravel()).to(x)
    likelihood = _likelihood(model, reference)
    parts, at_a_time = [], _ASKED // len(tried) + 1
    for start in range(0, len(x), at_a_time):
        rows, truth = x[start : start + at_a_time], labels[start : start + at_a_time]
        asked = rows.repeat_interleave(len(tried), dim=0)
        asked[:, column] = tried.repeat(len(rows))
        answers = model.scores(asked)
        model.check_finite(answers)
        likely = likelihood(answers, truth.repeat_interleave(len(tried)))
        parts.append(likely.reshape(len(rows), k, points).mean(dim=2))
    return np.asarray(torch.cat(parts).clamp_min(_TINY).log().numpy(), dtype=np.float64)


def _likelihood(model: AuditedModel, reference: Batch) -> Callable[[Tensor, Tensor], Tensor]:
    """What gives ``P(label | answer)`` of answers and labels, ``(N,)`` float64."""
    if model.task == "regression":
        spread = _error_spread(model, reference)
        return lambda answers, labels: (-0.5 * ((answers.reshape(-1).double().cpu() - labels) / spread) ** 2).exp()
    if model.output == "label":
        share = _share_of_truth(model, reference)
        return lambda answers, labels: share[model.labels_of(answers).cpu(), labels]
    return lambda answers, labels: model.probabilities_of(answers).cpu().gather(1, labels[:, None]).squeeze(1)


def _error_spread(model: AuditedModel, reference: Batch) -> float:
    """Root mean square error on the reference rows; of a model without errors, a millionth of the labels' spread."""
    labels = np.asarray(reference.labels, dtype=np.float64)
    errors = model.outputs(reference).reshape(-1).double().cpu().numpy() - labels
    return float(max(np.sqrt(np.mean(errors**2)), 1e-6 * labels.std(), _TINY))


def _share_of_truth(model: AuditedModel, reference: Batch) -> Tensor:
    """How often each class is the truth where the model says another or the same, ``(C said, C true)``, one row of each added."""
    import torch

    c = len(model.classes)
    said = model.labels_of(model.outputs(reference)).cpu()
    counts = torch.bincount(said * c + torch.as_tensor(reference.labels), minlength=c * c).reshape(c, c).double() + 1
    return counts / counts.sum(dim=1, keepdim=True)


def posterior(log_prior: NDArray[np.float64], log_likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of the guesses, ``(N, K)``, by Bayes' rule."""
    joint = log_prior + log_likelihood
    joint = np.exp(joint - joint.max(axis=1, keepdims=True))
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def log_marginal(truth: NDArray[np.intp], n_guesses: int) -> NDArray[np.float64]:
    """Log shares of the guesses among reference rows, ``(1, K)``, half a row of each added."""
    counts = np.bincount(truth, minlength=n_guesses) + 0.5
    return np.asarray(np.log(counts / counts.sum())[None, :])


# --- the whole attack ------------------------------------------------------------------------------------------------

Prior = Literal["imputation", "marginal", "none"]
PRIORS: tuple[Prior, ...] = ("imputation", "marginal", "none")
"""What the other columns and the label say of the value; its share of the reference rows; nothing."""


@dataclass(frozen=True)
class Attacked:
    """Records under attack, with what is believed about each.

    Args:
        truth: ``(N,)`` the right guesses.
        without: ``(N, K)`` probabilities by imputation from the other columns and the label.
        beliefs: prior → ``(N, K)`` probabilities once the model was asked.
    """

    records: Batch
    truth: NDArray[np.intp]
    without: NDArray[np.float64]
    beliefs: Mapping[Prior, NDArray[np.float64]]

    def right(self, prior: Prior) -> NDArray[np.bool_]:
        """Which records are guessed right with the model, ``(N,)``."""
        return np.asarray(self.beliefs[prior].argmax(axis=1) == self.truth)

    @property
    def right_without(self) -> NDArray[np.bool_]:
        """Which are guessed right without it, ``(N,)``."""
        return np.asarray(self.without.argmax(axis=1) == self.truth)


def attack(
    model: AuditedModel,
    column: int,
    found: Guesses,
    *,
    members: Batch,
    reference: Batch,
    attacked: NDArray[np.intp],
    population: Batch | None,
    rng: np.random.Generator,
) -> tuple[Attacked, Attacked, str]:
    """Attack members and held-out rows alike.

    Args:
        column: the sensitive one; no row lacks it.
        members: to attack.
        reference: held-out rows, which imputation, the marginal prior and the model's errors are learned from.
        attacked: which of them are attacked too.
        population: further rows that imputation learns from.

    Returns:
        Attacked members, attacked held-out rows, and the learner that imputes.
    """
    k, truth = len(found.names), found.of(reference.x[:, column])
    known = None if population is None else (_known(population, column), found.of(population.x[:, column]))
    imputed = impute(
        _known(reference, column), truth, _known(members, column), k, categorical=_categorical(model, column),
        population=known, rng=rng,
    )  # fmt: skip

    def believed(records: Batch, log_imputed: NDArray[np.float64]) -> Attacked:
        likelihood = log_likelihood(model, records, column, found, reference)
        log_priors = {"imputation": log_imputed, "marginal": log_marginal(truth, k), "none": np.zeros((1, k))}
        beliefs = {prior: posterior(log_priors[prior], likelihood) for prior in PRIORS}
        return Attacked(records, found.of(records.x[:, column]), np.exp(log_imputed), beliefs)

    inside = believed(members, imputed.members)
    return inside, believed(reference.take(attacked), imputed.test[attacked]), imputed.learner


def _known(batch: Batch, column: int) -> NDArray[np.float64]:
    """What is known of records without the model: the other columns, and the label as the last one."""
    others = np.delete(np.asarray(batch.x, dtype=np.float64), column, axis=1)
    return np.column_stack([others, batch.labels])


def _categorical(model: AuditedModel, column: int) -> NDArray[np.bool_]:
    """Which columns of `_known` are codes."""
    codes = [field.kind == "category" for field in model.spec.fields]
    del codes[column]
    return np.array([*codes, model.task == "classification"], dtype=bool)


# --- how much better -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """What a guess with the model has over one without it, with replicates."""

    value: float
    replicates: NDArray[np.float64]
    n: int

    def over(self, other: Gain) -> Gain:
        """This gain minus that of other, independent rows; it counts no more rows than the fewer."""
        return Gain(self.value - other.value, self.replicates - other.replicates, min(self.n, other.n))


def accuracy_gain(right: ArrayLike, right_without: ArrayLike, rng: np.random.Generator) -> Gain:
    """Accuracy minus accuracy without the model, of the same rows.

    Only rows on which the two differ speak: those gained and those lost. Their rates are drawn from the Jeffreys posterior,
    Dirichlet with 1/2 for each of gained, lost and equal, so that a gain of 0 has an interval too where no row differs.

    Args:
        right, right_without: ``(N,)`` bool.

    Raises:
        UserError: there are no rows, or not as many of one as of the other.

    Source: Agresti & Min 2005, Statistics in Medicine 24:729-740 (pairs, with a prior count); Brown, Cai & DasGupta 2001,
        Statistical Science 16:101-133 (Jeffreys).
    """
    first, second = np.asarray(right, dtype=bool), np.asarray(right_without, dtype=bool)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise UserError(f"pairs of guesses need one row or more each, got {first.shape} and {second.shape}")
    gained, lost, n = int((first & ~second).sum()), int((~first & second).sum()), first.size
    rates = rng.dirichlet([gained + 0.5, lost + 0.5, n - gained - lost + 0.5], REPLICATES)
    return Gain((gained - lost) / n, rates[:, 0] - rates[:, 1], n)


def r2_gain(truth: ArrayLike, guess: ArrayLike, guess_without: ArrayLike, seed: int) -> Gain:
    """R² of guessed numbers minus R² of those guessed without the model, of the same rows, resampled in pairs.

    Args:
        truth, guess, guess_without: ``(N,)``.

    Raises:
        UserError: all true numbers are equal.
    """
    values = np.asarray(truth, dtype=np.float64)
    if not values.size or values.min() == values.max():
        raise UserError("R² means nothing of numbers that are all equal")
    with_model = (values - np.asarray(guess)) ** 2
    without = (values - np.asarray(guess_without)) ** 2

    def gain(errors: Any, errors_without: Any, spread: Any) -> Any:
        total = spread.var(axis=-1) * spread.shape[-1]
        return (errors_without - errors).sum(axis=-1) / np.where(total > 0, total, np.inf)

    arrays = (with_model, without, values)
    replicates = stats.bootstrap_replicates(gain, arrays, REPLICATES, seed=seed, vectorized=True)
    return Gain(float(gain(*arrays)), replicates, values.size)
