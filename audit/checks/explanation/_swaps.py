"""Part of a row exchanged for the same part of another row: images by place, tables by column, texts by word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from audit.model import InputSpec
    from audit.rng import ExampleRng

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


@dataclass(frozen=True)
class Swapped:
    """Rows with a part of their donors'.

    Args:
        index: ``(K,)`` int64 rows that have a donor and room for what it gives.
        donor: ``(K,)`` int64 row each takes from.
        rows: ``(K, *shape)`` with the donor's part.
        control: ``(K, *shape)`` with a random part of equal size of the same donor's; None where nothing else is left to take.
    """

    index: Tensor
    donor: Tensor
    rows: Tensor
    control: Tensor | None


def draw_donors(
    kind: NDArray[np.generic],
    kind_of_donors: NDArray[np.generic],
    ids_of_donors: Sequence[str],
    rng: ExampleRng,
    fits: Callable[[int], NDArray[np.bool_]] | None = None,
) -> Tensor:
    """For each row a random row of another kind, ``(N,)`` int64; −1 where there is none.

    Args:
        kind: ``(N,)`` class or group of each row.
        kind_of_donors: ``(M,)``.
        ids_of_donors: what the drawing goes by, so that it does not depend on their order.
        rng: one stream per row.
        fits: which donors a row may take beside, ``(M,)`` bool; all by default.
    """
    import numpy as np
    import torch

    order = np.argsort(np.asarray(ids_of_donors))
    others = {value: order[kind_of_donors[order] != value] for value in np.unique(kind)}
    drawn = rng.uniform(()).double().numpy()
    donor = np.full(len(kind), -1)
    for i, value in enumerate(kind):
        pool = others[value] if fits is None else others[value][fits(i)[others[value]]]
        if len(pool):
            donor[i] = pool[int(drawn[i] * len(pool))]
    return torch.from_numpy(donor)


# --- images ------------------------------------------------------------------------------------------------------


def box_mask(box: Box, spec: InputSpec) -> Tensor:
    """``(H, W)`` bool: inside the box.

    Raises:
        UserError: it is empty or leaves the image.
    """
    import torch

    height, width = spec.shape[-2:]
    top, left, rows, columns = box
    if min(rows, columns) < 1 or min(top, left) < 0 or top + rows > height or left + columns > width:
        raise UserError(
            f"region {list(box)} is [top, left, height, width] in pixels and must lie in the image of {height} x {width}"
        )
    mask = torch.zeros((height, width), dtype=torch.bool)
    mask[top : top + rows, left : left + columns] = True
    return mask


def other_boxes(box: Box, spec: InputSpec, rng: ExampleRng) -> Tensor | None:
    """For each row a random box of the same size elsewhere, ``(N, H, W)`` bool.

    Where boxes fit that share no pixel with it, one of those; else one that shares as few as can be. None where only the box itself
    fits.
    """
    import torch

    height, width = spec.shape[-2:]
    top, left, rows, columns = box
    tops, lefts = torch.meshgrid(torch.arange(height - rows + 1), torch.arange(width - columns + 1), indexing="ij")
    shared = (rows - (tops - top).abs()).clamp_min(0) * (columns - (lefts - left).abs()).clamp_min(0)
    least = int(shared.min())
    if least == rows * columns:
        return None
    free = (shared == least).flatten().nonzero().squeeze(1)
    chosen = free[rng.integers(len(free))]
    down, across = (part.flatten()[chosen][:, None] for part in (tops, lefts))
    inside = (torch.arange(height) >= down) & (torch.arange(height) < down + rows)
    beside = (torch.arange(width) >= across) & (torch.arange(width) < across + columns)
    return inside[:, :, None] & beside[:, None, :]


# --- tables ------------------------------------------------------------------------------------------------------


def column_mask(columns: Sequence[int], count: int) -> Tensor:
    """``(F,)`` bool."""
    import torch

    mask = torch.zeros(count, dtype=torch.bool)
    mask[list(columns)] = True
    return mask


def other_columns(mask: Tensor, rng: ExampleRng) -> Tensor | None:
    """For each row as many random columns beside those of the mask, fewer where fewer are left, ``(N, F)`` bool; None where none is."""
    import torch

    rest = (~mask).nonzero().squeeze(1)
    if not len(rest):
        return None
    taken = rest[rng.uniform((len(rest),)).argsort(dim=1)[:, : int(mask.sum())]]
    return torch.zeros((len(taken), len(mask)), dtype=torch.bool).scatter_(1, taken, value=True)


# --- texts -------------------------------------------------------------------------------------------------------


def held(text: str, named: frozenset[str]) -> list[bool]:
    """For each word of a text, whether it is among the named ones, whatever its case."""
    from audit.text import words

    return [text[start:stop].casefold() in named for start, stop in words(text)]


def exchange_words(text: str, out: Sequence[int], words_in: Sequence[str]) -> str:
    """A text with the words at `out` replaced by `words_in` one by one; words too many are left out, words too few stand at its end."""
    from audit.text import words

    spans = words(text)
    parts, end = [], 0
    for number, place in enumerate(sorted(out)):
        start, stop = spans[place]
        parts += [text[end:start], words_in[number] if number < len(words_in) else ""]
        end = stop
    parts.append(text[end:])
    return " ".join(["".join(parts).rstrip(), *words_in[len(out) :]]).strip()


def swap_words(
    x: Tensor, others: Tensor, named: frozenset[str], rng: ExampleRng
) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """Texts with the donors' named words in place of their own, and with as many random other words of the donors in place of as
    many random other words of their own; and for which of them there was room, ``(N,)``.

    Args:
        x: ``(N, L)`` code points.
        others: ``(N, L)`` the donors.
        rng: one stream per row.
    """
    import numpy as np
    import torch

    from audit.text import decode_all, encode, words

    room = x.shape[1]
    draws = rng.uniform((2, room)).numpy()
    swapped, control = [], []
    for text, donor, draw in zip(decode_all(x), decode_all(others), draws, strict=True):
        own, given = held(text, named), held(donor, named)
        spoken = [donor[start:stop] for start, stop in words(donor)]
        swapped.append(
            exchange_words(
                text,
                [i for i, is_named in enumerate(own) if is_named],
                [word for word, is_named in zip(spoken, given, strict=True) if is_named],
            )
        )
        plain = [i for i, is_named in enumerate(own) if not is_named]
        plain_given = [word for word, is_named in zip(spoken, given, strict=True) if not is_named]
        control.append(
            exchange_words(
                text,
                [plain[i] for i in draw[0, : len(plain)].argsort()[: sum(own)]],
                [plain_given[i] for i in draw[1, : len(plain_given)].argsort()[: sum(given)]],
            )
        )
    fits = np.array([max(len(a), len(b)) <= room for a, b in zip(swapped, control, strict=True)], dtype=bool)
    rows = (
        torch.from_numpy(encode([text if fit else "" for text, fit in zip(part, fits, strict=True)], room)).to(x)
        for part in (swapped, control)
    )
    first, second = rows
    return first, second, fits


def word_mask(x: Tensor, named: frozenset[str]) -> Tensor:
    """``(N, L)`` bool: characters of the named words."""
    import torch

    from audit.text import decode_all, words

    mask = torch.zeros(x.shape, dtype=torch.bool)
    for row, text in enumerate(decode_all(x)):
        for (start, stop), is_named in zip(words(text), held(text, named), strict=True):
            mask[row, start:stop] = is_named
    return mask
