"""Series as drawings: what is coloured, on which scale, and what is left out is said."""

from __future__ import annotations

import re

import numpy as np
import pytest

from audit.report._series_map import MAX_CHANNELS, MAX_STEPS, series_map


def test_what_speaks_for_and_against_is_told_apart_by_colour_width_and_side() -> None:
    x, values = np.sin(np.arange(50) / 5)[None], np.zeros((1, 50))
    values[0, 10:20], values[0, 30:40] = 0.5, -0.25
    drawing, limit, note = series_map(x, values, "A series")
    assert (limit, note) == (0.5, "")
    strokes = re.findall(r'class="(for|against)" style="--share: (\d+)%" stroke-width="([\d.]+)"', drawing)
    assert strokes == [("against", "0", "1.30"), ("against", "50", "2.05"), ("for", "100", "2.80")]
    up, down = re.search(r'class="up" d="([^"]*)"', drawing), re.search(r'class="down" d="([^"]*)"', drawing)
    assert up
    assert down
    assert (up[1].count("M"), down[1].count("M")) == (10, 10)
    assert "v-22.0" in up[1], "the largest fills its half"
    assert "v11.0" in down[1], "half as much against points down, half as far"
    assert 'role="img" aria-label="A series"' in drawing


def test_a_long_series_is_drawn_in_stretches_that_keep_peaks_and_sums() -> None:
    x, values = np.zeros((1, 16_000)), np.full((1, 16_000), 0.001)
    x[0, 8_003] = 7.0
    drawing, limit, note = series_map(x, values, "audio")
    per = -(-16_000 // MAX_STEPS)
    assert note == f"drawn in {-(-16_000 // per)} stretches of {per} steps"
    assert limit == pytest.approx(0.001 * per)
    assert len(drawing) < 60_000
    assert ">7</text>" in drawing
    assert "step 15,999" in drawing


def test_the_channels_that_contribute_most_are_drawn_by_name() -> None:
    values = np.arange(12.0)[:, None] * np.ones((12, 20))
    drawing, _, note = series_map(np.zeros((12, 20)), values, "many")
    assert note == f"{MAX_CHANNELS} of 12 channels drawn, those that contribute most"
    assert re.findall(r"channel (\d+)", drawing) == [str(i) for i in range(4, 12)]
    named, _, _ = series_map(np.zeros((2, 5)), np.ones((2, 5)), "two", ["ECG <I>", "ECG II"])
    assert "ECG &lt;I&gt;" in named


def test_a_flat_series_without_contributions_is_still_a_drawing() -> None:
    drawing, limit, _ = series_map(np.full(8, 3.0), np.zeros(8), "flat")
    assert limit == 0
    assert "NaN" not in drawing
    assert "nan" not in drawing
    assert 'class="up"' not in drawing
