"""What kernels allocate for themselves while they run, where that is known to be large.

On a CPU, XLA computes the filter's gradient of a depthwise convolution with one filter a channel as
that of a dense one, which is as many times larger as there are channels, and picks from it. (Of
other grouped ones it doesn't.) Keras has XLA compile convolutions with `groups`, whatever the model
is compiled with; its depthwise ones become XLA's only in a function that is compiled as a whole.
"""

from __future__ import annotations

import tensorflow as tf

from nested_fad_tf.graph.calls import CALLS, MUST_COMPILE, function_called
from nested_fad_tf.graph.devices import on_cpu

# How many gradients of the dense filter are there at once; measured with TensorFlow 2.21.
_DENSE = 2
_GROUPED, _DEPTHWISE = "Conv2DBackpropFilter", "DepthwiseConv2dNativeBackpropFilter"


def scratch_in_bytes(op: tf.Operation, *, compiled: bool) -> int:
    """What an op allocates while it runs, beside its outputs.

    Args:
        op: The op.
        compiled: Whether XLA compiles it.

    Returns:
        The bytes; 0 where nothing is known.
    """
    if op.type in CALLS:
        if not (compiled or MUST_COMPILE in op.node_def.attr) or not on_cpu(op.device):
            return 0
        function = function_called(op.graph, op)
        inside = [] if function is None else function.graph.get_operations()
        return max((scratch_in_bytes(o, compiled=True) for o in inside), default=0)
    if compiled and op.type in (_GROUPED, _DEPTHWISE) and on_cpu(op.device):
        return _DENSE * _dense_filter_in_bytes(op)
    return 0


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
