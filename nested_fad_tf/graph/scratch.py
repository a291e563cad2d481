"""What kernels allocate for themselves while they run, where that is known to be large.

On a CPU, XLA computes the filter's gradient of a depthwise convolution with one filter a channel as
that of a dense one, which is as many times larger as there are channels, and picks from it. (Of
other grouped ones it doesn't.) Keras has XLA compile convolutions with `groups`, whatever the model
is compiled with; its depthwise ones become XLA's only in a function that is compiled as a whole.
"""

from __future__ import annotations

import tensorflow as tf

from nested_fad_tf.graph.calls import CALLS, MUST_COMPILE, function_named
from nested_fad_tf.graph.devices import on_cpu

# How many gradients of the dense filter are there at once; measured with TensorFlow 2.21.
_DENSE = 2
_GROUPED, _DEPTHWISE = "Conv2DBackpropFilter", "DepthwiseConv2dNativeBackpropFilter"


class Scratch:
    """What the kernels of a graph's ops allocate while they run, beside their outputs.

    Args:
        compiled: Whether XLA compiles the whole graph.
    """

    def __init__(self, *, compiled: bool) -> None:
        self._compiled = compiled
        self._functions: dict[str, int] = {}  # by name: of what XLA compiles, looked at once

    def in_bytes(self, op: tf.Operation) -> int:
        """The most that an op allocates at once.

        Args:
            op: The op.

        Returns:
            The bytes; 0 where nothing is known.
        """
        return self._of(op, self._compiled)

    def _of(self, op: tf.Operation, compiled: bool) -> int:
        if op.type in CALLS:
            compiled = compiled or MUST_COMPILE in op.node_def.attr
            return self._of_function(op) if compiled and on_cpu(op.device) else 0
        if compiled and op.type in (_GROUPED, _DEPTHWISE) and on_cpu(op.device):
            return _DENSE * _dense_filter_in_bytes(op)
        return 0

    def _of_function(self, call: tf.Operation) -> int:
        name = call.get_attr("f").name
        if name not in self._functions:
            self._functions[name] = 0  # as long as it isn't known: it may call itself
            function = function_named(call.graph, name)
            inside = [] if function is None else function.graph.get_operations()
            self._functions[name] = max((self._of(o, True) for o in inside), default=0)
        return self._functions[name]


def _dense_filter_in_bytes(op: tf.Operation) -> int:
    """The size of a depthwise filter if it were dense; 0 if it isn't one, or nobody knows yet."""
    shape = op.outputs[0].shape
    if not shape.is_fully_defined():
        return 0
    height, width, read, made = shape.as_list()
    if op.type == _DEPTHWISE:
        read, made = made, read  # filters a channel, channels
    channels = op.inputs[0].shape[op.get_attr("data_format").decode().index("C")]
    if read != 1 or made != channels:
        return 0
    return height * width * channels * channels * op.outputs[0].dtype.size
