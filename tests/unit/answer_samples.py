"""Answers side by side in one stream."""

from __future__ import annotations

from dataclasses import replace

from samples import record

from pytest_llmperf.records import RequestRecord


def side_by_side(tokens_of=(16, 16), gap_ms=20.0, counted=False) -> RequestRecord:
    """Answers that begin together and have as many tokens as said, one per chunk, in events of their own."""
    moments = sorted((100.0 + gap_ms * k, index) for index, many in enumerate(tokens_of) for k in range(many))
    made = record(0.0, [ms for ms, _ in moments], answers=len(tokens_of))
    made = replace(made, chunk_answers=tuple(index for _, index in moments))
    return made if counted else replace(made, chunk_tokens=None)
