"""shap: Shapley values of a coalition game by kernel regression.

shap is given the *game*, not the model: coalitions in, their worth out, with "absent" coded 0 and "present" 1. Given a model's
own columns it would call a feature unchanged where ``np.isclose`` finds it equal to the background (a timestamp an hour apart is).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from audit.bridges.global_generators import seeded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Game = Callable[["NDArray[np.bool_]"], "NDArray[np.float64]"]
"""``(K, M)`` coalitions of M players → their worth ``(K,)``."""


def library() -> Any:
    """shap itself; matplotlib's deprecations that its import sets off are not the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        import shap
    return shap


def kernel_shapley(game: Game, players: int, *, coalitions: int, seed: int) -> NDArray[np.float64]:
    """Shapley values ``(M,)`` by weighted regression, without regularisation; exact where all 2^M − 2 coalitions are asked.

    Source: Lundberg & Lee 2017, arXiv:1705.07874.
    """
    import numpy as np

    def worth(masks: NDArray[Any]) -> NDArray[np.float64]:
        return game(np.asarray(masks) != 0)

    with seeded(seed):
        explainer = library().KernelExplainer(worth, np.zeros((1, players)))
        found = explainer.shap_values(np.ones((1, players)), nsamples=coalitions, l1_reg=False, silent=True)
    return np.asarray(found, dtype=np.float64).reshape(players)
