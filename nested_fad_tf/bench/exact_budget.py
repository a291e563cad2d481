"""The least work that a budget takes, and the least peak that there is, by integer programming.

A yardstick for the heuristic of plan/budget.py on small graphs; nothing that users run. The problem
is that of Jain et al. ("Checkmate", arXiv 1910.02653) on the timeline of `exact_timeline`: for each
slot whether the op runs there, and for each buffer when it is held, so that every op finds what it
reads and what is held at any time fits into the budget, at the least price of what runs again.
Prices are those of plan/cost.py, and what must not run twice is what the heuristic may not repeat
either.

What is exact, and what is not: the order of the ops is that of the timeline, nothing of the forward
pass runs twice before the backward pass begins, what runs again does so before the stage that
wants it, cotangents are computed once, and small buffers are free. The heuristic's plans run in the
order of TensorFlow's executor instead, which now and then is the better one. Booleans aren't kept
as bits here, so that graphs with large ones are no fair comparison.

Checkmate has a variable for each edge and stage that says when a buffer is freed. Here it is how
long a buffer is held that has variables, one from each op that touches it to the next. Without the
rows that bound the memory the matrix is that of a network, so that its solutions are whole by
themselves; these rows are knapsacks, and say more when the budget is rounded down to what sums of
sizes can be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from nested_fad_tf.bench.exact_timeline import Slot, Timeline

# Memory is counted in these, so that the solver's tolerances mean something.
_UNIT = 2.0**10
# What `milp` says about how it ended.
_OPTIMAL, _INFEASIBLE = 0, 2
_GAP = 1e-4

# Where an op runs: number of the stage, and node id.
Run = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the solver found.

    Attributes:
        found: Whether it found a solution.
        possible: Whether there may be one: `False` if it is proven that there is none.
        price: Price of what runs again, as in plan/cost.py.
        peak: The peak in bytes.
        bound: No solution is proven to be better than this: of what was minimised.
        proven: Whether the solution is the optimum, or the lack of one is proven.
        runs: All runs of ops that may run again.
    """

    found: bool
    possible: bool
    price: float
    peak: float
    bound: float
    proven: bool
    runs: frozenset[Run]


class _Rows:
    """Rows of a sparse matrix, each at most a number."""

    def __init__(self) -> None:
        self.count = 0
        self._entries: list[tuple[int, int, float]] = []
        self.most: list[float] = []

    def add(self, entries: dict[int, float], most: float) -> None:
        self._entries += [(self.count, column, factor) for column, factor in entries.items()]
        self.most.append(most)
        self.count += 1

    def matrix(self, columns: int) -> csr_matrix:
        rows, cols, factors = zip(*self._entries, strict=True)
        return csr_matrix((factors, (rows, cols)), shape=(self.count, columns))


class Programme:
    """The integer programme of one timeline.

    Args:
        timeline: What may run when.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._least: list[float] = []  # of each variable
        self._rows = _Rows()
        self._memory: list[int] = []  # numbers of the rows that bound the peak
        self._peak = self._variable()
        self._runs: dict[Run, int] = {}
        self._held: dict[int, int] = {}  # by buffer, the variable of the time that is looked at
        for slot in timeline.slots:
            self._add(slot)

    @property
    def decisions(self) -> int:
        """How many variables have to be integers and aren't fixed."""
        return sum(self._least[run] == 0.0 for run in self._runs.values())

    def cheapest(self, budget: float, time_limit: float = 60.0, at_most: float = np.inf) -> Answer:
        """Finds the least price of what runs again.

        Args:
            budget: What the peak has to be within, in bytes.
            time_limit: Seconds for the solver.
            at_most: A price that is known to be possible, which spares the solver all dearer ones.

        Returns:
            The answer.
        """
        least, most = self._bounds()
        grain = self._timeline.grain
        most[self._peak] = budget // grain * grain / _UNIT
        return self._solve(self._prices(), least, most, time_limit, at_most)

    def least_peak(self, time_limit: float = 60.0) -> Answer:
        """Finds the least peak, whatever it takes.

        Args:
            time_limit: Seconds for the solver.

        Returns:
            The answer.
        """
        least, most = self._bounds()
        return self._solve(self._peak_alone(), least, most, time_limit)

    def peak_of(self, runs: Collection[Run]) -> float | None:
        """The peak when it is given what runs.

        Args:
            runs: All runs of ops that may run again.

        Returns:
            The peak in bytes; `None` if some op doesn't find what it reads, or has no slot there.
        """
        chosen = set(runs)
        if not chosen <= self._runs.keys():
            return None
        least, most = self._bounds()
        for run, variable in self._runs.items():
            if least[variable] > (run in chosen):
                return None
            least[variable] = most[variable] = run in chosen
        answer = self._solve(self._peak_alone(), least, most, 60.0)
        return answer.peak if answer.found else None

    def _variable(self, least: float = 0.0) -> int:
        self._least.append(least)
        return len(self._least) - 1

    def _add(self, slot: Slot) -> None:
        """Adds what a slot may do, and what is held while it does."""
        run = self._variable(float(slot.must))
        if slot.node.id in self._timeline.prices:
            self._runs[slot.stage, slot.node.id] = run
        before = dict(self._held)
        for buffer in slot.reads:
            held = self._held.get(buffer)
            # Nothing holds it yet: the op can't run here.
            self._rows.add({run: 1.0} if held is None else {run: 1.0, held: -1.0}, 0.0)
            if held is not None:
                self._held[buffer] = self._no_longer_than({held: 1.0})
        for buffer in slot.makes:
            sources = {run: 1.0}
            if buffer in before:
                sources[before[buffer]] = 1.0
            made = self._held[buffer] = self._no_longer_than(sources)
            self._rows.add({run: 1.0, made: -1.0}, 0.0)
        counted = {b: v for b, v in self._held.items() if b in slot.reuses or b not in slot.reads}
        counted |= {b: before[b] for b in slot.reads if b in before and b not in slot.reuses}
        sizes = {v: self._timeline.sizes[b] / _UNIT for b, v in counted.items()}
        self._memory.append(self._rows.count)
        self._rows.add({**sizes, self._peak: -1.0}, -slot.cotangents / _UNIT)
        for buffer in slot.makes:
            self._held[buffer] = self._no_longer_than({self._held[buffer]: 1.0})

    def _no_longer_than(self, sources: dict[int, float]) -> int:
        """A variable for holding a buffer that was held, or is made."""
        held = self._variable()
        self._rows.add({held: 1.0, **{s: -factor for s, factor in sources.items()}}, 0.0)
        return held

    def _prices(self) -> np.ndarray:
        goal = np.zeros(len(self._least))
        for (_, node_id), run in self._runs.items():
            goal[run] = self._timeline.prices[node_id] / _UNIT
        return goal

    def _peak_alone(self) -> np.ndarray:
        goal = np.zeros(len(self._least))
        goal[self._peak] = 1.0
        return goal

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each variable: a run, and holding something, is all or nothing."""
        least, most = np.array(self._least), np.ones(len(self._least))
        most[self._peak] = np.inf
        return least, most

    def _solve(
        self,
        goal: np.ndarray,
        least: np.ndarray,
        most: np.ndarray,
        time_limit: float,
        at_most: float = np.inf,
    ) -> Answer:
        integer = np.ones(len(least))
        integer[self._peak] = 0
        rows = self._rows.matrix(len(least))
        constraints = [LinearConstraint(rows, ub=np.array(self._rows.most))]
        if np.isfinite(at_most):
            total = (at_most + self._timeline.forward_price) / _UNIT * (1 + 1e-9)
            constraints.append(LinearConstraint(self._prices()[None], ub=total))
        options = {"time_limit": time_limit, "mip_rel_gap": _GAP}
        result = milp(
            goal,
            integrality=integer,
            bounds=Bounds(least, most),
            constraints=constraints,
            options=options,
        )
        if result.x is None:
            proven = result.status == _INFEASIBLE
            return Answer(False, not proven, np.inf, np.inf, np.inf, proven, frozenset())
        runs = frozenset(r for r, variable in self._runs.items() if result.x[variable] > 0.5)
        memory = rows[self._memory] @ result.x - np.array(self._rows.most)[self._memory]
        peak = float((memory + result.x[self._peak]).max()) * _UNIT
        bound = float(result.mip_dual_bound) * _UNIT
        if not goal[self._peak]:
            bound -= self._timeline.forward_price
        price = self._timeline.again(runs)
        return Answer(True, True, price, peak, bound, result.status == _OPTIMAL, runs)
