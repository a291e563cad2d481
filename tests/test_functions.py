"""When and on what the rewrite runs: `function`, `rewriting`, `explain`."""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import transform
from traced import mish, numbers

import nested_fad_tf as nfad

SIDE = 32
OPTIONS = nfad.Options(fuse="ops", min_bytes=256, on_error="raise")
WEIGHT = numbers(SIDE, SIDE, seed=1, scale=SIDE**-0.5)


def step(x, w=WEIGHT):
    """Runs a step."""
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = x
        for _ in range(3):
            y = mish(y @ w)
        loss = tf.reduce_sum(y)
    return loss, tape.gradient(loss, w)


def batch(rows=SIDE, seed=0):
    return numbers(rows, SIDE, seed=seed)


def assert_same(actual, expected):
    for got, want in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        want = np.asarray(want)
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


def added_ops(concrete) -> list[str]:
    return [op.name for op in concrete.graph.get_operations() if op.name.startswith("nested_fad/")]


def test_as_a_decorator_with_and_without_options():
    bare = nfad.function(step)
    called = nfad.function(options=OPTIONS)(step)
    assert isinstance(bare, nfad.Function)
    assert bare.options == nfad.Options()
    assert called.options is OPTIONS
    assert_same(called(batch()), step(batch()))
    assert called.reports[-1].changed


def test_it_looks_like_what_it_wraps():
    rewritten = nfad.function(step, options=OPTIONS)
    assert rewritten.__name__ == "step"
    assert rewritten.__doc__ == "Runs a step."
    assert rewritten.__wrapped__ is step
    assert rewritten.__module__ == step.__module__
    assert rewritten.python_function is step
    with pytest.raises(AttributeError):
        _ = rewritten.no_such_attribute


def test_one_report_and_one_rewrite_a_trace():
    rewritten = nfad.function(step, options=OPTIONS)
    assert rewritten.reports == []
    rewritten(batch())
    rewritten(batch(seed=5))
    assert len(rewritten.reports) == rewritten.experimental_get_tracing_count() == 1
    rewritten(batch(2 * SIDE))
    assert len(rewritten.reports) == rewritten.experimental_get_tracing_count() == 2
    assert all(r.changed for r in rewritten.reports)


def test_get_concrete_function():
    rewritten = nfad.function(step, options=OPTIONS)
    spec = tf.TensorSpec([SIDE, SIDE])
    concrete = rewritten.get_concrete_function(spec, spec)
    assert added_ops(concrete)
    assert len(rewritten.reports) == 1
    assert_same(concrete(batch(), WEIGHT), step(batch(), WEIGHT))
    assert rewritten.get_concrete_function(spec, spec) is concrete
    assert len(rewritten.reports) == 1


def test_an_input_signature():
    spec = [tf.TensorSpec([None, SIDE]), tf.TensorSpec([SIDE, SIDE])]
    rewritten = nfad.function(step, options=OPTIONS, input_signature=spec)
    for rows in (SIDE, 7):
        assert_same(rewritten(batch(rows), WEIGHT), step(batch(rows), WEIGHT))
    assert rewritten.experimental_get_tracing_count() == 1
    assert rewritten.input_signature == tuple(spec)


def test_reduce_retracing():
    rewritten = nfad.function(step, options=OPTIONS, reduce_retracing=True)
    for rows in (16, 48, 32, 64):
        assert_same(rewritten(batch(rows)), step(batch(rows)))
    assert rewritten.experimental_get_tracing_count() == 2
    assert [r.nominal_size for r in rewritten.reports] == [None, 48]


def test_keyword_arguments_and_structures():
    @nfad.function(options=OPTIONS)
    def rewritten(inputs, *, scale=1.0, flag=True):
        loss, gradient = step(inputs["x"] * scale)
        return {"loss": loss, "gradient": gradient if flag else None}

    assert rewritten({"x": batch()}, flag=False)["gradient"] is None
    assert_same(rewritten({"x": batch()}, scale=2.0)["loss"], step(batch() * 2.0)[0])


class Model:
    def __init__(self, seed):
        self.weight = tf.Variable(numbers(SIDE, SIDE, seed=seed, scale=SIDE**-0.5))

    @nfad.function(options=OPTIONS)
    def step(self, x):
        """Steps."""
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(mish(mish(mish(x @ self.weight) @ self.weight) @ self.weight))
        gradient = tape.gradient(loss, self.weight)
        self.weight.assign_sub(0.01 * gradient)
        return loss


def test_methods_are_bound_and_report_an_instance_at_a_time():
    first, second = Model(1), Model(2)
    losses = float(first.step(batch())), float(second.step(batch()))
    assert losses[0] != losses[1]
    first.step(batch(64))
    assert len(first.step.reports) == 2
    assert len(second.step.reports) == 1
    assert Model.step.reports == []
    assert first.step is first.step
    assert first.step is not second.step
    assert Model.step.__doc__ == first.step.__doc__ == "Steps."
    for report in [*first.step.reports, *second.step.reports]:
        assert report.changed


def test_a_method_does_not_keep_its_instance_alive():
    model = Model(1)
    model.step(batch())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_it_can_be_copied():
    rewritten = nfad.function(step, options=OPTIONS)
    assert copy.copy(rewritten).options is OPTIONS


def test_nested_functions_report_to_their_own():
    inner = nfad.function(step, options=OPTIONS)

    @nfad.function(options=OPTIONS)
    def outer(x):
        loss, gradient = inner(x)
        return loss + 1.0, gradient

    assert_same(outer(batch())[1], step(batch())[1])
    assert [r.function_name for r in inner.reports] == ["step"]
    assert [r.function_name for r in outer.reports] == ["outer"]
    assert inner.reports[0].changed


def test_rewriting_sees_every_function_traced_inside():
    plain = tf.function(step)
    with nfad.rewriting(OPTIONS) as session:
        inside = plain(batch())
        assert_same(tf.function(lambda x: x + 1.0)(batch()), batch() + 1.0)
    assert len(session.reports) == 2
    assert [r.changed for r in session.reports] == [True, False]
    assert "no gradient" in session.reports[1].reason
    assert_same(inside, step(batch()))
    plain(batch(64))  # traced after the block
    assert len(session.reports) == 2


def test_functions_traced_before_the_block_stay_as_they_are():
    plain = tf.function(step)
    concrete = plain.get_concrete_function(batch())
    with nfad.rewriting(OPTIONS) as session:
        plain(batch())
    assert session.reports == []
    assert not added_ops(concrete)


def test_the_list_of_transforms_is_restored():
    before = list(transform.FUNC_GRAPH_TRANSFORMS)
    with nfad.rewriting(OPTIONS):
        assert len(transform.FUNC_GRAPH_TRANSFORMS) == len(before) + 1
        with nfad.rewriting(OPTIONS):
            assert len(transform.FUNC_GRAPH_TRANSFORMS) == len(before) + 1
        assert len(transform.FUNC_GRAPH_TRANSFORMS) == len(before) + 1
    assert before == transform.FUNC_GRAPH_TRANSFORMS


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_list_of_transforms_is_restored_after_an_exception(error):
    before = list(transform.FUNC_GRAPH_TRANSFORMS)
    with pytest.raises(error), nfad.rewriting(OPTIONS):
        raise error
    assert before == transform.FUNC_GRAPH_TRANSFORMS

    @nfad.function
    def failing(x):
        raise error

    with pytest.raises(error):
        failing(batch())
    assert before == transform.FUNC_GRAPH_TRANSFORMS


def test_other_transforms_stay_where_they_are():
    seen = []
    transform.FUNC_GRAPH_TRANSFORMS.append(seen.append)
    try:
        with nfad.rewriting(OPTIONS):
            tf.function(step)(batch())
        assert transform.FUNC_GRAPH_TRANSFORMS[-1] == seen.append
    finally:
        transform.FUNC_GRAPH_TRANSFORMS.remove(seen.append)
    assert len(seen) == 1


def test_threads_without_a_block_are_not_affected():
    traced, counts = threading.Event(), {}

    def elsewhere():
        concrete = tf.function(step).get_concrete_function(batch())
        counts["elsewhere"] = len(added_ops(concrete))
        with nfad.rewriting(OPTIONS) as own:
            tf.function(step).get_concrete_function(batch())
        counts["own"] = len(own.reports)
        traced.set()

    with nfad.rewriting(OPTIONS) as session:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        concrete = tf.function(step).get_concrete_function(batch())
    assert traced.is_set()
    assert counts == {"elsewhere": 0, "own": 1}
    assert len(session.reports) == 1
    assert added_ops(concrete)


def test_the_innermost_block_decides():
    with nfad.rewriting(OPTIONS) as outer:
        with nfad.rewriting(OPTIONS.replace(strategy="recompute")) as inner:
            tf.function(step).get_concrete_function(batch())
        tf.function(step).get_concrete_function(batch())
    assert [r.strategy for r in inner.reports] == ["recompute"]
    assert [r.strategy for r in outer.reports] == ["auto"]


def test_rewriting_cannot_verify():
    with (
        pytest.raises(nfad.OptionsError, match="verify"),
        nfad.rewriting(nfad.Options(verify=True)),
    ):
        pass


def test_explain_changes_nothing_and_runs_nothing():
    counter, ran = tf.Variable(0), []

    def counted(x):
        counter.assign_add(1)
        tf.py_function(lambda: ran.append(1), [], [])
        return step(x)

    plain = tf.function(counted)
    report = nfad.explain(plain, batch(), options=OPTIONS)
    assert report.changed
    assert report.predicted_peak_after < report.predicted_peak_before
    assert counter.numpy() == 0
    assert ran == []
    assert plain.experimental_get_tracing_count() == 0
    assert not added_ops(plain.get_concrete_function(batch()))


def test_explain_takes_functions_specs_and_concrete_functions():
    spec = tf.TensorSpec([SIDE, SIDE])
    concrete = tf.function(step).get_concrete_function(spec, spec)
    graph = concrete.graph.as_graph_def()
    reports = [
        nfad.explain(step, spec, w=spec, options=OPTIONS),
        nfad.explain(tf.function(step), spec, spec, options=OPTIONS),
        nfad.explain(concrete, options=OPTIONS),
        nfad.explain(nfad.function(step), spec, spec, options=OPTIONS),
    ]
    assert {r.predicted_peak_after for r in reports} == {reports[0].predicted_peak_after}
    assert all(r.changed for r in reports)
    assert concrete.graph.as_graph_def() == graph


def test_explain_inside_a_block_is_not_rewritten():
    with nfad.rewriting(OPTIONS) as session:
        nfad.explain(step, batch(), options=OPTIONS)
    assert session.reports == []


def test_passes_where_a_tf_function_is_asked_for():
    function = nfad.function(lambda x: x)
    assert isinstance(function, type(tf.function(lambda x: x)))
