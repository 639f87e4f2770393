"""Our metrics that a file does not give, each with the reason: ImportedPoint.unknown. Pure."""

from __future__ import annotations

from pytest_llmperf.definitions import METRICS

# goodput has limits, which no file brings.
RATES = tuple(name for name, metric in METRICS.items() if metric.rate and name != "goodput")
"""Metrics that depend on the times of all requests, and on the window in which they are counted."""
CHUNK_GAPS = tuple(name for name, metric in METRICS.items() if "chunks" in metric.needs)
"""Metrics that need the time of every chunk, and not only of the first and the last."""
WITHIN_ANSWER = tuple(
    name for name, metric in METRICS.items() if not metric.rate and {"first token", "chunks"} & {*metric.needs}
)
"""Metrics that need a time before the answer's end."""


def because(reason: str, *metrics: str) -> dict[str, str]:
    """Entries of ImportedPoint.unknown."""
    return dict.fromkeys(metrics, reason)


def unless_streamed(streamed: bool) -> dict[str, str]:
    """The metrics that answers in one piece do not have."""
    reason = "answers were not streamed: the file holds the time of the whole answer only"
    return {} if streamed else because(reason, *WITHIN_ANSWER)
