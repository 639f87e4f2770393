"""Plans, records and results made by hand, for the tests of what is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from pytest_llmperf.metrics.result import Result, make_result
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.records import ClientHealth, RequestRecord, Run
from pytest_llmperf.telemetry.environment import Environment

MS = 1_000_000
START_NS = 1_700_000_000_000_000_000

HEALTH = ClientHealth(
    stamps="kernel",
    cpu_share=0.2,
    receive_lag_p50_us=20.0,
    receive_lag_p99_us=90.0,
    receive_lag_max_us=300.0,
    send_late_p50_us=None,
    send_late_p99_us=None,
    coalesced_share=0.0,
    clock_step_ns=0,
    connect_ms=0.5,
)

PLAN = """\
model: m
servers:
  seqs2: {engine: embedded, args: {max-num-seqs: 2}}
loads:
  short: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 20}
"""


def plan_text(
    servers: str = "  a: {engine: embedded}",
    loads: str = "  s: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 20}",
    rest: str = "",
) -> str:
    """A plan with these entries; servers start at line 3."""
    return f"model: m\nservers:\n{servers}\nloads:\n{loads}\n{rest}"


def server(entry: str, model: str = "m", locked: str = "{}") -> ServerConfig:
    """The effective configuration of a server written as one YAML flow mapping."""
    load = "{input_tokens: 1, concurrency: 1, requests: 1}"
    text = f"model: {model}\nlocked: {locked}\nservers: {{a: {entry}}}\nloads: {{s: {load}}}\n"
    return parse_plan(text, "plan.yaml").server_configs()[0]


def cut(pieces: Sequence[bytes]) -> dict[str, Any]:
    """A body in pieces as a Capture has it."""
    return {"ends": tuple(accumulate(map(len, pieces))), "body": b"".join(pieces)}


def point(**fields: Any) -> LoadPoint:
    """A load point: closed loop of two unless `request_rate` says otherwise."""
    shape = {} if "request_rate" in fields else {"concurrency": 2}
    defaults = {"name": "short", "input_tokens": 8, "output_tokens": 4, "requests": 20, **shape}
    return LoadPoint(**{**defaults, **fields})


def record(
    sent_ms: float | None = 0.0,
    chunks_ms: Sequence[float] = (10.0, 20.0, 30.0, 40.0),
    tokens: Sequence[int] | None = None,
    **facts: Any,
) -> RequestRecord:
    """A request by its times in ms from START_NS; one token per chunk unless `tokens` says otherwise."""

    def at(ms: float) -> int:
        return START_NS + round(ms * MS)

    per_chunk = tuple(tokens) if tokens is not None else (1,) * len(chunks_ms)
    due_ms, end_ms = facts.pop("due_ms", None), facts.pop("end_ms", chunks_ms[-1] if chunks_ms else 50.0)
    made = RequestRecord(
        index=0,
        phase="measured",
        request_id="r0",
        due_ns=None if due_ms is None else at(due_ms),
        sent_ns=None if sent_ms is None else at(sent_ms),
        chunk_ns=tuple(map(at, chunks_ms)),
        chunk_tokens=per_chunk,
        first_output_ns=at(chunks_ms[0]) if chunks_ms else None,
        end_ns=at(end_ms),
        input_tokens=8,
        output_tokens=sum(per_chunk),
        requested_output_tokens=sum(per_chunk),
        token_source="usage",
        finish_reason="length",
        status=200,
        error=None,
        coalesced_chunks=0,
    )
    return replace(made, **facts)


def failed(sent_ms: float | None = 0.0, end_ms: float = 5.0, error: str = "HTTP 500", **facts: Any) -> RequestRecord:
    """A request that ended without an answer."""
    nothing: dict[str, Any] = {"input_tokens": None, "output_tokens": None, "token_source": None, "finish_reason": None}
    return record(sent_ms, (), end_ms=end_ms, error=error, **{**nothing, "requested_output_tokens": 4, **facts})


def run(records: Sequence[RequestRecord], index: int = 0, client: ClientHealth = HEALTH) -> Run:
    numbered = tuple(replace(r, index=i, request_id=f"r{i}") for i, r in enumerate(records))
    return Run(index, START_NS, START_NS + 10_000 * MS, "trace-1", numbered, client)


def steady_run(index: int = 0, slowness: float = 1.0, requests: int = 20, client: ClientHealth = HEALTH) -> Run:
    """`requests` requests of four tokens, two at a time; every latency times `slowness`."""
    return run(
        [
            record(
                (number // 2) * 40.0 * slowness,
                [(number // 2) * 40.0 * slowness + (k * 10.0 + number % 2) * slowness for k in (1, 2, 3, 3.9)],
            )
            for number in range(requests)
        ],
        index,
        client,
    )


ENVIRONMENT = Environment(
    slug="h200x1-embedded",
    simulated=False,
    engine="embedded",
    engine_version="0.1",
    gpus=("NVIDIA H200",),
    driver="550.1",
    cpu="EPYC",
    cpu_cores=16,
    memory_gib=128.0,
    host="runner",
    kernel="6.1",
    python="3.11",
    llmperf="0.1.0",
)


def result(
    runs: Sequence[Run] | None = None,
    config: ServerConfig | None = None,
    load: LoadPoint | None = None,
    **environment: Any,
) -> Result:
    """A result on a machine of its own; two steady runs unless given."""
    plan = parse_plan(PLAN, "plan.yaml")
    config, load = config or plan.server_configs()[0], load or plan.load_points()[0]
    runs = [steady_run(0), steady_run(1)] if runs is None else runs
    return make_result(f"{config.name}-{load.name}", config, load, replace(ENVIRONMENT, **environment), runs)
