"""Do models learn as much when what is kept for the backward pass is kept in fewer bits?

The examples of `nested-fad-tf train`, on the data that they come with, for as long as they still
learn something; several seeds, since two exact runs from different seeds differ as well. What each
version takes is measured apart, in steps that alternate with those of plain TensorFlow.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import keras
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.bench import command, versions
from nested_fad_tf.examples import comparison, registry
from nested_fad_tf.options import Options
from nested_fad_tf.report.figures import SERIES, Figure, look

# How many steps it takes until little more is learned.
STEPS = {"vit": 240, "mish_convnet": 120, "gpt": 240}
EXACT = "auto"
VERSIONS = (
    EXACT,
    "forward_ad",
    "recompute",
    "auto:budget=0.2",
    "forward_ad:precision=inverse",
    "auto:activations=int8",
    "auto:activations=int4",
)
# The batches of the examples are small, and so are their tensors.
_MIN_BYTES = 4096
# Losses of single steps jump: what is drawn and compared are means of so many.
_WINDOW = 12
# Steps of each version in `cost`; the first two are no steady ones.
_TIMED = 12


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model: The example's name.
        version: Strategy and options, as `nested_fad_tf.bench.versions` reads them.
        seed: Of weights, dropout and the order of the data.
        losses: The loss of every step.
        accuracy: The share of test labels that are predicted correctly at the end.
        kept_bytes: What a step keeps for the backward pass.
        plain_kept_bytes: What plain TensorFlow keeps.
    """

    model: str
    version: str
    seed: int
    losses: tuple[float, ...]
    accuracy: float
    kept_bytes: int
    plain_kept_bytes: int

    @property
    def last_loss(self) -> float:
        """The mean loss of the last steps."""
        return statistics.fmean(self.losses[-_WINDOW:])


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a version takes.

    Attributes:
        model: The example's name.
        version: Strategy and options.
        peak_bytes: The peak of a step.
        plain_peak_bytes: That of a step of plain TensorFlow.
        ratio: The time of a step as a multiple of plain TensorFlow's.
    """

    model: str
    version: str
    peak_bytes: int
    plain_peak_bytes: int
    ratio: float


def cost(model: str, version: str) -> Cost:
    """Measures what a version takes.

    Args:
        model: The example's name.
        version: Strategy and options, as `nested_fad_tf.bench.versions` reads them.

    Returns:
        What it takes.
    """
    example = registry.load(model)
    both = comparison.Comparison(example, example.load(), _options(version), example.batch_size)
    for _ in both.train(_TIMED):
        pass
    peaks = []
    for one in both.versions:
        both.measure_memory(one)
        assert one.memory is not None
        peaks.append(one.memory.peak_bytes)
    ratio = statistics.median(both.time_ratios())
    return Cost(model, version, peaks[1], peaks[0], ratio)


def _options(version: str) -> Options:
    return versions.options(version).replace(min_bytes=_MIN_BYTES)


def run(model: str, version: str, seed: int, steps: int) -> Run:
    """Trains an example.

    Args:
        model: The example's name.
        version: Strategy and options, as `nested_fad_tf.bench.versions` reads them.
        seed: Of weights, dropout and the order of the data.
        steps: How long.

    Returns:
        What came of it.
    """
    example = registry.load(model)
    data = example.load()
    keras.utils.set_random_seed(seed)
    network = example.make_model(data)
    train_step = comparison.training_step(network, example.learning_rate)
    step = nfad.function(train_step, options=_options(version))
    batches = data.batches(example.batch_size, seed)
    losses = [float(step(*map(tf.constant, next(batches)))) for _ in range(steps)]
    report = step.reports[-1]
    return Run(
        model=model,
        version=version,
        seed=seed,
        losses=tuple(losses),
        accuracy=comparison.accuracy(network, data),
        kept_bytes=report.kept_bytes_after,
        plain_kept_bytes=report.kept_bytes_before,
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the seeds of one model and version came to.

    Attributes:
        runs: One for each seed.
        within: Whether the mean accuracy is within the spread of the exact runs, or above it.
        cost: What a step takes, if it was measured.
    """

    runs: tuple[Run, ...]
    within: bool
    cost: Cost | None


def summaries(runs: Sequence[Run], costs: Sequence[Cost] = ()) -> list[Summary]:
    """Puts together the runs that differ by their seed alone.

    Args:
        runs: All runs, those of strategy "auto" among them.
        costs: What versions take.

    Returns:
        For each model and version, in the order of the runs, what came of it.
    """
    of = {(one.model, one.version): one for one in costs}
    together: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        together.setdefault((one.model, one.version), []).append(one)
    found = []
    for (model, version), own in together.items():
        least = min(r.accuracy for r in together[model, EXACT])
        mean = statistics.fmean(r.accuracy for r in own)
        found.append(Summary(tuple(own), mean >= least, of.get((model, version))))
    return found


def table(runs: Sequence[Run], costs: Sequence[Cost] = ()) -> str:
    """What was learned, in Markdown.

    Args:
        runs: All runs.
        costs: What versions take.

    Returns:
        A table with a row for each model and version.
    """
    return command.markdown(summaries(runs, costs), _COLUMNS)


def _peaks(cost: Cost | None) -> str:
    return "-" if cost is None else command.pair(cost.plain_peak_bytes, cost.peak_bytes)


def _range(numbers: Sequence[float], format: str) -> str:
    mean, least, most = statistics.fmean(numbers), min(numbers), max(numbers)
    return f"{mean:{format}} ({least:{format}} to {most:{format}})"


_COLUMNS: list[command.Column] = [
    ("model", lambda row: row.runs[0].model),
    ("version", lambda row: row.runs[0].version),
    ("peak MiB", lambda row: _peaks(row.cost)),
    ("time", lambda row: "-" if row.cost is None else f"{row.cost.ratio:.2f}x"),
    ("kept MiB", lambda row: command.pair(row.runs[0].plain_kept_bytes, row.runs[0].kept_bytes)),
    ("last loss", lambda row: _range([r.last_loss for r in row.runs], ".4f")),
    ("test accuracy", lambda row: _range([r.accuracy for r in row.runs], ".1%")),
    ("within the seeds of exact", lambda row: "yes" if row.within else "no"),
]


def figure(runs: Sequence[Run]) -> Figure:
    """Draws the losses of all runs.

    Args:
        runs: All runs.

    Returns:
        A figure with one panel for each model, and a colour for each version.
    """
    models = list(dict.fromkeys(r.model for r in runs))
    shown = list(dict.fromkeys(r.version for r in runs))
    lines = {}
    with look():
        drawn = Figure(figsize=(8, 3.4), layout="constrained")
        for axes, model in zip(
            drawn.subplots(1, len(models), squeeze=False)[0], models, strict=True
        ):
            for one in (r for r in runs if r.model == model):
                smooth = [
                    statistics.fmean(one.losses[max(0, i - _WINDOW + 1) : i + 1])
                    for i in range(len(one.losses))
                ]
                color = SERIES[shown.index(one.version) % len(SERIES)]
                lines[one.version] = axes.plot(smooth, color=color, linewidth=1, alpha=0.8)[0]
            axes.set_yscale("log")
            axes.set_title(model, loc="left")
            axes.set_xlabel("step")
        drawn.axes[0].set_ylabel(f"loss, mean of {_WINDOW} steps")
        drawn.legend(lines.values(), lines, loc="outside lower center", ncols=2)
    return drawn
