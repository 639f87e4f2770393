"""Counters, gauges and histograms under vLLM's names, in Prometheus' text format. All times in seconds."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

from pytest_llmperf.embedded.engine.scheduler import SchedulerStats
from pytest_llmperf.embedded.truth import Emission

_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_GAP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_LONG = (0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0)


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
    """What the server has done. `scheduler` is replaced after every step, the rest adds up."""

    def __init__(self, model: str) -> None:
        self._labels = f'engine="0",model_name="{model}"'
        self.scheduler = SchedulerStats(0, 0, 0.0, 0, 0, 0)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self.time_to_first_token = Histogram(_TTFT)
        self.inter_token_latency = Histogram(_GAP)
        self.e2e_request_latency = Histogram(_LONG)
        self.request_queue_time = Histogram(_LONG)
        self.request_prefill_time = Histogram(_LONG)
        self.request_decode_time = Histogram(_LONG)

    def observe(self, emission: Emission, finish_reason: str) -> None:
        """Count one finished request."""
        received, scheduled = emission.received_ns, emission.first_scheduled_ns
        first, last = emission.token_ns[0], emission.token_ns[-1]
        self.finished[finish_reason] += 1
        self.prompt_tokens += emission.prompt_tokens
        self.time_to_first_token.observe((first - received) / 1e9)
        self.e2e_request_latency.observe((last - received) / 1e9)
        self.request_queue_time.observe((scheduled - received) / 1e9)
        self.request_prefill_time.observe((first - scheduled) / 1e9)
        self.request_decode_time.observe((last - first) / 1e9)
        for before, after in pairwise(emission.token_ns):
            self.inter_token_latency.observe((after - before) / 1e9)

    def render(self) -> str:
        lines = [*self._gauges(), *self._counters(), *self._histograms()]
        return "\n".join(lines) + "\n"

    def _gauges(self) -> Iterator[str]:
        stats = self.scheduler
        yield from self._single("num_requests_running", "gauge", stats.running)
        yield from self._single("num_requests_waiting", "gauge", stats.waiting)
        yield from self._single("kv_cache_usage_perc", "gauge", stats.kv_usage)

    def _counters(self) -> Iterator[str]:
        stats = self.scheduler
        yield from self._single("num_preemptions_total", "counter", stats.preemptions)
        yield from self._single("prefix_cache_queries_total", "counter", stats.prefix_queries)
        yield from self._single("prefix_cache_hits_total", "counter", stats.prefix_hits)
        yield from self._single("prompt_tokens_total", "counter", self.prompt_tokens)
        yield from self._single("generation_tokens_total", "counter", self.generation_tokens)
        yield "# TYPE vllm:request_success_total counter"
        for reason, count in self.finished.items():
            yield f'vllm:request_success_total{{{self._labels},finished_reason="{reason}"}} {float(count)}'

    def _single(self, name: str, kind: str, value: float) -> Iterator[str]:
        yield f"# TYPE vllm:{name} {kind}"
        yield f"vllm:{name}{{{self._labels}}} {float(value)}"

    def _histograms(self) -> Iterator[str]:
        histograms = {
            "time_to_first_token_seconds": self.time_to_first_token,
            "inter_token_latency_seconds": self.inter_token_latency,
            "e2e_request_latency_seconds": self.e2e_request_latency,
            "request_queue_time_seconds": self.request_queue_time,
            "request_prefill_time_seconds": self.request_prefill_time,
            "request_decode_time_seconds": self.request_decode_time,
        }
        for name, histogram in histograms.items():
            yield f"# TYPE vllm:{name} histogram"
            yield from histogram.lines(f"vllm:{name}", self._labels)
