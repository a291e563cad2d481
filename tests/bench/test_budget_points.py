"""The table of budgets: promises beside measurements."""

from __future__ import annotations

import itertools

import pytest

from nested_fad_tf.bench import budget_points


@pytest.mark.slow
def test_points_of_a_model():
    without, within, beyond = budget_points.points("mish_mlp:batch=2048:depth=6", [0.28, 0.05])
    assert without.budget is None and without.limit is None and not without.note
    assert "is met by" in within.note and "is not met: the least" in beyond.note
    assert beyond.predicted > beyond.limit and within.predicted <= within.limit
    assert without.predicted > within.predicted
    for point in (without, within, beyond):
        assert abs(point.peak / point.predicted - 1) < 0.35  # small tensors weigh much here
        assert point.peak < 0.6 * point.plain_peak
        assert point.ratio_low <= point.ratio <= point.ratio_high
        assert 0 < point.gradients < 1e-5 and point.loss < 1e-6
    lines = budget_points.table([without, within, beyond]).splitlines()
    assert len(lines) == 5 and "piece" in lines[3]
    assert "at a time" not in lines[4]
    assert all(a.model == b.model for a, b in itertools.pairwise((without, within, beyond)))
