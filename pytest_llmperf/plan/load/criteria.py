"""The limits of a plan and of its loads, each where it is judged."""

from __future__ import annotations

from pytest_llmperf.plan.limits import Limit, Sla
from pytest_llmperf.plan.load.capacity import CAPACITIES, CapacitySpec, restrains
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.spec import LoadSpec

_NO_FAILURES = Limit(metric="error_rate", stat=None, op="<=", value=0.0)


def has_criterion(plan: Sla, load: LoadSpec) -> bool:
    """True if a limit decides whether a level holds, or where no level is searched."""
    asked = load.capacity
    return asked is None or any(restrains(limit) for limit in (*plan, *load.sla, *asked.sla))


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
    criterion = _without_failures(_merged(tuple(filter(restrains, merged)), asked.sla))
    own = (limit for limit in merged if not restrains(limit))
    answers = tuple(limit for limit in own if limit.metric not in CAPACITIES or limit.quantity == asked.quantity)
    return answers, asked.model_copy(update={"sla": criterion})


def _without_failures(limits: Sla) -> Sla:
    return limits if any(limit.metric == "error_rate" for limit in limits) else (*limits, _NO_FAILURES)


def _merged(general: Sla, own: Sla) -> Sla:
    """`own` limits and those of `general` on other quantities."""
    replaced = {limit.quantity for limit in own}
    return (*(limit for limit in general if limit.quantity not in replaced), *own)
