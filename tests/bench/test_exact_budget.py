"""The integer programme on graphs whose optimum can be stated by hand, or found by trying all."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, layers

from nested_fad_tf.bench import yardstick
from nested_fad_tf.bench.exact_budget import Programme
from nested_fad_tf.bench.exact_timeline import FORWARD, Slot, Timeline, find_timeline
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.strategies import STRATEGIES

MIB = 2**20


def timeline_of(reads: list[tuple[int, ...]], sizes: list[int]) -> Timeline:
    """Op i makes buffer i from the buffers that it reads; the backward pass reads them in reverse.

    Every buffer counts in MiB, and every op costs one to run again.
    """
    nodes: list[Any] = [SimpleNamespace(id=i) for i in range(len(reads))]
    ops = range(len(reads))
    none: frozenset[int] = frozenset()
    slots = [Slot(FORWARD, nodes[i], reads[i], (i,), none, True, 0) for i in ops]
    for stage, last in enumerate(reversed(ops)):
        slots += [Slot(stage, nodes[i], reads[i], (i,), none, False, 0) for i in range(last + 1)]
        backward: Any = SimpleNamespace(id=100 + last)
        slots.append(Slot(stage, backward, (last,), (), none, True, 0))
    bytes_of = {i: MIB * size for i, size in enumerate(sizes)}
    return Timeline(tuple(slots), bytes_of, dict.fromkeys(ops, 1.0 * MIB), {})


def chain(length: int) -> Timeline:
    return timeline_of([(i - 1,) if i else () for i in range(length)], [1] * length)


def peak_by_hand(timeline: Timeline, runs: set[tuple[int, int]]) -> float | None:
    """The peak if a buffer is held from the run that makes it to its last reader before another."""
    slots = [s for s in timeline.slots if s.must or (s.stage, s.node.id) in runs]
    held = np.zeros(len(slots))
    for buffer, size in timeline.sizes.items():
        made = [i for i, s in enumerate(slots) if buffer in s.makes]
        for i, s in enumerate(slots):
            if buffer in s.reads and (not made or i < made[0]):
                return None
        for start, end in zip(made, [*made[1:], len(slots)], strict=True):
            last = max([start, *(i for i in range(start, end) if buffer in slots[i].reads)])
            if end < len(slots) and buffer in slots[end].reads:
                last = end
            held[start : last + 1] += size
    return float(held.max())


@pytest.mark.parametrize(
    ("length", "budget", "again"),
    [
        (3, 3, 0),
        (3, 2, 1),  # the first layer, once the others are dealt with
        (4, 3, 1),
        (4, 2, 2),  # 3 and 4 are there; then 1 and 2
        (5, 2, 4),  # 4 and 5; 1, 2 and 3; 1
        (6, 2, 6),  # 5 and 6; 1 to 4; 1 and 2
        (6, 5, 1),
    ],
)
def test_a_chain(length, budget, again):
    answer = Programme(chain(length)).cheapest(budget * MIB)
    assert answer.found and answer.proven
    assert answer.price == pytest.approx(again * MIB)
    assert answer.bound == pytest.approx(again * MIB, abs=10.0)
    assert answer.peak <= budget * MIB * (1 + 1e-6)


@pytest.mark.parametrize(("length", "least"), [(1, 1), (2, 2), (5, 2)])
def test_the_least_peak_of_a_chain_is_two_layers(length, least):
    answer = Programme(chain(length)).least_peak()
    assert answer.proven
    assert answer.peak == pytest.approx(least * MIB)


def test_a_budget_that_is_too_small():
    answer = Programme(chain(4)).cheapest(1.9 * MIB)  # counts as one layer
    assert not answer.found and not answer.possible and answer.proven


def test_a_known_price_changes_nothing():
    programme = Programme(chain(5))
    for known in (4 * MIB, 10 * MIB):
        assert programme.cheapest(2 * MIB, at_most=known).price == pytest.approx(4 * MIB)


def test_nothing_cheaper_than_the_optimum_is_found():
    assert not Programme(chain(5)).cheapest(2 * MIB, at_most=3 * MIB).found


def test_what_must_not_run_twice_is_kept():
    timeline = chain(4)
    slots = tuple(s for s in timeline.slots if s.must or s.node.id != 1)
    prices = {i: price for i, price in timeline.prices.items() if i != 1}
    programme = Programme(Timeline(slots, timeline.sizes, prices, {}))
    assert programme.cheapest(4 * MIB).price == 0
    assert programme.cheapest(3 * MIB).price == pytest.approx(MIB)  # the first, for one more
    assert not programme.cheapest(2 * MIB).possible  # the second stays, and a layer needs two


@pytest.mark.parametrize(
    ("reads", "sizes"),
    [
        ([(), (0,), (1,)], [1, 1, 1]),
        ([(), (0,), (0, 1)], [1, 2, 1]),
        ([(), (), (0, 1)], [3, 1, 2]),
        ([(), (0,), (1,)], [2, 1, 3]),
    ],
)
def test_as_good_as_trying_everything(reads, sizes):
    timeline = timeline_of(reads, sizes)
    programme = Programme(timeline)
    optional = [(s.stage, s.node.id) for s in timeline.slots if not s.must]
    first = {(FORWARD, i) for i in range(len(reads))}
    best: dict[int, int] = {}
    for chosen in itertools.product([False, True], repeat=len(optional)):
        runs = {run for run, yes in zip(optional, chosen, strict=True) if yes}
        peak = peak_by_hand(timeline, runs)
        assert peak == pytest.approx(programme.peak_of(first | runs))
        for budget in range(1, sum(sizes) + 1):
            if peak <= budget * MIB:
                best[budget] = min(best.get(budget, 99), len(runs))
    for budget in range(1, sum(sizes) + 1):
        answer = programme.cheapest(budget * MIB)
        assert answer.possible == (budget in best)
        if answer.possible:
            assert answer.price == pytest.approx(best[budget] * MIB, abs=1.0)
    assert programme.least_peak().peak == pytest.approx(min(best) * MIB)


def test_a_traced_step_counts_as_much_as_it_is_simulated_to():
    candidates = candidates_of(layers(tf.tanh), *[SQUARE] * 5)
    timeline = find_timeline(candidates, 1024)
    programme = Programme(timeline)
    assert timeline.grain == SIZE
    simulated = simulate(candidates.view).peak_bytes
    runs = yardstick.runs_of(candidates, timeline, Rewrite())
    assert programme.peak_of(runs) == pytest.approx(simulated, abs=SIZE / 100)
    assert programme.cheapest(simulated).price <= 0


def test_a_plan_is_never_better_than_the_optimum():
    candidates = candidates_of(layers(tf.tanh), *[SQUARE] * 5)
    timeline = find_timeline(candidates, 1024)
    programme = Programme(timeline)
    plain = simulate(candidates.view).peak_bytes
    for budget in (0.8, 0.6):
        options = yardstick.OPTIONS.replace(min_bytes=1024, budget=budget)
        plan = STRATEGIES["auto"](candidates, options)
        runs = yardstick.runs_of(candidates, timeline, plan.rewrite)
        price = timeline.again(runs)
        peak = programme.peak_of(runs)
        assert peak is not None
        exact = programme.cheapest(max(peak, budget * plain), 10.0)
        assert exact.found and exact.price <= price + 1.0
        assert programme.least_peak(10.0).peak <= peak


def test_a_row_of_the_yardstick():
    case = yardstick.Yardstick("three layers", yardstick._mlp(tf.tanh, 3))
    least = case.least(5.0)
    row = case.row(0.9, least, 5.0)
    assert row.met and row.exact.proven
    assert row.step_ratio(row.exact.price) >= 1.0 - 1e-6
    assert row.bound <= row.heuristic.price + 1.0
    assert least.exact.peak <= least.plain_peak
