"""Configurations as positions in a grid: what lies next to what. Pure, and knows nothing of servers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Position = tuple[int, ...]
"""Index of the value of each axis: 0 is the first."""
_LARGEST = 20_000
"""Positions of a space that is looked through as a whole; of a larger one only the corners are."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One way along one axis."""

    axis: int
    sign: int


@dataclass(frozen=True, slots=True)
class Space:
    """A grid; an axis without order (names, true and false) has every other value next to each."""

    sizes: tuple[int, ...]
    """Values of each axis, at least 1."""
    ordered: tuple[bool, ...]

    def __len__(self) -> int:
        return math.prod(self.sizes)

    def positions(self) -> Iterator[Position]:
        """All, the last axis fastest."""
        return itertools.product(*map(range, self.sizes))

    def centre(self) -> Position:
        """The middle of every axis that has an order, the first value of every other."""
        return tuple((size - 1) // 2 if order else 0 for size, order in zip(self.sizes, self.ordered, strict=True))

    def directions(self) -> Iterator[Direction]:
        """Yields both ways along each ordered axis, and one way along any other, which is a circle."""
        for axis, (size, order) in enumerate(zip(self.sizes, self.ordered, strict=True)):
            if size > 1:
                yield Direction(axis, 1)
            if size > 1 and order:
                yield Direction(axis, -1)

    def moved(self, position: Position, way: Direction, stride: int) -> Position | None:
        """`stride` steps that way; None beyond the end, or once around a circle."""
        size, at = self.sizes[way.axis], position[way.axis] + way.sign * stride
        if not self.ordered[way.axis]:
            at = at % size if stride < size else -1
        return (*position[: way.axis], at, *position[way.axis + 1 :]) if 0 <= at < size else None

    def farthest(self, known: Iterable[Position]) -> Position | None:
        """The position that lies farthest from all known ones (axes count alike); None when every one is known."""
        seen = set(known)
        corners = itertools.product(*({0, size - 1} for size in self.sizes))
        all_ = self.positions() if len(self) <= _LARGEST else corners
        left = [position for position in all_ if position not in seen]
        return max(left, key=lambda one: min((self._distance(one, other) for other in seen), default=0.0), default=None)

    def _distance(self, one: Position, other: Position) -> float:
        pairs = zip(one, other, self.sizes, self.ordered, strict=True)
        return sum(abs(a - b) / max(1, size - 1) if order else float(a != b) for a, b, size, order in pairs)
