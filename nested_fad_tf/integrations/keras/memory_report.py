"""A Keras callback that tells what a training step keeps, needs, and how long it takes."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from nested_fad_tf import functions
from nested_fad_tf.functions import Session
from nested_fad_tf.integrations.keras.optimized import session_of
from nested_fad_tf.report import step_runs, tensorboard, third_step
from nested_fad_tf.report.allocations import Account
from nested_fad_tf.report.summary import Report


class MemoryReport(keras.callbacks.Callback):
    """Prints the report on a training step after the first one, and measures the third.

    Works as well inside `nfad.rewriting()`, and with a model that is not rewritten, whose step it
    measures. The measured peak is printed after the epoch, so as not to break the progress bar.

    Examples:
        >>> model = tf.keras.Sequential([tf.keras.layers.Dense(256, "gelu") for _ in range(3)])
        >>> nfad.keras.optimize(model).compile("adam", "mse")
        >>> x = tf.ones([4096, 256])
        >>> told = []
        >>> callback = nfad.keras.MemoryReport(print_fn=told.append)
        >>> history = model.fit(x, x, batch_size=1024, verbose=0, callbacks=[callback])
        >>> callback.report.changed, any("kept for the backward pass" in line for line in told)
        (True, True)

    Args:
        log_dir: Where to write for TensorBoard, as the runs `original` and `rewritten`: graphs,
            what they keep, predicted peaks; and of the one that trains, measured peak, memory over
            a step and seconds a step. Nothing is written by default.
        print_fn: Called with each line.

    Attributes:
        report: The report on the training step; `None` before the first step, and where none was
            made of a function that keeps something.
        measured_peak: The most bytes that a step needs above what lived before it; `None` before
            the third step, where the allocator can't tell, and where other processes take part,
            which TensorFlow's profiler may crash.
        step_seconds: Median time of the steps that weren't measured; `None` before there is one.
    """

    # Whether to measure where other processes take part, too: see `Recording`.
    _across_workers = False

    def __init__(
        self, log_dir: str | pathlib.Path | None = None, print_fn: Callable[[str], Any] = print
    ) -> None:
        super().__init__()
        self.report: Report | None = None
        self.measured_peak: int | None = None
        self._log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self._print = print_fn
        self._begin()

    def _begin(self) -> None:
        self._step = 0
        self._seconds: list[float] = []
        self._third = third_step.ThirdStep(across_workers=self._across_workers)
        self._unsaid: list[str] = []
        self._session: Session | None = None

    @property
    def step_seconds(self) -> float | None:
        """Median time of a step, tracing and measuring left out."""
        return statistics.median(self._seconds) if self._seconds else None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Starts to count steps."""
        # A fit that failed in its second or third step told no callback that it ended.
        self._third.stop()
        self._begin()
        self._session = session_of(self.model) or functions.current_session()
        if self._session is not None and self._log_dir is not None:
            self._session.watching = True

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Starts the profiler for the second step, and the account for the third."""
        try:
            self._third.begin(self._step)
        except tf.errors.OpError as error:
            # Keras' TensorBoard callback may be profiling the same steps.
            logging.warning("MemoryReport measures no peak: %s", error)
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Reports after the first step; ends the account of the third."""
        seconds = time.perf_counter() - self._started
        self._third.end(self._step)
        if self._step > third_step.MEASURED:
            self._seconds.append(seconds / self._steps_each())
        if self._step == third_step.MEASURED and self._third.account is not None:
            self._tell(self._third.account)
        if self._step == 0:
            self._report_step()
        self._step += 1

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Says what was measured since: the progress bar is at its end."""
        self._say()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the time of a step."""
        if self.step_seconds is not None:
            self._write(epoch, {"step_seconds": self.step_seconds})

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Says what was measured; stops the profiler if training ended early."""
        self._third.stop()
        self._say()

    def _implements_train_batch_hooks(self) -> bool:
        """tf_keras asks its callbacks, whose base class this one doesn't have."""
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False

    def _steps_each(self) -> int:
        """How many steps Keras runs between two calls."""
        # tf_keras keeps it in a variable, a mirrored one under some strategies.
        return int(tf.convert_to_tensor(getattr(self.model, "steps_per_execution", 1) or 1))

    def _report_step(self) -> None:
        if self._session is None:
            self._print("memory report: this model is not rewritten; nfad.keras.optimize does that")
            return
        found = self._session.largest()
        seen = self._session.stop_watching()
        if found is None:
            reasons = {r.reason for r in self._session.reports if r.reason}
            self._print(f"memory report: nothing was rewritten ({'; '.join(sorted(reasons))})")
            return
        self.report, graph = found
        self.report.summary(self._print)
        if self._log_dir is None:
            return
        if seen is not None and graph is not None:
            tensorboard.write(self._log_dir, step_runs.runs(self.report, seen, graph))
            return
        self._print("memory report: the step was traced before this fit; no graphs are written")
        peak = {"predicted_peak": self.report.predicted_peak_after}
        tensorboard.write_levels(self._log_dir / self._run, peak)

    def _tell(self, account: Account) -> None:
        self.measured_peak = account.peak
        self._unsaid.append(f"measured peak of a step {account.peak / 2**20:.2f} MiB")
        if self._log_dir is not None:
            tensorboard.write_levels(self._log_dir / self._run, {"measured_peak": account.peak})
            timeline = step_runs.measured_timeline(
                {self._run: account.timeline},
                {self._run: account.peak},
                {self._run: account.backward_from},
            )
            tensorboard.write_timeline(self._log_dir, self._run, step_runs.MEASURED, timeline)

    def _say(self) -> None:
        for line in self._unsaid:
            self._print(line)
        self._unsaid = []

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._log_dir is not None:
            tensorboard.write_scalars(self._log_dir / self._run, step, values)

    @property
    def _run(self) -> str:
        """The run of what trains."""
        return tensorboard.ORIGINAL if self._session is None else tensorboard.REWRITTEN
