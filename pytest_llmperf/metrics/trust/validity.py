"""Reasons not to believe a run's numbers: the client was not the bottleneck, and the server did what was asked."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from pytest_llmperf.formulas.pace import inter_token_latency_ms
from pytest_llmperf.load.answers.counts import TOTAL_TOO_LARGE
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.records import ClientHealth, RequestRecord, Run
from pytest_llmperf.units import counted

MAX_CLIENT_CPU = 0.90
"""Share of one core; above it sends and closed-loop turn-arounds wait for the client itself. Linux takes the processor
from a real-time thread at 95 %, so a limit up there would never be seen."""
MAX_CLOCK_STEP_NS = 1_000_000
MAX_LATE_REQUESTS = 0.05
"""Open loop: share of requests that may be sent late. Their latency counts from the due time all the same."""
LATE_GAP_SHARE = 0.10
"""A request is late from this share of the mean gap between requests, and from 5 ms at least."""
MIN_LATE_NS = 5_000_000
MIN_ACHIEVED_RATE = 0.98
"""Open loop: share of the scheduled rate at which requests must have been sent."""
MIN_RATE_SLIP_NS = 20_000_000
"""Least time by which sending took longer than the schedule: one hiccup of a short run is no lower rate."""
MAX_COALESCED = 0.02
"""Share of token chunks that were read together with another, where the client was late enough to be the cause: two for
each gap that is wrong, and a hundredth of the gaps is what their p99 bears."""
MAX_FIRST_COALESCED = 0.01
"""Share of requests whose first token was read together with the next, where the client was late enough to be the
cause: with more, the p99 of TTFT is that of the next token."""
LAG_ITL_SHARE = 0.5
"""A read that is late by this share of the median inter-token latency can meet two chunks of a stream."""
MIN_LAG_MS = 1.0
"""A client that is never later than this read what there was; a server that sends its answer whole has an ITL of 0."""
MAX_LOOP_LAG_ITL_SHARE = 0.2
"""User-space times are late by the loop's lag; its p99 may be this share of the median inter-token latency."""
MIN_LOOP_LAG_MS = 2.0
"""The event loop's timers are late by up to 1 ms by design, so less than this says nothing."""
MAX_RESENT = 0.01
"""Share of requests whose connection was lost before any answer and that were sent again: users get such errors."""
MAX_CLOCK_ERROR_NS = 1_000_000
"""A response that came before its request was sent, by more than the clock may be set in a run."""
MAX_CLOCK_GAP_US = 1e5
"""Longest time from the kernel's stamp of a read to the client's, at the median: no client is so late, but clocks
differ.
"""
MAX_LENGTH_FACTOR = 2.0
"""Most tokens of an answer, as a multiple of those asked for: servers may count an end or a hidden token more."""
MAX_OTHER_CPU = 0.25
"""Share of the machine's processors that processes of others may take before they are a suspect."""

MAX_STOLEN_CPU = 0.10
"""Share of the machine's processors that the hypervisor may give to other machines before they are a suspect."""
_TOLD_STOLEN = 0.05
"""Processors' worth of stolen time below which nothing is said of it."""

_QUIETER = "keep other work off the client's cores, or spread the load with --llmperf-workers"


def invalid_reasons(runs: Sequence[Run], point: LoadPoint) -> tuple[str, ...]:
    """One sentence per reason and run; empty when every run is valid. No run at all is a reason too."""
    if not runs:
        return ("nothing was measured",)
    return tuple(f"run {run.index + 1}: {reason}" for run in runs for reason in _reasons(run, point))


def cpu_was_the_limit(run: Run) -> bool:
    """True if a process of the load driver had no time left, so that more processes would help."""
    return run.client.cpu_share is not None and run.client.cpu_share > MAX_CLIENT_CPU


def _more_workers(run: Run) -> str:
    return f"spread it over processes with --llmperf-workers {2 * run.workers}"


def disturbance(run: Run, point: LoadPoint) -> str | None:
    """The client's fault that made a run invalid which had no other fault; the next one may be better. None without
    one.
    """
    if any(record.error for record in run.records) or any(_server_reasons(run, point)):
        return None
    return next(_client_reasons(run, point), None)


def busy_host(run: Run) -> str | None:
    """Sentence on work of others that may have slowed client and server; the run stays valid. None where none is seen.

    It says nothing of the server's numbers, so that to measure such a run again favours no side.
    """
    host = run.host
    if host is None:
        return None
    of = f"of the machine's {host.cores} cores (load average {host.load_average:.1f})"
    if host.other_cores is not None and host.other_cores > MAX_OTHER_CPU * host.cores:
        return f"other processes took {host.other_cores:.1f} {of}"
    if host.stolen_cores is not None and host.stolen_cores > MAX_STOLEN_CPU * host.cores:
        return f"the hypervisor took {host.stolen_cores:.1f} {of} for other machines"
    return None


def host_sentence(runs: Sequence[Run]) -> str:
    """The machine during the runs, and whether it is a suspect; empty where nothing is known."""
    known = [run.host for run in runs if run.host is not None]
    if not known:
        return ""
    others = [host.other_cores for host in known if host.other_cores is not None]
    text = f"load average {_range([host.load_average for host in known])} on {known[-1].cores} cores"
    text += f", other processes took {_range(others)} cores" if others else ""
    stolen = [host.stolen_cores for host in known if host.stolen_cores is not None]
    text += f", the hypervisor {_range(stolen)}" if max(stolen, default=0.0) >= _TOLD_STOLEN else ""
    busy = [str(run.index + 1) for run in runs if busy_host(run)]
    suspect = f"; it was busy in run{'' if len(busy) == 1 else 's'} {', '.join(busy)}, which makes it a suspect"
    return f"this machine: {text}{suspect if busy else ''}"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _reasons(run: Run, point: LoadPoint) -> Iterator[str]:
    yield from _impossible_times(run)
    yield from _client_reasons(run, point)
    yield from _server_reasons(run, point)


def _server_reasons(run: Run, point: LoadPoint) -> Iterator[str]:
    yield from _lead_in_failures(run)
    yield from _wrong_lengths(run, point)
    yield from _absurd_lengths(run)
    yield from _resent(run)


def _impossible_times(run: Run) -> Iterator[str]:
    """Clocks that differ: a library for tests or a preloaded one has changed that of this process."""
    cure = "freezegun, time-machine or libfaketime in this process? measure without"
    apart_us = run.client.receive_lag_p50_us or 0.0
    if not -MAX_CLOCK_ERROR_NS / 1e3 <= apart_us <= MAX_CLOCK_GAP_US:
        yield f"the client's clock is {apart_us / 1e6:+.3g} s from the kernel's; {cure}"
    backwards = sum(_is_backwards(record) for record in run.records)
    if backwards:
        yield f"{backwards} of {len(run.records)} responses came before their requests were sent, by the clock; {cure}"


def _is_backwards(record: RequestRecord) -> bool:
    first_ns = record.chunk_ns[0] if record.chunk_ns else record.end_ns
    return record.sent_ns is not None and first_ns < record.sent_ns - MAX_CLOCK_ERROR_NS


def _resent(run: Run) -> Iterator[str]:
    resent, sent = run.client.resent, sum(record.sent_ns is not None for record in run.records)
    if resent > MAX_RESENT * sent:
        yield (
            f"{resent} of {sent} requests were sent again, because their kept connection was closed or reset before "
            "any byte of a response: the server, or a proxy before it, drops requests; where it only closes idle "
            "connections, `connection: fresh` opens one for each request"
        )


def _absurd_lengths(run: Run) -> Iterator[str]:
    """Reasons in the lengths of answers, also where the model chooses them: the most that was asked for bounds them."""
    good = [record for record in run.records if record.ok]
    absurd = [
        record
        for record in good
        if record.usage_doubt == TOTAL_TOO_LARGE
        or (record.output_tokens or 0) > MAX_LENGTH_FACTOR * (record.requested_output_tokens or math.inf) + 1
    ]
    if absurd:
        first = absurd[0]
        counted = first.usage_doubt or f"{first.output_tokens} tokens"
        yield (
            f"{len(absurd)} of {len(good)} answers have more tokens than were asked for by a factor, as the server "
            f"counts them (first: {counted}, {first.requested_output_tokens} asked for): no throughput or "
            "inter-token latency follows from such counts; does the server honour max_tokens, and count right?"
        )


def _client_reasons(run: Run, point: LoadPoint) -> Iterator[str]:
    client = run.client
    if cpu_was_the_limit(run):
        yield f"client CPU {client.cpu_share:.0%} of a core: the load driver was the bottleneck; {_more_workers(run)}"
    if abs(client.clock_step_ns) > MAX_CLOCK_STEP_NS:
        yield f"the system clock was set by {client.clock_step_ns / 1e6:+.1f} ms during the run"
    yield from _late_sends(run, point)
    yield from _low_rate(client, run)
    yield from _late_reads(run)


def _late_sends(run: Run, point: LoadPoint) -> Iterator[str]:
    due = [record.due_ns for record in run.records if record.due_ns is not None]
    late = [record.late_ns for record in run.records if record.late_ns is not None]
    if point.closed_loop or not late:
        return
    limit = max(MIN_LATE_NS, LATE_GAP_SHARE * _mean_gap_ns(due, point))
    count = sum(lateness > limit for lateness in late)
    if count > MAX_LATE_REQUESTS * len(late):
        worst = f"worst {max(late) / 1e6:.1f} ms"
        yield f"{count} of {len(late)} requests were sent more than {limit / 1e6:.1f} ms late ({worst})"


def _mean_gap_ns(due: Sequence[int], point: LoadPoint) -> float:
    return 1e9 / point.request_rate if point.request_rate else (max(due) - min(due)) / len(due)


def _low_rate(client: ClientHealth, run: Run) -> Iterator[str]:
    if client.requested_rate is None or client.achieved_rate is None or any(r.held_ns for r in run.records):
        return
    due = [record.due_ns for record in run.records if record.due_ns is not None]
    slip_ns = (len(due) - 1) / client.achieved_rate * 1e9 - (max(due) - min(due))
    if client.achieved_rate < MIN_ACHIEVED_RATE * client.requested_rate and slip_ns > MIN_RATE_SLIP_NS:
        rates = f"{client.achieved_rate:.4g} of the requested {client.requested_rate:.4g} req/s"
        yield f"the load driver sent only {rates}; {_more_workers(run)}"


def _late_reads(run: Run) -> Iterator[str]:
    """Chunks that the client's lateness threw together or, without the kernel's stamps, gave a late time."""
    client, itl_ms = run.client, _median_itl_ms(run)
    if itl_ms is None:
        return
    user, lag_ms = client.stamps == "user", client.loop_lag_p99_ms
    limit_ms = max(MIN_LAG_MS, LAG_ITL_SHARE * itl_ms)
    yield from _late_first_tokens(run, itl_ms, limit_ms)
    if user and lag_ms is not None and lag_ms > max(MIN_LOOP_LAG_MS, MAX_LOOP_LAG_ITL_SHARE * itl_ms):
        yield (
            f"receive times are user-space ones and the event loop was late by {lag_ms:.1f} ms (p99), at an "
            f"inter-token latency of {itl_ms:.1f} ms; {_QUIETER}"
        )
    yield from _late_chunks(run, itl_ms, limit_ms)


def _late_chunks(run: Run, itl_ms: float, limit_ms: float) -> Iterator[str]:
    chunks = sum(len(record.chunk_ns) for record in run.records)
    late_ms = [ns / 1e6 for record in run.records for ns in record.shared_late_ns if ns / 1e6 > limit_ms]
    if len(late_ms) > MAX_COALESCED * chunks:
        yield (
            f"{len(late_ms) / chunks:.0%} of the token chunks were read together with another: the client was up to "
            f"{max(late_ms):.1f} ms late, at an inter-token latency of {itl_ms:.1f} ms; {_QUIETER}"
        )


def _late_first_tokens(run: Run, itl_ms: float, limit_ms: float) -> Iterator[str]:
    answered = [record.first_late_ns for record in run.measured if record.ok]
    late_ms = [late_ns / 1e6 for late_ns in answered if late_ns is not None and late_ns / 1e6 > limit_ms]
    if len(late_ms) > MAX_FIRST_COALESCED * len(answered):
        count = f"{len(late_ms)} of {len(answered)}"
        yield (
            f"the first token of {count} requests was read together with the next: the client was up to "
            f"{max(late_ms):.1f} ms late, at an inter-token latency of {itl_ms:.1f} ms; {_QUIETER}"
        )


def _median_itl_ms(run: Run) -> float | None:
    """0 where all answers came at one moment each; None where none has two chunks."""
    good = [record for record in run.records if record.ok and len(record.chunk_ns) > 1]
    gaps = [gap for record in good if (gap := inter_token_latency_ms(record)) is not None]
    return statistics.median(gaps or [0.0]) if good else None


def _lead_in_failures(run: Run) -> Iterator[str]:
    failed = [record.error for record in run.records if record.phase == "lead-in" and record.error]
    if failed:
        count = counted(len(failed), "lead-in request")
        yield f"{count} failed, so the load was not what the point asks for (first: {failed[0]})"


def _wrong_lengths(run: Run, point: LoadPoint) -> Iterator[str]:
    if not point.ignore_eos:
        return
    good = [record for record in run.records if record.ok and record.token_source == "usage"]
    wrong = [record for record in good if record.output_tokens != record.requested_output_tokens]
    if wrong:
        first = wrong[0]
        yield (
            f"{len(wrong)} of {len(good)} requests gave other than the {first.requested_output_tokens} output tokens "
            f"asked for (first: {first.output_tokens}); is the context (max-model-len) too short, or does the server "
            "ignore ignore_eos?"
        )
