"""Activations, and the gradient ops that TensorFlow has kernels for.

A gradient op is linear in the incoming gradient; its partial by it is the factor that the kernel
multiplies with. Mind the order of the inputs: those of ``tf.math`` are called with (output, dy),
those of ``tf.nn`` with (dy, input or output).
"""

from __future__ import annotations

from typing import Final

from nested_fad_tf.ops.entry import Attr, Cost, Elementwise, Partials, binary, opaque, unary
from nested_fad_tf.ops.expr import Const, Expr, Operand, both, fn, select

CHEAP, MEDIUM, DEAR = Cost.CHEAP, Cost.MEDIUM, Cost.DEAR

SELU_SCALE: Final = 1.0507009873554804934193349852946
SELU_SCALE_ALPHA: Final = 1.7580993408473768599402175208123


def _step(x: Expr) -> Expr:
    return select(x > 0, 1, 0)


def _inside6(x: Expr) -> Expr:
    return select(both(x > 0, x < 6), 1, 0)


def _elu_factor(y: Expr) -> Expr:
    return select(y < 0, y + 1, 1)


def _selu_factor(y: Expr) -> Expr:
    return select(y < 0, y + SELU_SCALE_ALPHA, SELU_SCALE)


def _softsign_factor(x: Expr) -> Expr:
    return 1 / fn("Square", fn("Abs", x) + 1)


def _softsign_curvature(x: Expr) -> Expr:
    bound = fn("Abs", x) + 1
    return -2 * fn("Sign", x) / (bound * bound * bound)


def _leaky_factor(x: Expr, attr: Attr) -> Expr:
    return select(x > 0, 1, Const(attr("alpha")))


def _leaky(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    # The output has the input's sign, and is more often kept anyway.
    return (_leaky_factor(y if attr("alpha") >= 0 else x[0], attr),)


def _leaky_grad(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    return _leaky_factor(x[1], attr), Const(0)


def _fake_quant_factor(x: Expr, attr: Attr) -> Expr:
    attrs = {name: attr(name) for name in ("min", "max", "num_bits", "narrow_range")}
    return fn("FakeQuantWithMinMaxArgsGradient", fn("OnesLike", x), x, **attrs)


def _fake_quant(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    return (_fake_quant_factor(x[0], attr),)


def _fake_quant_grad(x: tuple[Expr, ...], y: Expr, attr: Attr) -> Partials:
    return _fake_quant_factor(x[1], attr), Const(0)


def _softplus_curvature(x: Expr) -> Operand:
    return 1 / (fn("Exp", -x) + 2 + fn("Exp", x))


TABLE: Final[dict[str, Elementwise]] = {
    # Activations.
    "Elu": unary(MEDIUM, lambda x, y: _elu_factor(y)),
    "FakeQuantWithMinMaxArgs": Elementwise(MEDIUM, _fake_quant),
    "FakeQuantWithMinMaxVars": opaque(MEDIUM),
    "FakeQuantWithMinMaxVarsPerChannel": opaque(MEDIUM),
    "LeakyRelu": Elementwise(CHEAP, _leaky),
    "Relu": unary(CHEAP, lambda x, y: _step(y)),
    "Relu6": unary(CHEAP, lambda x, y: _inside6(y)),
    "Selu": unary(MEDIUM, lambda x, y: _selu_factor(y)),
    "Sigmoid": unary(DEAR, lambda x, y: y * (1 - y)),
    "Softplus": unary(DEAR, lambda x, y: fn("Sigmoid", x)),
    "Softsign": unary(MEDIUM, lambda x, y: _softsign_factor(x)),
    "Tanh": unary(DEAR, lambda x, y: 1 - y * y),
    # Gradient ops of (output, dy).
    "InvGrad": binary(CHEAP, lambda y, dy, out: (-2 * dy * y, -(y * y)), (1,), absorbs_zero=True),
    "ReciprocalGrad": binary(
        CHEAP, lambda y, dy, out: (-2 * dy * y, -(y * y)), (1,), absorbs_zero=True
    ),
    "RsqrtGrad": binary(
        CHEAP, lambda y, dy, out: (-1.5 * dy * (y * y), -0.5 * y * (y * y)), (1,), absorbs_zero=True
    ),
    "SigmoidGrad": binary(CHEAP, lambda y, dy, out: (dy - 2 * dy * y, y * (1 - y)), (1,)),
    "SqrtGrad": binary(MEDIUM, lambda y, dy, out: (-out / y, 0.5 / y), (1,), absorbs_zero=True),
    "TanhGrad": binary(CHEAP, lambda y, dy, out: (-2 * dy * y, 1 - y * y), (1,)),
    # Gradient ops of (dy, output).
    "EluGrad": binary(CHEAP, lambda dy, y, out: (_elu_factor(y), select(y < 0, dy, 0)), (0,)),
    "SeluGrad": binary(CHEAP, lambda dy, y, out: (_selu_factor(y), select(y < 0, dy, 0)), (0,)),
    # Gradient ops of (dy, input).
    "FakeQuantWithMinMaxArgsGradient": Elementwise(CHEAP, _fake_quant_grad, (0,)),
    "LeakyReluGrad": Elementwise(CHEAP, _leaky_grad, (0,)),
    "Relu6Grad": binary(CHEAP, lambda dy, x, out: (_inside6(x), 0), (0,)),
    "ReluGrad": binary(CHEAP, lambda dy, x, out: (_step(x), 0), (0,)),
    "SoftplusGrad": binary(
        MEDIUM, lambda dy, x, out: (fn("Sigmoid", x), dy * _softplus_curvature(x)), (0,)
    ),
    "SoftsignGrad": binary(
        MEDIUM, lambda dy, x, out: (_softsign_factor(x), dy * _softsign_curvature(x)), (0,)
    ),
}
