"""What goes wrong with rows of a table before they reach a model: values missing, units confused, categories swapped.

Each cell is hit by itself, with the same luck at every severity: what is hit at one is hit at the next. The shares are policy.

Source: missing values and scaled numbers: Schelter et al. 2020, "Learning to validate the predictions of black box classifiers on unseen
data", SIGMOD, doi 10.1145/3318464.3380604.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from audit.model import InputSpec
    from audit.rng import ExampleRng

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "missing": ("missing_values",),
    "units": ("unit_errors",),
    "categories": ("swapped_categories",),
}
SHARE = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Of the cells that can be hit, by severity (policy)."""
FACTORS = (10.0, 100.0, 1000.0, 0.1, 0.01, 0.001)
"""What a value is multiplied by: grams for kilograms, a slipped decimal point."""


def applicable(spec: InputSpec) -> dict[str, tuple[str, ...]]:
    """The families for which the table has columns."""
    has = {
        "missing": True,
        "units": any(f.kind == "number" for f in spec.fields),
        "categories": any(len(f.categories) > 1 for f in spec.fields),
    }
    return {family: names for family, names in FAMILIES.items() if has[family]}


def corrupt(x: Tensor, name: str, severity: int, rng: ExampleRng, spec: InputSpec, absent: Tensor) -> Tensor:
    """One corruption of rows ``(N, F)``.

    Args:
        name: one of `FAMILIES`.
        severity: 1 to 5.
        absent: ``(F,)`` what a missing value becomes: NaN, or what stands in for it.
    """
    import torch

    columns = x.shape[1]
    hit = rng.uniform((columns,)).to(x.device) < SHARE[severity - 1]
    if name == "missing_values":
        return torch.where(hit, absent.to(x), x)
    if name == "unit_errors":
        numbers = torch.tensor([f.kind == "number" for f in spec.fields], device=x.device)
        factors = torch.tensor(FACTORS, dtype=x.dtype, device=x.device)
        return torch.where(hit & numbers, x * factors[rng.integers(len(FACTORS), (columns,)).to(x.device)], x)
    count = torch.tensor([len(f.categories) for f in spec.fields], device=x.device)
    # Another category, each as likely: a step of 1 to count - 1 around the circle of codes.
    step = 1 + (rng.uniform((columns,)).to(x.device) * (count - 1).clamp_min(1)).floor()
    return torch.where(hit & (count > 1) & ~x.isnan(), (x + step) % count.clamp_min(1), x)


def stand_ins(x: Tensor, spec: InputSpec) -> Tensor:
    """The median of each column of numbers, the commonest code of each category, ``(F,)``; missing values aside."""
    import torch

    found = []
    for j, field in enumerate(spec.fields):
        known = x[:, j][~x[:, j].isnan()]
        typical = known.mode().values if field.kind == "category" else known.quantile(0.5)
        found.append(typical if len(known) else x.new_zeros(()))
    return torch.stack(found)
