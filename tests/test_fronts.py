"""Which budgets a step can keep to: what the table says holds for the budgets in it."""

import pytest
import tensorflow as tf
from traced import numbers

import nested_fad_tf as nfad

LAYERS, ROWS, WIDTH = 12, 4096, 256
OPTIONS = nfad.Options(on_error="raise", fuse="ops", min_bytes=1024)
WEIGHTS = [tf.Variable(numbers(WIDTH, WIDTH, seed=i, scale=0.08)) for i in range(LAYERS)]
X = tf.TensorSpec([ROWS, WIDTH])


def step(x):
    with tf.GradientTape() as tape:
        h = x
        for weight in WEIGHTS:
            h = tf.nn.gelu(h @ weight)
        loss = tf.reduce_sum(h * h)
    return loss, tape.gradient(loss, WEIGHTS)


@pytest.fixture(scope="module")
def found():
    return nfad.budgets(step, X, options=OPTIONS)


def test_less_memory_takes_more_time(found):
    unlimited, *points = found.points
    assert unlimited.budget is None
    assert len(points) > 1
    peaks = [point.peak for point in points]
    assert peaks == sorted(set(peaks), reverse=True)
    assert found.plain_peak > unlimited.peak > peaks[0]
    seconds = [point.seconds_again for point in points]
    assert seconds == sorted(seconds)
    assert all(point.peak <= point.budget for point in points)
    assert all("of the forward pass again" in point.how for point in points)


def test_a_budget_of_the_table_gives_what_it_says(found):
    for point in found.points:
        report = nfad.explain(step, X, options=OPTIONS.replace(budget=point.budget))
        assert report.predicted_peak_before == found.plain_peak
        assert report.predicted_peak_after == point.peak
        assert report.predicted_seconds_again == point.seconds_again


def test_the_table_fits_and_names_what_stands_in_the_way(found):
    lines = []
    found.summary(lines.append)
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    assert "step: plain TensorFlow is predicted to need" in text
    assert "less: the least that was found is" in text and "are alive" in text
    assert all(point.how in text for point in found.points)


def test_a_function_without_a_backward_pass_says_so():
    found = nfad.budgets(lambda x: tf.nn.gelu(x @ WEIGHTS[0]), X, options=OPTIONS)
    assert not found.points
    assert found.obstacle
    lines = []
    found.summary(lines.append)
    assert found.obstacle.split()[0] in " ".join(lines)


def test_a_step_in_which_nothing_can_be_saved():
    def small(w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(w * w)
        return tape.gradient(loss, w)

    found = nfad.budgets(small, X, options=OPTIONS)
    assert [point.budget for point in found.points] == [None]
    assert found.obstacle


def test_a_strategy_that_keeps_to_no_budget_is_refused():
    with pytest.raises(nfad.OptionsError, match="forward_ad"):
        nfad.budgets(step, X, options=OPTIONS.replace(strategy="forward_ad"))
