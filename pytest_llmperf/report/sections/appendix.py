"""The end of the page: where it was measured, and what every metric means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_llmperf.definitions import METRICS
from pytest_llmperf.report.html.series import SERIES
from pytest_llmperf.report.sections.section import ReportContent, Section


class NamedEnvironment(NamedTuple):
    """An environment with the facts about it by name."""

    slug: str
    simulated: bool
    facts: Mapping[str, Any]


def _environments(content: ReportContent) -> list[NamedEnvironment]:
    """All environments of points; without any point those of the searches."""
    results = [one.result for one in content.outcomes if one.result and (one.result.runs or one.result.imported)]
    found = [
        NamedEnvironment(
            one.environment.slug, one.environment.simulated, _without_deployment(one.environment.as_dict())
        )
        for one in results
    ]
    searched = [NamedEnvironment(one.environment["slug"], one.simulated, one.environment) for one in content.searches]
    return list({place.slug: place for place in found or searched}.values())


def _without_deployment(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts without the deployment, which is that of one server of the environment: points have it, in JSON."""
    return {name: value for name, value in facts.items() if name != "deployment"}


# Both are in the head of the JSON report.
ENVIRONMENT = Section(
    key="environment",
    title="Environment",
    view=_environments,
    html='{% include "environment.html" %}',
    page=lambda view: {"environments": view},
)
DEFINITIONS = Section(
    key="definitions",
    title="Definitions",
    view=lambda content: tuple(METRICS.values()),
    html='{% include "definitions.html" %}',
    page=lambda view: {"metrics": view, "series": SERIES},
)
