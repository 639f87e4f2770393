"""`capacity` of a load: what is searched, where, how finely, and which limits a level must meet."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from pytest_llmperf.definitions import OFFERED, Quantity
from pytest_llmperf.plan.fields import Frozen
from pytest_llmperf.plan.limits import Limit, Sla
from pytest_llmperf.units import parse_margin, parse_span

CAPACITIES = ("capacity", "capacity_concurrency")
"""Metrics that only a capacity search has."""
FEWEST_REQUESTS = 30
"""Requests of an open loop's level: fewer do not show whether the server keeps up (saturation.MIN_REQUESTS)."""


def _whole_span(given: object) -> tuple[int, int]:
    low, high = parse_span(given)
    if low != int(low) or high != int(high):
        raise ValueError(f"{given!r}: a concurrency is a whole number")
    return int(low), int(high)


def _within(given: object) -> float:
    share = parse_margin(given)
    if not 0.01 <= share <= 1:
        raise ValueError(f"{given!r}: between 1 % and 100 % is needed")
    return share


_SPAN = WithJsonSchema({"type": ["string", "array"], "examples": ["1:200"]})


class CapacitySpec(Frozen):
    """Search the highest `request_rate` or `concurrency` in a range that meets every limit."""

    request_rate: Annotated[tuple[float, float], BeforeValidator(parse_span), _SPAN] | None = None
    """Req/s, lowest and highest."""
    concurrency: Annotated[tuple[int, int], BeforeValidator(_whole_span), _SPAN] | None = None
    """Requests in flight, lowest and highest."""
    sla: Sla = ()
    """Limits that a level must meet, beside the load's and the plan's; one on the same quantity replaces theirs."""
    within: Annotated[
        float,
        BeforeValidator(_within),
        WithJsonSchema({"type": ["number", "string"], "examples": ["5 %"]}),
    ] = Field(0.05)
    """Largest distance (ratio - 1) between the highest level that holds and the lowest that does not, at the end."""

    @model_validator(mode="after")
    def _one_axis(self) -> CapacitySpec:
        if (self.request_rate is None) == (self.concurrency is None):
            raise ValueError('capacity has either `request_rate: "1:200"` or `concurrency: "1:256"`')
        if limit := next((limit for limit in self.sla if not restrains(limit)), None):
            raise ValueError(
                f"sla: {limit.metric} grows with the level, so it restrains none; limit it in the load's `sla`"
            )
        return self

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest level, in the quantity's unit."""
        found = self.request_rate or self.concurrency
        assert found is not None, "one of the two is checked to be there"
        return found

    @property
    def quantity(self) -> Quantity:
        return Quantity("capacity" if self.request_rate else "capacity_concurrency")


def restrains(limit: Limit) -> bool:
    """True if too high a level can break the limit; throughputs and capacities are what a high level is for."""
    return limit.metric not in (*CAPACITIES, *OFFERED, "goodput")
