"""Whether a run's numbers may be believed: the client was not the bottleneck, and the server did what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.records import Run

MAX_CLIENT_CPU = 0.95
"""Share of one core; above it sends and closed-loop turn-arounds wait for the client itself."""
MAX_CLOCK_STEP_NS = 1_000_000
MAX_LATE_REQUESTS = 0.05
"""Open loop: share of requests that may be sent late. Their latency counts from the due time all the same."""
LATE_GAP_SHARE = 0.10
"""A request is late from this share of the mean gap between requests, and from 5 ms at least."""
MIN_LATE_NS = 5_000_000


def invalid_reasons(runs: Sequence[Run], point: LoadPoint) -> tuple[str, ...]:
    """One sentence per reason and run; empty when every run is valid. No run at all is a reason too."""
    if not runs:
        return ("nothing was measured",)
    return tuple(f"run {run.index + 1}: {reason}" for run in runs for reason in _reasons(run, point))


def _reasons(run: Run, point: LoadPoint) -> Iterator[str]:
    client = run.client
    if client.cpu_share is not None and client.cpu_share > MAX_CLIENT_CPU:
        yield f"client CPU {client.cpu_share:.0%} of a core: the load driver was the bottleneck"
    if abs(client.clock_step_ns) > MAX_CLOCK_STEP_NS:
        yield f"the system clock was set by {client.clock_step_ns / 1e6:+.1f} ms during the run"
    yield from _late_sends(run, point)
    yield from _lead_in_failures(run)
    yield from _wrong_lengths(run, point)


def _late_sends(run: Run, point: LoadPoint) -> Iterator[str]:
    if point.request_rate is None:
        return
    limit = max(MIN_LATE_NS, LATE_GAP_SHARE * 1e9 / point.request_rate)
    late = [record.sent_ns - record.due_ns for record in run.records if record.sent_ns and record.due_ns]
    count = sum(lateness > limit for lateness in late)
    if count > MAX_LATE_REQUESTS * len(late):
        worst = f"worst {max(late) / 1e6:.1f} ms"
        yield f"{count} of {len(late)} requests were sent more than {limit / 1e6:.1f} ms late ({worst})"


def _lead_in_failures(run: Run) -> Iterator[str]:
    failed = [record.error for record in run.records if record.phase == "lead-in" and record.error]
    if failed:
        yield f"{len(failed)} lead-in requests failed, so the load was not what the point asks for (first: {failed[0]})"


def _wrong_lengths(run: Run, point: LoadPoint) -> Iterator[str]:
    if not point.ignore_eos:
        return
    good = [record for record in run.records if record.ok and record.token_source == "usage"]
    wrong = [record for record in good if record.output_tokens != record.requested_output_tokens]
    if wrong:
        yield (
            f"{len(wrong)} of {len(good)} requests gave other than the {wrong[0].requested_output_tokens} output "
            f"tokens asked for (first: {wrong[0].output_tokens}); is the context (max-model-len) too short, or does "
            "the server ignore ignore_eos?"
        )
