"""Inputs to try any element-wise op on, made from TensorFlow's registration of it.

A new line in the table needs nothing here unless the op has an attribute without a default, wants
its inputs in a domain that the usual numbers (-3 to 3) miss, or wants particular shapes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from nested_fad_tf.emit.expression import build
from nested_fad_tf.ops.expr import Apply, Leaf

FLOATS = (tf.float32, tf.float64, tf.bfloat16, tf.float16)

# What an op raises where it has no kernel for a dtype, or doesn't take these shapes.
REFUSALS = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.UnimplementedError,
    TypeError,
    ValueError,
)

# Attributes without a default.
ATTRS: Mapping[str, Mapping[str, Any]] = {
    "AccumulateNV2": {"shape": [None]},
    "ApproximateEqual": {"tolerance": 0.5},
    "Bucketize": {"boundaries": [-1.0, 0.0, 1.0]},
    "Cast": {"DstT": tf.float32},
}

# Domains, one an input, where -3 to 3 misses most of it.
POSITIVE, UNIT, COUNT = (0.1, 4.0), (0.02, 0.98), (1, 2, 3)
DOMAINS: Mapping[str, Sequence[Sequence[float]]] = {
    "Acosh": [(1.05, 5.0)],
    "Betainc": [POSITIVE, POSITIVE, UNIT],
    "ClipByValue": [(-3.0, 3.0), (-2.0, -1.0), (1.0, 2.0)],
    "FakeQuantWithMinMaxVars": [(-8.0, 8.0), (-6.0, -1.0), (1.0, 6.0)],
    "Igamma": [POSITIVE, POSITIVE],
    "IgammaGradA": [POSITIVE, POSITIVE],
    "Igammac": [POSITIVE, POSITIVE],
    "Ndtri": [UNIT],
    "Polygamma": [COUNT, POSITIVE],
    "RandomGammaGrad": [POSITIVE, POSITIVE],
    "Relu6": [(-3.0, 9.0)],
    "Relu6Grad": [(-3.0, 3.0), (-3.0, 9.0)],
    "Zeta": [(1.5, 4.0), POSITIVE],
}

# Shapes, where not all inputs can have one shape.
SHAPES: Mapping[str, Sequence[Sequence[int]]] = {
    "BiasAdd": [(12, 5), (5,)],
    "BiasAddV1": [(12, 5), (5,)],
    "FakeQuantWithMinMaxVars": [(60,), (), ()],
    "FakeQuantWithMinMaxVarsPerChannel": [(12, 5), (5,), (5,)],
}


@dataclasses.dataclass(frozen=True)
class Op:
    """A TensorFlow op that can be called on a list of tensors."""

    name: str

    @functools.cached_property
    def definition(self) -> Any:
        """The registration."""
        return op_def_registry.get(self.name)

    @property
    def is_list(self) -> bool:
        """Whether it takes one list of any length."""
        return bool(self.definition.input_arg[0].number_attr)

    @property
    def arity(self) -> int:
        """How many tensors it is tried on."""
        return 3 if self.is_list else len(self.definition.input_arg)

    def dtypes(self, dtype: tf.DType) -> list[tf.DType]:
        """The dtype of each input, if the op's floating-point inputs are of `dtype`."""
        args = list(self.definition.input_arg) * (self.arity if self.is_list else 1)
        return [dtype if a.type_attr else tf.as_dtype(a.type) for a in args]

    def attrs(self, dtype: tf.DType) -> dict[str, Any]:
        """The attributes it is tried with."""
        attrs = dict(ATTRS.get(self.name, {}))
        if self.name == "Cast" and dtype == tf.float32:
            attrs["DstT"] = tf.float64
        return attrs

    def __call__(self, inputs: Sequence[tf.Tensor], **attrs: Any) -> tf.Tensor:
        """Runs the op."""
        keys = [Leaf(i) for i in range(len(inputs))]
        expr = Apply(
            self.name,
            tuple(keys),
            tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in attrs.items()),
        )
        return build(expr, dict(enumerate(inputs)))


def ordinary(op: Op, dtype: tf.DType, count: int = 60, seed: int = 1) -> list[tf.Tensor]:
    """Numbers inside the op's domain (or at least many of them)."""
    rng = np.random.default_rng(seed)
    domains = DOMAINS.get(op.name, [(-3.0, 3.0)] * op.arity)
    shapes = SHAPES.get(op.name, [(count,)] * op.arity)
    inputs = []
    for domain, shape, input_dtype in zip(domains, shapes, op.dtypes(dtype), strict=True):
        if input_dtype == tf.bool:
            numbers = rng.random(shape) < 0.5
        elif domain is COUNT:
            numbers = rng.choice(COUNT, shape)
        else:
            numbers = rng.uniform(*domain, shape)
        inputs.append(tf.cast(numbers, input_dtype))
    return inputs


def broadcast(op: Op, dtype: tf.DType) -> Iterator[list[tf.Tensor]]:
    """The same, with shapes that differ, as far as the op takes them."""
    flat = ordinary(op, dtype)
    if op.arity < 2 or op.name in SHAPES:
        return
    for first, second in [((12, 5), (5,)), ((12, 1), (5,)), ((), (12, 5))]:
        shapes = [first, second, (12, 5)][: op.arity]
        inputs = [tf.reshape(x[: int(np.prod(s))], s) for x, s in zip(flat, shapes, strict=True)]
        try:
            op(inputs, **op.attrs(dtype))
        except REFUSALS:
            continue
        yield inputs


def special(op: Op, dtype: tf.DType) -> list[tf.Tensor]:
    """Zeros of both signs, infinities, nan, denormals, huge numbers: in all combinations."""
    limits = ml_dtypes.finfo(dtype.as_numpy_dtype)
    tiny, huge = float(limits.tiny), float(limits.max)
    numbers = [0.0, tiny / 4, huge, np.inf, 1.0, huge**0.5, tiny**0.5]
    numbers = [*numbers, *(-n for n in numbers), np.nan, 6.0, 0.5, -3.0]
    if op.arity > 2:
        numbers = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, tiny / 4]
    columns = [
        (False, True) if input_dtype == tf.bool else numbers for input_dtype in op.dtypes(dtype)
    ]
    table = list(itertools.product(*columns))
    return [
        tf.cast(np.array(column), input_dtype)
        for column, input_dtype in zip(zip(*table, strict=True), op.dtypes(dtype), strict=True)
    ]


def runs(call: Callable[[], Any]) -> bool:
    """Whether a call isn't refused."""
    try:
        call()
    except REFUSALS:
        return False
    return True
