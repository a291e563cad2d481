"""Rewrites SavedModels, so that fine-tuning them needs less memory.

The functions in the file get chains with gradients of their own, stored beside them. Everything
else in it stays as it was: variables, assets, signatures, the object graph.
"""

from nested_fad_tf.integrations.saved_model.rewriting import inspect, rewrite

__all__ = ["inspect", "rewrite"]
