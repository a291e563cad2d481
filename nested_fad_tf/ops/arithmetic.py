"""Sums, products, powers, rounding, selection, comparisons and bits.

The formulas are those of TensorFlow's own gradients, so that a factor has the same special values
(a maximum's tie goes to its first input, and so on). Where an op is linear in an input but its
result isn't that input times a factor at every special value (``Xlogy(0, 0) = 0``), the input
isn't listed as linear.
"""

from __future__ import annotations

from typing import Final

from nested_fad_tf.ops.entry import (
    ALL,
    Attr,
    Cost,
    Elementwise,
    Partials,
    binary,
    discrete,
    opaque,
    unary,
)
from nested_fad_tf.ops.expr import Const, Expr, equal, fn, select

CHEAP, MEDIUM, DEAR = Cost.CHEAP, Cost.MEDIUM, Cost.DEAR
ONE, ZERO = Const(1), Const(0)


def _all_ones(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    """A sum's derivative, broadcast or not."""
    return (ONE,) * len(x)


def _select(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    return None, select(x[0], 1, 0), select(x[0], 0, 1)


def _select_rows(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    """Like `_select`, for the op whose condition may be a vector with one element a row."""
    condition, a, _ = x
    ones, zeros = fn("OnesLike", a), fn("ZerosLike", a)
    return None, fn("Select", condition, ones, zeros), fn("Select", condition, zeros, ones)


def _clip(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    value, low, high = x
    below, above = value < low, value > high
    return select(below, 0, select(above, 0, 1)), select(below, 1, 0), select(above, 1, 0)


def _cast(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    """One, if there is something to differentiate; whoever multiplies by it has to cast back."""
    real = attr("SrcT").is_floating and attr("DstT").is_floating
    return (ONE if real else None,)


def _pow(x: Expr, exponent: Expr, y: Expr) -> tuple[Expr, Expr]:
    # Like TensorFlow: the derivative by the exponent is taken as zero where the logarithm isn't
    # real, and the logarithm is never computed there.
    positive = x > 0
    log = select(positive, fn("Log", select(positive, x, 1)), 0)
    return exponent * fn("Pow", x, exponent - 1), y * log


def _nonzero(x: Expr) -> Expr:
    """1 where x isn't zero, else 0."""
    return select(equal(x, 0), 0, 1)


TABLE: Final[dict[str, Elementwise]] = {
    # Linear.
    "AccumulateNV2": Elementwise(CHEAP, _all_ones, ALL, joint=True),
    "Add": Elementwise(CHEAP, _all_ones, (0, 1), joint=True),
    "AddN": Elementwise(CHEAP, _all_ones, ALL, joint=True),
    "AddV2": Elementwise(CHEAP, _all_ones, (0, 1), joint=True),
    "BiasAdd": Elementwise(CHEAP, _all_ones, (0, 1), joint=True),
    "BiasAddV1": Elementwise(CHEAP, _all_ones, (0, 1), joint=True),
    "Cast": Elementwise(CHEAP, _cast, (0,)),
    "Neg": unary(CHEAP, lambda x, y: -1, linear=(0,)),
    "Select": Elementwise(CHEAP, _select_rows, (1, 2), joint=True),
    "SelectV2": Elementwise(CHEAP, _select, (1, 2), joint=True),
    "Sub": binary(CHEAP, lambda a, b, y: (1, -1), (0, 1), joint=True),
    # Products and quotients.
    "Mul": binary(CHEAP, lambda a, b, y: (b, a), (0, 1)),
    "MulNoNan": binary(CHEAP, lambda a, b, y: (b, a)),
    "Square": unary(CHEAP, lambda x, y: 2 * x),
    "SquaredDifference": binary(CHEAP, lambda a, b, y: (2 * (a - b), -(2 * (a - b)))),
    "Div": binary(MEDIUM, lambda a, b, y: (1 / b, -a / b / b), (0,)),
    "RealDiv": binary(MEDIUM, lambda a, b, y: (1 / b, -a / b / b), (0,)),
    "DivNoNan": binary(
        MEDIUM, lambda a, b, y: (fn("DivNoNan", 1, b), fn("DivNoNan", fn("DivNoNan", -a, b), b))
    ),
    "Inv": unary(MEDIUM, lambda x, y: -(y * y), absorbs_zero=True),
    "Reciprocal": unary(MEDIUM, lambda x, y: -(y * y), absorbs_zero=True),
    "FloorMod": binary(MEDIUM, lambda a, b, y: (1, -fn("FloorDiv", a, b))),
    "FloorDiv": binary(MEDIUM, lambda a, b, y: (0, 0)),
    "TruncateDiv": opaque(MEDIUM),
    "Mod": opaque(MEDIUM),
    "TruncateMod": opaque(MEDIUM),
    "Xdivy": binary(
        MEDIUM, lambda a, b, y: (fn("Xdivy", _nonzero(a), b), fn("Xdivy", -a, fn("Square", b)))
    ),
    # Powers.
    "Pow": binary(DEAR, _pow),
    "Rsqrt": unary(MEDIUM, lambda x, y: -0.5 * y * (y * y), absorbs_zero=True),
    "Sqrt": unary(MEDIUM, lambda x, y: 0.5 / y, absorbs_zero=True),
    # Kinks: at a tie TensorFlow gives everything to the first input.
    "Abs": unary(CHEAP, lambda x, y: fn("Sign", x)),
    "ClipByValue": Elementwise(CHEAP, _clip),
    "Maximum": binary(CHEAP, lambda a, b, y: (select(a >= b, 1, 0), select(a >= b, 0, 1))),
    "Minimum": binary(CHEAP, lambda a, b, y: (select(a <= b, 1, 0), select(a <= b, 0, 1))),
    # Steps: flat wherever they have a derivative.
    "Ceil": unary(CHEAP, lambda x, y: 0),
    "Floor": unary(CHEAP, lambda x, y: 0),
    "NextAfter": binary(MEDIUM, lambda a, b, y: (1, 0)),
    "OnesLike": unary(CHEAP, lambda x, y: 0),
    "Rint": unary(CHEAP, lambda x, y: 0),
    "Round": unary(CHEAP, lambda x, y: 0),
    "Sign": unary(CHEAP, lambda x, y: 0),
    "ZerosLike": unary(CHEAP, lambda x, y: 0),
    # Booleans, integers and bits.
    "ApproximateEqual": discrete(CHEAP),
    "BitwiseAnd": discrete(CHEAP),
    "BitwiseOr": discrete(CHEAP),
    "BitwiseXor": discrete(CHEAP),
    "Bucketize": discrete(MEDIUM),
    "DataFormatDimMap": discrete(CHEAP),
    "Equal": discrete(CHEAP),
    "Greater": discrete(CHEAP),
    "GreaterEqual": discrete(CHEAP),
    "Invert": discrete(CHEAP),
    "IsFinite": discrete(CHEAP),
    "IsInf": discrete(CHEAP),
    "IsNan": discrete(CHEAP),
    "LeftShift": discrete(CHEAP),
    "Less": discrete(CHEAP),
    "LessEqual": discrete(CHEAP),
    "LogicalAnd": discrete(CHEAP),
    "LogicalNot": discrete(CHEAP),
    "LogicalOr": discrete(CHEAP),
    "NotEqual": discrete(CHEAP),
    "PopulationCount": discrete(CHEAP),
    "RightShift": discrete(CHEAP),
    # Complex numbers: their derivatives are no single factor.
    "Angle": opaque(DEAR),
    "Complex": opaque(CHEAP),
    "ComplexAbs": opaque(MEDIUM),
    "Conj": opaque(CHEAP),
    "Imag": opaque(CHEAP),
    "Real": opaque(CHEAP),
}
