"""`nfad.function` and `nfad.rewriting`: when, and on what, the pipeline runs."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from nested_fad_tf import pipeline, verification
from nested_fad_tf.errors import OptionsError
from nested_fad_tf.graph import tracing
from nested_fad_tf.options import Options
from nested_fad_tf.report.summary import Report


class Function:
    """A `tf.function` whose every concrete function is rewritten to need less memory.

    Made by `nested_fad_tf.function`. Behaves as the `tf.function` it wraps.

    Attributes:
        reports: One report a trace, newest last.
        options: What the rewrite may do.
    """

    def __init__(self, tf_function: Any, options: Options, arguments: Mapping[str, Any]) -> None:
        self._tf_function = tf_function
        self._arguments = arguments
        self._verified: set[Any] = set()
        self._bound: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()
        self.options = options
        self.reports: list[Report] = []
        functools.update_wrapper(self, tf_function.python_function, updated=())

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """That of a `tf.function`, for code that asks `isinstance`, as ClusterCoordinator does."""
        return type(self._tf_function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the function, tracing and rewriting it if these arguments are new to it."""
        with self._tracing():
            if self.options.verify and not tf.inside_function():
                return self._verified_call(args, kwargs)
            return self._tf_function(*args, **kwargs)

    def _verified_call(self, args: Any, kwargs: Any) -> Any:
        """Runs a concrete function; the first time beside the original, comparing the two."""
        concrete = self._tf_function.get_concrete_function(*args, **kwargs)
        if concrete in self._verified:
            return self._tf_function(*args, **kwargs)
        self._verified.add(concrete)
        original = tf.function(self._tf_function.python_function, **self._arguments)

        def plain() -> Any:
            with tracing.observing(None):
                return original(*args, **kwargs)

        def rewritten() -> Any:
            return self._tf_function(*args, **kwargs)

        return verification.compare(plain, rewritten, concrete.graph.variables)

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> Any:
        """Traces for these arguments, as `tf.function`'s method does.

        Args:
            *args: Values or `tf.TensorSpec`s.
            **kwargs: The same, by name.

        Returns:
            The rewritten `ConcreteFunction`.
        """
        with self._tracing():
            return self._tf_function.get_concrete_function(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Function:
        """Binds to an instance; every instance has its own traces and reports."""
        if instance is None:
            return self
        if instance not in self._bound:
            bound = self._tf_function.__get__(instance, owner)
            self._bound[instance] = Function(bound, self.options, self._arguments)
        return self._bound[instance]

    def __getattr__(self, name: str) -> Any:
        """Everything else is the `tf.function`'s: python_function, pretty_printed_*, ..."""
        if name == "_tf_function":  # not set yet: while copying or unpickling
            raise AttributeError(name)
        return getattr(self._tf_function, name)

    @contextlib.contextmanager
    def _tracing(self) -> Iterator[None]:
        outer = tracing.outer_graph()

        def observe(graph: Any) -> None:
            report = pipeline.rewrite_graph(graph, self.options)
            if tracing.is_nested_in(graph, outer):
                self.reports.append(report)

        with tracing.observing(observe):
            yield


def function(
    func: Callable[..., Any] | None = None,
    *,
    options: Options | None = None,
    **tf_function_kwargs: Any,
) -> Any:
    """Drop-in for `tf.function` that makes training steps need less memory.

    Examples:
        >>> weights = tf.Variable(tf.random.normal([256, 256]))
        >>> @nfad.function  # instead of @tf.function
        ... def train_step(x):
        ...     with tf.GradientTape() as tape:
        ...         hidden = tf.nn.gelu(x @ weights)
        ...         loss = tf.reduce_mean(tf.square(hidden @ weights))
        ...     weights.assign_sub(0.1 * tape.gradient(loss, weights))
        ...     return loss
        >>> train_step(tf.ones([1024, 256])).shape
        TensorShape([])
        >>> [report.changed for report in train_step.reports]
        [True]

    Args:
        func: The Python function; without it, a decorator is returned.
        options: What the rewrite may do; `Options()` by default.
        **tf_function_kwargs: Handed to `tf.function`: input_signature, reduce_retracing, ...

    Returns:
        A `Function`, or a decorator that makes one.

    Raises:
        OptionsError: If the options are not an `Options`.
    """
    if func is None:
        return functools.partial(function, options=options, **tf_function_kwargs)
    tf_function = tf.function(func, **tf_function_kwargs)
    return Function(tf_function, options or Options(), tf_function_kwargs)


def rewrite(
    fn: Callable[..., Any], *args: Any, options: Options | None = None, **kwargs: Any
) -> Function:
    """Rewrites a function once, for these arguments.

    A function that holds no backward pass (a model's call, a layer) can be differentiated from
    outside as before, to any order; a tape around it then keeps less of it.

    Examples:
        >>> layer = tf.keras.layers.Dense(256, activation="mish")
        >>> call = nfad.rewrite(layer, tf.TensorSpec([1024, 256]))
        >>> with tf.GradientTape() as tape:
        ...     loss = tf.reduce_sum(call(tf.ones([1024, 256])))
        >>> len(tape.gradient(loss, layer.trainable_variables))
        2
        >>> report = call.reports[-1]
        >>> report.kept_bytes_before > report.kept_bytes_after
        True

    Args:
        fn: A Python function or a `tf.function`.
        *args: Its arguments: values or `tf.TensorSpec`s.
        options: What the rewrite may do; `Options()` by default.
        **kwargs: Its keyword arguments.

    Returns:
        The rewritten function; its `reports` say what was done.

    Raises:
        TypeError: If `fn` is a `ConcreteFunction`: it can't be traced anew.
        RewriteError: If the rewrite fails and `options.on_error` is "raise".
    """
    if isinstance(fn, tf.types.experimental.ConcreteFunction):
        raise TypeError(
            "nfad.rewrite traces a function anew, which a ConcreteFunction can't be: give it the"
            " tf.function that the ConcreteFunction was made of"
        )
    rewritten: Function = function(getattr(fn, "python_function", fn), options=options)
    rewritten.get_concrete_function(*args, **kwargs)
    return rewritten


def explain(
    fn: Callable[..., Any], *args: Any, options: Options | None = None, **kwargs: Any
) -> Report:
    """Says what a rewrite would do and what is kept for the backward pass today.

    Traces the function, but changes and runs nothing.

    Examples:
        >>> weights = tf.Variable(tf.ones([512, 512]))
        >>> def gradient(x):
        ...     return tf.gradients(tf.reduce_sum(tf.nn.gelu(x @ weights)), x)
        >>> report = nfad.explain(gradient, tf.TensorSpec([2048, 512]))
        >>> report.kept_bytes_before // 2**20, report.kept_bytes_after // 2**20
        (12, 4)

    Args:
        fn: A Python function, a `tf.function`, or a `ConcreteFunction` (which takes no arguments).
        *args: Its arguments: values or `tf.TensorSpec`s.
        options: What the rewrite might do.
        **kwargs: Its keyword arguments.

    Returns:
        The report; `changed` says whether something would be done.

    Raises:
        RewriteError: If planning fails and `options.on_error` is "raise".
    """
    if isinstance(fn, tf.types.experimental.ConcreteFunction):
        graph = fn.graph
    else:
        traced = tf.function(getattr(fn, "python_function", fn))
        with tracing.observing(None):
            graph = traced.get_concrete_function(*args, **kwargs).graph
    return pipeline.rewrite_graph(graph, options or Options(), apply=False)


class Session:
    """What happened inside a `rewriting` block.

    Attributes:
        reports: One report for every function traced, newest last.
    """

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self._graphs: dict[int, weakref.ref[Any]] = {}  # by position in `reports`

    def add(self, report: Report, graph: Any) -> None:
        """Notes what was done to a function.

        Args:
            report: The report on it.
            graph: Its `FuncGraph`, as it is now.
        """
        self._graphs[len(self.reports)] = weakref.ref(graph)
        self.reports.append(report)

    def largest(self) -> tuple[Report, Any] | None:
        """The function that needs most memory: the training step, where there is one.

        Returns:
            The latest report on it, and its `FuncGraph` if that still lives; `None` if nothing was
            traced that keeps anything.
        """
        keeping = [i for i, report in enumerate(self.reports) if report.kept_bytes_before]
        if not keeping:
            return None
        best = max(keeping, key=lambda i: (self.reports[i].predicted_peak_before, i))
        return self.reports[best], self._graphs[best]()


_current: contextvars.ContextVar[Session | None] = contextvars.ContextVar(
    "nested_fad_tf_session", default=None
)


def current_session() -> Session | None:
    """The session of the innermost `rewriting` block that this thread is in."""
    return _current.get()


@contextlib.contextmanager
def rewriting(
    options: Options | None = None, *, session: Session | None = None
) -> Iterator[Session]:
    """Rewrites every `tf.function` traced inside the block.

    Functions traced before the block stay as they are, and nothing is changed after it.

    Examples:
        >>> model = tf.keras.Sequential([tf.keras.layers.Dense(256, "gelu") for _ in range(3)])
        >>> model.compile("sgd", "mse")
        >>> x = tf.ones([2048, 256])
        >>> with nfad.rewriting(nfad.Options(nominal_size=1024)) as session:
        ...     history = model.fit(x, x, batch_size=1024, verbose=0)
        >>> any(report.changed for report in session.reports)
        True

    Args:
        options: What the rewrites may do; `Options()` by default.
        session: A session to go on with; a new one by default.

    Yields:
        The session, with a report a trace.

    Raises:
        OptionsError: If `options.verify` is set: only `nested_fad_tf.function` sees the calls.
    """
    if options is not None and options.verify:
        raise OptionsError(
            "verify=True needs the calls of a function, and rewriting() sees only its traces;"
            " use @nested_fad_tf.function, or nested_fad_tf.testing.assert_same_step"
        )
    into = session or Session()
    chosen = options or Options()

    def observe(graph: Any) -> None:
        into.add(pipeline.rewrite_graph(graph, chosen), graph)

    token = _current.set(into)
    try:
        with tracing.observing(observe):
            yield into
    finally:
        _current.reset(token)
