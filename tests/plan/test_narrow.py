"""Formats that derivatives are stored in, which derivatives are, and when they are packed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from traced import SIZE, SQUARE, candidates_of, mish

import nested_fad_tf as nfad
from nested_fad_tf.emit import edit
from nested_fad_tf.graph import tracing
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops.expr import Apply, Const, Leaf
from nested_fad_tf.plan import forward_ad, groups
from nested_fad_tf.plan.factor import find_regions
from nested_fad_tf.plan.formats import FORMATS, format_of
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.narrow import Narrowing
from nested_fad_tf.plan.peak import simulate
from nested_fad_tf.plan.rewrite import RewriteBuilder
from nested_fad_tf.plan.storage import Extent

LOSSY = [name for name in FORMATS if name != "exact"]
INTEGERS = ["int8", "int4", "int2"]
ROUNDINGS = ["nearest", "stochastic"]
# How far a number may be off: as a part of itself, and as one of the range of its row.
ALLOWED = {"bfloat16": (2**-8, 0), "int8": (0, 1 / 510), "int4": (0, 1 / 30), "int2": (0, 1 / 6)}
ROUNDING = {tf.float64: 1e-12, tf.float32: 1e-5, tf.bfloat16: 1e-2, tf.float16: 2e-3}


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Derivatives are worth it when the op that makes them is fused with its neighbours."""
    monkeypatch.setattr(groups, "_LEAST_SAVED", 0)


def allowed(name, rounding):
    """How far a number may be off: as a part of itself, and as one of the range of its row."""
    part, of_range = ALLOWED[name]
    if rounding == "nearest" or name == "bfloat16":
        return part, of_range
    # A whole step, of which there is one less.
    return part, 1 / (1 / (2 * of_range) - 1)


def there_and_back(name, numbers, shape=None, rounding="nearest"):
    """What comes back of a tensor that is stored in a format, and what that takes."""
    tensor = tf.convert_to_tensor(numbers)
    spec = tf.TensorSpec(shape or tensor.shape, tensor.dtype)
    taken = []

    def store(graph):
        view = GraphView.from_func_graph(graph, nominal=len(numbers))
        first, second = (n for n in view.nodes if n.op_type == "Neg")
        builder = RewriteBuilder(view)
        (value,) = first.outputs
        extent = Extent(value.dtype, value.shape, value.nbytes // value.dtype.size, view.nominal)
        chosen = format_of(name, rounding, extent) or FORMATS[name][0]
        parts = chosen.pack(NodeMaker(builder, first), value)
        back = chosen.unpack(NodeMaker(builder, second, controls=[first]), parts, value)
        builder.redirect(second, 0, back)
        edit.apply(graph, simulate(view, builder.build()), compiled=False)
        taken.append((chosen.stored_bytes(extent), sum(part.nbytes for part in parts)))

    with tracing.observing(store):
        function = tf.function(lambda x: tf.negative(tf.negative(x))).get_concrete_function(spec)
    ((priced, planned),) = taken
    assert priced == planned
    return function(tensor).numpy(), priced


def normal(*shape, dtype=tf.float32):
    return tf.cast(np.random.default_rng(1).standard_normal(shape), dtype)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16, tf.bfloat16])
@pytest.mark.parametrize(
    ("shape", "static"),
    [
        ((16, 256), None),
        ((16, 256), (None, 256)),
        ((4, 6, 256), (None, None, 256)),
        ((4, 5, 5, 12), None),
        ((4, 5, 5, 12), (None, None, None, 12)),
        ((48,), None),
    ],
)
def test_what_comes_back_is_close(name, dtype, shape, static, rounding):
    numbers = normal(*shape, dtype=dtype)
    back, nbytes = there_and_back(name, numbers, static, rounding)
    want, got = np.asarray(numbers, np.float64), np.asarray(back, np.float64)
    part, of_range = allowed(name, rounding)
    span = want.max() - want.min()  # that of a row is at most that
    most = part * np.abs(want) + (of_range + ROUNDING[dtype]) * span
    assert (np.abs(got - want) <= most).all()
    bits = {"bfloat16": 16, "int8": 8, "int4": 4, "int2": 2}[name]
    if static is None:
        assert want.size * bits // 8 <= nbytes < want.size * (bits + 2) // 8 + 16


@pytest.mark.parametrize("name", INTEGERS)
def test_a_row_has_a_scale_of_its_own(name):
    size = 10.0 ** np.arange(-30, 31, 10)[:, None]
    numbers = np.asarray(normal(7, 256)) * size.astype(np.float32)
    back, _ = there_and_back(name, numbers)
    span = numbers.max(axis=1, keepdims=True) - numbers.min(axis=1, keepdims=True)
    assert (np.abs(back - numbers) <= (ALLOWED[name][1] + 1e-5) * span).all()


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("shift", [0, 3, -3])
def test_rounding_at_random_is_right_on_average(name, shift):
    row = np.asarray(normal(256)) + np.float32(shift)
    # All rows are alike, and each is rounded by numbers of its own.
    numbers = np.tile(row, (2000, 1))
    back, _ = there_and_back(name, numbers, rounding="stochastic")
    step = np.ptp([*row, 0]) * allowed(name, "stochastic")[1]
    assert np.abs(back.mean(axis=0) - row).max() < 5 * 0.5 * step / 2000**0.5
    nearest, _ = there_and_back(name, numbers)
    assert np.abs(nearest.mean(axis=0) - row).max() > 0.3 * step
    assert len(np.unique(back[:, 0])) == 2


def test_rounding_at_random_depends_on_the_tensor_alone():
    numbers = np.asarray(normal(16, 256))
    first, second, other = (
        there_and_back("int4", array, rounding="stochastic")[0]
        for array in (numbers, numbers, numbers * np.float32(1.001))
    )
    assert (first == second).all()
    assert 0.1 < (np.abs(first - other) > 0.1).mean() < 0.9


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", LOSSY)
def test_zeros_and_ones_are_exact(name, rounding):
    mask = (np.asarray(normal(32, 256)) > 0).astype(np.float32)
    mask[0], mask[1] = 0, 1
    assert (there_and_back(name, mask, rounding=rounding)[0] == mask).all()
    signed = np.where(mask == 0, 0, np.asarray(normal(32, 256))).astype(np.float32)
    back, _ = there_and_back(name, signed, rounding=rounding)
    assert (back[mask == 0] == 0).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_come_back_finite(name, special, rounding):
    numbers = np.array(normal(8, 256))
    numbers[3, 17] = special
    back, _ = there_and_back(name, numbers, rounding=rounding)
    assert not np.isfinite(back[3, 17])
    others = np.arange(8) != 3
    assert np.isfinite(back[others]).all()
    if name == "bfloat16":
        np.testing.assert_array_equal(back[3, 17], special)
    else:
        assert not np.isfinite(back[3]).any()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", INTEGERS)
def test_large_numbers_stay_finite(name, rounding):
    numbers = np.array(normal(2, 256))
    # Their difference is beyond what a float32 holds.
    numbers[0, :2] = np.float32(2e38), np.float32(-2e38)
    assert np.isfinite(there_and_back(name, numbers, rounding=rounding)[0]).all()


@pytest.mark.parametrize("name", LOSSY)
def test_nothing_comes_back_of_nothing(name):
    assert there_and_back(name, np.zeros((0, 256), np.float32), (None, 256))[0].shape == (0, 256)


@pytest.mark.parametrize(
    ("precision", "dtype", "shape", "chosen"),
    [
        ("exact", tf.float32, (64, 256), None),
        ("int4", tf.float32, (64, 256), "int4"),
        ("int4", tf.float32, (64, 255), "int8"),
        ("int2", tf.float32, (64, 254), "int4"),
        ("int2", tf.float32, (64, 255), "int8"),
        ("int2", tf.float32, (64, None), "int8"),
        ("int2", tf.float32, None, None),
        ("bfloat16", tf.float32, None, "bfloat16"),
        ("bfloat16", tf.float64, (64, 256), "bfloat16"),
        ("bfloat16", tf.bfloat16, (64, 256), None),
        ("bfloat16", tf.float16, (64, 256), None),
        ("int8", tf.bfloat16, (64, 256), "int8"),
        # Two unknown dimensions end rows early: a scale for three numbers saves nothing.
        ("int8", tf.bfloat16, (None, 3), "int8"),
        ("int8", tf.float32, (), None),
        ("int8", tf.float32, (1,), None),
    ],
)
def test_a_format_that_holds_it_in_fewer_bytes_is_chosen(precision, dtype, shape, chosen):
    known = [32 if d is None else d for d in shape or ()]
    extent = Extent(dtype, shape, int(np.prod(known, initial=1)), 32)
    format = format_of(precision, "nearest", extent)
    assert (None if format is None else format.name) == chosen


def plan_of(step, precision, *specs):
    options = nfad.Options(strategy="forward_ad", precision=precision, fuse="xla", min_bytes=1024)
    candidates = candidates_of(step, *(specs or (SQUARE, SQUARE)), fused=True)
    return forward_ad.plan(candidates, options)


def step_of(activation, depth=4):
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for _ in range(depth):
                y = activation(y @ w)
            loss = tf.reduce_sum(y @ w)
        return loss, tape.gradient(loss, w)

    return step


@pytest.mark.parametrize("activation", [mish, tf.nn.gelu, tf.nn.silu, tf.nn.softplus])
@pytest.mark.parametrize("precision", LOSSY)
def test_outputs_are_kept_as_they_are_and_derivatives_narrow(activation, precision):
    plan = plan_of(step_of(activation), precision)
    narrow = [keep for keep in plan.kept_after if keep.format != "exact"]
    assert [keep.format for keep in narrow] == [precision] * 4
    assert all(keep.why.endswith(f"(kept as {precision}, lossy)") for keep in narrow)
    rest = [keep for keep in plan.kept_after if keep.format == "exact"]
    assert [keep.nbytes for keep in rest] == [SIZE] * 4
    bits = {"bfloat16": 16, "int8": 8, "int4": 4, "int2": 2}[precision]
    assert sum(keep.nbytes for keep in narrow) <= 4 * SIZE * (bits + 0.5) / 32
    assert plan.after.peak_bytes < plan_of(step_of(activation), "exact").after.peak_bytes
    assert {decision.action for decision in plan.decisions} == {"keep derivatives"}
    assert plan.note == f"derivatives kept: 4 {precision} (gradients are approximate)"


@pytest.mark.parametrize("activation", [mish, tf.nn.gelu, tf.nn.silu])
def test_the_next_layer_waits_for_the_packing(activation):
    plan = plan_of(step_of(activation), "int4")
    names = [step.node.name for step in plan.after.steps]
    packed = sorted(i for i, name in enumerate(names) if name.endswith("int4_packed"))
    products = [i for i, name in enumerate(names) if name.startswith("matmul")]
    assert len(packed) == 4 and len(products) == 5
    for layer, index in enumerate(packed):
        assert products[layer] < index < products[layer + 1]


def test_relu_is_left_alone():
    assert not plan_of(step_of(tf.nn.relu), "int8").rewrite


def formats_in(step, min_bytes=1024):
    """For each derivative of a step, by what kind of expression it is, the format it is kept in."""
    candidates = candidates_of(step, SQUARE, SQUARE)
    narrowing = Narrowing(candidates, nfad.Options(precision="int8", min_bytes=min_bytes))
    return {
        (type(d), None if (f := narrowing.formats(region).get(d)) is None else f.name)
        for region in find_regions(candidates)
        for row in region.derivatives.values()
        for d in row.values()
        if not isinstance(d, Const)
    }


def test_a_value_that_the_loss_depends_on_is_not_stored_with_a_loss():
    def gated(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.tanh(x @ w) * (x @ tf.transpose(w))
            loss = tf.reduce_sum(y @ w)
        return loss, tape.gradient(loss, w)

    # The tanh is the gate's derivative as it is. The other derivative is a product with the gate.
    assert formats_in(gated) == {(Leaf, None), (Apply, "int8")}


def test_a_factor_of_a_custom_gradient_is_no_value_of_the_forward_pass():
    assert (Leaf, "int8") in formats_in(step_of(tf.nn.silu))


def test_what_is_delayed_on_purpose_is_not_packed_in_the_forward_pass():
    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x @ w
            loss = tf.reduce_sum(y @ w)
        dy = tape.gradient(loss, y)
        with tf.control_dependencies([tf.print(tf.reduce_sum(dy))]):
            late = tf.tanh(y) * 2.0
        return loss, dy * late

    assert {name for _, name in formats_in(step)} <= {None}


def test_small_derivatives_stay_exact():
    assert formats_in(step_of(mish)) == {(Apply, "int8")}
    assert formats_in(step_of(mish), min_bytes=2 * SIZE) == {(Apply, None)}
