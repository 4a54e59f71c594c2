"""A gradient-boosted model of loan approval on Wooldridge's ``loanapp``; race, origin and sex are kept out of its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audit.data import Batch


def train(members: Batch, *, seed: int = 0) -> Any:
    """Fit 120 shallow trees to the members; missing values go their own way at each split."""
    from xgboost import XGBClassifier

    model = XGBClassifier(
        n_estimators=120,
        max_depth=3,
        learning_rate=0.08,
        subsample=0.8,
        colsample_bytree=0.8,
        min_child_weight=5,
        random_state=seed,
        n_jobs=1,
    )
    return model.fit(members.x, members.labels)
