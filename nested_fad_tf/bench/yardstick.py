"""Plans within a budget, beside the best there are: see `exact_budget`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from nested_fad_tf.bench.exact_budget import Answer, Programme, Run
from nested_fad_tf.bench.exact_timeline import FORWARD, Timeline, find_timeline
from nested_fad_tf.graph.roles import find_roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.options import Options
from nested_fad_tf.plan.budget import MARGIN
from nested_fad_tf.plan.candidates import Candidates, find_candidates
from nested_fad_tf.plan.plan import Plan
from nested_fad_tf.plan.rewrite import Rewrite
from nested_fad_tf.plan.strategies import strategy_of
from nested_fad_tf.plan.wiring import Wiring

MIN_BYTES = 64 * 1024
# Prices are those of groups, as by default; memory is that of single ops, as in the programme.
OPTIONS = Options(strategy="auto", fuse="ops", min_bytes=MIN_BYTES)
# The backward pass does twice the work of the forward pass, as usual for products.
_PASSES = 3.0

# Makes a step and the specification of its argument.
Case = Callable[[], tuple[Callable[[tf.Tensor], Any], tf.TensorSpec]]


@dataclasses.dataclass(frozen=True)
class Found:
    """A plan of the heuristic.

    Attributes:
        price: Price of what runs again, as in plan/cost.py.
        simulated: Its peak in bytes as the planner simulates it.
        peak: Its peak in the memory model of the programme; `None` if it can't be expressed there.
        note: What the report says about the budget.
    """

    price: float
    simulated: int
    peak: float | None
    note: str


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of one budget; sizes in bytes, prices as in plan/cost.py.

    Attributes:
        case: Name of the graph.
        decisions: How many yes-or-no decisions its programme has.
        fraction: The budget as a part of plain TensorFlow's simulated peak.
        plain_peak: That peak.
        limit: What both had to be within: the budget, less what the heuristic leaves as a margin if
            it could.
        forward_price: The price of running the forward pass.
        heuristic: The heuristic's plan.
        met: Whether that is within the budget, as simulated.
        own: Whether it is the plan without a budget, which is taken wherever it is within one.
        possible: Whether the budget may be possible at all: with every op of the backward pass as a
            stage, or with those of the planner.
        exact: The exact solution, or the best one found in the time.
        seconds: The solver's time limit.
    """

    case: str
    decisions: int
    fraction: float
    plain_peak: int
    limit: float
    forward_price: float
    heuristic: Found
    met: bool
    own: bool
    possible: bool
    exact: Answer
    seconds: float

    @property
    def bound(self) -> float:
        """A price that no plan is below."""
        return max(0.0, self.exact.price if self.exact.proven else self.exact.bound)

    def step_ratio(self, price: float) -> float:
        """How much dearer the heuristic's step is than one with another price of what runs again.

        Args:
            price: That price.

        Returns:
            The ratio.
        """
        step = _PASSES * self.forward_price
        return (step + self.heuristic.price) / (step + price)


@dataclasses.dataclass(frozen=True)
class Least:
    """The least peaks of a graph, in bytes: the heuristic's by both measures, and the optimum."""

    case: str
    plain_peak: int
    heuristic: Found
    exact: Answer


class Yardstick:
    """One graph, to be measured.

    Args:
        name: What it is called.
        case: Makes it.
    """

    def __init__(self, name: str, case: Case) -> None:
        step, spec = case()
        graph = tf.function(step).get_concrete_function(spec).graph
        view = GraphView.from_func_graph(graph)
        self._name = name
        self._candidates = find_candidates(view, find_roles(view), MIN_BYTES, fused=True)
        self._timeline = find_timeline(self._candidates, MIN_BYTES)
        self._programme = Programme(self._timeline)
        self._without = strategy_of(OPTIONS)(self._candidates, OPTIONS).after.peak_bytes

    def least(self, seconds: float) -> Least:
        """Finds the least peak.

        Args:
            seconds: The solver's time limit.

        Returns:
            What was found.
        """
        fine = find_timeline(self._candidates, MIN_BYTES, fine=True)
        programme = Programme(fine)
        plan, found = self._heuristic(1, fine, programme)
        exact = programme.least_peak(seconds)
        return Least(self._name, plan.before.peak_bytes, found, exact)

    def row(self, fraction: float, least: Least, seconds: float) -> Row:
        """Compares the plans for a budget.

        Args:
            fraction: The budget as a part of plain TensorFlow's simulated peak.
            least: The least peaks of the graph.
            seconds: The solver's time limit.

        Returns:
            The row.
        """
        plan, found = self._heuristic(fraction, self._timeline, self._programme)
        budget = fraction * plan.before.peak_bytes
        limit = MARGIN * budget if found.simulated <= MARGIN * budget else budget
        # Less what small tensors take, which the programme leaves out.
        limit -= plan.before.peak_bytes % self._timeline.grain
        # What the heuristic found bounds the search, if it counts in the programme's memory too.
        within = found.peak is not None and found.peak <= limit
        known = {"at_most": found.price} if within else {}
        exact = self._programme.cheapest(limit, seconds, **known)
        met, own = found.simulated <= budget, found.simulated == self._without
        # Small tensors, which the programme leaves out, don't decide.
        lowest = least.exact.peak if least.exact.proven else 0.0
        possible = exact.possible or lowest <= budget * (1 + 1e-6)
        return Row(
            self._name, self._programme.decisions, fraction, plan.before.peak_bytes, limit,
            self._timeline.forward_price, found, met, own, possible, exact, seconds,
        )  # fmt: skip

    def _heuristic(
        self, budget: float, timeline: Timeline, programme: Programme
    ) -> tuple[Plan, Found]:
        options = OPTIONS.replace(budget=budget)
        plan = strategy_of(options)(self._candidates, options)
        runs = runs_of(self._candidates, timeline, plan.rewrite)
        price = timeline.again(runs)
        return plan, Found(price, plan.after.peak_bytes, programme.peak_of(runs), plan.note)


def runs_of(candidates: Candidates, timeline: Timeline, rewrite: Rewrite) -> list[Run]:
    """What runs in a rewritten step, of the ops that may run again.

    A copy belongs to the first stage that reads what is made of it.

    Args:
        candidates: The graph.
        timeline: Its timeline.
        rewrite: What is done to it.

    Returns:
        All runs, those of the traced ops included.
    """
    wiring = Wiring(candidates.view, rewrite)
    stage: dict[int, int] = {}
    formulas: set[Run] = set()
    runs: list[Run] = []
    for node in reversed(wiring.order):
        late = node.origin is not None or candidates.late[node.id]
        if node.id in timeline.stage_of:
            stage[node.id] = timeline.stage_of[node.id]
        elif not late or node.id in rewrite.released:
            stage[node.id] = FORWARD
        here = stage.get(node.id, FORWARD)
        for value in wiring.inputs[node.id]:
            stage[value.node.id] = min(here, stage.get(value.node.id, here))
        original = node.traced
        if original.id in timeline.prices and node.outputs:
            if node.op_type == original.op_type:
                runs.append((here, original.id))
            elif node.op_type != "Const":
                formulas.add((here, original.id))
    return [*runs, *formulas]


# --- The graphs -----------------------------------------------------------------------------------


def _weights(*shapes: tuple[int, ...]) -> list[tf.Variable]:
    return [tf.Variable(tf.zeros(shape)) for shape in shapes]  # nothing runs


def _mish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.tanh(tf.nn.softplus(x))


def _step_of(model: Callable[[tf.Tensor], tf.Tensor], weights: Sequence[tf.Variable]) -> Any:
    def step(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x)))
        return loss, tape.gradient(loss, weights)

    return step


def _mlp(activation: Callable[[tf.Tensor], tf.Tensor], layers: int) -> Case:
    """Square layers without biases."""

    def case() -> tuple[Callable[[tf.Tensor], Any], tf.TensorSpec]:
        weights = _weights(*[(1024, 1024)] * layers)

        def model(x: tf.Tensor) -> tf.Tensor:
            for weight in weights:
                x = activation(x @ weight)
            return x

        return _step_of(model, weights), tf.TensorSpec([4096, 1024])

    return case


def _residual(layers: int) -> Case:
    """Identical blocks that add to what they read."""

    def case() -> tuple[Callable[[tf.Tensor], Any], tf.TensorSpec]:
        weights = _weights(*[(1024, 1024)] * layers)

        def model(x: tf.Tensor) -> tf.Tensor:
            for weight in weights:
                x = x + tf.tanh(x @ weight)
            return x

        return _step_of(model, weights), tf.TensorSpec([4096, 1024])

    return case


def _convolutions(layers: int) -> Case:
    """Convolution, batch normalisation, SiLU; every other one halves the image."""

    def case() -> tuple[Callable[[tf.Tensor], Any], tf.TensorSpec]:
        channels = [64 * 2 ** (i // 2) for i in range(layers + 1)]
        filters = _weights(*[(3, 3, a, b) for a, b in itertools.pairwise(channels)])
        norms = [_weights((c,), (c,)) for c in channels[1:]]

        def model(x: tf.Tensor) -> tf.Tensor:
            for i, (kernel, (scale, offset)) in enumerate(zip(filters, norms, strict=True)):
                x = tf.nn.conv2d(x, kernel, 1 + i % 2, "SAME")
                x, _, _ = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, is_training=True)
                x = tf.nn.silu(x)
            return x

        return _step_of(model, [*filters, *[w for norm in norms for w in norm]]), tf.TensorSpec(
            [16, 56, 56, 64]
        )

    return case


def _transformer(blocks: int) -> Case:
    """Pre-norm blocks: attention of eight heads, and a GELU layer four times as wide."""
    batch, length, width, heads = 16, 128, 512, 8

    def case() -> tuple[Callable[[tf.Tensor], Any], tf.TensorSpec]:
        shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
        weights = [_weights(*shapes) for _ in range(blocks)]

        def split(x: tf.Tensor) -> tf.Tensor:
            rows = tf.reshape(x, [batch, length, heads, width // heads])
            return tf.transpose(rows, [0, 2, 1, 3])

        def normalised(x: tf.Tensor) -> tf.Tensor:
            mean, variance = tf.nn.moments(x, -1, keepdims=True)
            return (x - mean) * tf.math.rsqrt(variance + 1e-5)

        def attention(x: tf.Tensor, q: Any, k: Any, v: Any, out: Any) -> tf.Tensor:
            scores = tf.matmul(split(x @ q), split(x @ k), transpose_b=True)
            mixed = tf.nn.softmax(scores) @ split(x @ v)
            return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, width]) @ out

        def model(x: tf.Tensor) -> tf.Tensor:
            for *four, wide, narrow in weights:
                x = x + attention(normalised(x), *four)
                x = x + tf.nn.gelu(normalised(x) @ wide, approximate=True) @ narrow
            return x

        return _step_of(model, [w for block in weights for w in block]), tf.TensorSpec(
            [batch * length, width]
        )

    return case


CASES: Mapping[str, Case] = {
    "8 tanh layers": _mlp(tf.tanh, 8),
    "6 mish layers": _mlp(_mish, 6),
    "6 gelu layers": _mlp(tf.nn.gelu, 6),
    "10 residual tanh blocks": _residual(10),
    "5 convolutions, batch norm, silu": _convolutions(5),
    "1 transformer block": _transformer(1),
}


def measure(
    names: Sequence[str], fractions: Sequence[float], seconds: float
) -> Iterator[tuple[Least, list[Row]]]:
    """Measures graphs.

    Args:
        names: Which of `CASES`.
        fractions: Budgets as parts of plain TensorFlow's simulated peak.
        seconds: The solver's time limit for each question.

    Yields:
        For each graph its least peaks and its rows.
    """
    for name in names:
        yardstick = Yardstick(name, CASES[name])
        least = yardstick.least(seconds)
        yield least, [yardstick.row(f, least, seconds) for f in fractions]
