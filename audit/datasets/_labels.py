"""Labels as class indices or values: inferred or declared, shared by every source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from audit.model import Task
from audit.parameters import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CLASSES = 100_000
"""More classes than this are values that were taken for indices."""


def text_of(value: Any) -> Any:
    """A scalar as it is compared with data: ``1``, ``1.0`` and ``"1"`` are all ``"1"``; what is no scalar stays."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, (bool, int, float)) else value


Name = Annotated[str, BeforeValidator(text_of)]
"""A value of a column; a scenario may write it as a number."""

Classes = Annotated[int, Field(ge=2)] | tuple[Name, ...] | None
"""Names in the order of their indices; or how many there are, named by their indices; or None to infer."""


def in_order(values: set[str]) -> tuple[str, ...]:
    """Distinct texts sorted: by number where all are numbers, else by text."""
    if all(map(is_number, values)):
        return tuple(sorted(values, key=lambda value: (float(value), value)))
    return tuple(sorted(values))


def is_number(text: str | None) -> bool:
    """Whether a text is a number, infinite ones included, NaN not."""
    try:
        return text is not None and float(text) == float(text)
    except ValueError:
        return False


def class_names(classes: int | Sequence[str]) -> tuple[str, ...]:
    """Declared classes as names.

    Raises:
        UserError: fewer than two names, or one twice.
    """
    names = tuple(str(i) for i in range(classes)) if isinstance(classes, int) else tuple(classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"classes must be two or more different names, got {', '.join(names) or 'none'}")
    return names


def encode(
    texts: Sequence[str], classes: int | Sequence[str] | None, where: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Class indices ``(N,)`` int64 of label texts, and the classes' names.

    Labels are matched with declared names; where none of them is a name and all are indices, they pick the names by position.

    Raises:
        UserError: a label fits no declared class, or there is only one class and none declared.
    """
    import numpy as np

    found = set(texts)
    if classes is None:
        names = in_order(found)
        if len(names) < 2:
            raise UserError(
                f"{where} hold a single class, '{names[0]}': a classifier needs two; if the others are only absent here, declare 'classes'"
            )
    else:
        names = class_names(classes)
    place = {name: i for i, name in enumerate(names)}
    if unknown := found - place.keys():
        positions = {str(i): i for i in range(len(names))}
        if unknown == found and found <= positions.keys():
            place = positions
        else:
            shown = ", ".join(f"'{name}'" for name in in_order(unknown)[:5])
            raise UserError(
                f"{where} hold {shown}, not among the {len(names)} declared classes ({', '.join(names[:10])})"
            )
    return np.array([place[text] for text in texts], dtype=np.int64), names


def encode_array(
    y: NDArray[Any], task: Task | None, classes: int | Sequence[str] | None, where: str
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Labels of an array: integers are class indices, text is class names, floats with fractions are values.

    Returns:
        ``(N,)`` int64 indices with class names, or ``(N,)`` float64 values with no names (a regression).

    Raises:
        UserError: a wrong shape or type, NaN or infinity, negative indices, or labels that do not fit the classes.
    """
    import numpy as np

    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UserError(f"{where} must be one per row, got shape {y.shape}; turn one-hot rows into class indices first")
    if y.dtype.kind in "US":
        if task == "regression":
            raise UserError(f"{where} are text ('{y[0]}' …): a regression needs numbers")
        return encode([str(label) for label in y.astype(str)], classes, where)
    if y.dtype.kind not in "biuf":
        raise UserError(f"{where} must be numbers or text, got dtype {y.dtype}")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise UserError(f"{where} hold NaN or infinity, first in row {int(np.flatnonzero(~np.isfinite(y))[0])}")
    whole = y.dtype.kind in "biu" or bool((y == np.round(y)).all())
    if task is None:
        task = "classification" if whole or classes is not None else "regression"
    if task == "regression":
        return y.astype(np.float64), ()
    if not whole or y.min() < 0:
        wrong = y[(y != np.round(y)) | (y < 0)][0]
        raise UserError(
            f"{where} must be class indices 0, 1, …, got {wrong}; declare 'task: regression' if they are values"
        )
    if y.max() >= MOST_CLASSES:
        raise UserError(
            f"{where} reach {y.max():.0f}: too many for class indices; declare 'task: regression' if they are values"
        )
    indices = y.astype(np.int64)
    if classes is None:
        classes = int(indices.max()) + 1
        if classes < 2:
            raise UserError(
                f"{where} hold a single class, 0: a classifier needs two; if the others are only absent here, declare 'classes'"
            )
    return encode([str(i) for i in indices], classes, where)
