"""What is said of the paper's claims, from numbers that are known."""

import pytest

from nested_fad_tf.bench import paper, runner, summary


def results(rows):
    memory, time = [], []
    for model, (plain, peaks, times) in rows.items():
        time.append({"model": model, "strategy": "plain", "ratio": 1.0})
        control = {"ratio": 1.01, "ratio_low": 0.97, "ratio_high": 1.02}
        time.append({"model": model, "strategy": runner.CONTROL, **control})
        for strategy, peak, ratio in zip(
            (paper.NESTED, paper.RECOMPUTED, paper.OURS), peaks, times, strict=True
        ):
            row = {"model": model, "strategy": strategy}
            memory.append({**row, "plain_peak": plain, "peak": peak})
            time.append({**row, "ratio": ratio})
    return {"memory": memory, "time": time}


def test_claims_that_hold():
    (comparison,) = paper.compare(results({"gelu": (400, (200, 200, 100), (1.0, 1.25, 1.0))}))
    assert comparison.memory == {"forward_ad": 2.0, "recompute_activations": 2.0, "auto": 4.0}
    assert comparison.speed_up == pytest.approx(1.25)
    assert comparison.noise == pytest.approx((0.01, 0.03))
    memory, time, which, ours = paper.sentences([comparison])
    assert "1.97x: holds" in memory
    assert "2.00x less on gelu" in memory
    assert "holds on average" in time
    assert "does not" not in memory + time
    assert "itself: within 1%, single rounds within 3%." in which
    assert "As fast as claimed: gelu. Slower than recomputation: none." in which
    assert "needs 2.00x less than recomputation, whose steps take 1.25x its time" in ours


def test_claims_that_do_not_hold():
    rows = {
        "swish": (300, (250, 250, 150), (1.05, 1.0, 1.0)),
        "mish": (300, (280, 140, 100), (0.9, 1.2, 1.0)),
    }
    memory, time, which, others, _ = paper.sentences(paper.compare(results(rows)))
    assert (
        "does not hold; nested forward-mode AD needs 1.20x less on swish, 1.07x on mish" in memory
    )
    assert "does not hold on average; recomputation takes 0.95x the time" in time
    assert "Slower than recomputation: swish." in which
    assert others == "More memory than recomputation, and not compared: mish."


def test_models_in_which_something_does_not_run_are_left_out():
    found = results({"gelu": (400, (200, 200, 100), (1.0, 1.25, 1.0))})
    found["time"] = [row for row in found["time"] if row["strategy"] != paper.RECOMPUTED]
    assert paper.compare(found) == []


def test_summary_of_versions():
    found = results({"gelu": (400, (200, 210, 100), (1.1, 1.2, 1.0))})
    found["gradients"] = [
        {"model": "gelu", "strategy": "auto", "worst_determined": 1e-7, "state_difference": 0.0}
    ]
    plain, nested, recomputed, ours = summary.rows(found)
    assert (plain.strategy, plain.peak, plain.gain, plain.ratio) == ("plain", 400, 1.0, 1.0)
    assert (ours.strategy, ours.peak, ours.gain, ours.ratio) == ("auto", 100, 4.0, 1.0)
    assert (ours.gradients, ours.state, nested.gradients) == (1e-7, 0.0, None)
    assert [row.front for row in (plain, nested, recomputed, ours)] == [False, False, False, True]
    assert summary.rows({"memory": found["memory"]}) == []
