"""Measures how much memory a call needs and how long it takes.

The account is the allocator's own (report/allocations.py). Where it can't be had, `measure` falls
back to coarser methods and says so in `Measurement.method`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nested_fad_tf.report import process
from nested_fad_tf.report.allocations import Account, LiveTensor, Recording, device

# Two calls: Keras and others trace a second variant after creating their optimizer's slots.
_WARM_UP_CALLS = 2
# The executor orders ready ops by how long they took so far, so the peak may vary by a few tensors
# even with one thread; between processes more than within one. The median of three is reported.
_PROFILED_CALLS = 3


@dataclass(frozen=True)
class Measurement:
    """What one call needs.

    Attributes:
        peak_bytes: The most that was live at once, above what lived before the call; the median of
            the profiled calls.
        total_peak_bytes: The same with what lived before the call (weights, optimizer slots,
            inputs).
        seconds: Median time of the un-profiled calls.
        all_seconds: Time of each of them.
        timeline: Points (seconds since the call began, bytes above what lived before), one per
            change.
        peak_live: What is live at the peak, largest first; buffers of the call only.
        method: "profiler", "allocator statistics" or "resident set", from exact to coarse. Under
            a strategy of several processes never the first, which can crash them.
        unknown_frees: Buffers from before the call that were freed in it and whose size is not
            known; they are left out of the sum, which is then an upper bound. Zero almost always.
        peak_range: The smallest and the largest peak of the profiled calls.
        backward_from: When the backward pass began in the timeline, in seconds; `None` where the
            profile doesn't tell: of a function without one, of ops that ran eagerly, and of a step
            that XLA compiled as a whole.
    """

    peak_bytes: int
    total_peak_bytes: int
    seconds: float
    all_seconds: tuple[float, ...]
    timeline: tuple[tuple[float, int], ...]
    peak_live: tuple[LiveTensor, ...]
    method: str
    unknown_frees: int = 0
    peak_range: tuple[int, int] = (0, 0)
    backward_from: float | None = None

    def _repr_html_(self) -> str:
        """What notebooks show."""
        from nested_fad_tf.report import notebook

        return notebook.measurement_html(self)


def measure(fn: Callable[..., Any], *args: Any, runs: int = 5, **kwargs: Any) -> Measurement:
    """Measures a call's memory peak and time.

    The function really runs: twice to warm up, `runs` times for the time, and four times under the
    profiler (once to learn the sizes of the buffers that later calls replace, three times to
    measure; the one with the median peak is reported). A training step moves on by as many steps.

    Examples:
        >>> double = tf.function(lambda x: 2 * x)
        >>> measurement = nfad.measure(double, tf.ones([1024, 1024]), runs=1)
        >>> measurement.peak_bytes // 2**20  # the result: 1024 * 1024 floats
        4

    Args:
        fn: A tf.function, a function made by `nested_fad_tf.function`, or any callable that runs
            TensorFlow ops.
        *args: Its arguments.
        runs: How many calls are timed.
        **kwargs: Its keyword arguments.

    Returns:
        The measurement. Set inter_op_parallelism_threads=1 when comparing the memory of two
        functions: with more, the order of ops, and with it the peak, varies by one or two tensors.

    Raises:
        ValueError: If `runs` is below one.
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, not {runs}")

    def call() -> Any:
        result = fn(*args, **kwargs)
        _wait_for_devices()
        return result

    for _ in range(_WARM_UP_CALLS):
        call()
    all_seconds = tuple(_seconds(call) for _ in range(runs))
    before = _live_bytes()
    accounts, method = _accounts_of(call)
    accounts.sort(key=lambda account: account.peak)
    account = accounts[len(accounts) // 2]
    return Measurement(
        peak_bytes=account.peak,
        total_peak_bytes=before + account.peak,
        seconds=statistics.median(all_seconds),
        all_seconds=all_seconds,
        timeline=account.timeline,
        peak_live=account.live,
        method=method,
        unknown_frees=account.unknown_frees,
        peak_range=(accounts[0].peak, accounts[-1].peak),
        backward_from=account.backward_from,
    )


def _accounts_of(call: Callable[[], Any]) -> tuple[list[Account], str]:
    """Accounts of calls by the best method that works here, and the method's name."""
    accounts = _profiled(call)
    if accounts:
        return accounts, "profiler"
    peak = _statistics_peak(call)
    if peak is not None:
        return [Account(peak, (), (), 0)], "allocator statistics"
    return [Account(process.resident_peak(call)[0], (), (), 0)], "resident set"


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _wait_for_devices() -> None:
    """Waits for what a GPU still has queued; the CPU is done when a call returns."""
    if tf.config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()


def _live_bytes() -> int:
    """Bytes in use now.

    That is the allocator's word; where it keeps no counters, the sizes of all variables and eager
    tensors that Python can reach.
    """
    try:
        current = int(tf.config.experimental.get_memory_info(device())["current"])
    except (ValueError, tf.errors.OpError):
        current = 0
    if current:
        return current
    gc.collect()
    eager = type(tf.constant(0))
    total = 0
    for item in gc.get_objects():
        # type(), not isinstance(): that would ask proxies for their class, and proxies may raise.
        if issubclass(type(item), (tf.Variable, eager)) and item.shape.is_fully_defined():
            total += item.shape.num_elements() * item.dtype.size
    return total


def _statistics_peak(call: Callable[[], Any]) -> int | None:
    """The peak by the allocator's counters (sizes rounded up), or None where it keeps none."""
    name = device()
    try:
        tf.config.experimental.reset_memory_stats(name)
        before = tf.config.experimental.get_memory_info(name)["current"]
        result = call()
        peak = tf.config.experimental.get_memory_info(name)["peak"]
    except (ValueError, tf.errors.OpError):
        return None
    del result
    return int(peak - before) if peak > before else None


def _profiled(call: Callable[[], Any]) -> list[Account]:
    """Accounts of profiled calls; none where calls can't be profiled, or no memory events are."""
    recording = Recording()
    try:
        recording.start()
    except tf.errors.FailedPreconditionError:
        return []
    try:
        call()  # Its allocations tell the sizes of the buffers which later calls replace.
        for _ in range(_PROFILED_CALLS):
            with recording.marked():
                result = call()
            del result  # Held until here: what a step returns is part of what it needs.
    finally:
        accounts = recording.stop()
    return accounts
