"""Train TensorFlow models in less memory, with the same gradients.

    import nested_fad_tf as nfad

    @nfad.function                      # instead of @tf.function
    def train_step(x, y): ...

    with nfad.rewriting():              # or: any tf.function traced inside
        model.fit(x, y)
"""

from nested_fad_tf.errors import (
    OptionsError,
    RewriteError,
    UnsupportedVersionError,
    VerificationError,
)
from nested_fad_tf.function import Function, Session, function, rewriting
from nested_fad_tf.options import Options
from nested_fad_tf.report.memory import Measurement, measure
from nested_fad_tf.report.summary import Kept, Report

__all__ = [
    "Function",
    "Kept",
    "Measurement",
    "Options",
    "OptionsError",
    "Report",
    "RewriteError",
    "Session",
    "UnsupportedVersionError",
    "VerificationError",
    "function",
    "measure",
    "rewriting",
]
