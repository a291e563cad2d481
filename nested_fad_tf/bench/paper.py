"""What arXiv 2209.10778 claims of nested forward-mode AD, held against what was measured here.

Guo et al. report up to 1.97x less memory than plain reverse mode, and training that is 20 % faster
than with recomputation, at the same memory. `strategy="forward_ad"` is their technique; recomputing
every activation by `tf.recompute_grad` keeps as much.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nested_fad_tf.bench import command, runner, versions

NESTED, RECOMPUTED, OURS = "forward_ad", "recompute_activations", "auto"

# Where element-wise work matters.
MODELS = (
    "mish_mlp",
    "gelu_mlp",
    "gelu_tanh_mlp",
    "swish_mlp",
    "mish_convnet",
    "gelu_convnet",
    "depthwise_convnet",
    "long_transformer",
    "mixer",
)

# Claimed: memory of plain to nested, and time of recomputation to nested.
CLAIMED_MEMORY, CLAIMED_TIME = 1.97, 1.2
# Peaks this close count as the same memory.
_SAME = 1.05


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What one model showed.

    Attributes:
        model: Its name.
        memory: Peak of plain TensorFlow, divided by each version's.
        time: Time of a step of each version, divided by plain TensorFlow's.
        noise: How far plain TensorFlow's time is from its own: the median over the rounds, and the
            worst round; fractions.
    """

    model: str
    memory: Mapping[str, float]
    time: Mapping[str, float]
    noise: tuple[float, float]

    @property
    def speed_up(self) -> float:
        """Time of recomputation, divided by that of nested forward-mode AD."""
        return self.time[RECOMPUTED] / self.time[NESTED]

    @property
    def same_memory(self) -> bool:
        """Whether nested forward-mode AD needs no more than recomputation."""
        return self.memory[NESTED] * _SAME >= self.memory[RECOMPUTED]


def compare(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Comparison]:
    """Puts the rows of a benchmark together, by model.

    Args:
        results: What `nested_fad_tf.bench.command.run_bench` gave for memory and time.

    Returns:
        A comparison for each model in which all versions ran.
    """
    found = []
    for model in dict.fromkeys(row["model"] for row in results["memory"]):
        peaks = [row for row in results["memory"] if row["model"] == model]
        times = {row["strategy"]: row for row in results["time"] if row["model"] == model}
        memory = {row["strategy"]: row["plain_peak"] / row["peak"] for row in peaks}
        if not {NESTED, RECOMPUTED, OURS} <= memory.keys() & times.keys():
            continue
        control = times[runner.CONTROL]
        worst = max(control["ratio_high"] - 1, 1 - control["ratio_low"])
        noise = (abs(control["ratio"] - 1), worst)
        ratios = {name: row["ratio"] for name, row in times.items() if name != versions.PLAIN}
        found.append(Comparison(model, memory, ratios, noise))
    return found


def findings(comparisons: Sequence[Comparison]) -> str:
    """A table of the models, and what holds and what doesn't.

    Args:
        comparisons: At least one.

    Returns:
        Markdown.
    """
    listed = "\n".join(f"- {sentence}" for sentence in sentences(comparisons))
    return f"{command.markdown(comparisons, _COLUMNS)}\n\n{listed}"


def sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """What holds and what doesn't.

    Args:
        comparisons: At least one.

    Returns:
        Sentences, numbers in them.
    """
    return [_memory(comparisons), *_time(comparisons), _ours(comparisons)]


def _memory(comparisons: Sequence[Comparison]) -> str:
    best = max(comparisons, key=lambda c: c.memory[NESTED])
    least = min(comparisons, key=lambda c: c.memory[NESTED])
    reached = best.memory[NESTED] >= CLAIMED_MEMORY
    return (
        f"Memory, claimed up to {CLAIMED_MEMORY}x: {'holds' if reached else 'does not hold'}; "
        f"nested forward-mode AD needs {best.memory[NESTED]:.2f}x less on {best.model}, "
        f"{least.memory[NESTED]:.2f}x on {least.model}."
    )


def _time(comparisons: Sequence[Comparison]) -> list[str]:
    comparable = [c for c in comparisons if c.same_memory]
    others = [c.model for c in comparisons if not c.same_memory]
    said = []
    if comparable:
        mean = statistics.geometric_mean(c.speed_up for c in comparable)
        median, worst = (max(c.noise[i] for c in comparable) for i in range(2))
        said = [
            f"Time, claimed {CLAIMED_TIME - 1:.0%} faster than recomputation at the same memory: "
            f"{'holds' if mean >= CLAIMED_TIME else 'does not hold'} on average; recomputation "
            f"takes {mean:.2f}x the time, geometric mean of {_count(comparable)}.",
            "As fast as claimed: "
            f"{_listed([c.model for c in comparable if c.speed_up >= CLAIMED_TIME])}. "
            f"Slower than recomputation: {_listed([c.model for c in comparable if c.speed_up < 1])}"
            f". Plain TensorFlow timed against itself: within {median:.0%}, single rounds within "
            f"{worst:.0%}.",
        ]
    if others:
        said.append(f"More memory than recomputation, and not compared: {_listed(others)}.")
    return said


def _ours(comparisons: Sequence[Comparison]) -> str:
    memory = statistics.geometric_mean(c.memory[OURS] / c.memory[RECOMPUTED] for c in comparisons)
    time = statistics.geometric_mean(c.time[RECOMPUTED] / c.time[OURS] for c in comparisons)
    return (
        f"The minimum cut (strategy auto) needs {memory:.2f}x less than recomputation, whose steps "
        f"take {time:.2f}x its time: geometric means of {_count(comparisons)}."
    )


def _count(comparisons: Sequence[Comparison]) -> str:
    return "1 model" if len(comparisons) == 1 else f"{len(comparisons)} models"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"


def _cell(version: str) -> Callable[[Comparison], str]:
    return lambda c: f"{c.memory[version]:.2f}x, {c.time[version]:.2f}x"


_COLUMNS: list[tuple[str, Callable[[Comparison], str]]] = [
    ("less memory, time to plain", lambda c: c.model),
    *((version, _cell(version)) for version in (NESTED, RECOMPUTED, OURS)),
    ("time of recomputation to nested", lambda c: f"{c.speed_up:.2f}x"),
    ("plain to itself, worst round", lambda c: "{:.0%}, {:.0%}".format(*c.noise)),
]
