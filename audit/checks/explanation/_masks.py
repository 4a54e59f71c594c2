"""Where a map ought to point: masks of inputs by place, by name, from a file, or of a mark that is put there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from audit.parameters import NotApplicable, Parameters, Real, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.checks.explanation._explaining import Subject, Target
    from audit.context import Context
    from audit.model import AuditedModel, InputSpec

Place = Literal["top_left", "top_right", "bottom_left", "bottom_right", "random"]


class Mark(Parameters):
    """A square of one brightness in all channels."""

    size: int = Field(default=2, ge=1)
    """Side in pixels."""
    place: Place = "random"
    """Corner, or a random place in each row."""
    value: Real | None = None
    """Brightness; by default the upper bound."""


def placed(region: tuple[int, ...], x: Tensor, spec: InputSpec) -> Tensor:
    """``(N, *shape)`` bool: a box ``[top, left, height, width]`` of an image, a stretch ``[start, length]`` of a series.

    Raises:
        NotApplicable: the input is neither.
        UserError: the region is empty or leaves the input.
    """
    import torch

    from audit.checks.explanation._swaps import box_mask

    if spec.kind == "image" and len(spec.shape) > 1:
        if len(region) != 4:
            raise UserError(f"region of an image is [top, left, height, width], got {list(region)}")
        top, left, height, width = region
        return box_mask((top, left, height, width), spec).to(x.device).expand(x.shape)
    if spec.kind != "series" or spec.tabular:
        raise NotApplicable(f"a region is of an image or a series, the input is {spec.a_kind}")
    if len(region) != 2:
        raise UserError(f"region of a series is [start, length], got {list(region)}")
    (start, length), steps = region, spec.shape[-1]
    if length < 1 or start < 0 or start + length > steps:
        raise UserError(f"region {list(region)} is [start, length] in steps and must lie in the series of {steps}")
    step = torch.arange(steps, device=x.device)
    return ((step >= start) & (step < start + length)).expand(x.shape)


def named_columns(columns: tuple[str, ...], x: Tensor, spec: InputSpec) -> Tensor:
    """``(N, F)`` bool.

    Raises:
        NotApplicable: the input is no table.
        UserError: a column is not among its own.
    """
    from audit.checks.explanation._swaps import column_mask

    if not spec.tabular:
        raise NotApplicable(f"columns are of a table, the input is {spec.a_kind}")
    own = [field.name for field in spec.fields]
    if unknown := [name for name in columns if name not in own]:
        raise UserError(f"no column '{unknown[0]}'; the input has {', '.join(own[:20])}")
    return column_mask([own.index(name) for name in columns], len(own)).to(x.device).expand(x.shape)


def from_file(path: Path, subject: Subject, spec: InputSpec) -> tuple[Subject, Tensor, tuple[str, ...]]:
    """The rows that a file has masks for, their masks ``(N, *shape)`` bool, and a caution where others are left out.

    The file is an ``.npz`` with `masks` ``(K, H, W)`` or ``(K, *shape)``, not 0 where inside, and `ids` ``(K,)``, the rows' names.

    Raises:
        UserError: the file cannot be read, lacks an array, does not fit the input, or has none of the rows.
    """
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as file:
            masks, ids = file["masks"], [str(name) for name in file["ids"]]
    except KeyError as error:
        raise UserError(f"masks {path}: the file needs the arrays 'masks' and 'ids': {error}") from error
    except (OSError, ValueError, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"masks {path} cannot be read: {why}") from error
    shape = spec.shape
    if len(masks) != len(ids) or masks.shape[1:] not in (shape, shape[-2:], shape[-1:]):
        raise UserError(
            f"masks {path}: {masks.shape} masks and {len(ids)} ids do not fit inputs of {shape}: one mask per id, of the input's "
            "shape or its last axes"
        )
    number = {name: i for i, name in enumerate(ids)}
    places = [i for i, name in enumerate(subject.batch.ids) if name in number]
    if not places:
        raise UserError(
            f"masks {path}: none of its {len(ids)} ids is among the rows explained, such as {subject.batch.ids[0]}"
        )
    chosen = torch.from_numpy(masks[[number[subject.batch.ids[i]] for i in places]] != 0).to(subject.x.device)
    missing = len(subject.batch) - len(places)
    cautions = (f"{missing} of {len(subject.batch)} rows have no mask and are left out",) if missing else ()
    kept = rows_of(subject, torch.tensor(places))
    lead = [1] * (len(shape) + 1 - chosen.ndim)
    return kept, chosen.reshape(len(places), *lead, *chosen.shape[1:]).expand(kept.x.shape), cautions


def marked(mark: Mark, subject: Subject, model: AuditedModel, target: Target, ctx: Context) -> tuple[Subject, Tensor]:
    """The rows with a mark put on them, explained for what the model says then, and where it is, ``(N, *shape)`` bool.

    The rows get names of their own, for their maps are not those of the unmarked ones.

    Raises:
        NotApplicable: the input is no image.
        UserError: the mark is larger than the image, or has no brightness.
    """
    import torch

    from audit.data import Batch, row_ids

    spec, x = model.spec, subject.x
    if spec.kind != "image" or len(spec.shape) < 2:
        raise NotApplicable(f"a mark is put on an image, the input is {spec.a_kind}")
    height, width = spec.shape[-2:]
    if mark.size > min(height, width):
        raise UserError(f"a mark of {mark.size} pixels is larger than the image of {height} x {width}")
    value = mark.value if mark.value is not None else spec.bounds[1] if spec.bounds is not None else None
    if value is None:
        raise UserError("the input has no bounds that a mark could take its brightness from: give it a value")
    room = torch.tensor([height - mark.size, width - mark.size])
    if mark.place == "random":
        start = (ctx.rng(subject.batch.ids, "place of the mark").uniform((2,)) * (room + 1)).long().minimum(room)
    else:
        corner = torch.tensor([mark.place.startswith("bottom"), mark.place.endswith("right")])
        start = (corner * room).expand(len(x), 2)
    down, across = (
        (torch.arange(length) >= first[:, None]) & (torch.arange(length) < first[:, None] + mark.size)
        for length, first in zip((height, width), start.T, strict=True)
    )
    inside = (down[:, :, None] & across[:, None, :]).to(x.device)
    inside = inside.reshape(len(x), *[1] * (x.ndim - 3), height, width).expand(x.shape)
    put = torch.where(inside, torch.tensor(value, dtype=x.dtype, device=x.device), x)
    answers = model.scores(put)
    model.check_finite(answers)
    prediction = model.labels_of(answers) if model.task == "classification" else answers.reshape(len(put))
    rows, labels = put.cpu().numpy(), subject.batch.labels
    return (
        replace(
            subject,
            batch=Batch(rows, labels, row_ids(rows, labels), subject.batch.groups),
            x=put,
            prediction=prediction,
            confidence=model.confidence_of(answers),
            target=prediction if target == "prediction" and model.task == "classification" else subject.target,
        ),
        inside,
    )


def rows_of(subject: Subject, places: Tensor) -> Subject:
    """Some of the rows."""
    return replace(
        subject,
        batch=subject.batch.take(places.cpu().numpy()),
        x=subject.x[places],
        prediction=subject.prediction[places],
        target=subject.target[places],
        confidence=None if subject.confidence is None else subject.confidence[places],
    )
