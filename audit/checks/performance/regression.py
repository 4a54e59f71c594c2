"""How far a regression's answers are from the true values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from audit.checks import Check
from audit.checks._few_rows import few_rows
from audit.finding import Mean, Measurement, Metric, Resampled
from audit.model import Capability, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel

REPLICATES = 2000


class Regression(Check):
    """Coefficient of determination (R²), mean absolute error and root mean squared error on the test rows.

    MAE is a mean with Student's t interval, also divided by ``group`` (``attribute:value``) where the data has protected attributes. R² and
    RMSE have bootstrap intervals; below 20 rows, or where all labels are equal, they decide no gate.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, for the intervals.

    Blind spots: rows are taken as independent and as drawn like those the model will meet; a few large errors decide RMSE and R², and the
    bootstrap cannot show those that the test rows lack.
    """

    controls: ClassVar = ("NIST AI RMF MEASURE 2.5", "NIST AI RMF MEASURE 2.11", "EU AI Act Art. 15(3)")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="mae", title="mean absolute error", better="lower", kinds=("mean",)),
        Metric(name="rmse", title="root mean squared error", better="lower", kinds=("resampled",)),
        Metric(name="r2", title="R²", better="higher", kinds=("resampled",)),
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.VALUES})
    tasks: ClassVar[frozenset[Task]] = frozenset({"regression"})
    remedy: ClassVar[str] = (
        "Look at the stored predictions for the rows with the largest errors, and at the units of label and inputs."
    )

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        import numpy as np

        from audit.stats import bootstrap_replicates, mean_and_se

        scores = model.outputs(data.test)
        model.check_finite(scores)
        predicted = scores.reshape(len(data.test)).double().cpu().numpy()
        labels = np.asarray(data.test.labels, dtype=np.float64)
        error = np.abs(predicted - labels)
        n = len(labels)

        outcomes = ctx.evidence("outcomes", "outcomes")
        outcomes.append(data.test.ids, value=error)
        table = ctx.evidence("predictions", "table")
        table.append(data.test.ids, label=labels, prediction=predicted, absolute_error=error)
        yield Measurement(metric="mae", estimate=_mean(mean_and_se(error)), evidence=(outcomes.ref, table.ref))
        for attribute, values in sorted(data.test.groups.items()):
            for value in np.unique(values):
                yield Measurement(
                    metric="mae",
                    estimate=_mean(mean_and_se(error[values == value])),
                    dims={"group": f"{attribute}:{value}"},
                )

        few = few_rows(n)
        drawn = bootstrap_replicates(_rmse, [predicted, labels], REPLICATES, seed=ctx.number("rmse"), vectorized=True)
        rmse = float(_rmse(predicted[None], labels[None])[0])
        flat = bool((labels == labels[0]).all())
        undefined = ("every label is the same: R² is not defined and not measured",) if flat else ()
        yield Measurement(metric="rmse", estimate=_resampled(rmse, drawn, n), cautions=undefined, unresolved=few)
        if flat:
            return
        drawn = bootstrap_replicates(_r2, [predicted, labels], REPLICATES, seed=ctx.number("r2"), vectorized=True)
        r2 = float(_r2(predicted[None], labels[None])[0])
        spread = np.isfinite(drawn)
        level = (
            None
            if spread.all()
            else f"in {int((~spread).sum())} of {REPLICATES} resamples all labels are equal: they hardly differ"
        )
        if spread.sum() >= 100:
            yield Measurement(metric="r2", estimate=_resampled(r2, drawn[spread], n), unresolved=few or level)


def _mean(statistics: tuple[float, float, int]) -> Mean:
    value, se, n = statistics
    return Mean(value=value, se=se, n=n)


def _resampled(value: float, replicates: NDArray[Any], n: int) -> Resampled:
    return Resampled(value=value, replicates=tuple(replicates.tolist()), n=n)


def _rmse(predicted: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """``(R, n)`` twice → ``(R,)``."""
    import numpy as np

    return np.asarray(np.sqrt(((predicted - labels) ** 2).mean(axis=1)))


def _r2(predicted: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """``(R, n)`` twice → ``(R,)``; NaN where the labels of a resample are all equal."""
    import numpy as np

    residual = ((predicted - labels) ** 2).sum(axis=1)
    total = ((labels - labels.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    equal = (labels == labels[:, :1]).all(axis=1)  # their computed spread may be a rounding error above 0
    return np.where(equal, np.nan, 1 - residual / np.where(equal, 1.0, total))
