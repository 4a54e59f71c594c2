"""The blind control that checks share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys import audited, batch, context

from audit.checks.privacy import _blind
from audit.data import Batch


def rows(seed: int, shift: float = 0.0) -> Batch:
    return batch(np.random.default_rng(seed).normal(shift, 1, (60, 2)), np.zeros(60, dtype=int))


@pytest.mark.parametrize(("shift", "void"), [(0.0, False), (2.0, True)])
def test_rows_that_inputs_tell_apart_make_the_numbers_void(shift: float, void: bool, tmp_path: Path) -> None:
    model = audited(lambda x: x, (2,), 2)
    found = _blind.blind_control(model, rows(0), rows(1, shift), context(tmp_path), ("leak", "auc"))
    assert set(found.voids) == ({"leak", "auc"} if void else set())
    assert found.metric == _blind.BLIND_AUC.name


def test_checks_of_a_run_share_one_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = audited(lambda x: x, (2,), 2)
    first = _blind.blind_control(model, rows(0), rows(1), context(tmp_path, check_id="one"), ("leak",))
    alone = _blind.blind_control(
        audited(lambda x: x, (2,), 2), rows(0), rows(1), context(tmp_path, check_id="two"), ("leak",)
    )
    monkeypatch.setattr("audit.privacy.blind_control.blind_auc", None)
    again = _blind.blind_control(model, rows(0), rows(1), context(tmp_path, check_id="two"), ("leak",))
    assert first.estimate == again.estimate == alone.estimate
    with pytest.raises(TypeError):
        _blind.blind_control(model, rows(0), rows(1), context(tmp_path, seed=1), ("leak",))
