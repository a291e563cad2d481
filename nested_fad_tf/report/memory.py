"""Measures how much memory a call needs and how long it takes.

The account is the allocator's own: TensorFlow's profiler records every allocation and deallocation
with the op that asked, the bytes *requested* (not what an allocator rounds up to), and the time.
Summing them gives the peak, the timeline and what is live at the peak, identical from run to run. A
chain of N tanh on 16 MiB tensors, summed and differentiated, comes out at exactly (N + 1) * 16 MiB.

Private TensorFlow names are used in this file only, checked with TensorFlow 2.21:
`tensorflow.tsl.profiler.protobuf` (the profile's format) and the exported symbol
`tsl::EnableCPUAllocatorStats` (without it, the plain CPU allocator, which TensorFlow uses where
oneDNN is off, records nothing). Where either is missing, `measure` falls back to coarser methods
and says so in `Measurement.method`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import glob
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from nested_fad_tf.report import process

_MARKER = "nested_fad_tf.measure"
_ALLOCATION = "MemoryAllocation"
_DEALLOCATION = "MemoryDeallocation"
# Two calls: Keras and others trace a second variant after creating their optimizer's slots.
_WARM_UP_CALLS = 2
# The executor orders ready ops by how long they took so far, so the peak may vary by a few tensors
# even with one thread; between processes more than within one. The median of three is reported.
_PROFILED_CALLS = 3


@dataclass(frozen=True)
class LiveTensor:
    """A buffer that is live when the call needs most.

    Attributes:
        name: The op that asked for it.
        bytes: Bytes requested.
        shape: Its shape as TensorFlow writes it, "[2048,2048]"; empty for scratch space.
        dtype: Its type's name, "float32"; empty for scratch space.
    """

    name: str
    bytes: int
    shape: str
    dtype: str


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
        method: "profiler", "allocator statistics" or "resident set", from exact to coarse.
        unknown_frees: Buffers from before the call that were freed in it and whose size is not
            known; they are left out of the sum, which is then an upper bound. Zero almost always.
        peak_range: The smallest and the largest peak of the profiled calls.
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


@dataclass(frozen=True)
class _Event:
    """One allocation (or deallocation) as the profiler wrote it."""

    picoseconds: int
    allocates: bool
    address: int
    tensor: LiveTensor


@dataclass(frozen=True)
class _Account:
    """Peak, timeline and live buffers summed from a profile."""

    peak: int
    timeline: tuple[tuple[float, int], ...]
    live: tuple[LiveTensor, ...]
    unknown_frees: int


def measure(fn: Callable[..., Any], *args: Any, runs: int = 5, **kwargs: Any) -> Measurement:
    """Measures a call's memory peak and time.

    The function really runs: twice to warm up, `runs` times for the time, and four times under the
    profiler (once to learn the sizes of the buffers that later calls replace, three times to
    measure; the one with the median peak is reported). A training step moves on by as many steps.

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
    )


def _accounts_of(call: Callable[[], Any]) -> tuple[list[_Account], str]:
    """Accounts of calls by the best method that works here, and the method's name."""
    accounts = _profiled(call)
    if accounts:
        return accounts, "profiler"
    peak = _statistics_peak(call)
    if peak is not None:
        return [_Account(peak, (), (), 0)], "allocator statistics"
    return [_Account(process.resident_peak(call)[0], (), (), 0)], "resident set"


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _wait_for_devices() -> None:
    """Waits for what a GPU still has queued; the CPU is done when a call returns."""
    if tf.config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()


def _device() -> str:
    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


def _live_bytes() -> int:
    """Bytes in use now.

    That is the allocator's word; where it keeps no counters, the sizes of all variables and eager
    tensors that Python can reach.
    """
    try:
        current = int(tf.config.experimental.get_memory_info(_device())["current"])
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
    device = _device()
    try:
        tf.config.experimental.reset_memory_stats(device)
        before = tf.config.experimental.get_memory_info(device)["current"]
        result = call()
        peak = tf.config.experimental.get_memory_info(device)["peak"]
    except (ValueError, tf.errors.OpError):
        return None
    del result
    return int(peak - before) if peak > before else None


def _profiled(call: Callable[[], Any]) -> list[_Account]:
    """Accounts of profiled calls; none where the profile holds no memory events."""
    _enable_cpu_events()
    options = tf.profiler.experimental.ProfilerOptions(
        host_tracer_level=2, python_tracer_level=0, device_tracer_level=0
    )
    with tempfile.TemporaryDirectory() as log_dir:
        tf.profiler.experimental.start(log_dir, options=options)
        try:
            call()  # Its allocations tell the sizes of the buffers which later calls replace.
            for _ in range(_PROFILED_CALLS):
                with tf.profiler.experimental.Trace(_MARKER):
                    result = call()
                del result  # Held until here: what a step returns is part of what it needs.
        finally:
            tf.profiler.experimental.stop()
        events, spans = _read_events(log_dir)
    return [_sum_events(events, start, end) for start, end in spans if events]


def _enable_cpu_events() -> None:
    """Makes the plain CPU allocator record its allocations; the others do so unasked."""
    library = os.path.join(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2")
    # Builds without the library or the symbol leave the profile empty; the next method is tried.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(library)._ZN3tsl23EnableCPUAllocatorStatsEv()


def _read_events(log_dir: str) -> tuple[list[_Event], list[tuple[int, int]]]:
    """Memory events in time order, and when each measured call began and ended."""
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError:
        return [], []
    events: list[_Event] = []
    spans: list[tuple[int, int]] = []
    for path in glob.glob(os.path.join(log_dir, "**", "*.xplane.pb"), recursive=True):
        space = xplane_pb2.XSpace()
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
        for plane in space.planes:
            names = {key: value.name for key, value in plane.event_metadata.items()}
            stat_names = {key: value.name for key, value in plane.stat_metadata.items()}
            for time_ps, name, event in _named_events(plane, names):
                if name == _MARKER:
                    spans.append((time_ps, time_ps + event.duration_ps))
                else:
                    events.extend(_decode(time_ps, name, _stats(event, stat_names)))
    events.sort(key=lambda event: event.picoseconds)
    return events, spans


def _named_events(plane: Any, names: dict[int, str]) -> Iterator[tuple[int, str, Any]]:
    """The plane's memory events and the marker; skips the many others before looking into them."""
    wanted = {key for key, name in names.items() if name in (_ALLOCATION, _DEALLOCATION, _MARKER)}
    for line in plane.lines:
        for event in line.events:
            if event.metadata_id in wanted:
                time_ps = line.timestamp_ns * 1000 + event.offset_ps
                yield time_ps, names[event.metadata_id], event


def _stats(event: Any, stat_names: dict[int, str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for stat in event.stats:
        kind = stat.WhichOneof("value")
        value = getattr(stat, kind)
        result[stat_names[stat.metadata_id]] = (
            stat_names.get(value, "") if kind == "ref_value" else value
        )
    return result


def _decode(time_ps: int, name: str, stats: dict[str, Any]) -> Iterator[_Event]:
    """An event of the device's allocator; host buffers are not counted where there is a GPU."""
    on_gpu = str(stats.get("allocator_name", "")).upper().startswith("GPU_0")
    if on_gpu != (_device() == "GPU:0"):
        return
    dtype = stats.get("data_type", 0)
    tensor = LiveTensor(
        name=str(stats.get("tf_op", "")),
        bytes=int(stats.get("requested_bytes", 0)),
        shape=str(stats.get("shape", "")),
        dtype=tf.dtypes.as_dtype(dtype).name if dtype else "",
    )
    yield _Event(time_ps, name == _ALLOCATION, int(stats.get("addr", 0)), tensor)


def _sum_events(events: list[_Event], start: int, end: int) -> _Account:
    """Sums the events between start and end.

    A deallocation is matched by address to the allocation it ends. Three cases: a buffer of this
    call is taken off again; a buffer of the call before (say, a variable's, replaced by an
    assignment) counts as negative, since it lived when the call began and no longer does; a buffer
    from still earlier does so too where the allocator names its size, and is left out and counted
    as unknown where it does not.
    """
    owners: dict[int, LiveTensor] = {}
    total = peak = unknown = 0
    peak_time = start
    timeline: list[tuple[float, int]] = [(0.0, 0)]
    for event in events:
        if event.picoseconds > end:
            break
        inside = event.picoseconds >= start
        if event.allocates:
            owners[event.address] = event.tensor
            change = event.tensor.bytes
        else:
            change = -owners.pop(event.address, event.tensor).bytes
            unknown += inside and not change
        if not inside or not change:
            continue
        total += change
        timeline.append(((event.picoseconds - start) / 1e12, total))
        if total > peak:
            peak, peak_time = total, event.picoseconds
    live = _live_between(events, start, peak_time)
    return _Account(peak, tuple(timeline), live, unknown)


def _live_between(events: list[_Event], start: int, end: int) -> tuple[LiveTensor, ...]:
    """What was allocated from start to end and not freed by then, largest first."""
    live: dict[int, LiveTensor] = {}
    for event in events:
        if start <= event.picoseconds <= end:
            if event.allocates:
                live[event.address] = event.tensor
            else:
                live.pop(event.address, None)
    return tuple(sorted(live.values(), key=lambda tensor: -tensor.bytes))
