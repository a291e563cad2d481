import itertools

import pytest
import tensorflow as tf
from reports import step_report
from traced import SIZE, SQUARE, view_of

from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.report.timeline import timeline_of


def timeline(step, *specs):
    view = view_of(step, *specs)
    lifetimes = simulate(view)
    return lifetimes, timeline_of(view, find_roles(view), lifetimes)


def tanh_step(depth):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for _ in range(depth):
                y = tf.tanh(y @ w)
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, x)

    return step


@pytest.mark.parametrize("depth", [3, 400])
def test_the_curve_has_the_peak(depth):
    lifetimes, found = timeline(tanh_step(depth), SQUARE, SQUARE)
    assert found.peak_bytes == lifetimes.peak_bytes
    assert max(size for _, size in found.points) == found.peak_bytes
    times = [time for time, _ in found.points]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert times[-1] <= 1.0
    assert len(found.points) <= 800
    assert 0 < found.backward_from < 1
    # The most is live when the backward pass begins.
    assert abs(found.peak_at - found.backward_from) < 0.2


def test_what_is_live_adds_up_to_the_peak():
    _, found = timeline(tanh_step(5), SQUARE, SQUARE)
    assert sum(live.bytes for live in found.live) == found.peak_bytes
    tanh = next(live for live in found.live if live.name == "Tanh")
    assert (tanh.count, tanh.bytes) == (5, 5 * SIZE)


def test_many_kinds_are_named_more_coarsely_and_the_rest_is_summed():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for first, second in itertools.product("abcdef", repeat=2):
                with tf.name_scope(f"{first}{second}"):
                    y = tf.tanh(y @ w)
            loss = tf.reduce_sum(tf.square(y))
        return tape.gradient(loss, x)

    _, found = timeline(step, SQUARE, SQUARE)
    assert len(found.live) <= 9
    assert found.live[0].name == "Tanh"
    assert found.live[0].count == 36
    assert sum(live.bytes for live in found.live) == found.peak_bytes


def test_aligned_timelines_share_the_start_of_the_backward_pass():
    report = step_report()
    before, after = report.timeline_before, report.timeline_after
    assert before.backward_from != after.backward_from
    points = after.aligned(before.backward_from)
    assert points[0][0] == 0.0
    assert points[-1][0] == pytest.approx(1.0)
    assert [size for _, size in points[:-1]] == [size for _, size in after.points]
    moved = after.moved(after.backward_from, before.backward_from)
    assert moved == pytest.approx(before.backward_from)


def test_a_function_left_alone_has_one_timeline_and_one_outside_none():
    report = step_report(min_bytes=1 << 30)
    assert not report.changed
    assert report.timeline_before is report.timeline_after is not None
