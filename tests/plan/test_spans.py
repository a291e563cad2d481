"""Spans within spans: what one makes is what others start from."""

from __future__ import annotations

from collections import Counter

import pytest
import tensorflow as tf
from divided import LAYERS, OPTIONS, ROWS, SIZE, SPECS, base_of, choices_of
from divided import nested as nested_of
from traced import assert_same, candidates_of, layers, numbers

import nested_fad_tf as nfad
from nested_fad_tf.ops import views
from nested_fad_tf.plan import budget
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.stages import Stages
from nested_fad_tf.plan.strategies import STRATEGIES

WEIGHTS = [numbers(128, 128, seed=i, scale=0.2) for i in range(LAYERS)]


step = layers(tf.tanh)


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    return candidates_of(step, *SPECS)


@pytest.fixture(scope="module")
def stages(candidates) -> Stages:
    return Stages(candidates)


@pytest.fixture(scope="module")
def choices(candidates, stages) -> list:
    return choices_of(candidates, stages, base_of(candidates, stages))


@pytest.fixture(scope="module")
def nested(choices) -> list:
    return nested_of(choices)


@pytest.fixture(scope="module")
def attempts(candidates, stages, nested) -> list[Attempt]:
    """What those come to."""
    return [attempt(candidates, stages, choice.cut, 0.0, OPTIONS) for choice in nested]


def test_spans_lie_within_those_before_them(nested):
    assert len(nested) > 10
    for choice in nested:
        for i, span in enumerate(choice.cut.spans):
            assert span.first.id in span.stages
            if span.outer is not None:
                assert span.outer in choice.cut.spans[:i]
                assert span.stages < span.outer.stages
                assert span.first.id > span.outer.first.id


def test_copies_are_counted_as_they_are_made(stages, attempts):
    for tried in attempts:
        made = Counter(
            node.origin.id
            for node in tried.rewrite.nodes
            if node.op_type == node.origin.op_type and node.op_type not in views.ALIASES
        )
        assert made == stages.copies(tried.cut)


def test_peaks_are_about_those_that_were_estimated(nested, attempts):
    for choice, tried in zip(nested, attempts, strict=True):
        # What a span needs while it runs is left out.
        made = max(len(span.recomputed) for span in choice.cut.spans)
        assert choice.peak - 2 * SIZE <= tried.peak <= choice.peak + (made + 1) * SIZE


def test_the_same_peak_takes_less_work_than_with_single_spans(choices, nested):
    single = [c for c in choices if c not in nested]
    least = min(c.peak for c in single)
    work, alone = (min(c.total for c in some if c.peak <= least) for some in (nested, single))
    assert work < 0.9 * alone


def test_the_loss_does_not_hold_what_it_reads(candidates, monkeypatch):
    def least() -> int:
        return STRATEGIES["auto"](candidates, OPTIONS.replace(budget=1)).after.peak_bytes

    found = least()
    monkeypatch.setattr(Stages, "aside", ())
    assert found < least() - 0.9 * SIZE


@pytest.mark.parametrize("kwargs", [{}, {"jit_compile": True}])
def test_loss_and_gradients_are_the_same(kwargs, monkeypatch):
    tried = []

    def spy(candidates, stages, cut, seconds, options):
        tried.append(attempt(candidates, stages, cut, seconds, options))
        return tried[-1]

    monkeypatch.setattr(budget, "attempt", spy)
    rewritten = nfad.function(step, options=OPTIONS.replace(budget=1), **kwargs)
    x = numbers(*ROWS.shape, seed=99)
    assert_same(rewritten(x, *WEIGHTS), tf.function(step, **kwargs)(x, *WEIGHTS))
    chosen = min(tried, key=lambda t: t.peak)
    assert any(span.outer for span in chosen.cut.spans)
    assert rewritten.reports[-1].predicted_peak_after == chosen.peak
