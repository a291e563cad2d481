"""Copies of an optimized `Sequential` that are optimized, too.

`clone_model` makes copies of other models by their class or their config, both of which know the
options; for a `Sequential` it calls Keras' own class and asks the model for nothing that could tell
them. So the function that does is wrapped, once a Keras, when the first `Sequential` is optimized.
Other models pass through it as before.

Private API of Keras: `src.models.cloning._clone_sequential_model`, run with Keras 3.15 and
tf_keras 2.21 so far. Where there is none, copies aren't optimized.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

_NAME = "_clone_sequential_model"
_done: set[str] = set()  # names of modules


def keep_options(keras: Any, optimize_like: Callable[[Any, Any], Any]) -> None:
    """Lets `clone_model` optimize the copy of an optimized `Sequential`.

    Args:
        keras: keras, or tf_keras.
        optimize_like: Called with a copy and its original; gives back the copy.
    """
    try:
        cloning = importlib.import_module(f"{keras.__name__}.src.models.cloning")
    except ImportError:
        return
    clone = getattr(cloning, _NAME, None)
    if clone is None or cloning.__name__ in _done:
        return

    @functools.wraps(clone)
    def wrapped(model: Any, *args: Any, **kwargs: Any) -> Any:
        return optimize_like(clone(model, *args, **kwargs), model)

    _done.add(cloning.__name__)
    setattr(cloning, _NAME, wrapped)
