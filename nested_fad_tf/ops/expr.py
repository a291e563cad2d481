"""Symbolic expressions for derivative rules.

A rule such as ``1 - y * y`` has to be printed, simplified, priced and turned into graph nodes, so
it is data: a small tree of TensorFlow op types over leaves. Leaves can be any hashable object; the
tables use whatever the caller hands in, the planner substitutes values of the graph.

Equal expressions are one object (`Apply` is interned), so comparing and hashing them takes the same
time however large they are, and what two formulas have in common is found by putting them in a
dictionary.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Final


@dataclasses.dataclass(frozen=True, eq=False)
class Expr:
    """An expression. Operators build larger ones, folding ``x * 1``, ``x + 0``, ``-(-x)``."""

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
        return div(self, wrap(other))

    def __rtruediv__(self, other: Operand) -> Expr:
        """Divides."""
        return div(wrap(other), self)

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


Number = int | float
Operand = Expr | int | float


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


_INFIX: Final[Mapping[str, str]] = {
    "AddV2": "+",
    "Equal": "==",
    "Greater": ">",
    "GreaterEqual": ">=",
    "Less": "<",
    "LessEqual": "<=",
    "LogicalAnd": "&",
    "Mul": "*",
    "RealDiv": "/",
    "Sub": "-",
}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
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

    def __new__(
        cls, op_type: str, args: tuple[Expr, ...], attrs: tuple[tuple[str, Any], ...] = ()
    ) -> Apply:
        """Gives the expression that was made of the same parts before, if it is still in use."""
        parts = (op_type, args, attrs)
        found = _INTERNED.get(parts)
        if found is None:
            found = super().__new__(cls)
            # The parts' hash rather than the address, so that sets are ordered alike in every run.
            object.__setattr__(found, "_hash", hash(parts))
            _INTERNED[parts] = found
        return found

    def __hash__(self) -> int:
        """The hash of the parts, computed once."""
        return self._hash  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and unpickles through the constructor, so that the result is interned too."""
        return Apply, (self.op_type, self.args, self.attrs)

    def __str__(self) -> str:
        """The formula, infix where there is an operator for it."""
        return _formula(self, _PRINTED_DEPTH)

    def __repr__(self) -> str:
        """The formula: the fields in full would fill pages."""
        return f"<{self}>"


_INTERNED: Final[weakref.WeakValueDictionary[Hashable, Apply]] = weakref.WeakValueDictionary()


# Deeper than any rule. The text of a long chain would grow exponentially, as shared parts are
# written out wherever they occur.
_PRINTED_DEPTH: Final = 10


def _formula(expr: Expr, depth: int) -> str:
    """Formats an expression down to a depth."""
    if not isinstance(expr, Apply):
        return str(expr)
    if not depth:
        return "..."
    args = [_formula(a, depth - 1) for a in expr.args]
    if expr.op_type in _INFIX and len(args) == 2:
        return f"({args[0]} {_INFIX[expr.op_type]} {args[1]})"
    if expr.op_type == "Neg" and len(args) == 1:
        return f"-{args[0]}"
    return f"{expr.op_type}({', '.join(args)})"


def wrap(operand: Operand) -> Expr:
    """Makes a number an expression."""
    return operand if isinstance(operand, Expr) else Const(operand)


def is_const(expr: Expr, number: Number) -> bool:
    """Whether an expression is this very number."""
    return isinstance(expr, Const) and expr.number == number


def add(a: Expr, b: Expr) -> Expr:
    """``a + b``, folded; of two sums behind the same mask one selection is made."""
    if is_const(a, 0):
        return b
    if is_const(b, 0):
        return a
    if isinstance(a, Const) and isinstance(b, Const):
        return Const(a.number + b.number)
    masked, other = _masked(a), _masked(b)
    if masked is not None and other is not None and masked[0] == other[0]:
        return select(masked[0], add(masked[1], other[1]), 0)
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


def div(a: Expr, b: Expr) -> Expr:
    """``a / b``, folded; a zero above the line is as structural as one in a product."""
    return a if is_const(b, 1) or is_const(a, 0) else Apply("RealDiv", (a, b))


def neg(a: Expr) -> Expr:
    """``-a``, folded."""
    if isinstance(a, Const):
        return Const(-a.number)
    if isinstance(a, Apply) and a.op_type == "Neg":
        return a.args[0]
    return Apply("Neg", (a,))


def scale(factor: Expr, by: Expr) -> Expr:
    """``factor * by``, the way TensorFlow's own gradients multiply.

    A mask is a selection between one and zero. Multiplying by it would turn an infinite `by` that
    is masked out into a nan (0 * inf), so the selection is made between `by` and zero. And
    ``(1 / b) * by`` becomes ``by / b``, as the reciprocal may overflow where the quotient doesn't.

    Args:
        factor: What `by` is multiplied with; selections in it are kept outermost.
        by: The other factor, such as an incoming gradient.

    Returns:
        The product.
    """
    if isinstance(factor, Apply) and factor.op_type == "SelectV2":
        condition, a, b = factor.args
        return Apply("SelectV2", (condition, scale(a, by), scale(b, by)))
    if isinstance(factor, Apply) and factor.op_type == "Select" and not isinstance(by, Const):
        condition, *sides = factor.args
        # Unlike SelectV2's, its sides have to be of full shape.
        scaled = (s if is_zeros(s) else mul(s, by) for s in sides)
        return Apply("Select", (condition, *scaled))
    if isinstance(by, Apply) and by.op_type == "SelectV2":
        condition, a, b = by.args
        # Only where one side is masked out: going into both sides of a chain of selections would
        # double the expression with every one.
        if is_const(a, 0) or is_const(b, 0):
            return Apply("SelectV2", (condition, scale(factor, a), scale(factor, b)))
    if isinstance(factor, Apply) and factor.op_type == "RealDiv":
        numerator, denominator = factor.args
        if isinstance(numerator, Const):
            return div(mul(numerator, by), denominator)
    return mul(factor, by)


def _masked(expr: Expr) -> tuple[Expr, Expr] | None:
    """The condition and the rest of what is zero where the condition doesn't hold."""
    if isinstance(expr, Apply) and expr.op_type == "SelectV2" and is_const(expr.args[2], 0):
        return expr.args[0], expr.args[1]
    return None


def is_zeros(expr: Expr) -> bool:
    """Whether an expression is a tensor of zeros."""
    return isinstance(expr, Apply) and expr.op_type == "ZerosLike"


def is_zero(expr: Expr) -> bool:
    """Whether an expression is zero, as a number or as a tensor."""
    return is_const(expr, 0) or is_zeros(expr)


def fn(op_type: str, *args: Operand, **attrs: Any) -> Expr:
    """Applies a TensorFlow op, such as ``fn("Exp", x)``."""
    return Apply(op_type, tuple(wrap(a) for a in args), tuple(sorted(attrs.items())))


def select(condition: Expr, a: Operand, b: Operand) -> Expr:
    """``a`` where the condition holds, else ``b``."""
    return Apply("SelectV2", (condition, wrap(a), wrap(b)))


def equal(a: Expr, b: Operand) -> Expr:
    """Whether ``a`` and ``b`` have the same value, element by element; the result is boolean."""
    return Apply("Equal", (a, wrap(b)))


def both(a: Expr, b: Expr) -> Expr:
    """Whether two conditions hold."""
    return Apply("LogicalAnd", (a, b))


def subexpressions(expr: Expr) -> Iterator[Expr]:
    """Every distinct part of an expression, arguments before what is made of them."""
    seen: set[Expr] = set()
    stack = [(expr, False)]
    while stack:
        item, args_done = stack.pop()
        if item in seen:
            continue
        if args_done or not isinstance(item, Apply):
            seen.add(item)
            yield item
        else:
            stack.append((item, True))
            stack.extend((a, False) for a in reversed(item.args))


def largest_parts(expr: Expr, chosen: Callable[[Expr], bool]) -> tuple[list[Expr], list[Leaf]]:
    """Takes an expression apart from the top, no further than what is chosen.

    Args:
        expr: The expression.
        chosen: Whether a part is left whole.

    Returns:
        The largest parts that are chosen, and the leaves beside them.
    """
    whole: list[Expr] = []
    beside: list[Leaf] = []
    seen = {expr}
    stack = [expr]
    while stack:
        part = stack.pop()
        if chosen(part):
            whole.append(part)
        elif isinstance(part, Apply):
            more = dict.fromkeys(a for a in part.args if a not in seen)
            seen.update(more)
            stack.extend(more)
        elif isinstance(part, Leaf):
            beside.append(part)
    return whole, beside


def leaves(expr: Expr) -> set[Hashable]:
    """The keys of all leaves of an expression."""
    return {item.key for item in subexpressions(expr) if isinstance(item, Leaf)}


def substitute(
    expr: Expr, leaf: Callable[[Hashable], Expr], memo: dict[Expr, Expr] | None = None
) -> Expr:
    """Replaces leaves.

    Args:
        expr: The expression.
        leaf: Gives for a leaf's key what stands there instead.
        memo: Shared between calls (with the same `leaf`) so that no part is walked twice.

    Returns:
        The new expression.
    """
    memo = {} if memo is None else memo
    if expr in memo:
        return memo[expr]
    for item in subexpressions(expr):
        if item in memo:
            continue
        if isinstance(item, Leaf):
            memo[item] = leaf(item.key)
        elif isinstance(item, Apply):
            memo[item] = rebuild(item.op_type, tuple(memo[a] for a in item.args), item.attrs)
        else:
            memo[item] = item
    return memo[expr]


_FOLDS: Final[Mapping[str, Callable[..., Expr]]] = {
    "AddV2": add,
    "Mul": mul,
    "Neg": neg,
    "RealDiv": div,
    "Sub": sub,
}


def rebuild(op_type: str, args: tuple[Expr, ...], attrs: tuple[tuple[str, Any], ...]) -> Expr:
    """Makes an `Apply`, folding what the operators fold."""
    return _FOLDS[op_type](*args) if op_type in _FOLDS else Apply(op_type, args, attrs)


def masks(derivative: Expr) -> bool:
    """Whether a derivative selects zero somewhere.

    There, the cotangent counts for nothing, even if it is a nan: the product is a `MulNoNan`.
    """
    return any(
        isinstance(part, Apply)
        and part.op_type in ("Select", "SelectV2")
        and any(map(is_zero, part.args[1:]))
        for part in subexpressions(derivative)
    )
