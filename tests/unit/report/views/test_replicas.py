"""Replicas behind a proxy, by what their own metrics tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from samples import result, server, steady_run

from pytest_llmperf.records import Telemetry, Track
from pytest_llmperf.report.views.replicas import Replicas, replicas_of


def replicas(made: Sequence[float | None]) -> list[Replicas]:
    """Those of a server whose replicas tell that they made so many tokens; None is one without metrics."""
    config = server("{engine: embedded, replicas: 2, proxy: {command: [proxy, '{port}', '{replicas}']}}")
    tracks = [
        Track(f"a-{number}", (0, 1), (("generated_tokens", (0.0, tokens)),))
        for number, tokens in enumerate(made, start=1)
        if tokens is not None
    ]
    runs = [replace(steady_run(), telemetry=Telemetry(0.5, tuple(tracks)))]
    return replicas_of([result(runs, config)])


@pytest.mark.parametrize(
    ("made", "shares", "imbalance"),
    [
        ((300.0, 100.0), (0.75, 0.25), 0.5),
        ((300.0, 0.0), (1.0, 0.0), 1.0),
        ((300.0, None), (None, None), None),
    ],
    ids=["uneven", "one made nothing", "one without metrics"],
)
def test_shares_of_what_was_made(
    made: Sequence[float | None], shares: Sequence[float | None], imbalance: float | None
) -> None:
    (found,) = replicas(made)
    assert tuple(one.share for one in found.replicas) == shares
    assert found.imbalance == imbalance


def test_without_any_metrics_there_is_nothing_to_show() -> None:
    assert replicas((None, None)) == []
