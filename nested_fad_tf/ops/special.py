"""Exponentials, logarithms, circular and hyperbolic functions, and the special functions."""

from __future__ import annotations

import math
from typing import Final

from nested_fad_tf.ops.entry import Attr, Cost, Elementwise, Partials, binary, opaque, unary
from nested_fad_tf.ops.expr import Expr, equal, fn, select

CHEAP, MEDIUM, DEAR = Cost.CHEAP, Cost.MEDIUM, Cost.DEAR

TWO_OVER_ROOT_PI: Final = 2 / math.sqrt(math.pi)


def _square(x: Expr) -> Expr:
    return fn("Square", x)


def _exp(x: Expr) -> Expr:
    return fn("Exp", x)


def _gauss(x: Expr) -> Expr:
    """The derivative of erf."""
    return TWO_OVER_ROOT_PI * _exp(-_square(x))


def _nonzero(x: Expr) -> Expr:
    """1 where x isn't zero, else 0."""
    return select(equal(x, 0), 0, 1)


def _atan2(y: Expr, x: Expr, out: Expr) -> tuple[Expr, Expr]:
    norm = 1 / (_square(x) + _square(y))
    return x * norm, -y * norm


def _igamma_by_x(a: Expr, x: Expr) -> Expr:
    """The density of the gamma distribution, by logarithms so that it doesn't overflow."""
    return _exp(-x + (a - 1) * fn("Log", x) - fn("Lgamma", a))


def _betainc(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    a, b, t = x
    log_beta = fn("Lgamma", a) + fn("Lgamma", b) - fn("Lgamma", a + b)
    density = _exp(fn("Xlog1py", b - 1, -t) + fn("Xlogy", a - 1, t) - log_beta)
    return None, None, density


def _spence(x: Expr, y: Expr) -> Expr:
    return select(equal(x, 1), -1, fn("Log", x) / (1 - x))


TABLE: Final[dict[str, Elementwise]] = {
    # Exponentials and logarithms.
    "Exp": unary(MEDIUM, lambda x, y: y),
    "Expm1": unary(DEAR, lambda x, y: _exp(x)),
    "Log": unary(MEDIUM, lambda x, y: 1 / x),
    "Log1p": unary(DEAR, lambda x, y: 1 / (1 + x)),
    "Xlog1py": binary(DEAR, lambda a, b, y: (fn("Xlog1py", _nonzero(a), b), fn("Xdivy", a, b + 1))),
    "Xlogy": binary(DEAR, lambda a, b, y: (fn("Xlogy", _nonzero(a), b), fn("Xdivy", a, b))),
    # Circular functions.
    "Acos": unary(DEAR, lambda x, y: -1 / fn("Sqrt", 1 - _square(x))),
    "Asin": unary(DEAR, lambda x, y: 1 / fn("Sqrt", 1 - _square(x))),
    "Atan": unary(DEAR, lambda x, y: 1 / (1 + _square(x))),
    "Atan2": binary(DEAR, _atan2),
    "Cos": unary(DEAR, lambda x, y: -fn("Sin", x)),
    "Sin": unary(DEAR, lambda x, y: fn("Cos", x)),
    "Tan": unary(DEAR, lambda x, y: _square(1 / fn("Cos", x))),
    # Hyperbolic functions (Tanh is with the activations).
    "Acosh": unary(DEAR, lambda x, y: 1 / fn("Sinh", y)),
    "Asinh": unary(DEAR, lambda x, y: 1 / fn("Cosh", y)),
    "Atanh": unary(DEAR, lambda x, y: 1 / (1 - _square(x))),
    "Cosh": unary(DEAR, lambda x, y: fn("Sinh", x)),
    "Sinh": unary(DEAR, lambda x, y: fn("Cosh", x)),
    # The error function and its kin.
    "Dawsn": unary(DEAR, lambda x, y: 1 - 2 * x * y),
    "Erf": unary(DEAR, lambda x, y: _gauss(x)),
    "Erfc": unary(DEAR, lambda x, y: -_gauss(x)),
    "Erfinv": unary(DEAR, lambda x, y: 0.5 * math.sqrt(math.pi) * _exp(_square(y))),
    "Ndtri": unary(DEAR, lambda x, y: math.sqrt(2 * math.pi) * _exp(0.5 * _square(y))),
    # Gamma functions: TensorFlow has no op for the remaining derivatives.
    "Betainc": Elementwise(DEAR, _betainc),
    "Digamma": unary(DEAR, lambda x, y: fn("Polygamma", fn("OnesLike", x), x)),
    "Igamma": binary(DEAR, lambda a, x, y: (fn("IgammaGradA", a, x), _igamma_by_x(a, x))),
    "Igammac": binary(DEAR, lambda a, x, y: (-fn("IgammaGradA", a, x), -_igamma_by_x(a, x))),
    "IgammaGradA": opaque(DEAR),
    "Lgamma": unary(DEAR, lambda x, y: fn("Digamma", x)),
    "Polygamma": binary(DEAR, lambda n, x, y: (None, fn("Polygamma", n + 1, x))),
    "RandomGammaGrad": opaque(DEAR),
    "Zeta": binary(DEAR, lambda s, q, y: (None, -s * fn("Zeta", s + 1, q))),
    # Integrals.
    "Expint": unary(DEAR, lambda x, y: _exp(x) / x),
    "FresnelCos": unary(DEAR, lambda x, y: fn("Cos", math.pi / 2 * _square(x))),
    "FresnelSin": unary(DEAR, lambda x, y: fn("Sin", math.pi / 2 * _square(x))),
    "Spence": unary(DEAR, _spence),
    # Bessel functions.
    "BesselI0": unary(DEAR, lambda x, y: fn("BesselI1", x)),
    "BesselI0e": unary(DEAR, lambda x, y: fn("BesselI1e", x) - fn("Sign", x) * y),
    "BesselI1": unary(DEAR, lambda x, y: select(equal(x, 0), 0.5, fn("BesselI0", x) - y / x)),
    "BesselI1e": unary(
        DEAR,
        lambda x, y: select(equal(x, 0), 0.5, fn("BesselI0e", x) - y * (fn("Sign", x) + 1 / x)),
    ),
    "BesselJ0": unary(DEAR, lambda x, y: -fn("BesselJ1", x)),
    "BesselJ1": unary(DEAR, lambda x, y: select(equal(x, 0), 0.5, fn("BesselJ0", x) - y / x)),
    "BesselK0": unary(DEAR, lambda x, y: -fn("BesselK1", x)),
    "BesselK0e": unary(DEAR, lambda x, y: y - fn("BesselK1e", x)),
    "BesselK1": unary(DEAR, lambda x, y: -fn("BesselK0", x) - y / x),
    "BesselK1e": unary(DEAR, lambda x, y: y * (1 - 1 / x) - fn("BesselK0e", x)),
    "BesselY0": unary(DEAR, lambda x, y: -fn("BesselY1", x)),
    "BesselY1": unary(DEAR, lambda x, y: fn("BesselY0", x) - y / x),
}
