"""The allocator's account of calls: every allocation and deallocation, from TensorFlow's profiler.

Recorded are the op that asked, the bytes *requested* (not what an allocator rounds up to), and the
time. Summing them gives the peak, the timeline and what is live at the peak, identical from run to
run. A chain of N tanh on 16 MiB tensors, summed and differentiated, comes out at exactly
(N + 1) * 16 MiB.

Uses private TensorFlow API, checked on 2.18 to 2.21: `tensorflow.tsl.profiler.protobuf` (the
profile's format) and the exported symbol `tsl::EnableCPUAllocatorStats` (without it, the plain CPU
allocator, which TensorFlow uses where oneDNN is off, records nothing). Where either is missing, a
recording holds no accounts.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from nested_fad_tf.report.passes import Passes, tells, told

_MARKER = "nested_fad_tf.measure"
_ALLOCATION = "MemoryAllocation"
_DEALLOCATION = "MemoryDeallocation"
_MEMORY = (_ALLOCATION, _DEALLOCATION)


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
class _Event:
    """One allocation (or deallocation) as the profiler wrote it."""

    picoseconds: int
    allocates: bool
    address: int
    tensor: LiveTensor


@dataclass(frozen=True)
class _Profile:
    """What a profile says of interest, each in order of time.

    Attributes:
        memory: Allocations and deallocations.
        spans: When each marked call began and ended.
        ran: When functions were called and ops ran, and the names of those events.
    """

    memory: list[_Event]
    spans: list[tuple[int, int]]
    ran: list[tuple[int, str]]


@dataclass(frozen=True)
class Account:
    """Peak, timeline and live buffers of one call, summed from a profile.

    Attributes:
        peak: The most bytes that were live at once, above what lived before.
        timeline: Points (seconds since the call began, bytes above what lived before).
        live: What is live at the peak, largest first; buffers of the call only.
        unknown_frees: Buffers from before the call that were freed in it, of unknown size.
        backward_from: Seconds from the call's beginning to that of the backward pass; `None` where
            the profile doesn't tell (report/passes.py).
    """

    peak: int
    timeline: tuple[tuple[float, int], ...]
    live: tuple[LiveTensor, ...]
    unknown_frees: int
    backward_from: float | None = None


def works_alone() -> bool:
    """Whether no other process takes part in what TensorFlow runs in this one.

    Others do under `MultiWorkerMirroredStrategy`, and in the coordinator of parameter servers.
    """
    names = (tf.DeviceSpec.from_string(d.name) for d in tf.config.list_logical_devices())
    return len({(name.job, name.task) for name in names}) <= 1


class Recording:
    """A profile in which some calls are marked.

    What runs before the first marked call tells the sizes of the buffers that it frees, so let the
    same call run once unmarked. Only one profile can be recorded at a time in a process.

        recording = Recording()
        recording.start()
        step()
        with recording.marked():
            step()
        (account,) = recording.stop()

    Args:
        across_workers: Whether to record where several processes take part in a step, too. That may
            crash this one: of a collective's events some begin in one thread and end in another,
            and TensorFlow 2.18 to 2.21 write to such an event after they have freed it, when the
            profiler stops (`TraceMeRecorder::Consume`).
    """

    def __init__(self, *, across_workers: bool = False) -> None:
        self._across_workers = across_workers
        self._log_dir: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        """Starts the profiler.

        Raises:
            tf.errors.AlreadyExistsError: If a profile is being recorded already.
            tf.errors.FailedPreconditionError: If other processes take part in what runs here.
        """
        if not (self._across_workers or works_alone()):
            raise tf.errors.FailedPreconditionError(
                None, None, "TensorFlow's profiler can crash a process that works with others"
            )
        _enable_cpu_events()
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=2, python_tracer_level=0, device_tracer_level=0
        )
        log_dir = tempfile.TemporaryDirectory()
        try:
            tf.profiler.experimental.start(log_dir.name, options=options)
        except tf.errors.OpError:
            log_dir.cleanup()
            raise
        self._log_dir = log_dir

    def marked(self) -> contextlib.AbstractContextManager[Any]:
        """A block whose allocations are to be summed."""
        return tf.profiler.experimental.Trace(_MARKER)

    def stop(self) -> list[Account]:
        """Stops the profiler; does nothing unless it was started.

        Returns:
            The account of each marked block; none where the profile holds no memory events.
        """
        if self._log_dir is None:
            return []
        log_dir, self._log_dir = self._log_dir, None
        with log_dir as folder:
            tf.profiler.experimental.stop()
            profile = _read(folder)
        if not profile.memory:
            return []
        passes = Passes()
        return [_account(profile, passes, start, end) for start, end in profile.spans]


def device() -> str:
    """The device whose memory counts: the first GPU where there is one."""
    return "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"


def _enable_cpu_events() -> None:
    """Makes the plain CPU allocator record its allocations; the others do so unasked."""
    library = os.path.join(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2")
    # Builds without the library or the symbol leave the profile empty; the next method is tried.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(library)._ZN3tsl23EnableCPUAllocatorStatsEv()


def _read(log_dir: str) -> _Profile:
    found = _Profile([], [], [])
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError:
        return found
    for path in glob.glob(os.path.join(log_dir, "**", "*.xplane.pb"), recursive=True):
        space = xplane_pb2.XSpace()
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
        for plane in space.planes:
            names = {key: value.name for key, value in plane.event_metadata.items()}
            stat_names = {key: value.name for key, value in plane.stat_metadata.items()}
            for time_ps, name, event in _named_events(plane, names):
                if name == _MARKER:
                    found.spans.append((time_ps, time_ps + event.duration_ps))
                elif name in _MEMORY:
                    found.memory.extend(_decode(time_ps, name, _stats(event, stat_names)))
                else:
                    found.ran.append((time_ps, told(name, _stats(event, stat_names))))
    found.memory.sort(key=lambda event: event.picoseconds)
    found.ran.sort()
    found.spans.sort()
    return found


def _named_events(plane: Any, names: dict[int, str]) -> Iterator[tuple[int, str, Any]]:
    """The plane's events that count; skips the many others before looking into them."""
    wanted = {
        key for key, name in names.items() if name == _MARKER or name in _MEMORY or tells(name)
    }
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
    if on_gpu != (device() == "GPU:0"):
        return
    dtype = stats.get("data_type", 0)
    tensor = LiveTensor(
        name=str(stats.get("tf_op", "")),
        bytes=int(stats.get("requested_bytes", 0)),
        shape=str(stats.get("shape", "")),
        dtype=tf.dtypes.as_dtype(dtype).name if dtype else "",
    )
    yield _Event(time_ps, name == _ALLOCATION, int(stats.get("addr", 0)), tensor)


def _account(profile: _Profile, passes: Passes, start: int, end: int) -> Account:
    """The account of the call between start and end."""
    begins = passes.backward_from((t, name) for t, name in profile.ran if start <= t <= end)
    seconds = None if begins is None else (begins - start) / 1e12
    return replace(_sum_events(profile.memory, start, end), backward_from=seconds)


def _sum_events(events: list[_Event], start: int, end: int) -> Account:
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
    return Account(peak, tuple(timeline), live, unknown)


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
