"""What kernels allocate for themselves while they run, where that is known to be large.

On a CPU, XLA has no kernel for the filter's gradient of a grouped convolution: it computes that of
a dense one, which is as many times larger as there are groups, and picks from it. Keras has XLA
compile grouped convolutions, whatever the model is compiled with; depthwise ones become XLA's only
in a function that is compiled as a whole.
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
        if not compiled and MUST_COMPILE not in op.node_def.attr:
            return 0
        function = function_called(op.graph, op)
        if function is None:
            return 0
        inside = function.graph.get_operations()
        return max((scratch_in_bytes(o, compiled=True) for o in inside), default=0)
    if compiled and op.type in (_GROUPED, _DEPTHWISE) and on_cpu(op.device):
        return _DENSE * _dense_filter_in_bytes(op)
    return 0


def _dense_filter_in_bytes(op: tf.Operation) -> int:
    """The size of the filter of a grouped convolution if it had one group; 0 if it has."""
    images, gradient = op.inputs[0], op.outputs[0]
    channels = images.shape[op.get_attr("data_format").decode().index("C")]
    if channels is None or not gradient.shape.is_fully_defined():
        return 0
    height, width, read, made = gradient.shape.as_list()
    if op.type == _DEPTHWISE:
        read, made = 1, read * made
    return 0 if read == channels else height * width * channels * made * gradient.dtype.size
