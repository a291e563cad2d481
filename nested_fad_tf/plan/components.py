"""Connected components, by union-find with path halving."""

from __future__ import annotations

from collections.abc import Iterable


class Components:
    """A partition of node ids that grows coarser as nodes are joined."""

    def __init__(self) -> None:
        """Starts without members."""
        self._parent: dict[int, int] = {}

    def __contains__(self, item: int) -> bool:
        """Whether an id is a member."""
        return item in self._parent

    def add(self, item: int) -> None:
        """Adds an id as a component of its own."""
        self._parent[item] = item

    def join(self, a: int, b: int) -> None:
        """Makes the components of two members one."""
        self._parent[self._find(a)] = self._find(b)

    def groups(self, order: Iterable[int]) -> list[list[int]]:
        """The components.

        Args:
            order: Members, in the order in which they are to be listed.

        Returns:
            The members of each component, components by their first member.
        """
        groups: dict[int, list[int]] = {}
        for item in order:
            groups.setdefault(self._find(item), []).append(item)
        return list(groups.values())

    def _find(self, item: int) -> int:
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item
