"""shap: the library itself. What it does well is asked of it in a file of its own; its samplers are references in the tests."""

from __future__ import annotations

import warnings
from typing import Any


def library() -> Any:
    """shap itself; matplotlib's deprecations that its import sets off are not the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        import shap
    return shap
