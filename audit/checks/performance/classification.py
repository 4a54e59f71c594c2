"""How often a classifier is right: overall, per class, per group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from audit.checks import Check
from audit.checks.performance._confusion import precision_recall_f1
from audit.finding import Estimate, Measurement, Metric, Proportion, Resampled
from audit.model import Capability, Task
from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.context import Context
    from audit.data import AuditData
    from audit.model import AuditedModel

POINTS = 2000
POINTS_OF_A_CLASS = 400
"""Enough for a 95 % interval; stored per class, of which there may be a thousand."""
DIGITS = 6
"""Decimals of a stored point."""


class Classification(Check):
    """Accuracy, balanced accuracy, precision, recall and F1 on the test rows.

    Undivided, precision, recall and F1 are macro means over the classes that the test rows hold (recall is then balanced accuracy under its
    other name); a class that is never predicted counts with precision 0. Divided by ``class``, precision and recall are shares with exact
    intervals. Accuracy is also divided by ``group`` (``attribute:value``) where the data has protected attributes. Intervals of means and of
    F1 combine score intervals, which keep their width where every row of a class is right; that of macro F1 is an upper bound.

    Source: Sokolova & Lapalme 2009, Information Processing & Management 45:427-437; Newcombe 1998, Statistics in Medicine 17:873-890.

    Blind spots: rows are taken as independent and as drawn like those the model will meet; intervals of macro means take the class shares of
    the test rows as given, and that of macro precision misses the bias of classes that are hardly ever predicted; wrong labels count against the model.
    """

    controls: ClassVar = ("NIST AI RMF MEASURE 2.5", "NIST AI RMF MEASURE 2.11", "EU AI Act Art. 15(3)")
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="accuracy", title="accuracy", better="higher", kinds=("proportion",)),
        Metric(name="balanced_accuracy", title="balanced accuracy", better="higher", kinds=("resampled",)),
        Metric(name="precision", title="precision", better="higher", kinds=("proportion", "resampled")),
        Metric(name="recall", title="recall", better="higher", kinds=("proportion", "resampled")),
        Metric(name="f1", title="F1 score", better="higher", kinds=("resampled",)),
    )
    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.LABELS})
    tasks: ClassVar[frozenset[Task]] = frozenset({"classification"})
    remedy: ClassVar[str] = (
        "Look at the confusion matrix for the classes and groups that are mistaken, and train on more or cleaner rows of them."
    )

    def run(self, model: AuditedModel, data: AuditData, ctx: Context) -> Iterator[Measurement]:
        import numpy as np

        labels = np.asarray(data.test.labels)
        if labels.dtype.kind not in "iu":
            raise UserError(
                f"data '{data.source}' has values for labels ({labels.dtype}); a classifier needs class indices"
            )
        predicted = model.labels_of(model.outputs(data.test)).cpu().numpy()
        n_classes = len(model.classes)
        counts = _confusion_matrix(labels, predicted, n_classes, model.name)
        right = predicted == labels

        outcomes = ctx.evidence("outcomes", "outcomes")
        outcomes.append(data.test.ids, value=right.astype(np.float64))
        matrix = ctx.evidence("confusion_matrix", "confusion_matrix", classes=list(model.classes))
        matrix.append(["all"], counts=counts[None].astype(np.min_scalar_type(int(counts.max()))))
        yield Measurement(
            metric="accuracy", estimate=_share(right.sum(), len(right)), evidence=(outcomes.ref, matrix.ref)
        )
        for attribute, values in sorted(data.test.groups.items()):
            for value in np.unique(values):
                inside = values == value
                yield Measurement(
                    metric="accuracy",
                    estimate=_share(right[inside].sum(), inside.sum()),
                    dims={"group": f"{attribute}:{value}"},
                )
        yield from self._macro(counts, model.classes)
        yield from self._per_class(counts, model.classes)

    def _macro(self, counts: NDArray[np.int64], classes: tuple[str, ...]) -> Iterator[Measurement]:
        import numpy as np

        present, n = np.flatnonzero(counts.sum(axis=1)), int(counts.sum())
        absent = [classes[i] for i in range(len(classes)) if not counts[i].any()]
        never = [classes[i] for i in present if not counts[:, i].any()]
        cautions = []
        if absent:
            cautions.append(f"no test row is of class {_listed(absent)}: the mean is over the other {len(present)}")
        if len(present) == 1:
            only = classes[present[0]]
            cautions.append(f"every test row is of class {only}: nothing is said about telling classes apart")
        unpredicted = [f"class {_listed(never)} is never predicted: its precision counts as 0"] if never else []
        precision, recall, f1 = precision_recall_f1(counts, present)
        # A mistaken row counts against the F1 of two classes.
        macros = (("balanced_accuracy", recall, 1), ("precision", precision, 1), ("recall", recall, 1), ("f1", f1, 2))
        for metric, shares, overlap in macros:
            value, points = shares.macro(POINTS, overlap=overlap)
            yield Measurement(
                metric=metric,
                estimate=_resampled(value, points, n),
                cautions=tuple(cautions + (unpredicted if metric == "precision" else [])),
            )

    def _per_class(self, counts: NDArray[np.int64], classes: tuple[str, ...]) -> Iterator[Measurement]:
        import numpy as np

        precision, recall, f1 = precision_recall_f1(counts, np.arange(len(classes)))
        points = f1.distribution(POINTS_OF_A_CLASS)
        for i, name in enumerate(classes):
            parts: dict[str, Estimate] = {}
            if precision.n[i]:
                parts["precision"] = _share(precision.k[i], precision.n[i])
            if recall.n[i]:
                parts["recall"] = _share(recall.k[i], recall.n[i])
                parts["f1"] = _resampled(float(f1.values[i]), points[:, i], int(f1.n[i]))
            for metric, estimate in parts.items():
                yield Measurement(metric=metric, estimate=estimate, dims={"class": name})


def _confusion_matrix(labels: NDArray[Any], predicted: NDArray[Any], n_classes: int, model: str) -> NDArray[np.int64]:
    """Counts ``(C, C)``, rows true, columns predicted.

    Raises:
        UserError: a label or an answer is no index of a class.
    """
    import numpy as np

    for what, values in (("the data holds label", labels), (f"model '{model}' answers", predicted)):
        wrong = values[(values < 0) | (values >= n_classes)]
        if len(wrong):
            raise UserError(f"{what} {wrong[0]}, but there are {n_classes} classes, 0 to {n_classes - 1}")
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def _share(k: Any, n: Any) -> Proportion:
    return Proportion(k=int(k), n=int(n))


def _resampled(value: float, points: NDArray[np.float64], n: int) -> Resampled:
    return Resampled(value=value, replicates=tuple(points.round(DIGITS).tolist()), n=n)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
