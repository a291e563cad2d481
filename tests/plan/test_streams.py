"""Chains that every layer adds to."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import SIDE, SIZE, SQUARE, assert_same, candidates_of, names, normalized, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan import auto
from nested_fad_tf.plan.attempt import attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Costs, Cut, minimum_cut
from nested_fad_tf.plan.stages import Stages
from nested_fad_tf.plan.streams import with_shared_streams

OPTIONS = nfad.Options(fuse="ops", min_bytes=1024, on_error="raise")


def stream(x, weights, scale):
    """Residual blocks that add what a matrix product gives, scaled: see CaiT, arXiv 2103.17239."""
    for weight in weights:
        x = x + scale * tf.matmul(normalized(x), weight)
    return x


def step_of(depth, towers=1, dropout=False):
    weights = [
        [tf.Variable(numbers(SIDE, SIDE, seed=depth * t + i, scale=0.05)) for i in range(depth)]
        for t in range(towers)
    ]
    scale = tf.Variable(tf.fill([SIDE], 0.5))

    def step(x):
        with tf.GradientTape() as tape:
            out = [stream(x, tower, scale) for tower in weights]
            if dropout:
                out = [tf.nn.experimental.stateless_dropout(y, 0.5, seed=[1, 2]) for y in out]
            loss = tf.reduce_mean(tf.square(tf.add_n(out)))
        return loss, tape.gradient(loss, [*weights, scale])

    return step


def shared(step) -> tuple[Candidates, Stages, Cut, Cut]:
    """A step's buffers, stages, and cuts: the minimum, and that with shared streams."""
    candidates = candidates_of(step, SQUARE)
    costs, stages = Costs(candidates), Stages(candidates)

    def cut_with(checkpoints):
        return minimum_cut(candidates, 1.0, checkpoints=checkpoints)

    minimum = cut_with(())
    cut, copies = with_shared_streams(candidates, stages, costs, 1.0, cut_with)
    assert copies == stages.copies(cut)
    return candidates, stages, minimum, cut


def test_of_a_deep_stream_a_few_rungs_are_kept():
    depth = 36
    candidates, _, minimum, cut = shared(step_of(depth))
    view = candidates.view
    # The least there is: what the matrix products give. All of the stream is computed from that.
    products = {v.id for v in minimum.kept}
    assert len(products) == depth
    assert {view.values[i].node.op_type for i in products} == {"MatMul"}
    rungs = [v for v in cut.kept if v.id not in products]
    assert {v.node.op_type for v in rungs} == {"AddV2"}
    assert 2 <= len(rungs) <= 2 * np.sqrt(depth)
    assert products <= {v.id for v in cut.kept}


def test_stages_share_what_is_between_kept_rungs():
    candidates, stages, _, cut = shared(step_of(36))
    view = candidates.view
    made = [i for span in cut.spans for i in span.recomputed]
    assert len(made) == len(set(made))
    # The stream itself, and what two stages of the same block read.
    assert {view.nodes[i].op_type for i in made} <= {"AddV2", "Sub"}
    assert len([i for i in made if view.nodes[i].op_type == "AddV2"]) > 10
    assert not cut.recomputed.intersection(made)
    by = [id for span in cut.spans for id in span.stages]
    assert len(by) == len(set(by))
    assert all(span.first.id == min(span.stages) for span in cut.spans)
    copies = stages.copies(cut)
    assert all(copies[i] == 1 for i in made)


def test_copies_grow_with_the_depth_and_no_faster():
    copies = []
    for depth in (20, 80):
        _, stages, minimum, cut = shared(step_of(depth))
        copies.append(sum(stages.copies(cut).values()))
        again = sum(stages.copies(minimum).values())
    assert copies[1] < 4.5 * copies[0]
    assert copies[1] < again / 5  # by each stage for itself


def test_of_a_shallow_stream_nothing_is_shared():
    _, _, minimum, cut = shared(step_of(1))
    assert minimum.recomputed
    assert cut == minimum


def test_the_cut_without_spans_computes_the_same():
    _, stages, _, cut = shared(step_of(36))
    alone = cut.unshared
    assert not alone.spans
    assert alone.kept == cut.kept
    assert alone.recomputed > cut.recomputed
    assert sum(stages.copies(alone).values()) > sum(stages.copies(cut).values())


def test_the_peak_is_what_is_kept_and_little_else():
    depth = 36
    candidates, stages, _, cut = shared(step_of(depth))
    tried = attempt(candidates, stages, cut, 0.0, OPTIONS)
    every = tf.math.ceil(np.sqrt(depth)).numpy()
    # Weights' gradients live to the end, as large as what is kept.
    assert tried.peak < (depth + len(cut.kept) + 2 * every + 10) * SIZE


@pytest.fixture
def spans(monkeypatch):
    """How many spans each cut has that is taken by "auto"."""
    found = []

    def record(*args):
        cut, copies = with_shared_streams(*args)
        found.append(len(cut.spans))
        return cut, copies

    monkeypatch.setattr(auto, "with_shared_streams", record)
    return found


@pytest.mark.parametrize(
    ("kwargs", "options"),
    [
        ({}, {}),
        ({}, {"fuse": "xla"}),
        ({}, {"strategy": "recompute"}),
        ({}, {"budget": 0.55}),
        ({"towers": 2}, {}),
        ({"dropout": True}, {}),
    ],
)
def test_loss_and_gradients_are_the_same(kwargs, options, spans):
    step = step_of(24, **kwargs)
    x = numbers(SIDE, SIDE, seed=7)
    function = nfad.function(step, options=OPTIONS.replace(**options))
    assert_same(function(x), tf.function(step)(x))
    report = function.reports[-1]
    assert report.changed
    assert spans[-1] or spans[0]
    assert report.predicted_peak_after < 0.7 * report.predicted_peak_before


def test_of_a_compiled_step_too(spans):
    step = step_of(24)
    x = numbers(SIDE, SIDE, seed=7)
    function = nfad.function(step, options=OPTIONS, jit_compile=True)
    assert_same(function(x), tf.function(step, jit_compile=True)(x))
    assert function.reports[-1].changed
    assert any(spans)


def test_a_budget_that_shared_streams_are_within_changes_nothing():
    candidates = candidates_of(step_of(36), SQUARE)
    free = auto.plan(candidates, OPTIONS)
    budget = free.after.peak_bytes + 4 * SIZE
    assert budget < free.before.peak_bytes
    within = auto.plan(candidates, OPTIONS.replace(budget=budget))
    assert within.note.endswith("is met by recomputing element-wise ops alone")
    assert within.after.peak_bytes == free.after.peak_bytes
    assert names(within.rewrite.nodes) == names(free.rewrite.nodes)
