"""Training in several versions: what a run says and takes, and how runs are compared."""

import numpy as np
import pytest

from nested_fad_tf.bench import convergence
from nested_fad_tf.bench.convergence import Cost, Run

pytest.importorskip("sklearn")


def made_up(version, seed, accuracy, losses=(2.0, 1.0)):
    return Run("net", version, seed, losses, accuracy, 2**20, 8 * 2**20)


def test_the_mean_has_to_be_within_what_exact_runs_differ_by():
    exact = [made_up("auto", seed, accuracy) for seed, accuracy in enumerate((0.96, 0.98, 0.97))]
    good = [made_up("int8", seed, accuracy) for seed, accuracy in enumerate((0.95, 0.98, 0.97))]
    bad = [made_up("int2", seed, accuracy) for seed, accuracy in enumerate((0.99, 0.93, 0.95))]
    found = convergence.summaries([*exact, *good, *bad])
    assert [summary.within for summary in found] == [True, True, False]
    table = convergence.table([*exact, *good, *bad], [Cost("net", "int8", 3 << 20, 9 << 20, 0.97)])
    assert "int8    | 9 -> 3   | 0.97x |" in table
    assert "97.0% (96.0% to 98.0%)" in table
    assert "1.5000" in table and "8 -> 1" in table
    figure = convergence.figure([*exact, *good, *bad])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["net"]
    assert len(figure.axes[0].lines) == 9


def test_a_run_trains_with_what_it_says():
    versions = ("auto", "auto:activations=int8")
    exact, narrow = (convergence.run("mish_convnet", v, seed=1, steps=4) for v in versions)
    assert narrow.losses[0] == pytest.approx(exact.losses[0], rel=1e-6)
    assert 0 < abs(narrow.losses[3] - exact.losses[3]) < 0.2
    assert narrow.plain_kept_bytes == exact.plain_kept_bytes
    assert narrow.kept_bytes < 0.5 * exact.kept_bytes
    assert np.isfinite(narrow.losses).all() and 0 <= narrow.accuracy <= 1
