"""One row of evidence as a page shows it, and how its numbers and classes are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from audit.language import gettext as _
from audit.numbers import show
from audit.report._images import Picture
from audit.report._text_changes import Passage
from audit.report._text_map import Token
from audit.report._words import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FEATURES = 10


@dataclass(frozen=True)
class Bar:
    """One feature of a row: its value, what was changed or contributed, and the bar's start and width in percent."""

    feature: str
    value: str
    amount: str
    left: float
    width: float
    positive: bool


@dataclass(frozen=True)
class BarList:
    """Features with the largest amounts, the largest first, on one scale.

    Args:
        header: of name, value and amount; without the second the values are left out.
    """

    header: tuple[str, str, str]
    bars: Sequence[Bar]


@dataclass
class Sample:
    """One row of evidence as a page shows it."""

    title: str
    right: bool | None
    """Whether the model ends up right about it; None where that means nothing."""
    pictures: list[Picture] = field(default_factory=list)
    drawings: list[str] = field(default_factory=list)
    """Inline SVG."""
    tokens: tuple[Token, ...] = ()
    """A text whose pieces are shaded."""
    passages: tuple[Passage, ...] = ()
    """A text before and after."""
    lists: list[BarList] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of what is drawn."""
        return sum(len(picture.src) for picture in self.pictures) + sum(map(len, self.drawings))


def named(value: Any, classes: Sequence[Any]) -> str:
    """A class by its name, a value of a regression as a number."""
    if value is None:
        return ""
    item = value.item() if hasattr(value, "item") else value
    if isinstance(item, int) and 0 <= item < len(classes):
        return clean(classes[item])
    return str(item) if isinstance(item, (int, str)) else number(item)


def number(value: Any) -> str:
    """A number, or ``missing``."""
    read = float(value)
    return _("missing") if math.isnan(read) else show(read)


def signed(value: float) -> str:
    """A number with its sign."""
    return f"+{show(value)}" if value > 0 else show(value)


def bar(feature: str, value: str, amount: str, share: float) -> Bar:
    """A bar whose length is `share` (-1 to 1) of the scale."""
    width = 50 * abs(share)
    return Bar(feature, value, amount, round(50.0 if share > 0 else 50 - width, 2), round(width, 2), share > 0)


def bar_list(
    names: Sequence[str], values: Sequence[str], amounts: NDArray[Any], header: tuple[str, str, str]
) -> BarList:
    """The features with the largest amounts; those of no amount are left out."""
    import numpy as np

    amounts = np.nan_to_num(np.ravel(amounts).astype(float))
    order = np.argsort(-np.abs(amounts), kind="stable")[:MAX_FEATURES]
    largest = float(np.abs(amounts).max()) if amounts.size else 0.0
    return BarList(
        header,
        [
            bar(clean(names[i]), values[i], signed(float(amounts[i])), float(amounts[i]) / largest)
            for i in order.tolist()
            if amounts[i] != 0
        ],
    )
