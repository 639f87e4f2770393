"""Performance regression tests for LLM serving, in pytest.

What `__all__` names is the public API, described in docs/api.md: everything else is private and may move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_llmperf.api import (
        DuetResult,
        InvalidResultError,
        StartedServer,
        check_sla,
        compare,
        duet,
        duet_async,
        judge_files,
        load_plan,
        measure,
        measure_async,
        record,
        start_server,
    )
    from pytest_llmperf.errors import (
        BaselineError,
        ClientError,
        InconclusiveWarning,
        LlmPerfError,
        LoadError,
        MissingRequirement,
        PlanError,
        ReportOnlyWarning,
        ServerError,
    )
    from pytest_llmperf.gate.regression import Regression
    from pytest_llmperf.gate.verdict import MetricVerdict
    from pytest_llmperf.metrics.result import Result
    from pytest_llmperf.metrics.stats.compliance import SlaCheck
    from pytest_llmperf.plan.load.point import LoadPoint
    from pytest_llmperf.plan.plan import Plan
    from pytest_llmperf.servers.server import LlmServer

__version__ = "0.1.0"
__all__ = (
    "BaselineError",
    "ClientError",
    "DuetResult",
    "InconclusiveWarning",
    "InvalidResultError",
    "LlmPerfError",
    "LlmServer",
    "LoadError",
    "LoadPoint",
    "MetricVerdict",
    "MissingRequirement",
    "Plan",
    "PlanError",
    "Regression",
    "ReportOnlyWarning",
    "Result",
    "ServerError",
    "SlaCheck",
    "StartedServer",
    "__version__",
    "check_sla",
    "compare",
    "duet",
    "duet_async",
    "judge_files",
    "load_plan",
    "measure",
    "measure_async",
    "record",
    "start_server",
)
_ERRORS = (
    *("BaselineError", "ClientError", "InconclusiveWarning", "LlmPerfError", "LoadError", "MissingRequirement"),
    *("PlanError", "ReportOnlyWarning", "ServerError"),
)
_PLACES = {
    **dict.fromkeys(_ERRORS, "errors"),
    "LlmServer": "servers.server",
    "LoadPoint": "plan.load.point",
    "MetricVerdict": "gate.verdict",
    "Plan": "plan.plan",
    "Regression": "gate.regression",
    "Result": "metrics.result",
    "SlaCheck": "metrics.stats.compliance",
}
"""Modules of the names that are not in `api`."""


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that the plugin pays for none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_PLACES.get(name, 'api')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
