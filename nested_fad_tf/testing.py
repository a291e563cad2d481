"""For users' own tests: does a step do the same when it is rewritten?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from nested_fad_tf import functions, verification
from nested_fad_tf.errors import OptionsError
from nested_fad_tf.options import Options
from nested_fad_tf.report.summary import Report


def assert_same_step(
    fn: Callable[..., Any],
    *args: Any,
    options: Options | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    **kwargs: Any,
) -> Report:
    """Asserts that a step returns and updates the same when it is rewritten.

    Runs the step twice from the same variable values, once with `tf.function` and once with
    `nested_fad_tf.function`, and compares outputs and variables.

    Examples:
        >>> total = tf.Variable(0.0)
        >>> def step(x):
        ...     with tf.GradientTape() as tape:
        ...         tape.watch(x)
        ...         loss = tf.reduce_mean(tf.nn.gelu(x) ** 2)
        ...     total.assign_add(loss)
        ...     return tape.gradient(loss, x)
        >>> report = nfad.testing.assert_same_step(step, tf.random.normal([512, 512]))
        >>> report.changed
        True

    Args:
        fn: A Python function, or a `tf.function`.
        *args: Its arguments.
        options: What the rewrite may do; errors of the pass are raised.
        rtol: Allowed difference as a fraction of a tensor's largest entry; by dtype by default.
            With lossy options it has to be given: gradients differ on purpose.
        atol: Allowed absolute difference, 0 by default.
        **kwargs: Its keyword arguments.

    Returns:
        The report on the rewrite, so that a test can go on to assert that it fired.

    Raises:
        VerificationError: If the two differ; names the worst tensor.
        RewriteError: If the pass fails.
        OptionsError: If the options are lossy and no rtol is given.
    """
    python_function = getattr(fn, "python_function", fn)
    chosen = (options or Options()).replace(on_error="raise", verify=False)
    if chosen.lossy and rtol is None:
        raise OptionsError(
            f"{chosen.lossy}: gradients differ from the original's on purpose; say"
            " with rtol= by how much they may"
        )
    plain = tf.function(python_function)
    rewritten = functions.function(python_function, options=chosen)
    plain.get_concrete_function(*args, **kwargs)  # makes the variables
    concrete = rewritten.get_concrete_function(*args, **kwargs)
    verification.compare(
        lambda: plain(*args, **kwargs),
        lambda: rewritten(*args, **kwargs),
        concrete.graph.variables,
        rtol,
        atol or 0.0,
    )
    return rewritten.reports[-1]
