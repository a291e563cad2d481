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
from nested_fad_tf.graph import tracing, versions
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.options import Options
from nested_fad_tf.report.building import unchanged
from nested_fad_tf.report.summary import Report


class Function:
    """A `tf.function` whose every concrete function is rewritten to need less memory.

    Made by `nested_fad_tf.function`. Behaves as the `tf.function` it wraps.

    Attributes:
        reports: One report a trace, newest last; one altogether where the installed TensorFlow is
            not supported.
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
            verify = self.options.verify and not versions.unsupported()
            if verify and not tf.inside_function():
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
        if reason := versions.unsupported():
            if not self.reports:
                name = getattr(self, "__name__", "function")
                self.reports.append(unchanged(name, reason, self.options.strategy))
            yield
            return
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
    versions.warn_if_unsupported()
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
        fn: A Python function, a `tf.function` or a `ConcreteFunction`. The last, also one of a
            loaded SavedModel, is not changed itself.
        *args: Its arguments: values or `tf.TensorSpec`s. A `ConcreteFunction` needs none.
        options: What the rewrite may do; `Options()` by default.
        **kwargs: Its keyword arguments.

    Returns:
        The rewritten function; its `reports` say what was done.

    Raises:
        RewriteError: If the rewrite fails and `options.on_error` is "raise".
    """
    python_function, args, kwargs = traceable(fn, args, kwargs)
    rewritten: Function = function(python_function, options=options)
    rewritten.get_concrete_function(*args, **kwargs)
    return rewritten


def traceable(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What to trace for a function, and the arguments to trace it for.

    A `ConcreteFunction` can't be traced anew: what is traced is a call of it, which is inlined.

    Args:
        fn: A Python function, a `tf.function` or a `ConcreteFunction`.
        args: What the user gave. Without any, a `ConcreteFunction` is traced for its signature.
        kwargs: The same, by name.

    Returns:
        A Python function, its arguments and its keyword arguments.
    """
    if not isinstance(fn, tf.types.experimental.ConcreteFunction):
        return getattr(fn, "python_function", fn), args, kwargs
    pipeline.inline_everywhere(fn.graph)
    if not args and not kwargs:
        args, kwargs = fn.structured_input_signature

    @tf.autograph.experimental.do_not_convert
    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    call.__name__ = fn.graph.name
    return call, args, kwargs


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
        fn: A Python function, a `tf.function` or a `ConcreteFunction`.
        *args: Its arguments: values or `tf.TensorSpec`s. A `ConcreteFunction` needs none.
        options: What the rewrite might do.
        **kwargs: Its keyword arguments.

    Returns:
        The report; `changed` says whether something would be done.

    Raises:
        RewriteError: If planning fails and `options.on_error` is "raise".
    """
    options = options or Options()
    if reason := versions.warn_if_unsupported():
        name = getattr(fn, "__name__", "function")
        return unchanged(name, reason, options.strategy)
    return pipeline.rewrite_graph(trace(fn, args, kwargs), options, apply=False)


def trace(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Traces a function as it is, to look at.

    Args:
        fn: What `traceable` takes.
        args: Its arguments.
        kwargs: The same, by name.

    Returns:
        The `FuncGraph`.
    """
    python_function, args, kwargs = traceable(fn, args, kwargs)
    with tracing.observing(None):
        return tf.function(python_function).get_concrete_function(*args, **kwargs).graph


class Session:
    """What happened inside a `rewriting` block.

    Attributes:
        reports: One report for every function traced, newest last.
        watching: Whether to remember what functions were like before; that takes memory.
    """

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.watching = False
        self._graphs: dict[int, weakref.ref[Any]] = {}  # by position in `reports`
        self._seen: dict[int, GraphView] = {}  # the same

    def rewrite(self, graph: Any, options: Options) -> None:
        """Rewrites a function and notes what was done to it.

        Args:
            graph: Its `FuncGraph`, just traced.
            options: What the rewrite may do.
        """
        seen: list[GraphView] = []
        watch = seen.append if self.watching else None
        report = pipeline.rewrite_graph(graph, options, watch=watch)
        number = len(self.reports)
        self._graphs[number] = weakref.ref(graph)
        if seen:
            self._seen[number] = seen[0]
        self.reports.append(report)

    def largest(self) -> tuple[Report, Any] | None:
        """The function that keeps most memory: the training step, where there is one.

        A function that makes variables is traced twice; what it keeps is the same, its peak isn't.

        Returns:
            The latest report on it, and its `FuncGraph` if that still lives; `None` if nothing was
            traced that keeps anything.
        """
        best = self._largest()
        return None if best is None else (self.reports[best], self._graphs[best]())

    def _largest(self) -> int | None:
        keeping = [i for i, report in enumerate(self.reports) if report.kept_bytes_before]
        return max(keeping, key=lambda i: (self.reports[i].kept_bytes_before, i), default=None)

    def stop_watching(self) -> GraphView | None:
        """Forgets what functions were like before.

        Returns:
            The view of the one that `largest` gives as it was before; `None` if it was traced
            while nobody watched.
        """
        self.watching = False
        seen, self._seen = self._seen, {}
        best = self._largest()
        return None if best is None else seen.get(best)


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
        >>> with nfad.rewriting() as session:
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
        into.rewrite(graph, chosen)

    reason = versions.warn_if_unsupported()
    if reason and all(report.reason != reason for report in into.reports):
        into.reports.append(unchanged("all functions", reason, chosen.strategy))
    token = _current.set(into)
    try:
        with contextlib.nullcontext() if reason else tracing.observing(observe):
            yield into
    finally:
        _current.reset(token)
