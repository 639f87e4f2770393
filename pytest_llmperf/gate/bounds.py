"""A capacity that is only known to be at least so much: what may be said of it against a reference. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_llmperf.definitions import Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.gate.verdict import Series
from pytest_llmperf.metrics.result import Result


def bound_notes(result: Result, margins: Mapping[Quantity, float], series: Sequence[Series]) -> list[str]:
    """Notes beside the verdict on a capacity; none of any other point.

    BaselineError where a lower bound lies below the reference: that is neither as good nor worse.
    """
    capacity = result.capacity
    if capacity is None or capacity.value is None:
        return []
    notes = []
    margin, width = margins.get(capacity.quantity, 0.0), capacity.resolution
    if width > margin:
        notes.append(
            f"the capacity is known to {width:.0%} only, which is coarser than the margin of {margin:.0%}; "
            "that width is part of the interval"
        )
    if capacity.is_bound:
        held = [one for side in series for launch in side.baseline for one in launch if one is not None]
        if held and capacity.value < min(held):
            raise BaselineError(
                f"{capacity.sentence}. That is below the reference's {min(held):.4g}, so it cannot be told whether it "
                "got worse; widen the range, or mend what kept the client from offering more"
            )
        notes.append(f"{capacity.sentence}; what changes above that is not seen")
    return notes
