"""Gives cones gradients of their own, computed from chosen residuals.

The result of a cone goes through an op whose gradient multiplies the cotangent by the cone's
derivatives, computed from what is kept. Residuals are computed by ordinary ops, so that higher
derivatives go through them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.emit import carrier, expression, primitives, takers
from nested_fad_tf.emit.cone_kernels import Kernels, products, structure, times
from nested_fad_tf.emit.outlined import Outlines
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.graph.view import GraphView
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
    awaited = collections.Counter(n.id for r in residuals for n in r.readers)
    taken: dict[int, list[takers.Taken]] = collections.defaultdict(list)  # by reader
    for residual in residuals:
        name = residual.cone.output.node.name
        with (
            graph.as_default(),
            tf.control_dependencies(None),
            tf.name_scope(""),
            tf.device(residual.cone.output.node.device or None),
            tf.name_scope(f"nested_fad/{name}/"),
        ):
            result, kept = _emit(residual, kernels, results, outlines)
            _replace(view, results, residual.cone.output, result)
            for reader in residual.readers:
                taken[reader.id].append(takers.Taken(residual, kept))
                if len(taken[reader.id]) == awaited[reader.id]:
                    with tf.device(reader.device or None):
                        made = takers.attach(taken[reader.id], reader, kernels, outlines)
                    _replace(view, results, reader.outputs[0], made)


def _replace(
    view: GraphView, results: dict[Value, tf.Tensor], value: Value, result: tf.Tensor
) -> None:
    """Lets the readers of a value read it with another gradient."""
    results[value] = result
    for reader, index in view.consumers[value.id]:
        primitives.redirect(reader.op, index, result)


def _emit(
    residual: Residual,
    kernels: Kernels,
    results: Mapping[Value, tf.Tensor],
    outlines: Outlines | None,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Makes the result of a cone with its gradient, and what is kept for that."""
    cone = residual.cone
    tensors: dict[Any, tf.Tensor] = {v: results.get(v, _tensor(v)) for v in cone.inputs}
    if residual.compiled:
        result, kept = kernels.forward(residual, tensors)
    else:
        memo: dict[Any, tf.Tensor] = {(e, None): _tensor(v) for e, v in _computed(residual).items()}
        dtype, names = cone.output.dtype, residual.made
        kept = [expression.build(e, tensors, memo, dtype, names) for e in residual.kept]
        result = _tensor(cone.output)
    shapes = [_shape_of(tensors[v], result) for v in cone.active]
    arguments = [result, *(tensors[v] for v in cone.active), *kept]
    arguments += [s for s in shapes if s is not None]
    reduced = [s is not None for s in shapes]

    def attach(inner: Sequence[tf.Tensor]) -> tf.Tensor:
        return _with_gradient(residual, inner, reduced, kernels)

    if outlines is None:
        return attach(arguments), kept
    active = tuple(cone.inputs.index(v) for v in cone.active)
    exprs = (cone.expr, *residual.derivatives)
    forms = structure(residual, residual.kept), structure(residual, exprs)
    key = forms, active, residual.compiled, tuple(reduced)
    first = 1 + len(active)
    return outlines.call(key, arguments, range(first, first + len(kept)), attach), kept


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
    count = 1 + len(reduced)
    last = count + len(residual.kept)
    factors = None
    if residual.compiled:
        factors = kernels.backward(residual, arguments[count:last])
    gradient = _Gradient(residual, tuple(reduced), factors)
    return carrier.carry(arguments[0], arguments[1:last], arguments[last:], gradient)


def _computed(residual: Residual) -> Mapping[Expr, Value]:
    """Values inside the cone, by expression: what is kept of them needn't be made again."""
    cone = residual.cone
    return {cone.exprs[n.outputs[0].id]: n.outputs[0] for n in cone.nodes}


def _tensor(value: Value) -> tf.Tensor:
    assert value.node.op is not None
    return value.node.op.outputs[value.index]


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
        reduced: For each active input, whether its shape isn't the result's.
        compiled: A function from the cotangent and the kept tensors to the products with those
            derivatives that are no numbers; `None` if plain ops compute them.
    """

    residual: Residual
    reduced: tuple[bool, ...]
    compiled: Any = None

    def __call__(
        self, cotangent: tf.Tensor, carried: Sequence[tf.Tensor], shapes: Sequence[tf.Tensor]
    ) -> list[tf.Tensor | None]:
        """Computes the cotangents of the cone's active inputs.

        Args:
            cotangent: That of its result.
            carried: The active inputs, which aren't read, and what is kept.
            shapes: The shapes of the active inputs that aren't the result's.

        Returns:
            The cotangents.
        """
        if waits := _beside(cotangent):
            with tf.control_dependencies(waits):
                cotangent = tf.identity(cotangent)
        given = iter(shapes)
        gradients: list[tf.Tensor | None] = []
        found = self._products(cotangent, carried[len(self.reduced) :])
        for product, reduced in zip(found, self.reduced, strict=True):
            shape = next(given) if reduced else None
            whole = product is None or shape is None
            gradients.append(product if whole else _sum_to(product, shape))
        return gradients

    def _products(self, cotangent: tf.Tensor, kept: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
        if self.compiled is None:
            with tf.control_dependencies([cotangent]):
                return products(self.residual, cotangent, kept)
        made = iter(self.compiled(cotangent, *kept))
        return [
            times(cotangent, d, None, False) if isinstance(d, Const) else next(made)
            for d in self.residual.derivatives
        ]
