"""The result of one test: a point's runs with what was made of them. What `load_driver.run` returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_llmperf.definitions import parse_quantity
from pytest_llmperf.errors import UnknownMetricError
from pytest_llmperf.metrics.answers import answers_of
from pytest_llmperf.metrics.capacity.answer import Capacity
from pytest_llmperf.metrics.stats.agreement import self_agreement
from pytest_llmperf.metrics.summary import Summary, summarize, summarize_replicas, summarize_runs, summarize_stages
from pytest_llmperf.metrics.trust.regimes import regime_remarks
from pytest_llmperf.metrics.trust.remarks import answer_remarks
from pytest_llmperf.metrics.trust.saturation import Saturation, saturation
from pytest_llmperf.metrics.trust.stability import WINDOWS, Steadiness, first_steady
from pytest_llmperf.metrics.trust.validity import busy_host, host_sentence, invalid_reasons
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import RequestRecord, Run
from pytest_llmperf.telemetry.environment import Environment
from pytest_llmperf.units import counted

_OFF_RATE = 0.1
"""Share by which the drawn arrivals may miss the rate: about one standard deviation of 100 Poisson arrivals."""
_MOST_ERRORS = 3
"""Different failures in a remark, the most frequent ones; the request lines have all."""

_IMBALANCED = 0.1
"""Imbalance of replicas from which on a remark says so."""


@dataclass(frozen=True, slots=True)
class Result:
    """One load point measured on one server configuration."""

    point_id: str
    """Stable name of the point, `server-load`; with the test's name the key of its baseline."""
    server: ServerConfig
    load: LoadPoint
    environment: Environment
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]
    """One per run: what the regression gate compares."""
    metrics: Summary
    """All runs together: what SLAs limit and reports show. `result["ttft_p99"]` is one number of it."""
    invalid_reasons: tuple[str, ...]
    """Reasons why these numbers are not to be trusted; empty when they are."""
    stages: tuple[Summary, ...] = ()
    """All runs together, per stage of the load; empty where it has none."""
    saturations: tuple[Saturation | None, ...] = ()
    """One per run: whether the server kept up with an open loop."""

    @property
    def valid(self) -> bool:
        return not self.invalid_reasons

    steadiness: Steadiness | None = None
    """Spread of the last windows; None when the load asks for no stability."""
    imported: tuple[str, ...] = ()
    """The tool whose file this was read from, and what follows for the numbers; empty for what was measured here."""
    capacity: Capacity | None = None
    """The capacity, where the load searches it, once per run; `runs` and `metrics` are of the highest that holds."""
    replicas: tuple[Summary, ...] = ()
    """All runs together, per replica that the load driver sent to; empty where it had one target."""
    reference: Result | None = None
    """The old server's result in a duet, of runs in turns with these; else None."""

    @property
    def incomparable(self) -> tuple[str, ...]:
        """Reasons why these numbers can be compared with none: they, or the reference's, are not to be trusted."""
        if self.reference is None:
            return self.invalid_reasons
        old = self.reference.server.name
        return (*self.invalid_reasons, *(f"{old}: {reason}" for reason in self.reference.invalid_reasons))

    @property
    def saturated(self) -> bool | None:
        """True if the server fell behind in most runs; None where that cannot be judged, as in a closed loop."""
        known = [found.saturated for found in self.saturations if found is not None]
        return 2 * sum(known) > len(known) if known else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences that a reader of the numbers must know though they are right."""
        return (
            *self.imported,
            *(self.capacity.notes if self.capacity else ()),
            *self.failures,
            *(self.runs[0].notes if self.runs else ()),  # every run sends the same trace
            *([f"stable: {self.steadiness.describe()}"] if self.steadiness and self.steadiness.reached else ()),
            *self._arrival_remarks(),
            *self._saturation_remarks(),
            *(regime_remarks(self.runs) if self.is_one_closed_loop else ()),
            *self._worker_remarks(),
            *self._replica_remarks(),
            *self._resent_remarks(),
            *self._host_remarks(),
            *answer_remarks(self._measured(), self.load, self.metrics, self.valid),
        )

    @property
    def is_one_closed_loop(self) -> bool:
        """True if all measured requests are of one number of slots, neither stages nor a search."""
        return self.load.concurrency is not None and self.load.capacity is None

    @property
    def failures(self) -> tuple[str, ...]:
        """One line on the measured requests that failed: how many, and what the most frequent errors say; else none."""
        errors = Counter(record.error for record in self._measured() if record.error)
        if not errors:
            return ()
        listed = "; ".join(f"{count} x {error}" for error, count in errors.most_common(_MOST_ERRORS))
        return (f"{errors.total()} of {self.metrics.sent} requests failed: {listed}",)

    def _measured(self) -> list[RequestRecord]:
        return [record for run in self.runs for record in run.measured]

    def _arrival_remarks(self) -> Iterator[str]:
        """Random gaps give the rate on average; every run has the same ones, so the difference is no error of a run."""
        asked, random = self.load.request_rate, self.load.arrival != "constant" and self.load.ramp is None
        drawn = self.runs[0].client.requested_rate if self.runs and random else None
        if asked and drawn and abs(drawn / asked - 1) > _OFF_RATE:
            yield (
                f"{self.load.arrival} arrivals of this seed come at {drawn:.3g} req/s, not {asked:g}: more requests "
                "come closer to the rate, another `seed` draws others"
            )

    def _saturation_remarks(self) -> Iterator[str]:
        behind = [found for found in self.saturations if found is not None and found.saturated]
        if self.saturated:
            yield f"SATURATED {behind[0].describe()}"

    def _worker_remarks(self) -> Iterator[str]:
        for run in self.runs:
            if run.spoiled:
                again = "once" if len(run.spoiled) == 1 else f"{len(run.spoiled)} times"
                count = f", at last with {run.workers} load driver processes" if run.workers > 1 else ""
                yield f"run {run.index + 1} was done over {again}{count}: {run.spoiled[-1]}"

    def _resent_remarks(self) -> Iterator[str]:
        """A remark on requests that were sent twice; none where they are so many that the run is INVALID for them."""
        resent = sum(run.client.resent for run in self.runs)
        if resent and self.valid:
            yield (
                f"{resent} requests were sent again, because their kept connection was closed before any byte of a "
                "response: they are no failures, and their times count from the second sending"
            )

    def _host_remarks(self) -> Iterator[str]:
        if any(busy_host(run) for run in self.runs):
            yield self.host

    @property
    def host(self) -> str:
        """Sentence on the machine during the runs: load average, and what other processes took. Empty: not known."""
        return host_sentence(self.runs)

    @property
    def imbalance(self) -> float | None:
        """Share by which the busiest replica made more tokens per second than all on average; None without any."""
        rates = [one.scalars["output_token_throughput"] or 0.0 for one in self.replicas]
        return max(rates) * len(rates) / sum(rates) - 1 if any(rates) else None

    def _replica_remarks(self) -> Iterator[str]:
        if self.imbalance is not None and self.imbalance > _IMBALANCED:
            rates = [one.scalars["output_token_throughput"] or 0.0 for one in self.replicas]
            busiest = rates.index(max(rates)) + 1
            yield (
                f"replica {busiest} of {len(rates)} made {self.imbalance:.0%} more output tokens per second than the "
                f"replicas did on average ({', '.join(f'{rate:.4g}' for rate in rates)} tok/s)"
            )

    @property
    def stamps(self) -> str:
        """ "kernel" when every run had the kernel's receive times, else "user"."""
        return "kernel" if self.runs and all(run.client.stamps == "kernel" for run in self.runs) else "user"

    def value(self, quantity: str) -> float | None:
        """A metric of all runs together by its name, such as `ttft_p99` (ms) or `request_throughput` (req/s).

        Units are those of docs/metrics.md. None where there was nothing to measure. Raises PlanError, which is a
        ValueError too, for an unknown name.
        """
        if not isinstance(quantity, str):
            raise UnknownMetricError(f"{quantity!r:.80} is no metric's name; give one such as 'ttft_p99'")
        try:
            known = parse_quantity(quantity)
        except ValueError as error:
            raise UnknownMetricError(str(error)) from error
        return self.metrics.value(known)

    def __getitem__(self, quantity: str) -> float | None:
        """`result["ttft_p99"]`: the same as `value`."""
        return self.value(quantity)

    def __repr__(self) -> str:
        # pytest shows the arguments of a failing test, and thousands of records would bury the failure.
        runs = counted(len(self.runs), "run")
        return f"Result({self.point_id!r}, {runs}, {'valid' if self.valid else 'INVALID'})"

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row per request; ImportError without pandas (the `report` extra)."""
        from pytest_llmperf.metrics.frame import to_frame

        return to_frame(self.runs)

    @property
    def trace_hash(self) -> str | None:
        """Identity of what was sent; None without runs."""
        return self.runs[0].trace_hash if self.runs else None


def make_result(
    point_id: str, server: ServerConfig, load: LoadPoint, environment: Environment, runs: Sequence[Run]
) -> Result:
    """Everything that follows from the runs; where the load asks for stability, from those that agreed on.

    A load that leaves its length open has that of the runs.
    """
    load = load.of_length(max((len(run.measured) for run in runs), default=0))
    gpus = server.gpu_count
    summaries = [summarize(run, load, gpus) for run in runs]
    steady = first_steady(summaries, load.stability) if load.stability else None
    begin = max(0, steady.windows - WINDOWS) if steady else 0
    runs, summaries = runs[begin:], summaries[begin:]
    metrics = summaries[0] if len(runs) == 1 else summarize_runs(runs, load, gpus)
    if load.answers and load.answers.guard and (answers := answers_of(runs)):
        metrics = metrics.with_scalars({"output_agreement": self_agreement(answers.outputs)})
    return Result(
        point_id=point_id,
        server=server,
        load=load,
        environment=environment,
        runs=tuple(runs),
        summaries=tuple(summaries),
        metrics=metrics,
        invalid_reasons=(*invalid_reasons(runs, load), *_unsteady(steady)),
        stages=summarize_stages(runs, load, gpus),
        replicas=summarize_replicas(runs, load, getattr(server, "replicas", 1), gpus),
        steadiness=steady,
        saturations=tuple(saturation(run, load) for run in runs),
    )


def _unsteady(steady: Steadiness | None) -> Iterator[str]:
    """A load that asks for stable windows has no result without them."""
    if steady is not None and steady.windows and not steady.reached:
        yield f"not stable: {steady.describe()}; take longer windows, or more of them"
