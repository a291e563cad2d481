"""Random training steps give the same results with and without the rewrite."""

import collections
import dataclasses
import functools

import hypothesis
import numpy as np
import pytest
import random_graphs
import tensorflow as tf
from hypothesis import strategies as st

import nested_fad_tf as nfad
from nested_fad_tf.plan import lossy

# Found by Hypothesis once and forever: every run tests the same programs.
SETTINGS = hypothesis.settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


def check_many(examples, options, programs, forced=False):
    """Compares random programs; gives how often they were rewritten, and identical."""
    counts = collections.Counter()

    @hypothesis.settings(SETTINGS, max_examples=examples)
    @hypothesis.given(programs, st.sampled_from(options))
    def check(program, option):
        outcome = random_graphs.compare(program, option, forced)
        counts.update(
            all=1,
            changed=outcome.changed,
            comparable=outcome.changed and not program.grappler,
            identical=outcome.changed and not program.grappler and outcome.identical,
        )
        assert not outcome.problem, f"{outcome.problem}\n\n{program.script(option)}"

    check()
    return counts


def test_recomputation_changes_nothing():
    options = [nfad.Options(strategy=s, fuse="ops") for s in ("auto", "recompute")]
    counts = check_many(40, options, random_graphs.programs(), forced=True)
    assert counts["changed"] >= 0.6 * counts["all"], counts
    # All of them, but for sums whose order depends on who else reads the summands.
    assert counts["identical"] >= 0.9 * counts["comparable"], counts


def test_plans_predict_no_higher_peak():
    # At the sizes of their calls, seven rows at times, fewer programs are worth a plan.
    large = nfad.Options(fuse="ops", nominal_size=32)
    options = [large.replace(strategy=s) for s in ("auto", "recompute")]
    counts = check_many(12, options, random_graphs.programs())
    assert counts["changed"] >= 0.2 * counts["all"], counts


@pytest.mark.parametrize(
    "strategy", ["forward_ad", pytest.param("recompute", marks=pytest.mark.slow)]
)
def test_rewrites_that_gain_nothing_change_nothing_either(strategy):
    options = [nfad.Options(strategy=strategy, fuse="ops")]
    counts = check_many(15, options, random_graphs.programs(), forced=True)
    assert counts["changed"] >= 0.5 * counts["all"], counts


def test_other_dtypes():
    options = [nfad.Options(strategy=s, fuse="ops") for s in ("auto", "recompute")]
    dtypes = ("float64", "bfloat16", "float16")
    counts = check_many(12, options, random_graphs.programs(dtypes), forced=True)
    assert counts["changed"] >= 0.5 * counts["all"], counts


def test_compiled_groups_differ_by_rounding_only():
    options = [
        nfad.Options(strategy="auto", fuse="xla"),
        nfad.Options(strategy="auto", fuse="auto"),
        nfad.Options(strategy="forward_ad", fuse="xla"),
    ]
    counts = check_many(5, options, random_graphs.programs(most=6), forced=True)
    assert counts["changed"] >= 0.5 * counts["all"], counts


LOSSY = {
    "activations": [
        {"activations": "bfloat16"},
        {"activations": "int8", "rounding": "stochastic"},
        {"activations": "int2"},
    ],
    "derivatives": [
        {"strategy": "forward_ad", "precision": name} for name in ("int4", "inverse", "inverse")
    ],
}


@pytest.mark.parametrize(("kind", "least"), [("activations", 0.3), ("derivatives", 0.15)])
def test_fewer_bits_change_nothing_but_gradients(kind, least, monkeypatch):
    monkeypatch.setattr(lossy, "_is_better", lambda *_: True)
    counts = collections.Counter()

    @hypothesis.settings(SETTINGS, max_examples=20)
    @hypothesis.given(random_graphs.programs(), st.sampled_from(LOSSY[kind]))
    def check(program, changes):
        # One tape: else the loss is made of gradients, too.
        program = dataclasses.replace(program, way="one tape", returns=True, grappler=False)
        options = nfad.Options(fuse="ops", on_error="raise", min_bytes=program.min_bytes, **changes)
        plain = random_graphs.run(program, tf.function)
        with random_graphs.eager(forced=kind == "derivatives"):
            rewritten = random_graphs.run(
                program, functools.partial(nfad.function, options=options)
            )
        names = [name for name in plain.results if name.startswith("call 0")]
        loss, *gradients, middle, out = names
        for name in (loss, middle, out):
            np.testing.assert_array_equal(rewritten.results[name], plain.results[name], name)
        counts.update(
            all=1,
            narrow=any(
                k.format in changes.values() for r in rewritten.function.reports for k in r.kept
            ),
            off=any((plain.results[n] != rewritten.results[n]).any() for n in gradients),
        )

    check()
    assert counts["narrow"] >= least * counts["all"], counts
    assert counts["off"] >= 0.7 * least * counts["all"], counts


def test_a_counterexample_is_a_script_that_runs():
    program = random_graphs.program(5)
    script = program.script(nfad.Options(fuse="ops", min_bytes=256))
    compile(script, "counterexample", "exec")
    assert all(line in script for line in program.lines)


def test_shrinking_keeps_what_fails():
    program = random_graphs.program(5)
    wanted = program.lines[3]
    small = random_graphs.shrink(program, lambda other: wanted in other.lines)
    assert small.lines[3] == wanted
    assert all(line.split(" = ")[1] in ("x", "bias") for line in small.lines[:3])
