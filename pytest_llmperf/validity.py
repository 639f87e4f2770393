"""Whether a run's numbers may be believed: the client was not the bottleneck, and the server did what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_llmperf.plan import LoadPoint
from pytest_llmperf.records import Run

MAX_CLIENT_CPU = 0.95
"""Share of one core; above it sends and closed-loop turn-arounds wait for the client itself."""
MAX_CLOCK_STEP_NS = 1_000_000
MAX_SEND_LATE_SHARE = 0.10
"""Open loop: p99 lateness of sends, as a share of the mean gap between them."""
MIN_SEND_LATE_US = 5_000.0


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
    late, limit = client.send_late_p99_us, _send_late_limit_us(point)
    if late is not None and limit is not None and late > limit:
        yield f"requests were sent late: p99 {late / 1e3:.1f} ms, allowed {limit / 1e3:.1f} ms"
    yield from _lead_in_failures(run)
    yield from _wrong_lengths(run, point)


def _send_late_limit_us(point: LoadPoint) -> float | None:
    if point.request_rate is None:
        return None
    return max(MIN_SEND_LATE_US, MAX_SEND_LATE_SHARE * 1e6 / point.request_rate)


def _lead_in_failures(run: Run) -> Iterator[str]:
    failed = [record.error for record in run.records if record.phase == "lead-in" and record.error]
    if failed:
        yield f"{len(failed)} lead-in requests failed, so the load was not what the point asks for (first: {failed[0]})"


def _wrong_lengths(run: Run, point: LoadPoint) -> Iterator[str]:
    if not point.ignore_eos:
        return
    good = [record for record in run.records if record.ok and record.token_source == "usage"]
    wrong = [record.output_tokens for record in good if record.output_tokens != record.requested_output_tokens]
    if wrong:
        yield (
            f"{len(wrong)} of {len(good)} requests gave other than the {point.output_tokens} output tokens asked for "
            f"(first: {wrong[0]}); is the model's context too short, or does the server ignore ignore_eos?"
        )
