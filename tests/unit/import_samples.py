"""Results as other tools write them, of versions whose real files are not in `data`: the same keys, made-up numbers."""

import json

SECOND = 1_000_000_000
BEGUN = 1_795_000_000


def statistic(unit, value, **more):
    return {"unit": unit, "avg": value, **more}


def sglang(rate=8.0, slots=None, completed=100, backend="sglang-oai-chat", **more):
    """A line of bench_serving's JSONL."""
    latencies = {}
    for name, mean in (("e2e_latency", 1500.0), ("ttft", 230.0), ("tpot", 10.0), ("itl", 10.0)):
        latencies |= {f"{stat}_{name}_ms": mean for stat in ("mean", "median", "p99")} | {f"std_{name}_ms": 1.0}
    counts = {"duration": 12.5, "completed": completed, "total_input_tokens": 1024 * completed}
    tokens = 128 * completed
    rates = {"request_throughput": completed / 12.5, "output_throughput": tokens / 12.5, "concurrency": 12.0}
    totals = {"total_output_tokens": tokens, "total_output_tokens_retokenized": tokens - 1}
    head = {"backend": backend, "dataset_name": "random", "request_rate": rate, "max_concurrency": slots}
    return head | counts | totals | rates | latencies | {"accept_length": None} | more


def sglang_details(errors=("", "", "boom")):
    """A line with its requests: 200 ms to the first of 4 tokens, 10 ms each."""
    ok = [not error for error in errors]
    lists = {
        "input_lens": [1024] * len(errors),
        "output_lens": [4 * good for good in ok],
        "ttfts": [0.2 * good for good in ok],
        "itls": [[0.01] * 3 * good for good in ok],
        "generated_texts": ["a"] * len(errors),
        "errors": list(errors),
    }
    tokens = 4 * sum(ok)
    means = {"ttft": 200.0, "e2e_latency": 230.0}
    latencies = {f"{stat}_{name}_ms": mean for name, mean in means.items() for stat in ("mean", "median", "p99")}
    return sglang(float("inf"), 2, sum(ok), **lists, **latencies) | {
        "total_output_tokens": tokens,
        "output_throughput": tokens / 12.5,
    }


def aiperf_old(ok=4, errors=0, **loadgen):
    """`profile_export_aiperf.json` before 0.6: no version, null for what there is not."""
    metrics = ("request_latency", "time_to_first_token", "inter_token_latency", "inter_chunk_latency")
    values = zip(metrics, (130.0, 60.0, 10.0, 10.0), strict=True)
    found = {name: statistic("ms", value, p99=value) if ok else None for name, value in values}
    same = {"usage_completion_tokens_diff_pct": statistic("%", 0.0, max=0.0)} if ok else {}
    return {
        **found,
        "request_count": statistic("requests", float(ok)) if ok else None,
        "error_request_count": statistic("requests", float(errors)) if errors else None,
        "goodput": None,
        "input_config": {
            "endpoint": {"model_names": ["m"], "type": "chat", "streaming": True},
            "loadgen": {"request_count": ok + errors, **(loadgen or {"concurrency": 2})},
        },
        "was_cancelled": False,
        "error_summary": [{"error_details": {"message": "x"}, "count": errors}] if errors else [],
        **same,
    }


def aiperf_line(number, phase="profiling", **metadata):
    """A line of `profile_export.jsonl`: 60 ms to the first of 3 tokens, 10 ms each."""
    sent = BEGUN * SECOND + number * SECOND // 10
    times = {"request_start_ns": sent, "request_end_ns": sent + 80_000_000}
    metrics = {
        "request_latency": {"value": 80.0, "unit": "ms"},
        "time_to_first_token": {"value": 60.0, "unit": "ms"},
        "inter_chunk_latency": {"value": [10.0, 10.0], "unit": "ms"},
        "usage_completion_tokens": {"value": 3, "unit": "tokens"},
    }
    # Its metadata is not the first key: a line is told by what it holds, not by how it begins.
    return {
        "metrics": metrics,
        "error": None,
        "metadata": {"benchmark_phase": phase, "was_cancelled": False} | times | metadata,
    }


AIPERF_CSV = """Metric,avg,min,max,p1,p5,p10,p25,p50,p75,p90,p95,p99,std
Request Latency (ms),"1,130.00",1120,1140,1120,1120,1120,1125,1130,1135,1140,1140,1140,1.0
Time to First Token (ms),60.00,50,70,50,50,50,55,60,65,70,70,70,1.0

Metric,Value
Request Count,4.00
Error Request Count,1.00


Endpoint,GPU_Index,GPU_Name,GPU_UUID,Metric,avg,min,max,p1,p5,p10,p25,p50,p75,p90,p95,p99,std
"""


def guidellm_old_request(number, **more):
    begin = BEGUN + number * 0.1
    return {
        "scheduler_info": {"request_start": begin},
        "request_id": str(number),
        "prompt_tokens": 24,
        "output_tokens": 8,
        "start_time": begin,
        "end_time": begin + 0.14,
        "first_token_time": begin + 0.05,
        "last_token_time": begin + 0.12,
        **more,
    }


def guidellm_old(count=6, strategy=None):
    """GuideLLM 0.3: no metadata, a request's times beside its counts."""
    benchmark = {
        "type_": "generative_benchmark",
        "args": {"strategy": strategy or {"type_": "concurrent", "streams": 2}},
        "worker": {"backend_model": "m"},
        "metrics": {"output_token_count": {"successful": {"mean": 8.0, "total_sum": 8.0 * count}}},
        "request_totals": {"successful": count, "errored": 0, "incomplete": 0, "total": count},
        "request_samples": None,
        "requests": {"successful": [guidellm_old_request(n) for n in range(count)], "errored": [], "incomplete": []},
        "duration": 1.0,
    }
    return {"benchmarks": [benchmark]}


def guidellm_request(number, error=None):
    begin = BEGUN + number * 0.1
    ok = error is None
    timings = {
        "request_start": begin,
        "first_token_iteration": begin + 0.05 if ok else None,
        "last_token_iteration": begin + 0.12 if ok else None,
        "request_end": begin + 0.14 if ok else None,
        "resolve_end": begin + 0.15,
    }
    info = {"timings": timings, "error": error}
    return {"request_id": str(number), "info": info, "prompt_tokens": 24, "output_tokens": 8 if ok else None}


def guidellm(ok=20, failed=4, stored=None, warmup_s=0.0, version="0.5.4", **strategy):
    """GuideLLM 0.5: requests are sent every 100 ms, the failed ones first; `stored` of each status are in the file."""
    bad = [guidellm_request(number, "HTTP 500") for number in range(failed)]
    good = [guidellm_request(failed + number) for number in range(ok)]
    begin, end = BEGUN + warmup_s, BEGUN + (ok + failed) * 0.1 + 1
    counted = [sum(r["info"]["timings"]["resolve_end"] >= begin for r in rs) for rs in (good, bad)]
    totals = {"successful": counted[0], "errored": counted[1], "incomplete": 0, "total": sum(counted)}
    benchmark = {
        "type_": "generative_benchmark",
        "config": {
            "strategy": {"type_": "concurrent", "streams": 2, "rampup_duration": 0.0, **strategy},
            "sample_requests": stored,
            "backend": {"model": "m"},
        },
        "scheduler_metrics": {"measure_start_time": begin, "measure_end_time": end},
        "metrics": {
            "request_totals": totals,
            "output_token_count": {"successful": {"mean": 8.0, "total_sum": 8.0 * counted[0]}},
            "prompt_token_count": {"successful": {"mean": 24.0, "total_sum": 24.0 * counted[0]}},
        },
        "requests": {"successful": good[:stored], "errored": bad[:stored], "incomplete": []},
        "duration": 2.0,
        "warmup_duration": warmup_s,
        "cooldown_duration": 0.0,
    }
    return {"metadata": {"version": 1, "guidellm_version": version}, "benchmarks": [benchmark]}


def perf_analyzer(responses, times_ms, endpoint="v1/chat/completions", key="response", requests=4):
    """An export of requests that all had the same responses at the same times after they were sent."""
    made = []
    for number in range(requests):
        sent = BEGUN * SECOND + number * SECOND
        made.append(
            {
                "timestamp": sent,
                "request_inputs": {"payload": json.dumps({"model": "m", "max_tokens": 4})},
                "response_timestamps": [sent + ms * 1_000_000 for ms in times_ms],
                "response_outputs": [{key: response} for response in responses],
            }
        )
    experiment = {"experiment": {"mode": "concurrency", "value": 1}, "requests": made, "window_boundaries": [BEGUN]}
    return {"service_kind": "openai", "endpoint": endpoint, "experiments": [experiment], "version": "2.60"}
