"""`capacity` of a load: what is searched, where, how finely, and which limits a level must meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from pytest_llmperf.definitions import OFFERED, Quantity
from pytest_llmperf.plan.fields import Frozen
from pytest_llmperf.plan.limits import Limit, Sla
from pytest_llmperf.units import parse_margin, parse_span

if TYPE_CHECKING:
    from pytest_llmperf.load_spec import LoadPoint, LoadSpec

CAPACITIES = ("capacity", "capacity_concurrency")
"""Metrics that only a capacity search has."""
FEWEST_REQUESTS = 30
"""Of a level of an open loop: with fewer it cannot be told whether the server keeps up (saturation.MIN_REQUESTS)."""
_NO_FAILURES = Limit(metric="error_rate", stat=None, op="<=", value=0.0)


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
    """What a level must meet, beside the load's and the plan's limits; one on the same quantity replaces theirs."""
    within: Annotated[
        float,
        BeforeValidator(_within),
        WithJsonSchema({"type": ["number", "string"], "examples": ["5 %"]}),
    ] = Field(0.05)
    """How far apart the highest level that holds and the lowest that does not may be in the end (ratio - 1)."""

    @model_validator(mode="after")
    def _one_axis(self) -> CapacitySpec:
        if (self.request_rate is None) == (self.concurrency is None):
            raise ValueError('capacity has either `request_rate: "1:200"` or `concurrency: "1:256"`')
        if limit := next((limit for limit in self.sla if not _restrains(limit)), None):
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


def check_capacity(load: LoadPoint) -> None:
    """Raises ValueError where a load's keys do not go with its capacity, or with having none."""
    asked = load.capacity
    for limit in load.sla:
        if limit.metric in CAPACITIES and (asked is None or limit.quantity != asked.quantity):
            unit = "req/s" if limit.metric == "capacity" else "requests in flight"
            raise ValueError(f"sla: a capacity in {unit} is limited, but this load does not search for one")
        if limit.metric in CAPACITIES and asked and limit.value > asked.span[1]:
            raise ValueError(f"sla: {limit} lies above the range that is searched, which ends at {asked.span[1]:g}")
    if asked and asked.request_rate and load.requests is not None and load.requests < FEWEST_REQUESTS:
        raise ValueError(
            f"requests: {load.requests} per level are too few to tell whether the server keeps up with a rate; "
            f"at least {FEWEST_REQUESTS} are needed"
        )


def _restrains(limit: Limit) -> bool:
    """Whether a limit can be broken by too high a level; throughputs and capacities are what a high level is for."""
    return limit.metric not in (*CAPACITIES, *OFFERED, "goodput")


def has_criterion(plan: Sla, load: LoadSpec) -> bool:
    """Whether a limit says what a level must meet; True where nothing is searched."""
    asked = load.capacity
    return asked is None or any(_restrains(limit) for limit in (*plan, *load.sla, *asked.sla))


def with_limits(plan: Sla, load: LoadPoint) -> LoadPoint:
    """The load with the plan's limits and its own, each where it is judged."""
    sla, capacity = _split_limits(plan, load)
    return load.model_copy(update={"sla": sla, "capacity": capacity})


def _split_limits(plan: Sla, load: LoadPoint) -> tuple[Sla, CapacitySpec | None]:
    """The limits that `sla.check` judges the load by, and its search with all limits that a level must meet.

    Capacity and throughput are judged at the answer, all other limits are the search's. No request may fail, unless a
    limit says how many may.
    """
    merged = _merged(plan, load.sla)
    asked = load.capacity
    if asked is None:
        return _without_failures(tuple(limit for limit in merged if limit.metric not in CAPACITIES)), None
    criterion = _without_failures(_merged(tuple(filter(_restrains, merged)), asked.sla))
    own = (limit for limit in merged if not _restrains(limit))
    answers = tuple(limit for limit in own if limit.metric not in CAPACITIES or limit.quantity == asked.quantity)
    return answers, asked.model_copy(update={"sla": criterion})


def _without_failures(limits: Sla) -> Sla:
    return limits if any(limit.metric == "error_rate" for limit in limits) else (*limits, _NO_FAILURES)


def _merged(general: Sla, own: Sla) -> Sla:
    """`own` limits and those of `general` on other quantities."""
    replaced = {limit.quantity for limit in own}
    return (*(limit for limit in general if limit.quantity not in replaced), *own)
