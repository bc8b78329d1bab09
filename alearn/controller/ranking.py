"""Members in the order of a key: cheap to change, and the best few can be read without disturbing anything."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

Key = tuple[float, ...]
_Entry = tuple[Key, int, str]


class Ranking:
    """A priority queue of members by key, smallest first, ties in the order of arrival.

    A heap whose outdated entries stay until they reach the top or outnumber half of the living ones; so ``set``
    and ``discard`` cost O(log n) on average, ``first(k)`` O(k log k), ``below`` as much as it returns.
    """

    __slots__ = ("_heap", "_live", "_next")

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._live: dict[str, _Entry] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, member: object) -> bool:
        return member in self._live

    def __iter__(self) -> Iterator[str]:
        """All members, in no particular order."""
        return iter(self._live)

    def key(self, member: str) -> Key:
        """The member's key.

        Raises:
            KeyError: it is not ranked.
        """
        return self._live[member][0]

    def set(self, member: str, *key: float) -> None:
        """Rank a member, or change its rank."""
        entry = (key, self._next, member)
        self._next += 1
        self._live[member] = entry
        heapq.heappush(self._heap, entry)
        self._tidy()

    def discard(self, member: str) -> None:
        """Take a member out, if it is in."""
        if self._live.pop(member, None) is not None:
            self._tidy()

    def first(self, k: int) -> list[str]:
        """The ``k`` members with the smallest keys, in order."""
        out: list[str] = []
        frontier = [(self._heap[0], 0)] if self._heap and k > 0 else []
        while frontier and len(out) < k:
            entry, at = heapq.heappop(frontier)
            if self._live.get(entry[2]) is entry:
                out.append(entry[2])
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(self._heap):
                    heapq.heappush(frontier, (self._heap[child], child))
        return out

    def below(self, limit: float) -> list[str]:
        """The members whose key's first number is below ``limit``, in order."""
        found: list[_Entry] = []
        todo = [0] if self._heap else []
        while todo:
            at = todo.pop()
            entry = self._heap[at]
            if entry[0][0] >= limit:
                continue
            if self._live.get(entry[2]) is entry:
                found.append(entry)
            todo += [child for child in (2 * at + 1, 2 * at + 2) if child < len(self._heap)]
        return [member for _, _, member in sorted(found)]

    def _tidy(self) -> None:
        while self._heap and self._live.get(self._heap[0][2]) is not self._heap[0]:
            heapq.heappop(self._heap)
        if 2 * len(self._heap) > 3 * len(self._live) + 64:
            self._heap = list(self._live.values())
            heapq.heapify(self._heap)
