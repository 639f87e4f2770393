"""A capacity that is only known to be at least so much: what may be said of it against a reference. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.verdict import Series
from pytest_llmperf.metrics.result import Result


def bound_notes(result: Result, margins: Mapping[Quantity, float], series: Sequence[Series]) -> tuple[str, ...]:
    """What must be told beside the verdict on a capacity; nothing of any other point.

    BaselineError where a lower bound lies below the reference: that is neither as good nor worse.
    """
    return tuple(_notes(result, margins, series))


def _notes(result: Result, margins: Mapping[Quantity, float], series: Sequence[Series]) -> Iterator[str]:
    capacity = result.capacity
    if capacity is None or capacity.value is None:
        return
    margin = margins.get(capacity.quantity, 0.0)
    width = capacity.resolution
    if width > margin:
        yield (
            f"the capacity is known to {width:.0%} only, which is coarser than the margin of {margin:.0%}; "
            "that width is part of the interval"
        )
    if capacity.is_bound:
        _assert_reaches(capacity.value, capacity.sentence, series)
        yield f"{capacity.sentence}; what changes above that is not seen"


def _assert_reaches(value: float, sentence: str, series: Sequence[Series]) -> None:
    held = [one for side in series for launch in side.baseline for one in launch if one is not None]
    if held and value < min(held):
        raise BaselineError(
            f"{sentence}. That is below the reference's {min(held):.4g}, so it cannot be told whether it got worse; "
            "widen the range, or mend what kept the client from offering more"
        )
