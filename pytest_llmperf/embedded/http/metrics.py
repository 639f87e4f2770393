"""Counters, gauges and histograms under vLLM's names, in Prometheus' text format. All times in seconds."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

from pytest_llmperf.embedded.engine.scheduler import SchedulerStats
from pytest_llmperf.embedded.truth import Emission

_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LONG = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0)
_HISTOGRAMS = {
    "time_to_first_token": _TTFT,
    "inter_token_latency": _GAP,
    "e2e_request_latency": _LONG,
    "request_queue_time": _LONG,
    "request_prefill_time": _LONG,
    "request_decode_time": _LONG,
}


class Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        below = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}",{labels}}} {float(below)}'
        yield f"{name}_count{{{labels}}} {float(below)}"
        yield f"{name}_sum{{{labels}}} {self._sum}"


class Metrics:
    """Counts of the server's work. `scheduler` is replaced after every step, the rest adds up."""

    def __init__(self, model: str) -> None:
        self._labels = f'engine="0",model_name="{model}"'
        self.scheduler = SchedulerStats(0, 0, 0.0, 0, 0, 0)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self._histograms = {name: Histogram(bounds) for name, bounds in _HISTOGRAMS.items()}

    def observe(self, emission: Emission, finish_reason: str) -> None:
        """Count one finished request."""
        received, scheduled = emission.received_ns, emission.first_scheduled_ns
        first, last = emission.token_ns[0], emission.token_ns[-1]
        self.finished[finish_reason] += 1
        self.prompt_tokens += emission.prompt_tokens
        spans_ns = {
            "time_to_first_token": first - received,
            "e2e_request_latency": last - received,
            "request_queue_time": scheduled - received,
            "request_prefill_time": first - scheduled,
            "request_decode_time": last - first,
        }
        for name, span_ns in spans_ns.items():
            self._histograms[name].observe(span_ns / 1e9)
        for before, after in pairwise(emission.token_ns):
            self._histograms["inter_token_latency"].observe((after - before) / 1e9)

    def render(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        stats = self.scheduler
        yield from self._single("num_requests_running", "gauge", stats.running)
        yield from self._single("num_requests_waiting", "gauge", stats.waiting)
        yield from self._single("kv_cache_usage_perc", "gauge", stats.kv_usage)
        yield from self._single("num_preemptions_total", "counter", stats.preemptions)
        yield from self._single("prefix_cache_queries_total", "counter", stats.prefix_queries)
        yield from self._single("prefix_cache_hits_total", "counter", stats.prefix_hits)
        yield from self._single("prompt_tokens_total", "counter", self.prompt_tokens)
        yield from self._single("generation_tokens_total", "counter", self.generation_tokens)
        yield "# TYPE vllm:request_success_total counter"
        for reason, count in self.finished.items():
            yield f'vllm:request_success_total{{{self._labels},finished_reason="{reason}"}} {float(count)}'
        for name, histogram in self._histograms.items():
            yield f"# TYPE vllm:{name}_seconds histogram"
            yield from histogram.lines(f"vllm:{name}_seconds", self._labels)

    def _single(self, name: str, kind: str, value: float) -> Iterator[str]:
        yield f"# TYPE vllm:{name} {kind}"
        yield f"vllm:{name}{{{self._labels}}} {float(value)}"
