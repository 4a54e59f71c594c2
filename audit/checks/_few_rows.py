"""When a bootstrap interval says nothing."""

from __future__ import annotations

FEW_ROWS = 20
"""Fewer rows make bootstrap intervals far too narrow."""


def few_rows(n: int) -> str | None:
    """Why a number that is resampled over `n` rows decides nothing; None where it does."""
    return f"{n} rows are too few for a bootstrap interval; {FEW_ROWS} or more are needed" if n < FEW_ROWS else None
