"""Turns expressions into TensorFlow ops."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable, Mapping, MutableMapping
from typing import Any

import tensorflow as tf

from nested_fad_tf.graph import versions
from nested_fad_tf.ops.expr import Apply, Const, Expr, Leaf, subexpressions

# An expression, and the dtype it is to have if that doesn't follow from its leaves.
_Task = tuple[Expr, "tf.DType | None"]


class ExpressionError(ValueError):
    """An expression can't be turned into tensors."""


def build(
    expr: Expr,
    leaves: Mapping[Hashable, tf.Tensor],
    memo: MutableMapping[Hashable, tf.Tensor] | None = None,
    dtype: tf.DType | None = None,
    names: Mapping[Expr, str] | None = None,
) -> tf.Tensor:
    """Computes an expression, in a graph or eagerly, with one op for each distinct part.

    Numbers take the dtype of the tensors they are combined with.

    Args:
        expr: The expression.
        leaves: The tensors that the leaves' keys stand for.
        memo: Tensors made already; share one between calls with the same leaves in the same graph.
        dtype: The dtype of the result where the expression leaves it open (a number, or a
            selection between numbers). A selection by a comparison needs none: its dtype is that
            of what is compared.
        names: What to call the ops of some parts, within the current scope.

    Returns:
        The tensor. Its shape is that of the expression: a derivative of one is a scalar.

    Raises:
        ExpressionError: If a leaf has no tensor, an op is unknown or dtypes don't fit.
    """
    memo = {} if memo is None else memo
    names = names or {}
    dtypes = infer_dtypes(expr, {key: tensor.dtype for key, tensor in leaves.items()})
    if dtypes[expr] is None:
        dtype = dtype or _compared_dtype(expr, dtypes)
    stack: list[tuple[_Task, bool]] = [(_task(expr, dtype, dtypes), False)]
    while stack:
        task, args_done = stack.pop()
        if task in memo:
            continue
        item, wanted = task
        if isinstance(item, Leaf):
            memo[task] = leaves[item.key]
        elif isinstance(item, Const):
            memo[task] = _constant(item, wanted)
        elif isinstance(item, Apply):
            args = _argument_tasks(item, wanted, dtypes)
            if args_done:
                memo[task] = _call(item, [memo[a] for a in args], names.get(item))
            else:
                stack.append((task, True))
                stack.extend((a, False) for a in reversed(args))
    return memo[_task(expr, dtype, dtypes)]


def infer_dtypes(expr: Expr, leaves: Mapping[Hashable, tf.DType]) -> dict[Expr, tf.DType | None]:
    """Finds the dtype of every part of an expression.

    Args:
        expr: The expression.
        leaves: The dtypes of the leaves.

    Returns:
        Each part's dtype; `None` where it depends on what the part is combined with.

    Raises:
        ExpressionError: If a leaf is missing, an op is unknown or dtypes don't fit.
    """
    found: dict[Expr, tf.DType | None] = {}
    for item in subexpressions(expr):
        if isinstance(item, Leaf):
            if item.key not in leaves:
                raise ExpressionError(f"no tensor was given for leaf {item.key!r}")
            found[item] = leaves[item.key]
        elif isinstance(item, Apply):
            types = _bound_types(item, None, found)
            found[item] = _type_of(_op_def(item.op_type).output_arg[0], types)
        else:
            found[item] = None
    return found


def _task(expr: Expr, wanted: tf.DType | None, dtypes: Mapping[Expr, tf.DType | None]) -> _Task:
    return (expr, wanted if dtypes[expr] is None else None)


def _op_def(op_type: str) -> Any:
    definition = versions.op_definition(op_type)
    if definition is None or not hasattr(tf.raw_ops, op_type):
        raise ExpressionError(f"TensorFlow has no op {op_type!r}")
    return definition


def _input_defs(expr: Apply) -> list[Any]:
    """What the op's registration says about each argument; a list's entry is repeated."""
    definition = _op_def(expr.op_type)
    defs = list(definition.input_arg)
    if len(defs) == 1 and defs[0].number_attr:
        return defs * len(expr.args)
    if len(defs) != len(expr.args) or any(d.number_attr or d.type_list_attr for d in defs):
        raise ExpressionError(
            f"{expr.op_type} takes {[d.name for d in defs]}, not {len(expr.args)} inputs: {expr}"
        )
    return defs


def _bound_types(
    expr: Apply, wanted: tf.DType | None, dtypes: Mapping[Expr, tf.DType | None]
) -> dict[str, tf.DType]:
    """The op's type attributes, as far as its attributes, inputs and wanted result tell."""
    definition = _op_def(expr.op_type)
    type_attrs = {a.name for a in definition.attr if a.type == "type"}
    types = {name: tf.as_dtype(v) for name, v in expr.attrs if name in type_attrs}
    for arg, arg_def in zip(expr.args, _input_defs(expr), strict=True):
        dtype = dtypes[arg]
        if dtype is None:
            continue
        expected = (
            types.setdefault(arg_def.type_attr, dtype)
            if arg_def.type_attr
            else tf.as_dtype(arg_def.type)
        )
        if dtype != expected:
            raise ExpressionError(
                f"input {arg_def.name!r} of {expr.op_type} is {dtype.name} where"
                f" {expected.name} is needed: {expr}"
            )
    output = definition.output_arg[0]
    if wanted is not None and output.type_attr:
        types.setdefault(output.type_attr, wanted)
    return types


def _type_of(arg_def: Any, types: Mapping[str, tf.DType]) -> tf.DType | None:
    return types.get(arg_def.type_attr) if arg_def.type_attr else tf.as_dtype(arg_def.type)


def _argument_tasks(
    expr: Apply, wanted: tf.DType | None, dtypes: Mapping[Expr, tf.DType | None]
) -> list[_Task]:
    types = _bound_types(expr, wanted, dtypes)
    tasks = []
    for arg, arg_def in zip(expr.args, _input_defs(expr), strict=True):
        dtype = _type_of(arg_def, types) or _compared_dtype(arg, dtypes)
        if dtype is None:
            raise ExpressionError(f"nothing tells the dtype of the numbers in {expr}")
        if arg_def.type_attr:
            types.setdefault(arg_def.type_attr, dtype)
        tasks.append(_task(arg, dtype, dtypes))
    return tasks


def _compared_dtype(expr: Expr, dtypes: Mapping[Expr, tf.DType | None]) -> tf.DType | None:
    """For a mask such as ``x > 0 ? 1 : 0``: the dtype of x, if all its comparisons agree."""
    compared = {
        dtype
        for item in subexpressions(expr)
        if (dtype := dtypes[item]) is not None and dtype != tf.bool
    }
    return compared.pop() if len(compared) == 1 else None


def _constant(expr: Const, dtype: tf.DType | None) -> tf.Tensor:
    if dtype is None:
        raise ExpressionError(f"nothing tells the dtype of {expr}: give build() one")
    number = bool(expr.number) if dtype == tf.bool else expr.number
    return tf.constant(number, dtype)


def _call(expr: Apply, args: list[tf.Tensor], name: str | None) -> tf.Tensor:
    definition = _op_def(expr.op_type)
    names = _keywords(expr.op_type)
    inputs: dict[str, Any] = dict(zip(names, args, strict=False))
    if definition.input_arg and definition.input_arg[0].number_attr:
        inputs = {names[0]: args}
    # Type attributes of inputs are found by TensorFlow; raw ops don't take them.
    inferred = {d.type_attr for d in definition.input_arg}
    attrs = {name: value for name, value in expr.attrs if name not in inferred}
    return getattr(tf.raw_ops, expr.op_type)(**inputs, **attrs, name=name)


@functools.cache
def _keywords(op_type: str) -> list[str]:
    """What the raw op calls its inputs: mostly, but not always, what the registration does."""
    definition = _op_def(op_type)
    parameters = inspect.signature(getattr(tf.raw_ops, op_type)).parameters
    registered = {d.name for d in [*definition.input_arg, *definition.attr]}
    renamed = (name for name in parameters if name not in registered and name != "name")
    return [d.name if d.name in parameters else next(renamed) for d in definition.input_arg]
