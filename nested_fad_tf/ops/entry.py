"""What a table line says about an element-wise op, and how such lines are written."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from nested_fad_tf.ops.expr import Const, Expr, Operand, fn, scale, wrap

Attr = Callable[[str], Any]
Partials = tuple[Expr | None, ...]
Rule = Callable[[tuple[Expr, ...], Expr, Attr], Partials]

# For ops with any number of inputs (AddN): linear in all of them. Ask `linear_inputs`.
ALL: tuple[int, ...] = (-1,)


class Cost(enum.Enum):
    """What one element takes to compute, relative to the memory traffic of an addition."""

    CHEAP = "cheap"  # one or two vector instructions: bound by memory traffic
    MEDIUM = "medium"  # a division, a square root, an exponential
    DEAR = "dear"  # a transcendental with a long polynomial or branches: erf, tanh, pow, lgamma


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """How one element-wise op behaves.

    Attributes:
        cost: Class of its price.
        partials: Rule that gives ∂y/∂x_i for every input, `None` where there is none (an integer
            or boolean input, or a derivative that has no closed form); `None` as a whole for ops
            that aren't differentiable.
        linear: Inputs in each of which, taken alone, the op is linear and homogeneous (both
            factors of a product; dy of a `*Grad`). Read it through `linear_inputs`.
        joint: Whether it is linear in those inputs taken together (a sum, the branches of a
            select), so that an input which is no cotangent would be an offset rather than a
            factor.
        discrete: Whether the result is boolean or integer whatever the inputs are, so that
            nothing is differentiated through it.
        absorbs_zero: Whether an incoming gradient of zero gives zero however large the factor is
            (TensorFlow's kernels for the gradients of roots and reciprocals), so that the factor
            has to be applied with `times`.
    """

    cost: Cost
    partials: Rule | None = None
    linear: tuple[int, ...] = ()
    joint: bool = False
    discrete: bool = False
    absorbs_zero: bool = False


def times(entry: Elementwise, factor: Expr, incoming: Expr) -> Expr:
    """Multiplies an incoming gradient by an op's factor as the op's own gradient would.

    Args:
        entry: The op's line.
        factor: One of its partials.
        incoming: The gradient (or tangent) that is multiplied.

    Returns:
        The product.
    """
    if entry.absorbs_zero and not isinstance(incoming, Const):
        return fn("MulNoNan", factor, incoming)
    return scale(factor, incoming)


def linear_inputs(entry: Elementwise, arity: int) -> tuple[int, ...]:
    """The inputs in which an op is linear.

    Args:
        entry: The op's line.
        arity: How many inputs the node has.

    Returns:
        Their indices, `ALL` spelt out.
    """
    return tuple(range(arity)) if entry.linear == ALL else entry.linear


def unary(
    cost: Cost,
    derivative: Callable[[Expr, Expr], Operand],
    linear: tuple[int, ...] = (),
    absorbs_zero: bool = False,
) -> Elementwise:
    """A line for ``y = f(x)``.

    Args:
        cost: Class of its price.
        derivative: Gives f'(x) from x and y.
        linear: ``(0,)`` if f is linear.
        absorbs_zero: See `Elementwise`.

    Returns:
        The line.
    """

    def partials(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
        return (wrap(derivative(x[0], y)),)

    return Elementwise(cost, partials, linear, absorbs_zero=absorbs_zero)


def binary(
    cost: Cost,
    derivatives: Callable[[Expr, Expr, Expr], tuple[Operand | None, Operand | None]],
    linear: tuple[int, ...] = (),
    joint: bool = False,
    absorbs_zero: bool = False,
) -> Elementwise:
    """A line for ``y = f(a, b)``.

    Args:
        cost: Class of its price.
        derivatives: Gives ∂f/∂a and ∂f/∂b from a, b and y.
        linear: Inputs in which f is linear.
        joint: Whether it is linear in them together.
        absorbs_zero: See `Elementwise`.

    Returns:
        The line.
    """

    def partials(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
        return tuple(None if d is None else wrap(d) for d in derivatives(x[0], x[1], y))

    return Elementwise(cost, partials, linear, joint, absorbs_zero=absorbs_zero)


def discrete(cost: Cost) -> Elementwise:
    """A line for an op with a boolean or integer result.

    Args:
        cost: Class of its price.

    Returns:
        The line.
    """
    return Elementwise(cost, discrete=True)


def opaque(cost: Cost) -> Elementwise:
    """A line for an op whose derivative can't be written as one factor an input.

    Args:
        cost: Class of its price.

    Returns:
        The line.
    """
    return Elementwise(cost)
