"""Gives cones gradients of their own, computed from chosen residuals.

The result of a cone goes through an `IdentityN` whose registered gradient multiplies the cotangent
by the cone's derivatives, as `tf.custom_gradient` would have it. Two things differ from there. The
inputs of the cone pass as integers, bit by bit, because TensorFlow makes zeros for every floating
output of an op that has no cotangent, and would keep each input for its shape. And residuals are
inputs of that op too, so that they are found when the graph was copied, and are computed, and what
they are computed from freed, before anyone reads the result.

Residuals are computed by ordinary ops, so that higher derivatives go through them.

SavedModels keep such gradients (`SaveOptions(experimental_custom_gradients=True)`): while saving,
the gradient is traced without an op.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import expression, primitives
from nested_fad_tf.emit.attributes import attribute
from nested_fad_tf.emit.cone_kernels import Kernels, products, structure, times
from nested_fad_tf.emit.outlined import Outlines
from nested_fad_tf.graph.view import GraphView, Value, static_shape
from nested_fad_tf.ops.expr import Const, Expr
from nested_fad_tf.plan.outside import Residual

_OF_WEIGHTS = frozenset(
    {
        "BatchMatMulV2",
        "Conv2DBackpropFilter",
        "Conv3DBackpropFilterV2",
        "DepthwiseConv2dNativeBackpropFilter",
        "Einsum",
        "MatMul",
    }
)
_BITS = {tf.bfloat16: tf.int16, tf.float32: tf.int32, tf.float64: tf.int64}


def _unique(name: str) -> str:
    """A name for a gradient, unlike all others: a graph from another process may bring some."""
    return f"{name}{uuid.uuid4().hex}"


@functools.cache
def _pass_through(shape: tuple[int | None, ...] | None, dtype: tf.DType) -> str:
    """Registers the gradient of taking a tensor's bits: what arrives is the tensor's cotangent.

    A SavedModel stores it once a name, traced for one shape.
    """
    name = _unique("NestedFadPassThrough")

    @tf.autograph.experimental.do_not_convert
    def passed(op: Any, cotangent: tf.Tensor) -> tf.Tensor:
        return cotangent

    tf.RegisterGradient(name)(passed)
    return name


def apply(
    graph: Any, view: GraphView, residuals: Sequence[Residual], outlines: Outlines | None = None
) -> None:
    """Rewrites a graph in place.

    Args:
        graph: The `FuncGraph` that the plan was made for.
        view: The view of it.
        residuals: What to do.
        outlines: Where to put gradients that a SavedModel is to hold.
    """
    kernels = Kernels()
    results: dict[Value, tf.Tensor] = {}  # of the cones so far, with their own gradients
    for residual in residuals:
        name = residual.cone.output.node.name
        with (
            graph.as_default(),
            tf.control_dependencies(None),
            tf.name_scope(""),
            tf.device(residual.cone.output.node.device or None),
            tf.name_scope(f"nested_fad/{name}/"),
        ):
            result = _emit(residual, kernels, results, outlines)
        results[residual.cone.output] = result
        for reader, index in view.consumers[residual.cone.output.id]:
            assert reader.op is not None
            primitives.redirect(reader.op, index, result)


def _emit(
    residual: Residual,
    kernels: Kernels,
    results: Mapping[Value, tf.Tensor],
    outlines: Outlines | None,
) -> tf.Tensor:
    cone = residual.cone
    tensors: dict[Any, tf.Tensor] = {v: results.get(v, _tensor(v)) for v in cone.inputs}
    if residual.compiled:
        result, kept = kernels.forward(residual, tensors)
    else:
        memo: dict[Any, tf.Tensor] = {(e, None): _tensor(v) for e, v in _computed(residual).items()}
        kept = [expression.build(e, tensors, memo, cone.output.dtype) for e in residual.kept]
        result = _tensor(cone.output)
    shapes = [_shape_of(tensors[v], result) for v in cone.active]
    arguments = [result, *(tensors[v] for v in cone.active), *kept]
    arguments += [s for s in shapes if s is not None]
    reduced = [s is not None for s in shapes]

    def attach(inner: Sequence[tf.Tensor]) -> tf.Tensor:
        return _with_gradient(residual, inner, reduced, kernels)

    if outlines is None:
        return attach(arguments)
    active = tuple(cone.inputs.index(v) for v in cone.active)
    exprs = (cone.expr, *residual.derivatives)
    forms = structure(residual, residual.kept), structure(residual, exprs)
    key = forms, active, residual.compiled, tuple(reduced)
    first = 1 + len(active)
    return outlines.call(key, arguments, range(first, first + len(kept)), attach)


def _with_gradient(
    residual: Residual, arguments: Sequence[tf.Tensor], reduced: Sequence[bool], kernels: Kernels
) -> tf.Tensor:
    """The result of a cone, with the gradient that it is to have.

    Args:
        residual: The cone.
        arguments: Its result, its active inputs, what is kept, and shapes to sum to.
        reduced: For each active input, whether there is such a shape.
        kernels: Compiled functions.

    Returns:
        The result.
    """
    graph: Any = tf.compat.v1.get_default_graph()
    count = 1 + len(reduced)
    kept = arguments[count : count + len(residual.kept)]
    given = iter(arguments[count + len(kept) :])
    shapes = tuple(next(given) if r else None for r in reduced)
    factors = kernels.backward(residual, kept) if residual.compiled else None
    gradient = _Gradient(residual, tuple(kept), shapes, factors)
    carried = [_bits(graph, t) for t in [*arguments[1:count], *kept]]
    inputs = [arguments[0], *carried, *(s for s in shapes if s is not None)]
    name = _unique("NestedFad")

    @tf.autograph.experimental.do_not_convert
    def registered(op: Any, *cotangents: tf.Tensor) -> list[tf.Tensor | None]:
        return gradient(op, *cotangents)

    tf.RegisterGradient(name)(registered)
    dtypes = [t.dtype for t in inputs]
    attrs = {"T": attribute(dtypes), "_gradient_op_type": attribute(name)}
    op = primitives.create(graph, "IdentityN", inputs, dtypes, attrs, name="result")
    op.outputs[0].set_shape(inputs[0].shape)
    return op.outputs[0]


def _computed(residual: Residual) -> Mapping[Expr, Value]:
    """Values inside the cone, by expression: what is kept of them needn't be made again."""
    cone = residual.cone
    return {cone.exprs[n.outputs[0].id]: n.outputs[0] for n in cone.nodes}


def _tensor(value: Value) -> tf.Tensor:
    assert value.node.op is not None
    return value.node.op.outputs[value.index]


def _bits(graph: Any, tensor: tf.Tensor) -> tf.Tensor:
    """A floating tensor's bits, for which nobody makes zeros; others as they are."""
    if not tensor.dtype.is_floating:
        return tensor
    name = _pass_through(static_shape(tensor), tensor.dtype)
    with graph.gradient_override_map({"Bitcast": name}):
        return tf.raw_ops.Bitcast(input=tensor, type=_BITS[tensor.dtype])


def _shape_of(source: tf.Tensor, result: tf.Tensor) -> tf.Tensor | None:
    """The shape that a cotangent has to be summed to; `None` if it is the result's for sure."""
    if source.shape.is_fully_defined():
        return (
            None if source.shape == result.shape else tf.constant(source.shape.as_list(), tf.int32)
        )
    return tf.raw_ops.Shape(input=source)


def _beside(cotangent: tf.Tensor) -> list[tf.Operation]:
    """Gradients of weights that are read from the same cotangents as this one is.

    In the backward function of an eager tape the executor runs down the chain of cotangents first
    and leaves the gradients of all weights, with what they read, for the end. They had better be
    done before the next cotangent is made. All of them are results there; elsewhere one that isn't
    needed would be computed for nothing.
    """
    graph: Any = tf.compat.v1.get_default_graph()
    outer = getattr(graph, "outer_graph", None)
    if outer is None or outer.building_function:
        return []
    own = cotangent.op
    read = (t for t in own.inputs if t.graph is graph)
    return [r for t in read for r in t.consumers() if r is not own and r.type in _OF_WEIGHTS]


def _unwrapped(carried: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The tensor whose bits were carried."""
    return carried.op.inputs[0] if dtype.is_floating else carried


def _sum_to(product: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Sums over what was broadcast."""
    sizes = tf.raw_ops.Shape(input=product)
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=shape, s1=sizes)
    return tf.reshape(tf.reduce_sum(product, axes), shape)


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """The gradient of one cone.

    Attributes:
        residual: What it is computed from.
        kept: The kept tensors, in the order of `residual.kept`.
        shapes: The shapes of the active inputs, where they aren't the result's.
        compiled: A function from the cotangent and the kept tensors to the products with those
            derivatives that are no numbers; `None` if plain ops compute them.
    """

    residual: Residual
    kept: tuple[tf.Tensor, ...]
    shapes: tuple[tf.Tensor | None, ...]
    compiled: Any = None

    def __call__(self, op: Any, *cotangents: tf.Tensor) -> list[tf.Tensor | None]:
        """Computes the cotangents of the op's inputs.

        Args:
            op: The op, perhaps in a copy of the graph; `None` while a SavedModel is written.
            *cotangents: Of its outputs; only the first has one.

        Returns:
            The cotangents: for the result's input `None`, for the bits of active inputs theirs, for
            residuals `None`.
        """
        active = len(self.residual.cone.active)
        kept, shapes = self._found(op, active)
        cotangent = tf.convert_to_tensor(cotangents[0])
        if waits := _beside(cotangent):
            with tf.control_dependencies(waits):
                cotangent = tf.identity(cotangent)
        gradients: list[tf.Tensor | None] = [None]
        for product, shape in zip(self._products(cotangent, kept), shapes, strict=True):
            whole = product is None or shape is None
            gradients.append(product if whole else _sum_to(product, shape))
        return gradients + [None] * (len(cotangents) - len(gradients))

    def _products(self, cotangent: tf.Tensor, kept: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
        if self.compiled is None:
            with tf.control_dependencies([cotangent]):
                return products(self.residual, cotangent, kept)
        made = iter(self.compiled(cotangent, *kept))
        return [
            times(cotangent, d, None, False) if isinstance(d, Const) else next(made)
            for d in self.residual.derivatives
        ]

    def _found(self, op: Any, active: int) -> tuple[list[tf.Tensor], list[tf.Tensor | None]]:
        """The residuals and shapes as that op reads them."""
        if op is None:
            return list(self.kept), list(self.shapes)
        extras = iter(op.inputs[1 + active :])
        kept = [_unwrapped(next(extras), k.dtype) for k in self.kept]
        return kept, [None if s is None else next(extras) for s in self.shapes]
