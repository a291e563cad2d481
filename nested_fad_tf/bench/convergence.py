"""Do models learn as much when what is kept for the backward pass is kept in fewer bits?

The examples of `nested-fad-tf train`, on the data that they come with, for as long as they still
learn something; several seeds, since two exact runs from different seeds differ as well.
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
from nested_fad_tf.report.figures import SERIES, Figure, look

# How many steps it takes until little more is learned.
STEPS = {"vit": 240, "mish_convnet": 120, "gpt": 240}
PRECISIONS = ("exact", "int8", "int4")
# The batches of the examples are small, and so are their tensors.
_MIN_BYTES = 4096
# Losses of single steps jump: what is drawn and compared are means of so many.
_WINDOW = 12


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        model: The example's name.
        precision: `Options.activations`.
        seed: Of weights, dropout and the order of the data.
        losses: The loss of every step.
        accuracy: The share of test labels that are predicted correctly at the end.
        kept_bytes: What a step keeps for the backward pass.
        plain_kept_bytes: What plain TensorFlow keeps.
    """

    model: str
    precision: str
    seed: int
    losses: tuple[float, ...]
    accuracy: float
    kept_bytes: int
    plain_kept_bytes: int

    @property
    def last_loss(self) -> float:
        """The mean loss of the last steps."""
        return statistics.fmean(self.losses[-_WINDOW:])


def run(model: str, precision: str, seed: int, steps: int) -> Run:
    """Trains an example.

    Args:
        model: The example's name.
        precision: `Options.activations`.
        seed: Of weights, dropout and the order of the data.
        steps: How long.

    Returns:
        What came of it.
    """
    example = registry.load(model)
    data = example.load()
    keras.utils.set_random_seed(seed)
    network = example.make_model(data)
    options = versions.options(f"auto:activations={precision}:min_bytes={_MIN_BYTES}")
    step = nfad.function(comparison.training_step(network, example.learning_rate), options=options)
    batches = data.batches(example.batch_size, seed)
    losses = [float(step(*map(tf.constant, next(batches)))) for _ in range(steps)]
    report = step.reports[-1]
    return Run(
        model=model,
        precision=precision,
        seed=seed,
        losses=tuple(losses),
        accuracy=comparison.accuracy(network, data),
        kept_bytes=report.kept_bytes_after,
        plain_kept_bytes=report.kept_bytes_before,
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the seeds of one model and precision came to.

    Attributes:
        runs: One for each seed.
        within: Whether the mean accuracy is within the spread of the exact runs, or above it.
    """

    runs: tuple[Run, ...]
    within: bool


def summaries(runs: Sequence[Run]) -> list[Summary]:
    """Puts together the runs that differ by their seed alone.

    Args:
        runs: All runs, exact ones among them.

    Returns:
        For each model and precision, in the order of the runs, what came of it.
    """
    together: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        together.setdefault((one.model, one.precision), []).append(one)
    found = []
    for (model, _), own in together.items():
        least = min(r.accuracy for r in together[model, "exact"])
        mean = statistics.fmean(r.accuracy for r in own)
        found.append(Summary(tuple(own), mean >= least))
    return found


def table(runs: Sequence[Run]) -> str:
    """What was learned, in Markdown.

    Args:
        runs: All runs.

    Returns:
        A table with a row for each model and precision.
    """
    return command.markdown(summaries(runs), _COLUMNS)


def _range(numbers: Sequence[float], format: str) -> str:
    mean, least, most = statistics.fmean(numbers), min(numbers), max(numbers)
    return f"{mean:{format}} ({least:{format}} to {most:{format}})"


_COLUMNS: list[command.Column] = [
    ("model", lambda row: row.runs[0].model),
    ("activations", lambda row: row.runs[0].precision),
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
        A figure with one panel for each model, and a colour for each precision.
    """
    models = list(dict.fromkeys(r.model for r in runs))
    precisions = list(dict.fromkeys(r.precision for r in runs))
    with look():
        drawn = Figure(figsize=(8, 2.9), layout="constrained")
        for axes, model in zip(
            drawn.subplots(1, len(models), squeeze=False)[0], models, strict=True
        ):
            for one in (r for r in runs if r.model == model):
                smooth = [
                    statistics.fmean(one.losses[max(0, i - _WINDOW + 1) : i + 1])
                    for i in range(len(one.losses))
                ]
                color = SERIES[precisions.index(one.precision)]
                label = one.precision if one.seed == runs[0].seed else None
                axes.plot(smooth, color=color, linewidth=1, alpha=0.8, label=label)
            axes.set_yscale("log")
            axes.set_title(model, loc="left")
            axes.set_xlabel("step")
        drawn.axes[0].set_ylabel(f"loss, mean of {_WINDOW} steps")
        drawn.axes[0].legend()
    return drawn
