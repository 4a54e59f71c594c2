"""What must hold of the inputs before a perturbation within eps means anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.parameters import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from audit.data import AuditData
    from audit.model import AuditedModel


def declared_bounds(model: AuditedModel) -> tuple[float, float]:
    """The bounds an attack must stay in.

    Raises:
        UserError: they are not declared, differ by column, or the input is not made of numbers.
    """
    fields = model.spec.fields
    if other := [f"{f.name} ({f.kind})" for f in fields if f.kind not in ("image", "number", "series")]:
        raise UserError(
            f"model '{model.name}': a perturbation within eps needs numbers, its input has {', '.join(other[:5])}"
        )
    if model.spec.bounds is not None:
        return model.spec.bounds
    if missing := [f.name for f in fields if f.bounds is None]:
        raise UserError(
            f"model '{model.name}' declares no bounds for {', '.join(missing[:5])}: an attack must know the valid range; "
            "give `bounds: [low, high]` in the model's input spec"
        )
    raise UserError(
        f"model '{model.name}': the columns have different bounds, and one eps would mean another thing in each; "
        "scale the columns to one range inside the data, or audit them apart"
    )


def require_inside(x: Tensor, bounds: tuple[float, float], model: AuditedModel, data: AuditData) -> None:
    """Refuse rows that the model's own declaration rules out.

    Raises:
        UserError: values are missing or lie outside the bounds.
    """
    low, high = bounds
    outside = ~((x >= low) & (x <= high)).flatten(1).all(dim=1)
    if bool(outside.any()):
        raise UserError(
            f"data '{data.source}': {int(outside.sum())} of {len(x)} rows are missing values or lie outside the bounds "
            f"{low:g}..{high:g} that model '{model.name}' declares: correct the bounds or the data"
        )


def eps_for_snr(x: Tensor, snr_db: float, norm: str) -> Tensor:
    """Largest perturbation of each row ``(N,)`` float64 that keeps its signal-to-noise ratio, rounded down to a tenth of a dB.

    The ratio is 20 log10(norm2(x) / norm2(perturbation)). In l2 the bound is that ratio itself; in linf it is the peak that even a
    perturbation of that height everywhere keeps. Rows whose bounds agree to a tenth of a dB share one. 0 for a silent row.
    """
    import torch

    flat = x.double().flatten(1)
    size = flat.norm(dim=1) / (flat.shape[1] ** 0.5 if norm == "linf" else 1.0)
    tenths = (200 * size.log10() - 10 * snr_db).floor()
    return torch.where(size > 0, 10 ** (tenths / 200), torch.zeros_like(size))
