"""Triton's statistics and metrics: what a run gained of them, and how that is shown and stored."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from samples import result, steady_run

from pytest_llmperf.records import ModelSide, ServerSide
from pytest_llmperf.report.sections.server_side import server_side_table, server_sides
from pytest_llmperf.servers.engines.triton.statistics import read
from pytest_llmperf.telemetry.counters import gained


def _stats(requests: int, executions: int, batches: dict[int, int], name: str = "m") -> dict[str, Any]:
    def duration(ns: int) -> dict[str, Any]:
        return {"count": str(requests), "ns": str(ns)}  # gRPC writes numbers as texts

    return {
        "model_stats": [
            {
                "name": name,
                "version": "1",
                "inference_count": str(requests),
                "execution_count": executions,
                "inference_stats": {
                    "success": duration(requests * 10),
                    "queue": duration(requests * 2_000_000),
                    "compute_input": duration(0),
                    "compute_infer": duration(requests * 5_000_000),
                    "compute_output": duration(requests),
                },
                "batch_stats": [
                    {"batch_size": size, "compute_infer": {"count": count}} for size, count in batches.items()
                ],
            }
        ]
    }


METRICS = """\
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model="m",version="1"} %d
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_count{model="m"} %d
vllm:time_to_first_token_seconds_sum{model="m"} %s
vllm:time_to_first_token_seconds_bucket{model="m",le="1"} 7
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.5
# TYPE nv_inference_count counter
nv_inference_count{model="m"} 99
"""


def test_what_a_run_gained() -> None:
    before = read(_stats(10, 8, {1: 6, 2: 2}), METRICS % (100, 2, 0.5))
    after = read(_stats(34, 12, {1: 6, 2: 2, 8: 3}), METRICS % (150, 4, 1.5))
    side = gained([before], [after])
    assert side is not None
    assert side.models == (ModelSide("m", 24, 0, 24, 4, 48_000_000, 0, 120_000_000, 24, batch_sizes=((8, 3),)),)
    (model,) = side.models
    assert (model.average_batch, model.mean_ms(model.queue_ns)) == (6.0, 2.0)
    assert dict(side.metrics) == {
        'vllm:generation_tokens_total{model="m",version="1"}': 50.0,
        'vllm:time_to_first_token_seconds_count{model="m"}': 2.0,
        'vllm:time_to_first_token_seconds_sum{model="m"}': 1.0,
    }


def test_replicas_are_added_and_idle_models_left_out() -> None:
    idle = read(_stats(5, 5, {1: 5}, "idle"), "")
    start, end = read(_stats(0, 0, {}), ""), read(_stats(4, 2, {2: 2}), "")
    side = gained([start, start, idle], [end, end, idle])
    assert side is not None
    (model,) = side.models
    assert (model.model, model.requests, model.executions, model.batch_sizes) == ("m", 8, 4, ((2, 4),))


def test_nothing_is_known_of_a_server_that_was_started_anew_meanwhile() -> None:
    before, after = read(_stats(34, 12, {1: 12}), ""), read(_stats(4, 2, {2: 2}), "")
    assert gained([before], [after]) is None
    assert gained([read({}, METRICS % (150, 4, 1.5))], [read({}, METRICS % (20, 1, 0.5))]) is None


def test_a_quantile_is_no_counter() -> None:
    text = '# TYPE wait summary\nwait{quantile="0.5"} %s\nwait_count 7\n'
    side = gained([read({}, text % 9)], [read({}, text % 3)])
    assert side is not None
    assert side.metrics == ()


def test_nothing_served_has_no_means() -> None:
    nothing = ModelSide("m", 0, 3, 0, 0, 0, 0, 0, 0)
    assert (nothing.average_batch, nothing.mean_ms(0)) == (None, None)


def shown(models: Sequence[str], point_id: str) -> list[str]:
    """Lines of the terminal's table at 80 columns."""
    sides = tuple(
        ModelSide(m, 1200, 3, 1203, 523, 10**9, 0, 10**9, 0, tuple((n, 70) for n in range(1, 9))) for m in models
    )
    measured = replace(result([replace(steady_run(), server_side=ServerSide(sides))]), point_id=point_id)
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(server_side_table(server_sides([measured])))
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


def test_the_table_names_points_in_whole_at_80_columns() -> None:
    lines = shown(["ensemble", "tensorrt_llm"], "batch8-chat-c16")
    place = lines.index(" batch8-chat-c16")
    assert lines[place + 1].split() == [
        "ensemble",
        "3/1203",
        "0.8333",
        "0.8333",
        "523",
        "2.300",
        "1×70",
        "2×70",
        "3×70",
        "4×70",
    ]
    assert any(line.startswith("   tensorrt_llm ") for line in lines)


def test_long_names_go_on_after_a_dash() -> None:
    lines = shown(["Qwen2.5-0.5B-Instruct"], "grid.tp4pp2.seqs64-chat-in128-c256")
    names = [line[1:20].strip() for line in lines[5:]]
    assert names[:4] == ["grid.tp4pp2.seqs64-", "chat-in128-c256", "Qwen2.5-0.5B-", "Instruct"]


@settings(max_examples=30)
@given(st.text(st.sampled_from("ab-._/["), min_size=1, max_size=60))
def test_no_part_of_a_name_is_lost(name: str) -> None:
    point_id = "p" * 22  # as wide as the column gets
    lines = shown([name], point_id)
    first = lines.index(f" {point_id}") + 1
    assert "".join(line[1:23].strip() for line in lines[first:]) == name
