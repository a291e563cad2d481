"""Flow networks and their minimum cuts."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

SOURCE, SINK = 0, 1
# scipy's flows are 32-bit integers: capacities are scaled so that all of them together stay below
# this, and one that exceeds it is infinite.
_TOTAL = 2**29
_INFINITE = 2**30


class Network:
    """A flow network, edge by edge; capacities may change from one cut to the next."""

    def __init__(self) -> None:
        self._size = 2
        self._tails: list[int] = []
        self._heads: list[int] = []
        self._capacities: list[float] = []
        self._rows: _Rows | None = None

    def node(self) -> int:
        """Adds a node.

        Returns:
            Its number.
        """
        self._size += 1
        return self._size - 1

    def edge(self, tail: int, head: int, capacity: float) -> int:
        """Adds an edge.

        Args:
            tail: Where it starts.
            head: Where it ends.
            capacity: What cutting it costs, in bytes; may be infinite.

        Returns:
            Its position in `capacities`.
        """
        self._tails.append(tail)
        self._heads.append(head)
        self._capacities.append(capacity)
        self._rows = None
        return len(self._tails) - 1

    def capacities(self) -> np.ndarray:
        """The capacities of all edges, in the order in which they were added.

        Returns:
            An array of floats.
        """
        return np.array(self._capacities, float)

    def sink_side(self, capacities: np.ndarray | None = None) -> np.ndarray:
        """Solves, and tells for each node whether it lies on the sink's side.

        Of all minimum cuts the one nearest to the sink is taken: it recomputes least.

        Args:
            capacities: Those of the edges, if they aren't those that they were added with.

        Returns:
            For each node number, whether it does.
        """
        capacity = self.capacities() if capacities is None else capacities
        finite = np.isfinite(capacity)
        scale = min(1.0, _TOTAL / max(1.0, capacity[finite].sum()))
        whole = np.full(len(capacity), float(_INFINITE))
        whole[finite] = np.ceil(capacity[finite] * scale)
        if self._rows is None:
            self._rows = _rows(self._size, self._heads, self._tails)
        # Turned around, so that what reaches the sink is what a search from there finds.
        graph = self._rows.matrix(whole)
        residual = graph - maximum_flow(graph, SINK, SOURCE, method="dinic").flow
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        side = np.zeros(self._size, dtype=bool)
        side[breadth_first_order(residual, SINK, return_predecessors=False)] = True
        return side


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Where edges stand in a sparse matrix, which is sorted by row and column.

    Attributes:
        size: Rows, and columns.
        place: Of each edge the place of its entry, which parallel edges share.
        columns: The column of each entry.
        starts: Where each row starts, and the end.
    """

    size: int
    place: np.ndarray
    columns: np.ndarray
    starts: np.ndarray

    def matrix(self, values: np.ndarray) -> csr_matrix:
        """The matrix with a value for each edge; those of parallel edges add up."""
        data = np.bincount(self.place, values, len(self.columns))
        whole = np.minimum(data, _INFINITE).astype(np.int32)
        return csr_matrix((whole, self.columns, self.starts), shape=(self.size, self.size))


def _rows(size: int, rows: list[int], columns: list[int]) -> _Rows:
    keys = np.array(rows, np.int64) * size + np.array(columns, np.int64)
    entries, place = np.unique(keys, return_inverse=True)
    starts = np.searchsorted(entries, np.arange(size + 1, dtype=np.int64) * size)
    return _Rows(size, place, (entries % size).astype(np.int32), starts.astype(np.int32))
