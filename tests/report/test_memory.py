"""The account of memory against graphs whose peak can be worked out by hand."""

import mmap

import pytest
import tensorflow as tf

from nested_fad_tf.report import allocations, memory, process

MIB = 2**20


@tf.function
def tanh_chain_gradient(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = x
        for _ in range(6):
            y = tf.tanh(y)
        loss = tf.reduce_sum(y)
    return tape.gradient(loss, x)


def event(time, kind, address, name="", size=0):
    tensor = memory.LiveTensor(name, size, "", "")
    return allocations._Event(time, kind == "alloc", address, tensor)


def test_chain_of_tanh_needs_one_tensor_an_op_and_the_seed():
    measured = memory.measure(tanh_chain_gradient, tf.ones([2048, 2048]), runs=1)
    assert measured.method == "profiler"
    assert measured.peak_bytes == (6 + 1) * 16 * MIB
    assert measured.peak_range == (measured.peak_bytes, measured.peak_bytes)
    assert measured.total_peak_bytes >= (6 + 2) * 16 * MIB
    assert sorted(tensor.name for tensor in measured.peak_live)[:6] == [
        "Tanh", "Tanh_1", "Tanh_2", "Tanh_3", "Tanh_4", "Tanh_5",
    ]  # fmt: skip
    assert {tensor.shape for tensor in measured.peak_live} == {"[2048,2048]"}
    assert max(size for _, size in measured.timeline) == measured.peak_bytes
    assert measured.unknown_frees == 0


def test_a_replaced_variable_buffer_is_taken_off():
    variable = tf.Variable(tf.ones([2048, 2048]))

    @tf.function
    def replace(x):
        variable.assign(x * 2.0 + tf.tanh(variable))

    measured = memory.measure(replace, tf.ones([2048, 2048]), runs=1)
    assert measured.timeline[-1][1] == 0
    assert measured.peak_bytes == 2 * 16 * MIB


def test_a_buffer_from_before_the_call_counts_as_negative_when_freed():
    events = [
        event(1, "alloc", address=1, name="old", size=100),
        event(12, "alloc", address=2, name="new", size=30),
        event(13, "free", address=1),
        event(14, "alloc", address=3, name="late", size=90),
        event(15, "free", address=9),
        event(99, "alloc", address=4, name="after", size=1000),
    ]
    account = allocations._sum_events(events, start=10, end=20)
    assert [size for _, size in account.timeline] == [0, 30, -70, 20]
    assert account.peak == 30
    assert [tensor.name for tensor in account.live] == ["new"]
    assert account.unknown_frees == 1


def test_time_comes_from_every_run():
    measured = memory.measure(lambda x, y: x + y, tf.ones([8]), y=tf.ones([8]), runs=3)
    assert len(measured.all_seconds) == 3
    assert min(measured.all_seconds) <= measured.seconds <= max(measured.all_seconds)


def test_no_runs_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        memory.measure(tf.identity, tf.ones([1]), runs=0)


def test_resident_set_sees_a_large_buffer():
    def mapped_and_written() -> mmap.mmap:
        # Not from malloc, which may give out pages that earlier tests left resident.
        buffer = mmap.mmap(-1, 64 * MIB)
        buffer.write(b"x" * len(buffer))
        return buffer

    try:
        rise, peak = process.resident_peak(mapped_and_written)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert 60 * MIB < rise <= peak


def devices(*names):
    return lambda: [tf.config.LogicalDevice(name, "CPU") for name in names]


@pytest.mark.parametrize(
    ("others", "alone"),
    [
        ([], True),
        (["/job:localhost/replica:0/task:0/device:CPU:1"], True),
        (["/job:localhost/replica:0/task:1/device:CPU:0"], False),
        (["/job:ps/replica:0/task:0/device:CPU:0"], False),
    ],
)
def test_other_processes_are_known_by_their_devices(others, alone, monkeypatch):
    own = "/job:localhost/replica:0/task:0/device:CPU:0"
    monkeypatch.setattr(tf.config, "list_logical_devices", devices(own, *others))
    assert allocations.works_alone() == alone


def test_where_other_processes_take_part_nothing_is_profiled(monkeypatch):
    monkeypatch.setattr(allocations, "works_alone", lambda: False)
    with pytest.raises(tf.errors.FailedPreconditionError, match="works with others"):
        allocations.Recording().start()
    try:
        measured = memory.measure(tanh_chain_gradient, tf.ones([2048, 2048]), runs=1)
    except RuntimeError as error:
        pytest.skip(str(error))
    assert measured.method == "resident set"
    # Whoever takes the risk may.
    recording = allocations.Recording(across_workers=True)
    recording.start()
    with recording.marked():
        tanh_chain_gradient(tf.ones([64, 64]))
    (account,) = recording.stop()
    assert account.peak > 0
