"""The orders in which configurations are tried. Pure: the arena measures them, and decides which is better.

All modes are deterministic functions of what was measured. So an interrupted search is continued by running it again
with what was measured already at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pytest_llmperf.search.strategy.space import Direction, Position, Space


class Arena(Protocol):
    """Measures configurations, and compares them as far as noise allows."""

    def measure(self, position: Position) -> None:
        """Measures a configuration, unless it was measured before. Raises OutOfTrials when no more may be."""

    def beats(self, one: Position, other: Position) -> bool | None:
        """True if `one`, measured if need be, is better; None: no difference beyond noise. Raises OutOfTrials."""

    def measured(self) -> tuple[Position, ...]:
        """All so far."""


class OutOfTrials(Exception):
    """The search may measure no more configurations."""


def brute(space: Space, arena: Arena) -> None:
    """Every configuration."""
    for position in space.positions():
        arena.measure(position)


def quick(space: Space, arena: Arena, starts: int) -> None:
    """Hill climbing from the middle, then from wherever lies farthest from all that was tried.

    Ends where no neighbour is better: the optimum of a space with one peak, a local one otherwise.
    """
    for _ in range(starts):
        start = space.farthest(arena.measured()) if arena.measured() else space.centre()
        if start is None:
            return
        arena.measure(start)
        _climb(space, arena, start)


def _climb(space: Space, arena: Arena, start: Position) -> None:
    at, ways = start, list(space.directions())
    while found := _better_neighbour(space, arena, at, ways):
        way, at = found
        at = _stride_on(space, arena, at, way)
        # The axis just climbed comes last next time: the others have not been asked from here.
        ways.sort(key=lambda other: other.axis == way.axis)


def _better_neighbour(
    space: Space, arena: Arena, at: Position, ways: list[Direction]
) -> tuple[Direction, Position] | None:
    """The first way that leads up, and the better position there."""
    for way in ways:
        for position in _strides(space, at, way):
            better = arena.beats(position, at)
            if better:
                return way, position
            if better is False and space.ordered[way.axis]:
                break
    return None


def _strides(space: Space, at: Position, way: Direction) -> Iterator[Position]:
    """One step, then (where noise hid the difference) two, four and so on; of a circle every value."""
    stride = 1
    while (position := space.moved(at, way, stride)) is not None:
        yield position
        stride = stride * 2 if space.ordered[way.axis] else stride + 1


def _stride_on(space: Space, arena: Arena, at: Position, way: Direction) -> Position:
    """Moves on in a direction as long as every stride, twice as long as the last, is better."""
    if not space.ordered[way.axis]:
        return at
    stride = 2
    while (position := space.moved(at, way, stride)) is not None and arena.beats(position, at):
        at, stride = position, stride * 2
    return at
