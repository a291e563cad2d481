"""What is left of a budget is spent on keeping more."""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
from divided import LAYERS, OPTIONS, ROWS, SIZE, SPECS, base_of, choices_of, nested
from traced import assert_same, candidates_of, layers, numbers

import nested_fad_tf as nfad
from nested_fad_tf.plan.attempt import Attempt, attempt
from nested_fad_tf.plan.candidates import Candidates
from nested_fad_tf.plan.cut import Costs
from nested_fad_tf.plan.spending import Spending
from nested_fad_tf.plan.stages import Stages


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    return candidates_of(layers(tf.tanh), *SPECS)


@pytest.fixture(scope="module")
def stages(candidates) -> Stages:
    return Stages(candidates)


@pytest.fixture(scope="module")
def costs(candidates) -> Costs:
    return Costs(candidates)


@pytest.fixture(scope="module")
def start(candidates, stages) -> Attempt:
    """Of plans with spans within spans the one with the least peak."""
    choices = choices_of(candidates, stages, base_of(candidates, stages))
    choice = min(nested(choices), key=lambda c: c.peak)
    return attempt(candidates, stages, choice.cut, choice.total, OPTIONS)


@pytest.fixture(scope="module")
def spend(candidates, stages, costs, start):
    spending = Spending(candidates, stages, costs, OPTIONS)
    return lambda more: spending.spend(start, start.peak + more)


def price_of(costs, stages, cut) -> float:
    return costs.copies(stages.copies(cut))


@pytest.mark.parametrize("more", [SIZE, 2 * SIZE, 3 * SIZE])
def test_what_is_spent_spares_work(spend, start, stages, costs, more):
    found = spend(more)
    assert start.peak < found.peak <= start.peak + more
    assert {v.id for v in start.cut.kept} < {v.id for v in found.cut.kept}
    spared = price_of(costs, stages, start.cut) - price_of(costs, stages, found.cut)
    assert spared > 0
    assert start.seconds - found.seconds == pytest.approx(spared)


def test_more_to_spend_spares_more(spend):
    seconds = [spend(more * SIZE).seconds for more in range(5)]
    assert seconds == sorted(seconds, reverse=True)
    assert len(set(seconds)) == len(seconds)


def test_the_first_thing_to_be_kept_spares_most(candidates, stages, costs, start, spend):
    def kept_too(root):
        kept = (*start.cut.kept, root)
        cut = dataclasses.replace(start.cut, kept=kept)
        return attempt(candidates, stages, cut, 0.0, OPTIONS)

    again = {i for span in start.cut.spans for i in span.recomputed}
    roots = [v for i in again for v in candidates.view.nodes[i].outputs if v.nbytes == SIZE]
    tried = [kept_too(v) for v in roots]
    within = [t for t in tried if t.peak <= start.peak + SIZE]
    least = min(price_of(costs, stages, t.cut) for t in within)
    assert price_of(costs, stages, spend(SIZE).cut) <= least


def test_with_nothing_to_spend_nothing_changes(spend, start):
    assert spend(-1) is start


def test_what_makes_nothing_any_more_is_left_out(spend, stages, start):
    found = spend(LAYERS * SIZE)
    assert len(found.cut.spans) < len(start.cut.spans)
    assert stages.without_idle_spans(found.cut) == found.cut
    assert stages.without_idle_spans(dataclasses.replace(found.cut, spans=start.cut.spans)) == (
        found.cut
    )
    for span in found.cut.spans:
        assert span.outer is None or span.outer in found.cut.spans


def test_loss_and_gradients_are_the_same(monkeypatch):
    weights = [numbers(128, 128, seed=i, scale=0.2) for i in range(LAYERS)]
    x, step = numbers(*ROWS.shape, seed=99), layers(tf.tanh, residual=True)
    found = []

    def spy(self, plan, limit):
        found.append((plan, spend(self, plan, limit)))
        return found[-1][1]

    spend = Spending.spend
    monkeypatch.setattr(Spending, "spend", spy)
    rewritten = nfad.function(step, options=OPTIONS.replace(budget=0.55))
    assert_same(rewritten(x, *weights), tf.function(step)(x, *weights))
    ((before, after),) = found
    assert rewritten.reports[-1].predicted_peak_after == after.peak > before.peak
