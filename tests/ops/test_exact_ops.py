"""What the table says about ops that XLA compiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import step_groups
import tensorflow as tf
from op_samples import Op, ordinary, runs

from nested_fad_tf.ops import compiled
from nested_fad_tf.ops.elementwise import TABLE
from nested_fad_tf.plan import groups


def sample(name: str, dtype: tf.DType):
    """An op with inputs and attributes; `None` if it has no kernel for a dtype."""
    op = Op(name)
    inputs, attrs = ordinary(op, dtype, count=5000), op.attrs(dtype)
    return (op, inputs, attrs) if runs(lambda: op(inputs, **attrs)) else None


def test_what_is_compiled_is_elementwise():
    assert TABLE.keys() >= compiled.COMPILED
    assert not compiled.EXACT & compiled.APPROXIMATE
    assert compiled.MULTIPLYING <= compiled.EXACT


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_exact_ops_give_the_same_bits_compiled(dtype):
    tried = {name: found for name in compiled.EXACT if (found := sample(name, dtype))}
    assert len(tried) > len(compiled.EXACT) / 2

    @tf.function(jit_compile=True)
    def compute(inputs):
        return {name: op(inputs[name], **attrs) for name, (op, _, attrs) in tried.items()}

    found = compute({name: inputs for name, (_, inputs, _) in tried.items()})
    for name, (op, inputs, attrs) in tried.items():
        np.testing.assert_array_equal(found[name], op(inputs, **attrs), err_msg=name)


@pytest.mark.parametrize("name", sorted(compiled.EXACT))
def test_what_is_added_to_an_exact_op_is_rounded_apart(name, monkeypatch):
    """As if XLA had not contracted the two: it would where the table doesn't say `MULTIPLYING`."""
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)
    signs = (False, True) if name in compiled.MULTIPLYING else (False,)
    for dtype, minus in itertools.product((tf.float32, tf.float64), signs):
        tried = sample(name, dtype)
        if tried is None:
            continue
        op, inputs, attrs = tried
        result = op(inputs, **attrs)
        if not result.dtype.is_floating:
            continue
        other = tf.reverse(result, [0]) / 3

        def total(*args, o=op, a=attrs, m=minus):
            *read, c = args
            return c - o(read, **a) if m else o(read, **a) + c

        args = [*inputs, other]
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in args]
        got = step_groups.call(*step_groups.find(total, *specs), *args)
        np.testing.assert_array_equal(got, total(*args))
