"""What the table says about ops that XLA compiles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from op_samples import Op, ordinary, runs
from traced import view_of

from nested_fad_tf.emit.fused_op import FusedOps
from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.ops import compiled
from nested_fad_tf.ops.elementwise import TABLE
from nested_fad_tf.plan import groups
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.wiring import Wiring


def samples(name: str):
    """An op with inputs and attributes, for each dtype that has a kernel."""
    op = Op(name)
    for dtype in (tf.float32, tf.float64):
        inputs, attrs = ordinary(op, dtype, count=5000), op.attrs(dtype)
        if runs(lambda i=inputs, a=attrs: op(i, **a)):
            yield op, inputs, attrs


def test_what_is_compiled_is_elementwise():
    assert TABLE.keys() >= compiled.COMPILED
    assert not compiled.EXACT & compiled.APPROXIMATE
    assert compiled.MULTIPLYING <= compiled.EXACT


@pytest.mark.parametrize("name", sorted(compiled.EXACT))
def test_exact_ops_give_the_same_bits_compiled(name):
    tried = 0
    for op, inputs, attrs in samples(name):
        compute = tf.function(lambda *i, o=op, a=attrs: o(i, **a), jit_compile=True)
        np.testing.assert_array_equal(compute(*inputs), op(inputs, **attrs))
        tried += 1
    assert tried


@pytest.mark.parametrize("name", sorted(compiled.EXACT))
def test_what_is_added_to_an_exact_op_is_rounded_apart(name, monkeypatch):
    """As if XLA had not contracted the two: it would where the table doesn't say `MULTIPLYING`."""
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)
    for (op, inputs, attrs), minus in itertools.product(samples(name), (False, True)):
        result = op(inputs, **attrs)
        if not result.dtype.is_floating:
            continue
        other = tf.reverse(result, [0]) / 3

        def total(*args, o=op, a=attrs, m=minus):
            *read, c = args
            return c - o(read, **a) if m else o(read, **a) + c

        args = [*inputs, other]
        specs = [tf.TensorSpec(x.shape, x.dtype) for x in args]
        wiring = Wiring(view_of(lambda *a: tf.cumsum(total(*a)), *specs), Rewrite())
        (group,) = groups.find_groups(wiring, find_roles(wiring.view), 64, choosy=False)
        arguments = {n.name: x for n, x in zip(placeholders(wiring), args, strict=True)}
        fused = FusedOps(wiring, compiled=True)
        call = tf.function(lambda a, f=fused, g=group: f.call(g, a))
        (got,) = call([arguments[v.node.name] for v in group.inputs])
        np.testing.assert_array_equal(got, total(*args))


def placeholders(wiring: Wiring):
    return [node for node in wiring.view.nodes if node.op_type == "Placeholder"]
