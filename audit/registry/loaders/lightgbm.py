"""LightGBM models in LightGBM's text format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from audit.model import AuditedModel, Capability, Field, InputSpec, OutputSpace
from audit.parameters import NotApplicable, UserError
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
    from audit.registry.loaders._lightgbm_file import LightgbmFile
    from audit.registry.trust import Trust

_OF_A_FILE = frozenset(
    {"num_iterations", "early_stopping_round", "verbosity", "force_row_wise", "metric", "data", "valid", "machines"}
)
"""Parameters of a training that do not bear on what another one learns, or that the number of rounds stands for."""
_VALUES = ("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie")


class Lightgbm(Loader):
    """A text file that LightGBM saved.

    LightGBM's C++ follows the indices in a file without looking (a file cut short makes it crash), so they are checked before it
    opens the file. Categories are fed as codes, in the order of training.
    """

    formats: ClassVar = ("lightgbm_text",)

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What the output space gives, and parameters to train by anew."""
        return black_box(output) | {Capability.RETRAIN}

    def infer(self, files: Mapping[str, Path], trust: Trust) -> Inferred:
        """Task and output from the objective, columns with their categories."""
        from audit.registry.loaders._lightgbm_file import read_lightgbm

        path = only_file(files, "lightgbm")
        file = read_lightgbm(path.read_bytes(), path.name)
        offered = _offered(file)
        classes = None if offered[0] == "value" else tuple(str(c) for c in range(max(2, file.groups)))
        return Inferred("regression" if classes is None else "classification", classes or (), _spec(file), offered[0])

    def load(self, card: ModelCard, files: Mapping[str, Path], trust: Trust) -> AuditedModel:
        """Check the file, then let LightGBM open it."""
        import numpy as np
        import torch

        from audit.registry.loaders._lightgbm_file import read_lightgbm

        lightgbm = _library()
        content = only_file(files, card.loader).read_bytes()
        file = read_lightgbm(content, card.ref)
        if card.output not in (offered := _offered(file)):
            raise unsupported(card, f"LightGBM's {file.objective}", offered)
        if card.output != "value":
            class_count(max(2, file.groups), card)
        columns = _columns(file, card)
        try:
            booster = lightgbm.Booster(model_str=content.decode("utf-8"))
        except lightgbm.basic.LightGBMError as error:
            raise UserError(f"{card.ref}: LightGBM cannot open the file: {one_line(error)}") from error
        raw, all_threads = card.output in ("margin", "logit"), torch.get_num_threads()

        def rows(x: NDArray[Any]) -> NDArray[np.float64]:
            return np.ascontiguousarray(x.reshape(len(x), -1)[:, columns], dtype=np.float64)

        def answer(own: Any, x: NDArray[Any], threads: int = 1) -> NDArray[Any]:
            found: NDArray[Any] = own.predict(rows(x), raw_score=raw, num_threads=threads)
            return np.stack([1 - found, found], axis=1) if card.output == "probability" and found.ndim == 1 else found

        def train(parameters: dict[str, Any], x: NDArray[Any], labels: NDArray[Any], rounds: int) -> Any:
            held = lightgbm.Dataset(rows(x), labels, categorical_feature=sorted(file.categorical), params=parameters)
            return lightgbm.train(parameters, held, num_boost_round=rounds)

        def fresh(seed: int) -> Boosted:
            return Boosted(_training_parameters(booster, card, seed), booster.current_iteration(), train, answer)

        forward = through_numpy(lambda x: answer(booster, x, all_threads))
        return audited(card, self.capabilities(card.output), forward, native=booster, fresh=fresh)


def _training_parameters(booster: Any, card: ModelCard, seed: int) -> dict[str, Any]:
    """What the file says of its training, by another seed and on one thread.

    Raises:
        NotApplicable: it does not say.
    """
    if not booster.params:
        raise NotApplicable(f"{card.ref}: the LightGBM file does not say how it was trained")
    kept = {name: value for name, value in booster.params.items() if value is not None and name not in _OF_A_FILE}
    own = {"seed": seed, "num_threads": 1, "deterministic": True, "force_col_wise": True, "verbose": -1}
    return {name: value for name, value in kept.items() if not name.endswith("_seed")} | own


def _library() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise UserError("LightGBM is not installed: pip install 'assay[lightgbm]'") from error
    return lightgbm


def _offered(file: LightgbmFile) -> tuple[OutputSpace, ...]:
    """Output spaces of an objective, the usual one first."""
    if file.objective == "binary":
        return ("probability", "margin") if file.sigmoid == 1 else ("probability",)
    if file.objective == "multiclass":
        return ("probability", "logit")
    if file.objective in _VALUES:
        return ("value",)
    raise UserError(f"LightGBM objective '{file.objective[:40] or 'none'}' is none whose answers can be audited")


def _spec(file: LightgbmFile) -> InputSpec | None:
    """Columns of the file; None where it has categories and does not name them all."""
    if file.categorical and file.categories is None:
        return None
    named = dict(zip(sorted(file.categorical), file.categories or (), strict=False))
    return InputSpec(
        fields=tuple(
            Field(name=name, kind="category", categories=named[i]) if i in named else Field(name=name, kind="number")
            for i, name in enumerate(file.names)
        )
    )


def _columns(file: LightgbmFile, card: ModelCard) -> list[int]:
    """Places of the file's columns in the input spec."""
    feature_count(len(file.names), card.spec, card.ref)
    generic = all(name == f"Column_{i}" for i, name in enumerate(file.names))  # LightGBM's names for an array
    if generic or not card.spec.tabular:
        columns = list(range(len(file.names)))
    else:
        columns = column_order(file.names, card.spec, card.ref)
    if not card.spec.tabular:
        return columns
    known = dict(zip(sorted(file.categorical), file.categories, strict=True)) if file.categories is not None else {}
    for place, column in enumerate(columns):
        field = card.spec.fields[column]
        if place in file.categorical and field.kind != "category":
            raise UserError(
                f"{card.ref}: column '{field.name}' is a {field.kind}, the file was trained on its categories"
            )
        if place in known and known[place] != field.categories:
            raise UserError(
                f"{card.ref}: the categories of '{field.name}' must be in the order of training: {', '.join(known[place][:10])}"
            )
    return columns
