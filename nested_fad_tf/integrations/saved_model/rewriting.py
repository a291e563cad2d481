"""From one SavedModel to another: which functions are rewritten, and what is said of it."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nested_fad_tf import pipeline
from nested_fad_tf.emit import function
from nested_fad_tf.emit.outlined import Outlines
from nested_fad_tf.errors import SavedModelError
from nested_fad_tf.graph import versions
from nested_fad_tf.integrations.saved_model import files, gradients
from nested_fad_tf.integrations.saved_model.entry_points import Found, calls_of, entry_points
from nested_fad_tf.integrations.saved_model.library import Library
from nested_fad_tf.integrations.saved_model.op_list import list_new_ops
from nested_fad_tf.integrations.saved_model.signatures import by_signature, entries
from nested_fad_tf.options import Options
from nested_fad_tf.report.building import unchanged
from nested_fad_tf.report.summary import Report

# Compiled groups need XLA, which TensorFlow Serving need not have.
DEFAULT_OPTIONS = Options(fuse="ops")
_OLD = "written by TensorFlow 1: it holds no functions that could be rewritten"

Progress = Callable[[int, int, str], None]


def rewrite(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    options: Options | None = None,
    signatures: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Rewrites a SavedModel so that training what it holds keeps less memory.

    The result loads with `tf.saved_model.load` in processes without this package, gives the same
    outputs, and its functions can be differentiated. (Under a tape, oneDNN may fuse other ops of
    the forward pass than before, and round their results otherwise.) With fuse="ops", the default
    here, it holds plain TensorFlow ops only and can be served wherever the original could.

    Examples:
        >>> model = tf.keras.Sequential([tf.keras.layers.Dense(256, "gelu") for _ in range(3)])
        >>> outputs = model(tf.ones([1, 256]))
        >>> tf.saved_model.save(model, "model")
        >>> report = nfad.saved_model.rewrite("model", "model_small", nfad.Options(min_bytes=1024))
        >>> report.changed
        True
        >>> small = tf.saved_model.load("model_small")  # here or anywhere, without this package
        >>> sorted(small.signatures)
        ['serving_default']

    Args:
        src: The folder of a SavedModel; it is only read.
        dst: The folder to write; it appears when all is done.
        options: What may be done; `Options(fuse="ops")` by default.
        signatures: Rewrite what these signatures call only; everything by default.
        overwrite: Whether `dst` may be a SavedModel already, and is replaced.
        progress: Called with the number of functions done, how many there are, and the name of the
            next one.

    Returns:
        A report on what the function keeps that keeps most, with all that it calls; there is one
        on each function in `functions`.

    Raises:
        UnsupportedVersionError: If the installed TensorFlow is not supported.
        SavedModelError: If `src` can't be read, `dst` can't be written, or a signature is unknown.
        RewriteError: If a rewrite fails and `options.on_error` is "raise".
    """
    options = options or DEFAULT_OPTIONS
    start = time.perf_counter()
    source, destination = pathlib.Path(src), pathlib.Path(dst)
    found = rewrite_each(
        source, destination, options, signatures, overwrite=overwrite, progress=progress
    )
    return found.combined(str(source), options.strategy, time.perf_counter() - start)


def rewrite_each(
    source: pathlib.Path,
    destination: pathlib.Path,
    options: Options,
    signatures: Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Found:
    """Does what `rewrite` does.

    Args:
        source: The folder of a SavedModel; it is only read.
        destination: The folder to write.
        options: What may be done.
        signatures: As for `rewrite`.
        overwrite: As for `rewrite`.
        progress: As for `rewrite`.

    Returns:
        What was found out about the functions.

    Raises:
        UnsupportedVersionError: As from `rewrite`.
        SavedModelError: As from `rewrite`.
        RewriteError: As from `rewrite`.
    """
    versions.check_supported()
    old, new = source.resolve(), destination.resolve()
    if old.is_relative_to(new) or new.is_relative_to(old):
        raise SavedModelError(
            f"one of {destination} and {source} lies inside the other; choose another folder"
        )
    with files.replacing(destination, overwrite=overwrite) as folder:
        model = files.read(source)
        found = _each(model, options, signatures, progress, apply=True)
        try:
            files.write(model, source, folder)
        except OSError as error:
            raise SavedModelError(
                f"cannot write {destination}: {error.strerror or error}"
            ) from error
        files.load(folder, "cannot be loaded after rewriting; please report this", variables=False)
    return found


def inspect(
    src: str | os.PathLike[str],
    options: Options | None = None,
    signatures: Sequence[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Says what is kept when a SavedModel is trained, and what `rewrite` would change.

    Examples:
        >>> module = tf.Module()
        >>> module.call = tf.function(tf.math.tanh, [tf.TensorSpec([None, 8])])
        >>> tf.saved_model.save(module, "tanh")
        >>> report = nfad.saved_model.inspect("tanh")
        >>> report.changed, report.reason
        (False, 'no gradient is computed in this function; ...')

    Args:
        src: The folder of a SavedModel; it is only read.
        options: What might be done; `Options(fuse="ops")` by default.
        signatures: Look at what these signatures call only; at everything by default.
        progress: As for `rewrite`.

    Returns:
        The report that `rewrite` would give.

    Raises:
        UnsupportedVersionError: If the installed TensorFlow is not supported.
        SavedModelError: If `src` can't be read or a signature is unknown.
    """
    options = options or DEFAULT_OPTIONS
    start = time.perf_counter()
    source = pathlib.Path(src)
    found = inspect_each(source, options, signatures, progress=progress)
    return found.combined(str(source), options.strategy, time.perf_counter() - start)


def inspect_each(
    source: pathlib.Path,
    options: Options,
    signatures: Sequence[str] | None = None,
    *,
    progress: Progress | None = None,
) -> Found:
    """Does what `inspect` does.

    Args:
        source: The folder of a SavedModel; it is only read.
        options: What might be done.
        signatures: As for `inspect`.
        progress: As for `inspect`.

    Returns:
        What was found out about the functions.

    Raises:
        UnsupportedVersionError: As from `inspect`.
        SavedModelError: As from `inspect`.
    """
    versions.check_supported()
    return _each(files.read(source), options, signatures, progress, apply=False)


def _each(
    model: Any,
    options: Options,
    signatures: Sequence[str] | None,
    progress: Progress | None,
    *,
    apply: bool,
) -> Found:
    """Rewrites the functions of a SavedModel in place, or only plans to."""
    (meta_graph, *others) = model.meta_graphs
    if others or not meta_graph.HasField("object_graph_def"):
        whole = "all functions"
        return Found({whole: unchanged(whole, _OLD, options.strategy)})
    library = Library(meta_graph)
    objects = meta_graph.object_graph_def
    chosen = _chosen(library, entries(objects, signatures))
    calls = calls_of(library, chosen)
    reports, steps = dict[str, Report](), set[str]()
    for number, name in enumerate(chosen):
        if progress is not None:
            progress(number, len(chosen), name)
        if name not in steps:
            report = _one(library, name, options, apply)
            reports[name] = report
            # What a training step calls is differentiated in there, once and for all.
            steps |= library.reachable([name]) if report.gradient_seeds else set()
    if progress is not None:
        progress(len(chosen), len(chosen), "")
    if apply:
        list_new_ops(meta_graph)
    return Found(reports, entry_points(calls, reports, by_signature(objects)))


def _one(library: Library, name: str, options: Options, apply: bool) -> Report:
    outlines = Outlines()
    graph = library.functions[name].graph
    report = pipeline.rewrite_graph(graph, options, apply=apply, outlines=outlines)
    if apply and report.changed:
        gradients.store(library, outlines.functions)
        library.store(name)
    return report


def _chosen(library: Library, called: Iterable[str]) -> list[str]:
    """What to rewrite, callers first.

    Functions and what they call, but no gradients: those of chains that were rewritten before, and
    those that users gave. Functions that an earlier rewrite made are called where a gradient of
    their own leads past them.
    """
    known = set(library.names())
    done = library.reachable(library.gradients())
    done |= {name for name in known if function.is_made(name)}
    wanted = library.reachable(name for name in called if name in known) - done
    calls = {name: len(library.reachable([name])) for name in wanted}
    return sorted(wanted, key=lambda name: (-calls[name], name))
