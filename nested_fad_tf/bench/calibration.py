"""Measures what ops take on the device at hand: the prices that the planner works with.

Each number is a difference of two times, so that what a call takes anyway drops out: of many ops
and of one, of a large compiled group and of a small one. Which ops stand for a class is read from
the table of element-wise ops.
"""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.graph import devices
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.ops import elementwise, heavy
from nested_fad_tf.ops.compiled import COMPILED
from nested_fad_tf.ops.entry import Cost
from nested_fad_tf.ops.heavy import Kind
from nested_fad_tf.plan import price_files
from nested_fad_tf.plan.prices import Prices

# Told how many measurements are done, of how many, and which one is next.
Progress = Callable[[int, int, str], None]

# From what fits into a core's cache to what fits into none.
SIZES = (64 << 10, 1 << 20, 16 << 20, 64 << 20)
# So many ops stand for a class.
OPS_EACH = 4
_ROUNDS = 7
# After so many seconds a measurement has had rounds enough, if it has had three.
_PATIENCE, _LEAST_ROUNDS = 0.8, 3
# Small tensors are worked on several times in a row, as often as makes up these bytes.
_REPEATED, _MOST_CALLS = 4 << 20, 16
# Ops in a row: as many as make up these bytes, within limits.
_BYTES, _FEWEST, _MOST = 16 << 20, 3, 32
# Terms of a small and of a large compiled group.
_SMALL, _LARGE = 2, 8
# What no measurement is believed to be below, as a share of a cheap op that runs by itself.
_LEAST = 0.01
# Domain in which all ops are defined, and none is at a bound.
_LOW, _HIGH = 0.2, 0.8

_Op = Callable[..., tf.Tensor]


@dataclasses.dataclass(frozen=True)
class _Sample:
    """An op that stands for its class.

    Attributes:
        name: Its op type.
        arity: How many inputs it has.
    """

    name: str
    arity: int

    def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
        """Adds the op to the graph."""
        function = getattr(tf.raw_ops, self.name)
        return function(**dict(zip(_required(function), inputs, strict=True)))


def measure_prices(
    sizes: Sequence[int] = SIZES,
    ops_each: int = OPS_EACH,
    rounds: int = _ROUNDS,
    progress: Progress = lambda done, total, text: None,
) -> Prices:
    """Measures prices on the device that TensorFlow puts ops on by default.

    Args:
        sizes: Bytes of tensors to measure element-wise ops with, rising.
        ops_each: How many ops stand for each class.
        rounds: How often each is timed at most; the median counts.
        progress: Told before each measurement, and at the end.

    Returns:
        The prices, in which a second is worth as many bytes as makes a cheap op of the largest size
        cost what it costs by default.
    """
    kind = devices.kind_of_most([""])
    total = 2 * len(Cost) * len(sizes) + len(Kind) + 1
    count = iter(range(total))

    def next_is(text: str) -> None:
        progress(next(count), total, text)

    apart: dict[Cost, tuple[float, ...]] = {}
    fused: dict[Cost, tuple[float, ...]] = {}
    for found, measured in ((apart, _seconds_apart), (fused, _seconds_fused)):
        for cost in Cost:
            seconds = []
            for index, size in enumerate(sizes):
                how = "by itself" if found is apart else "in a compiled group"
                next_is(f"{cost.value} ops {how}, {size >> 10} KiB")
                samples = _samples(cost, ops_each)
                value = statistics.median(measured(s, size, rounds) for s in samples)
                cheap = apart[Cost.CHEAP][index] if apart else 0.0
                seconds.append(_believed(value, cheap))
            found[cost] = tuple(seconds)
    cheap = apart[Cost.CHEAP][-1]
    work = {}
    for work_kind in Kind:
        next_is(f"work: {work_kind.value}")
        work[work_kind] = _rounded(_seconds_of_work(work_kind, sizes[-1], rounds))
    next_is("writing out of a compiled group")
    write_out = _rounded(max(0.0, _seconds_to_write_out(sizes[-1], rounds)))
    progress(total, total, "done")
    worth = price_files.shipped(kind).rate(Cost.CHEAP, sizes[-1], fused=False)
    return Prices(
        device=kind,
        source=_source(kind),
        bytes_per_second=_rounded(worth / cheap),
        sizes=tuple(sizes),
        apart=apart,
        fused=fused,
        work=work,
        write_out=write_out,
    )


def _samples(cost: Cost, count: int) -> list[_Sample]:
    """Ops of a class, evenly from the table: of floats of one shape, in and out."""
    names = [n for n, entry in elementwise.TABLE.items() if entry.cost is cost and n in COMPILED]
    found = [sample for name in names if (sample := _sample(name)) is not None]
    step = max(1.0, len(found) / count)
    return [found[int((i + 0.5) * step)] for i in range(min(count, len(found)))]


def _sample(name: str) -> _Sample | None:
    function = getattr(tf.raw_ops, name, None)
    if function is None:
        return None
    sample = _Sample(name, len(_required(function)))
    with tf.Graph().as_default():
        x = tf.zeros([4])
        try:
            made = sample(*[x] * sample.arity)
        except (TypeError, ValueError):  # It wants other types, shapes, or attributes.
            return None
    fits = isinstance(made, tf.Tensor) and made.dtype == x.dtype and made.shape == x.shape
    return sample if fits else None


def _required(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is inspect.Parameter.empty]


def _seconds_apart(sample: _Sample, size: int, rounds: int) -> float:
    """Seconds a byte of an op that reads tensors which stay, and makes a new one."""
    inputs = _inputs(sample.arity, size)
    many = max(_FEWEST, min(_MOST, _BYTES // size))

    def row(count: int) -> Any:
        def run(*inputs: tf.Tensor) -> list[tf.Tensor]:
            made: list[tf.Tensor] = []
            for _ in range(count):
                with tf.control_dependencies(made[-1:]):
                    made.append(sample(*inputs))
            return made

        return _function(run)

    return _difference(row(many), row(1), inputs, rounds) / (many - 1) / size


def _seconds_fused(sample: _Sample, size: int, rounds: int) -> float:
    """Seconds a byte of an op in a compiled group, reading and writing left out."""
    inputs = _inputs(sample.arity, size)

    def group(count: int) -> Any:
        def run(*inputs: tf.Tensor) -> list[tf.Tensor]:
            terms = [sample(*(x + 0.01 * i for x in inputs)) for i in range(count)]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            return [total]

        return _function(run, compiled=True)

    term = _difference(group(_LARGE), group(_SMALL), inputs, rounds) / (_LARGE - _SMALL) / size
    if elementwise.TABLE[sample.name].cost is Cost.CHEAP:
        # The shifts of the inputs and the sum are cheap ops, too.
        return term / (sample.arity + 2)
    return term


def _seconds_to_write_out(size: int, rounds: int) -> float:
    """Seconds a byte that a compiled group takes longer if it returns a value on the way."""
    count = 3

    def group(returned: int) -> Any:
        def run(x: tf.Tensor) -> list[tf.Tensor]:
            values = [x]
            for _ in range(count + 1):
                values.append(values[-1] * 0.9 + 0.1)
            return [*values[1 : returned + 1], values[-1]]

        return _function(run, compiled=True)

    return _difference(group(count), group(0), _inputs(1, size), rounds) / count / size


def _seconds_of_work(kind: Kind, size: int, rounds: int) -> float:
    """Seconds for a unit of heavy work: the median over ops of a kind."""
    return statistics.median(_seconds_of_op(*op, rounds) for op in _heavy_ops(kind, size))


def _seconds_of_op(op: _Op, inputs: Sequence[tf.Tensor], rounds: int) -> float:
    def run(*inputs: tf.Tensor) -> list[tf.Tensor]:
        return [op(*inputs)]

    def nothing(*inputs: tf.Tensor) -> list[tf.Tensor]:
        return [tf.identity(inputs[0])]

    traced = tf.function(run, autograph=False).get_concrete_function(*inputs)
    node = next(
        n for n in GraphView.from_func_graph(traced.graph, 1).nodes if n.op_type in heavy.TABLE
    )
    units = heavy.TABLE[node.op_type].work(node.inputs, node.outputs, node.attr)
    seconds = _difference(_function(run), _function(nothing), inputs, rounds) / units
    return max(seconds, 1e-18)


def _heavy_ops(kind: Kind, size: int) -> Iterator[tuple[_Op, list[tf.Tensor]]]:
    """Ops of a kind, with tensors that are no larger than a size, nor slower than a second."""
    side = max(16, min(1024, math.isqrt(size // 4)))
    if kind is Kind.PRODUCT:
        yield tf.matmul, [_numbers(side, side), _numbers(side, side)]
        yield tf.matmul, [_numbers(4 * side, side // 2), _numbers(side // 2, side // 2)]
        yield tf.matmul, [_numbers(8, side // 4, 64), _numbers(8, 64, side // 4)]
    elif kind is Kind.PASS:
        x = _numbers(min(size, 16 << 20) // 4 // side, side)
        yield lambda x: tf.reduce_sum(x, axis=-1), [x]
        yield lambda x: tf.reduce_max(x, axis=-1), [x]
        yield tf.nn.softmax, [x]
    else:
        batch = max(1, min(8, size // (4 * 28 * 28 * 64)))
        image = _numbers(batch, 28, 28, 64)
        for window in (3, 5):
            if kind is Kind.CONVOLUTION:
                filters = _numbers(window, window, 64, 64)
                yield lambda x, f: tf.nn.conv2d(x, f, 1, "SAME"), [image, filters]
            else:
                filters = _numbers(window, window, 64, 1)
                yield (
                    lambda x, f: tf.nn.depthwise_conv2d(x, f, [1, 1, 1, 1], "SAME"),
                    [image, filters],
                )


def _inputs(count: int, size: int) -> list[tf.Tensor]:
    return [_numbers(size // 4) for _ in range(count)]


def _numbers(*shape: int) -> tf.Tensor:
    return tf.random.stateless_uniform(shape, (1, 2), _LOW, _HIGH)


def _function(run: Callable[..., list[tf.Tensor]], *, compiled: bool = False) -> Any:
    """A graph function; the last of its results is one number, to wait for."""

    def whole(*inputs: tf.Tensor) -> list[tf.Tensor]:
        made = run(*inputs)
        return [*made, tf.reshape(made[-1], [-1])[0]]

    return tf.function(whole, autograph=False, jit_compile=compiled or None)


def _difference(long: Any, short: Any, inputs: Sequence[tf.Tensor], rounds: int) -> float:
    """How much longer one function takes than another: the median, both in turn."""
    largest = max(4 * math.prod(x.shape) for x in inputs)
    calls = max(1, min(_MOST_CALLS, _REPEATED // largest))
    for function in (long, short):  # traces, compiles and warms up
        _seconds(function, inputs, calls=1)
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < rounds:
        found.append(_seconds(long, inputs, calls) - _seconds(short, inputs, calls))
        if len(found) >= _LEAST_ROUNDS and time.perf_counter() - start > _PATIENCE:
            break
    return statistics.median(found)


def _seconds(function: Any, inputs: Sequence[tf.Tensor], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function(*inputs)[-1].numpy()
    return (time.perf_counter() - start) / calls


def _believed(seconds: float, cheap: float) -> float:
    """A measured number, or the least that it can be where noise has swallowed it."""
    return _rounded(max(seconds, _LEAST * cheap, 1e-15))


def _rounded(number: float) -> float:
    """To three digits: more were not measured."""
    return float(f"{number:.3g}")


def _source(kind: str) -> str:
    """When, where and with what it was measured."""
    device = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
    if kind != "CPU" and (gpus := tf.config.list_physical_devices("GPU")):
        device = tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)
    today = datetime.date.today().isoformat()
    return f"measured {today} with TensorFlow {tf.__version__} on {device}"
