"""LightGBM models in LightGBM's text format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from audit.model import AuditedModel, Capability, Field, InputSpec, OutputSpace
from audit.parameters import UserError
from audit.registry.importing import one_line
from audit.registry.loaders import Inferred, Loader
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

_VALUES = ("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie")


class Lightgbm(Loader):
    """A text file that LightGBM saved.

    LightGBM's C++ follows the indices in a file without looking (a file cut short makes it crash), so they are checked before it
    opens the file. Categories are fed as codes, in the order of training.
    """

    formats: ClassVar = ("lightgbm_text",)

    def capabilities(self, output: OutputSpace) -> frozenset[Capability]:
        """What the output space gives."""
        return black_box(output)

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
        raw, threads = card.output in ("margin", "logit"), torch.get_num_threads()

        def ask(x: NDArray[Any]) -> NDArray[Any]:
            rows = np.ascontiguousarray(x.reshape(len(x), -1)[:, columns], dtype=np.float64)
            found: NDArray[Any] = booster.predict(rows, raw_score=raw, num_threads=threads)
            return np.stack([1 - found, found], axis=1) if card.output == "probability" and found.ndim == 1 else found

        return audited(card, self.capabilities(card.output), through_numpy(ask), native=booster)


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
