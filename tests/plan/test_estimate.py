"""Estimated peaks against simulated ones."""

from __future__ import annotations

import statistics

import pytest
import tensorflow as tf
from divided import OPTIONS, base_of, choices_of
from traced import SIDE, SIZE, SQUARE, candidates_of, layers, names, nodes

from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.estimate import Estimator
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.plan.stages import Stages


def step(x, *weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        h = x
        for weight in weights:
            h = tf.tanh(h @ weight)
        loss = tf.reduce_sum(h * h)
    return tape.gradient(loss, x)


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    return candidates_of(step, *[SQUARE] * 9)


@pytest.fixture(scope="module")
def base(candidates) -> Attempt:
    return base_of(candidates, Stages(candidates))


def test_nothing_changed_is_what_was_simulated(candidates, base):
    assert Estimator(candidates.view, base.lifetimes).peak({}, {}) == base.lifetimes.peak_bytes
    plain = simulate(candidates.view)
    assert Estimator(candidates.view, plain).peak({}, {}) == plain.peak_bytes


def resumable(candidates, base):
    """The kept tanh of each layer, and the stage that reads it first; the last layers first."""
    readers = Stages(candidates).readers_of(base.cut)
    return {v.id: readers[v.id][0] for v in reversed(base.cut.kept) if v.id in readers}


def test_what_is_resumed_is_not_held_in_between(candidates, base):
    estimator = Estimator(candidates.view, base.lifetimes)
    peak = base.lifetimes.peak_bytes
    stages = resumable(candidates, base)
    first_layers = list(stages)[-3:]
    for count in (1, 2, 3):
        resumed = {i: stages[i] for i in first_layers[:count]}
        assert estimator.peak(resumed, {}) == peak - count * SIZE


def test_more_resumed_is_never_more_and_more_kept_never_less(candidates, base):
    estimator = Estimator(candidates.view, base.lifetimes)
    stages = resumable(candidates, base)
    resumed: dict = {}
    last = base.lifetimes.peak_bytes
    for root, stage in stages.items():
        resumed[root] = stage
        peak = estimator.peak(resumed, {})
        assert 0 < peak <= last
        last = peak
    added = {}
    product = nodes(candidates.view, "MatMul")[0]
    for root, stage in stages.items():
        added[root] = stage
        assert estimator.peak({}, added) >= base.lifetimes.peak_bytes
    assert estimator.peak({}, {product.outputs[0].id: list(stages.values())[-1]}) == (
        base.lifetimes.peak_bytes + SIZE
    )


def test_resumed_and_added_cancel(candidates, base):
    estimator = Estimator(candidates.view, base.lifetimes)
    stages = resumable(candidates, base)
    assert estimator.peak(stages, stages) == base.lifetimes.peak_bytes


def test_what_never_lived_past_the_forward_pass_changes_nothing(candidates, base):
    estimator = Estimator(candidates.view, base.lifetimes)
    root, stage = next(iter(resumable(candidates, base).items()))
    # Computed again right where it is made: there is nothing in between.
    assert estimator.peak({root: candidates.view.values[root].node}, {}) == (
        base.lifetimes.peak_bytes
    )
    assert stage.id != candidates.view.values[root].node.id


def test_choices_of_a_budget_are_about_what_is_simulated(candidates, base):
    stages = Stages(candidates)
    choices = choices_of(candidates, stages, base)
    assert len(choices) > 3
    for choice in choices:
        simulated = attempt(candidates, stages, choice.cut, 0.0, OPTIONS).lifetimes.peak_bytes
        # What a span needs while it runs is left out.
        held = max((len(s.recomputed) for s in choice.cut.spans), default=0)
        assert choice.peak - 2 * SIZE <= simulated <= choice.peak + (held + 1) * SIZE


def test_what_a_loss_reads_is_not_counted_once_something_runs_again():
    """Without copies that wait for it, the executor leaves a loss for the end."""
    rows = tf.TensorSpec([4 * SIDE, SIDE])
    candidates = candidates_of(layers(tf.tanh, residual=True), rows, *[SQUARE] * 10)
    stages = Stages(candidates)
    assert names(stages.aside) == ["Sum"]
    choices = choices_of(candidates, stages, base_of(candidates, stages, 256.0))
    off = [c.peak - attempt(candidates, stages, c.cut, 0.0, OPTIONS).peak for c in choices]
    assert abs(statistics.median(off)) < SIZE
