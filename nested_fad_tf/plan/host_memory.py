"""Tensors of an accelerator in the memory of its host: a copy there, a copy back.

TensorFlow copies between devices beside what they compute, on streams of their own. The original is
freed when the copy is there. That back waits on the host's side: on the accelerator it would be
received, and take its bytes, as soon as it is sent.
"""

from __future__ import annotations

from typing import ClassVar

from nested_fad_tf.graph import devices
from nested_fad_tf.graph.nodes import Value
from nested_fad_tf.plan.maker import NodeMaker
from nested_fad_tf.plan.storage import Extent


class HostMemory:
    """Stores any tensor of known rank; what it takes is counted on the accelerator alone."""

    name: ClassVar[str] = "host copy"
    loss: ClassVar[str] = ""
    # It is no pass over the tensor that an accelerator is kept busy with.
    passes: ClassVar[int] = 0

    def stored_bytes(self, extent: Extent) -> int | None:
        """What a tensor takes: see `Format`."""
        return None if extent.shape is None else 0

    def pack(self, make: NodeMaker, value: Value) -> tuple[Value, ...]:
        """Stores a tensor: see `Format`."""
        return (_on_host(make, value, value, "/to_host"),)

    def unpack(self, make: NodeMaker, parts: tuple[Value, ...], value: Value) -> Value:
        """Brings it back: see `Format`. Of `value` only the device matters."""
        sent = _on_host(make, parts[0], value, "/from_host")
        back = make.on_device(sent, value.node.device, "/back")
        back.nbytes = value.nbytes
        return back


def _on_host(make: NodeMaker, read: Value, value: Value, suffix: str) -> Value:
    copy = make.on_device(read, devices.host_of(value.node.device), suffix)
    copy.nbytes = 0
    return copy


HOST_MEMORY = HostMemory()
