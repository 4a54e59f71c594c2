"""An explainer that knows nothing."""

from __future__ import annotations

from typing import Any, ClassVar

from audit.explainers import Attribution, Explainer


class RandomMap(Explainer):
    """Standard normal values."""

    needs: ClassVar = frozenset()
    complete: ClassVar = False

    def run(self, model: Any, x: Any, target: Any, background: Any, rng: Any) -> Attribution:
        """Noise."""
        return Attribution(values=rng.normal(tuple(x.shape[1:])), target=target, space="logit")
