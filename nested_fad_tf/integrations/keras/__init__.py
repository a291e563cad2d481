"""For those who train with `fit`.

`optimize` makes a model train rewritten, and the callback `MemoryReport` tells what came of it.
Works with Keras 3 on its TensorFlow backend and with tf_keras (Keras 2).
"""

from nested_fad_tf.integrations.keras.memory_report import MemoryReport
from nested_fad_tf.integrations.keras.optimized import optimize, reports, strip

__all__ = ["MemoryReport", "optimize", "reports", "strip"]
