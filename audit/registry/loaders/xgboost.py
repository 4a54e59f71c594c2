"""XGBoost models in XGBoost's own formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from audit.model import AuditedModel, Capability, Field, InputSpec, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
from audit.registry.loaders._retraining import Boosted
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
    from audit.registry.loaders._xgboost_file import XgboostFile
    from audit.registry.trust import Trust

_CATEGORY = "c"


class Xgboost(Loader):
    """A ``.json`` or ``.ubj`` file that XGBoost saved (package ``xgboost-cpu``): gbtree, dart or gblinear, one target.

    XGBoost's C++ follows the indices in a file without looking, so they are checked before it opens the file. Categories are fed as
    codes, in the order of training.
    """

    formats: ClassVar = ("xgboost_json", "xgboost_ubj")

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What the output space gives, and parameters to train by anew."""
        return black_box(output) | {Capability.RETRAIN}

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Task and output from the objective, columns where they were named."""
        from audit.registry.loaders._xgboost_file import read_xgboost

        path = only_file(files, "xgboost")
        file = read_xgboost(path.read_bytes(), path.name)
        names = file.names or tuple(f"x{i}" for i in range(file.features))
        fields = tuple(
            Field(name=name, kind="category", categories=file.categories[i])
            if i in file.categories
            else Field(name=name, kind="number")
            for i, name in enumerate(names)
        )
        unnamed = any(kind == _CATEGORY and i not in file.categories for i, kind in enumerate(file.types))
        spec = None if unnamed else InputSpec(fields=fields)
        offered = _offered(file)
        classes = None if offered[0] == "value" else tuple(str(c) for c in range(max(2, file.groups)))
        return Inferred("regression" if classes is None else "classification", classes or (), spec, offered[0])

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Check the file, then let XGBoost open it."""
        import torch

        from audit.registry.loaders._xgboost_file import read_xgboost
        from audit.registry.loaders._xgboost_training import training_parameters

        xgboost = _library()
        content = only_file(files, card.loader).read_bytes()
        file = read_xgboost(content, card.ref)
        if card.output not in (offered := _offered(file)):
            raise unsupported(card, f"XGBoost's {file.objective}", offered)
        if card.output != "value":
            class_count(max(2, file.groups), card)
        columns = _columns(file, card)
        try:
            booster = xgboost.Booster({"nthread": torch.get_num_threads()})
            booster.load_model(bytearray(content))
        except xgboost.core.XGBoostError as error:
            raise UserError(f"{card.ref}: XGBoost cannot open the file: {one_line(error)}") from error
        answer = _answer(card.output, file)

        def rows(x: NDArray[Any], labels: NDArray[Any] | None = None) -> Any:
            return xgboost.DMatrix(
                x.reshape(len(x), -1)[:, columns],
                labels,
                feature_names=list(file.names) or None,
                feature_types=list(file.types) or None,
                enable_categorical=_CATEGORY in file.types,
            )

        def ask(x: NDArray[Any]) -> NDArray[Any]:
            return answer(booster, rows(x))

        def train(parameters: dict[str, Any], x: NDArray[Any], labels: NDArray[Any], rounds: int) -> Any:
            return xgboost.train(parameters, rows(x, labels), num_boost_round=rounds)

        def fresh(seed: int) -> Boosted:
            parameters, note = training_parameters(content, card.ref)
            parameters.update(seed=seed, nthread=1, verbosity=0)
            return Boosted(
                parameters, booster.num_boosted_rounds(), train, lambda own, x: answer(own, rows(x)), note
            )  # fmt: skip

        return audited(card, self.capabilities(card.output), through_numpy(ask), native=booster, fresh=fresh)


def _library() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise UserError("XGBoost is not installed: pip install 'assay[xgboost]'") from error
    return xgboost


def _offered(file: XgboostFile) -> tuple[OutputSpace, ...]:
    """Output spaces of an objective, the usual one first."""
    if file.objective in ("binary:logistic", "binary:logitraw"):
        return ("probability", "margin") if file.objective == "binary:logistic" else ("margin",)
    if file.objective in ("multi:softprob", "multi:softmax"):
        return ("probability", "logit")
    if file.objective.startswith(("reg:", "count:", "survival:")):
        return ("value",)
    raise UserError(f"XGBoost objective '{file.objective[:40]}' is none whose answers can be audited")


def _answer(output: OutputSpace, file: XgboostFile) -> Callable[[Any, Any], NDArray[Any]]:
    """(booster, rows) → answers in an output space."""
    import numpy as np

    if output == "value":
        return lambda booster, rows: booster.predict(rows)
    if output in ("margin", "logit"):
        return lambda booster, rows: booster.predict(rows, output_margin=True)
    if file.groups == 1:
        return lambda booster, rows: _both_classes(booster.predict(rows))

    def softmax(booster: Any, rows: Any) -> NDArray[Any]:
        scores = booster.predict(rows, output_margin=True).astype(np.float64)
        raised: NDArray[Any] = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: NDArray[Any] = raised / raised.sum(axis=1, keepdims=True)
        return shares

    return softmax if file.objective == "multi:softmax" else lambda booster, rows: booster.predict(rows)


def _both_classes(positive: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    p = positive.astype(np.float64)
    return np.stack([1 - p, p], axis=1)


def _columns(file: XgboostFile, card: ModelCard) -> list[int]:
    """Places of the file's columns in the input spec."""
    feature_count(file.features, card.spec, card.ref)
    if not file.names or not card.spec.tabular:
        columns = list(range(file.features))
    else:
        columns = column_order(file.names, card.spec, card.ref)
    if not card.spec.tabular:
        return columns
    for place, (column, kind) in enumerate(zip(columns, file.types, strict=False)):
        field = card.spec.fields[column]
        if (kind == _CATEGORY) != (field.kind == "category"):
            raise UserError(
                f"{card.ref}: column '{field.name}' is a {field.kind}, the file was trained on it as '{kind}'"
            )
        if place in file.categories and file.categories[place] != field.categories:
            raise UserError(
                f"{card.ref}: the categories of '{field.name}' must be in the order of training: "
                f"{', '.join(file.categories[place][:10])}"
            )
    return columns
