"""Symbolic expressions for derivative rules.

A rule such as ``1 - y * y`` has to be printed, simplified, priced and turned into graph nodes, so it is data: a small tree
of TensorFlow op types over leaves. Leaves can be any hashable object; the tables use `Leaf("x0")` and `Leaf("y")`, the
planner substitutes values of the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Union

Number = Union[int, float]


@dataclasses.dataclass(frozen=True)
class Expr:
    """An expression. Operators build larger ones and fold what is trivial (``x * 1``, ``x + 0``, ``-(-x)``)."""

    def __add__(self, other: Operand) -> Expr:
        """Adds, dropping zeros."""
        return add(self, wrap(other))

    def __radd__(self, other: Operand) -> Expr:
        """Adds, dropping zeros."""
        return add(wrap(other), self)

    def __sub__(self, other: Operand) -> Expr:
        """Subtracts, dropping zeros."""
        return sub(self, wrap(other))

    def __rsub__(self, other: Operand) -> Expr:
        """Subtracts, dropping zeros."""
        return sub(wrap(other), self)

    def __mul__(self, other: Operand) -> Expr:
        """Multiplies, dropping ones."""
        return mul(self, wrap(other))

    def __rmul__(self, other: Operand) -> Expr:
        """Multiplies, dropping ones."""
        return mul(wrap(other), self)

    def __truediv__(self, other: Operand) -> Expr:
        """Divides; a division by one is dropped."""
        other = wrap(other)
        return self if is_const(other, 1) else Apply("RealDiv", (self, other))

    def __rtruediv__(self, other: Operand) -> Expr:
        """Divides."""
        return Apply("RealDiv", (wrap(other), self))

    def __neg__(self) -> Expr:
        """Negates; a double negation is dropped."""
        return neg(self)

    def __gt__(self, other: Operand) -> Expr:
        """Compares; the result is boolean."""
        return Apply("Greater", (self, wrap(other)))

    def __lt__(self, other: Operand) -> Expr:
        """Compares; the result is boolean."""
        return Apply("Less", (self, wrap(other)))

    def __ge__(self, other: Operand) -> Expr:
        """Compares; the result is boolean."""
        return Apply("GreaterEqual", (self, wrap(other)))

    def __le__(self, other: Operand) -> Expr:
        """Compares; the result is boolean."""
        return Apply("LessEqual", (self, wrap(other)))


Operand = Union[Expr, int, float]


@dataclasses.dataclass(frozen=True)
class Leaf(Expr):
    """Something that exists already: an input, an output, a value of the graph."""

    key: Hashable

    def __str__(self) -> str:
        """The key, as it stands in a formula."""
        return str(self.key)


@dataclasses.dataclass(frozen=True)
class Const(Expr):
    """A number, of the dtype of whatever it is combined with."""

    number: Number

    def __str__(self) -> str:
        """The number."""
        return f"{self.number:g}"


@dataclasses.dataclass(frozen=True)
class Apply(Expr):
    """A TensorFlow op applied to expressions.

    Attributes:
        op_type: The op's type; it has one output.
        args: Its inputs.
        attrs: Attributes beside the dtype, as pairs (so that expressions can be hashed).
    """

    op_type: str
    args: tuple[Expr, ...]
    attrs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """The formula, infix where there is an operator for it."""
        sign = {
            "Mul": "*",
            "AddV2": "+",
            "Sub": "-",
            "RealDiv": "/",
            "Greater": ">",
            "Less": "<",
        }.get(self.op_type)
        if sign and len(self.args) == 2:
            return f"({self.args[0]} {sign} {self.args[1]})"
        return f"{self.op_type}({', '.join(map(str, self.args))})"


def wrap(operand: Operand) -> Expr:
    """Makes a number an expression."""
    return operand if isinstance(operand, Expr) else Const(operand)


def is_const(expr: Expr, number: Number) -> bool:
    """Whether an expression is this very number."""
    return isinstance(expr, Const) and expr.number == number


def add(a: Expr, b: Expr) -> Expr:
    """``a + b``, folded."""
    if is_const(a, 0):
        return b
    if is_const(b, 0):
        return a
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(a.number + b.number)
    return Apply("AddV2", (a, b))


def sub(a: Expr, b: Expr) -> Expr:
    """``a - b``, folded."""
    if is_const(b, 0):
        return a
    if is_const(a, 0):
        return neg(b)
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(a.number - b.number)
    return Apply("Sub", (a, b))


def mul(a: Expr, b: Expr) -> Expr:
    """``a * b``, folded; a factor of exactly zero is structural (no path), so it absorbs."""
    if is_const(a, 1):
        return b
    if is_const(b, 1):
        return a
    if is_const(a, 0) or is_const(b, 0):
        return Const(0)
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(a.number * b.number)
    if is_const(a, -1):
        return neg(b)
    if is_const(b, -1):
        return neg(a)
    return Apply("Mul", (a, b))


def neg(a: Expr) -> Expr:
    """``-a``, folded."""
    if isinstance(a, Const):
        return Const(-a.number)
    if isinstance(a, Apply) and a.op_type == "Neg":
        return a.args[0]
    return Apply("Neg", (a,))


def fn(op_type: str, *args: Operand, **attrs: Any) -> Expr:
    """Applies a TensorFlow op, such as ``fn("Exp", x)``."""
    return Apply(op_type, tuple(wrap(a) for a in args), tuple(sorted(attrs.items())))


def select(condition: Expr, a: Operand, b: Operand) -> Expr:
    """``a`` where the condition holds, else ``b``."""
    return Apply("SelectV2", (condition, wrap(a), wrap(b)))


def equal(a: Expr, b: Operand) -> Expr:
    """Whether ``a == b``; the result is boolean; not ``==``, which compares expressions."""
    return Apply("Equal", (a, wrap(b)))


def both(a: Expr, b: Expr) -> Expr:
    """Whether two conditions hold."""
    return Apply("LogicalAnd", (a, b))


def leaves(expr: Expr) -> set[Hashable]:
    """The keys of all leaves of an expression."""
    found: set[Hashable] = set()
    stack, seen = [expr], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Leaf):
            found.add(item.key)
        elif isinstance(item, Apply):
            stack.extend(item.args)
    return found


def substitute(
    expr: Expr, leaf: Callable[[Hashable], Expr], memo: dict[Expr, Expr] | None = None
) -> Expr:
    """Replaces leaves.

    Args:
        expr: The expression.
        leaf: Gives for a leaf's key what stands there instead.
        memo: Shared between calls so that common subexpressions stay common.

    Returns:
        The new expression.
    """
    memo = {} if memo is None else memo
    if expr in memo:
        return memo[expr]
    if isinstance(expr, Leaf):
        result = leaf(expr.key)
    elif isinstance(expr, Apply):
        result = rebuild(
            expr.op_type, tuple(substitute(a, leaf, memo) for a in expr.args), expr.attrs
        )
    else:
        result = expr
    memo[expr] = result
    return result


def rebuild(op_type: str, args: tuple[Expr, ...], attrs: tuple[tuple[str, Any], ...]) -> Expr:
    """Makes an `Apply`, folding what the operators fold."""
    folds: Mapping[str, Callable[..., Expr]] = {"AddV2": add, "Sub": sub, "Mul": mul, "Neg": neg}
    return folds[op_type](*args) if op_type in folds else Apply(op_type, args, attrs)
