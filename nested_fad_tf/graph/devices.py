"""Where ops run, as far as it is known when a function is traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import tensorflow as tf


def on_cpu(device: str) -> bool:
    """Whether an op is known to run on a CPU.

    Args:
        device: The device it asks for; may be empty or say only a part.

    Returns:
        Whether it asks for a CPU, or asks for no kind of device and there is no other kind, in this
        process or in those that it is connected to.
    """
    kind = tf.DeviceSpec.from_string(device).device_type
    if kind is not None:
        return kind == "CPU"
    return all(d.device_type == "CPU" for d in tf.config.list_logical_devices())


def kind_of_most(devices: Iterable[str]) -> str:
    """The kind of device that most ops run on.

    Args:
        devices: The devices that they ask for; may be empty or say only a part.

    Returns:
        "CPU" or "GPU", as which every other kind counts.
    """
    counts = Counter(devices)
    cpu = sum(count for device, count in counts.items() if on_cpu(device))
    return "CPU" if 2 * cpu >= counts.total() else "GPU"


def host_of(device: str) -> str:
    """The CPU beside a device.

    Args:
        device: The device; may be empty or say only a part.

    Returns:
        The first CPU of the same task.
    """
    spec = tf.DeviceSpec.from_string(device)
    return spec.replace(device_type="CPU", device_index=0).to_string()


def with_cpu(device: str) -> str:
    """A device that an op on a CPU may ask for.

    Args:
        device: The device it asks for, which is a CPU or says of no kind.

    Returns:
        The same, saying that it is a CPU.
    """
    kind = tf.DeviceSpec.from_string(device).device_type
    return host_of(device) if kind is None else device
