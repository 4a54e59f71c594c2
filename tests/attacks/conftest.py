"""The net that attacks are tried on."""

from __future__ import annotations

import pytest
from toys import audited, trained_cnn

from audit.model import AuditedModel


@pytest.fixture(scope="module")
def cnn() -> AuditedModel:
    """A small net trained on digits."""
    return audited(trained_cnn(), (1, 8, 8), 10, bounds=(0.0, 16.0))
