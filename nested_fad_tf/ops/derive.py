"""Forward-mode differentiation of expressions, by the rules of the table.

>>> x = Leaf("x")
>>> str(derivative(fn("Tanh", 2 * x), "x"))
'((1 - (Tanh((2 * x)) * Tanh((2 * x)))) * 2)'
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from nested_fad_tf.graph import versions
from nested_fad_tf.ops.elementwise import TABLE
from nested_fad_tf.ops.entry import Attr, times
from nested_fad_tf.ops.expr import (
    Apply,
    Const,
    Expr,
    Leaf,
    add,
    fn,
    is_const,
    subexpressions,
)


class NotDifferentiableError(ValueError):
    """There is no rule for a derivative that is needed."""


def derivative(expr: Expr, leaf: Hashable, memo: dict[Expr, Expr] | None = None) -> Expr:
    """Differentiates an expression with respect to one of its leaves.

    The result has the expression's shape up to broadcasting: where an op's derivative is one
    everywhere, it is `Const(1)`.

    Args:
        expr: The expression.
        leaf: The key of the leaf. All other leaves are taken as independent of it.
        memo: Derivatives already known; share one between calls for the same leaf. Entries put
            there beforehand count: ``{Leaf(y): dy}`` says that y depends on the leaf.

    Returns:
        The derivative; `Const(0)` if the expression doesn't depend on the leaf.

    Raises:
        NotDifferentiableError: If the expression depends on the leaf through an op that isn't in
            the table, or through an input the op has no derivative for.
    """
    memo = {} if memo is None else memo
    if expr in memo:
        return memo[expr]
    absorbing: set[Expr] = set()
    for item in subexpressions(expr):
        if _absorbs(item, absorbing):
            absorbing.add(item)
        if item in memo:
            continue
        if isinstance(item, Apply):
            memo[item] = _chain_rule(item, tuple(memo[a] for a in item.args), absorbing)
        else:
            memo[item] = Const(1 if isinstance(item, Leaf) and item.key == leaf else 0)
    return memo[expr]


def absorbs_zero(expr: Expr) -> bool:
    """Whether TensorFlow's gradient of an expression is zero wherever the incoming one is.

    That is so if there is a root or a reciprocal in it (`Elementwise.absorbs_zero`), even where
    its own derivative is infinite. The product with the incoming gradient has to be a `MulNoNan`
    then, or a masked-out gradient of ``sqrt(0)`` becomes 0 * inf.
    """
    absorbing: set[Expr] = set()
    for item in subexpressions(expr):
        if _absorbs(item, absorbing):
            absorbing.add(item)
    return expr in absorbing


def _absorbs(expr: Expr, absorbing: set[Expr]) -> bool:
    if not isinstance(expr, Apply):
        return False
    entry = TABLE.get(expr.op_type)
    return (entry is not None and entry.absorbs_zero) or any(a in absorbing for a in expr.args)


def attributes(expr: Apply) -> Attr:
    """How a rule looks up an expression's attributes: those given, else the op's defaults."""
    given = dict(expr.attrs)

    def attr(name: str) -> Any:
        return given[name] if name in given else _default(expr.op_type, name)

    return attr


def _default(op_type: str, name: str) -> Any:
    """An attribute's default in TensorFlow's registry."""
    definition = versions.op_definition(op_type)
    for attr in definition.attr if definition else ():
        kind = attr.default_value.WhichOneof("value")
        if attr.name == name and kind is not None:
            return getattr(attr.default_value, kind)
    raise KeyError(f"{op_type} was made without attribute {name!r}, which has no default")


def _chain_rule(expr: Apply, tangents: tuple[Expr, ...], absorbing: set[Expr]) -> Expr:
    """The sum of an op's partials, each times its argument's derivative."""
    moving = [i for i, tangent in enumerate(tangents) if not is_const(tangent, 0)]
    entry = TABLE.get(expr.op_type)
    if not moving or (entry is not None and entry.discrete):
        return Const(0)
    if entry is None or entry.partials is None:
        raise NotDifferentiableError(f"there is no derivative rule for {expr.op_type}")
    if expr.op_type in _OF_TANGENTS:
        return _OF_TANGENTS[expr.op_type](expr, tangents)
    partials = entry.partials(expr.args, expr, attributes(expr))
    total: Expr = Const(0)
    for i in moving:
        partial = partials[i]
        if partial is None:
            raise NotDifferentiableError(f"{expr.op_type} has no derivative by input {i}")
        if expr.args[i] in absorbing and not isinstance(partial, Const) and not _is_mask(partial):
            # Further in, TensorFlow's gradient turns a zero factor into zero, not 0 * inf.
            term = fn("MulNoNan", tangents[i], partial)
        else:
            term = times(entry, partial, tangents[i])
        total = add(total, term)
    return total


def _is_mask(expr: Expr) -> bool:
    return isinstance(expr, Apply) and expr.op_type in ("Select", "SelectV2")


def _cast(expr: Apply, tangents: tuple[Expr, ...]) -> Expr:
    (tangent,) = tangents
    return tangent if isinstance(tangent, Const) else Apply("Cast", tangents, expr.attrs)


def _select(expr: Apply, tangents: tuple[Expr, ...]) -> Expr:
    return Apply("SelectV2", (expr.args[0], *tangents[1:]))


def _bias_add(expr: Apply, tangents: tuple[Expr, ...]) -> Expr:
    """Lets the op find the channel axis, unless it is the bias that stands still."""
    value, bias = tangents
    if is_const(bias, 0):
        return value
    spread = fn("OnesLike", expr.args[0]) * value if isinstance(value, Const) else value
    if is_const(value, 0):
        spread = fn("ZerosLike", expr.args[0])
    if isinstance(bias, Const):
        bias = fn("OnesLike", expr.args[1]) * bias
    return Apply(expr.op_type, (spread, bias), expr.attrs)


# Ops that are their own derivative, and have to be: the product of a factor and a tangent would
# lose the dtype, a mask or the axis.
_OF_TANGENTS: Final[Mapping[str, Callable[[Apply, tuple[Expr, ...]], Expr]]] = {
    "BiasAdd": _bias_add,
    "BiasAddV1": _bias_add,
    "Cast": _cast,
    "SelectV2": _select,
}
