"""scikit-learn models as skops files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from audit.model import AuditedModel, Capability, InputSpec, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._retraining import Refittable, asks_for_types, seeded_clone, with_category_types
from audit.registry.loaders._shared import (
    audited,
    black_box,
    class_count,
    column_order,
    feature_count,
    only_file,
    through_numpy,
    unsupported,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from audit.registry.card import ModelCard
    from audit.registry.trust import Trust

REVIEWED = {
    "sklearn.tree._tree.Tree": "a tree's nodes, followed unchecked by scikit-learn; checked here before every use",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": "as Tree, of histogram gradient boosting",
    "sklearn.utils.validation.check_array": "a function that validates arrays",
    "numpy.dtype": "the type of an array's numbers",
    "functools.partial": "binds arguments to a function, which must be trusted itself",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer": "numbers that training left behind",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer": "numbers that training left behind",
}
"""Types that skops does not trust and that may be listed by name alone: what each can do is known."""


class Skops(Loader):
    """A skops file: scikit-learn estimators and pipelines, with a list of the types that it may hold besides skops' own.

    skops counts ``sklearn.tree._tree.Tree`` among the untrusted, and so decision trees, forests and boosting need
    ``trusted_types``. Trusting it lets the file bring an array of node indices that scikit-learn's compiled code follows
    without looking: a forged one reads and writes outside its memory, or never ends. What is accepted here is therefore a
    type whose *contents are checked*: children in range, no node reached twice, features in range, before anything predicts.
    Support vectors and sparse matrices, which skops trusts, are held to their sizes and ranges likewise.

    A type that is not among the reviewed ones needs its package allowed as well (``audit model allow PACKAGE``), because its
    code would run.

    A model that was fitted on a DataFrame is fed one: columns under their names, categories under their values. One whose input is
    text (a vectoriser and a classifier in a pipeline) is fed a list of texts.
    """

    formats: ClassVar = ("skops",)

    trusted_types: tuple[str, ...] = ()
    """Types that the file may hold besides those that skops trusts: ``sklearn.tree._tree.Tree`` …"""

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What the output space gives, and an estimator to fit anew."""
        return _capabilities(output)

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Task, classes, columns with their categories, and probabilities where the estimator has them."""
        from audit.registry.loaders._sklearn_columns import infer_spec

        path = only_file(files, "skops")
        estimator = self._estimator(path, trust, path.name)
        classes = getattr(estimator, "classes_", None)
        spec = infer_spec(estimator)
        if classes is None:
            return Inferred("regression", (), spec, "value")
        scores: OutputSpace = "probability" if hasattr(estimator, "predict_proba") else "label"
        return Inferred("classification", tuple(str(c) for c in classes), spec, scores)

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Build the estimator and check its trees."""
        return of_estimator(self._estimator(only_file(files, card.loader), trust, card.ref), card)

    def _estimator(self, path: Path, trust: Trust, ref: str) -> Any:
        import io

        import skops.io
        from sklearn.base import is_classifier, is_regressor

        from audit.registry.loaders._sklearn_contents import check_contents

        content = path.read_bytes()
        try:
            untrusted = skops.io.get_untrusted_types(data=content)
            self._accept(untrusted, trust, ref)
            estimator = skops.io.load(io.BytesIO(content), trusted=untrusted)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{ref}: skops cannot open the file: {one_line(error)}") from error
        if not hasattr(estimator, "predict"):
            raise UserError(f"{ref}: the file holds a {type(estimator).__name__}, which has no predict()")
        try:
            check_contents(estimator, ref)
            known = is_classifier(estimator) or is_regressor(estimator)
        except UserError:
            raise
        except (AttributeError, TypeError, ValueError, LookupError, OverflowError) as error:
            raise UserError(f"{ref}: the file is damaged: {one_line(error)}") from error
        if not known:
            raise UserError(f"{ref}: a {type(estimator).__name__} is neither a classifier nor a regressor")
        return estimator

    def _accept(self, untrusted: list[str], trust: Trust, ref: str) -> None:
        """Compare the types of a file with those that the user listed."""
        if unlisted := [name for name in untrusted if name not in self.trusted_types]:
            explained = "; ".join(f"{n} ({REVIEWED[n]})" if n in REVIEWED else n for n in unlisted)
            options = " ".join(f"--trust-type {n}" for n in unlisted)
            raise UserError(
                f"{ref}: the file holds types that skops does not trust: {explained}; to accept them, add {options}"
            )
        for name in untrusted:
            package = name.partition(".")[0]
            if name not in REVIEWED and not trust.is_allowed_package(name.rpartition(".")[0]):
                raise UserError(
                    f"{ref}: type {name} would run code of package '{package}', which is not allowed: if you trust it, run "
                    f"`audit model allow {package}`"
                )


def of_estimator(estimator: Any, card: ModelCard) -> AuditedModel:
    """A fitted estimator as its card describes it.

    Raises:
        UserError: task, classes, output or columns do not fit it.
    """
    ask = _asker(estimator, card)
    rows = row_layout(estimator, card.spec, card.ref)

    def fresh(seed: int) -> Refittable:
        untrained = seeded_clone(estimator, seed)
        fed = with_category_types(rows, card.spec) if asks_for_types(untrained) else rows
        return Refittable(untrained, fed, getattr(estimator, "classes_", None))

    forward = through_numpy(lambda x: ask(rows(x)))
    return audited(card, _capabilities(card.output), forward, native=estimator, fresh=fresh)


def _capabilities(output: OutputSpace) -> frozenset[Capability]:
    return black_box(output) | {Capability.RETRAIN}


def _asker(estimator: Any, card: ModelCard) -> Any:
    """Rows → answers in the card's output space."""
    classes = getattr(estimator, "classes_", None)
    kind = type(estimator).__name__
    if (classes is None) != (card.task == "regression"):
        raise UserError(
            f"{card.ref}: a {kind} does {'regression' if classes is None else 'classification'}, not {card.task}"
        )
    if classes is None:
        if card.output != "value":
            raise unsupported(card, f"a {kind}", ["value"])
        return estimator.predict
    if isinstance(classes, list):
        raise UserError(
            f"{card.ref}: a {kind} with {len(classes)} outputs at once cannot be audited: save one per output"
        )
    class_count(len(classes), card)
    methods = {
        "label": "predict",
        "probability": "predict_proba",
        "margin" if len(classes) == 2 else "logit": "decision_function",
    }
    offered = {output: method for output, method in methods.items() if hasattr(estimator, method)}
    if card.output not in offered:
        raise unsupported(card, f"a {kind} of {len(classes)} classes", list(offered))
    if card.output != "label":
        return getattr(estimator, offered[card.output])
    places = {value: index for index, value in enumerate(classes.tolist())}

    def labels(rows: Any) -> NDArray[Any]:
        import numpy as np

        return np.array([places[value] for value in estimator.predict(rows).tolist()])

    return labels


def row_layout(estimator: Any, spec: InputSpec, ref: str) -> Any:
    """Array ``(N, *shape)`` → what the estimator was fitted on."""
    from audit.registry.loaders._sklearn_columns import original_categories
    from audit.registry.loaders._table import frame
    from audit.text import decode_all

    if spec.kind == "text":
        return decode_all
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        if (count := getattr(estimator, "n_features_in_", None)) is not None:
            feature_count(int(count), spec, ref)
        return lambda x: x.reshape(len(x), -1)
    order = column_order([str(n) for n in names], spec, ref)
    originals = original_categories(estimator)
    return lambda x: frame(x, spec, order=order, originals=originals)
