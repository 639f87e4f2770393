"""The load tools: the command of a user for the same closed loop, and where its own report says what."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truth import Sent

ROOT = Path(__file__).resolve().parents[2]
_ENGINES = ROOT / ".engines"
_TOKENIZER = str(_ENGINES / "models" / "tiny-llama")
_MODEL = "source"

Reported = dict[str, dict[str, float | None]]
"""ttft, tpot, gap: mean, p50, p99 in ms; load: tokens_per_s, requests that succeeded, their tokens, failed requests.
A tool leaves out what it does not report."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: `requests` in all, the same number for every tool."""

    streams: int
    requests: int
    input_tokens: int
    output_tokens: int


class Tool:
    """One load tool. Subclasses say how it is called and how its report is read."""

    name: str
    program: Path
    report: str
    """Path of the report in the run's folder."""

    def installed(self) -> bool:
        return self.program.exists()

    def version(self) -> str:
        command = [str(self.program.with_name("python")), "-c", _VERSION, self.package()]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"

    def package(self) -> str:
        return self.name

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        raise NotImplementedError

    def read(self, report: Any) -> Reported:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Offline, because everything that is needed is there."""
        return os.environ | _OFFLINE

    def reported(self, folder: Path) -> Reported:
        return self.read(json.loads((folder / self.report).read_text()))

    def asked(self, sent: Sequence[Sent], load: Load) -> list[Sent]:
        """The requests that the report is about: the last ones, if the tool tried the server before."""
        return list(sent)[-load.requests :]

    def loaded(self, sent: Sequence[Sent], load: Load) -> list[Sent]:
        """The requests of the closed loop, reported or not."""
        return self.asked(sent, load)

    def health(self, folder: Path) -> dict[str, Any]:
        """What the tool says about itself."""
        return {}

    def stamps(self, folder: Path) -> dict[str, list[int]]:
        """The receive times of each request's chunks, CLOCK_REALTIME in ns, where the tool writes them."""
        return {}


_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


class Llmperf(Tool):
    """Ours. One request per slot is its lead-in, which it does not report."""

    name = "llmperf"
    program = Path(sys.executable).with_name("llmperf")
    report = "report.json"

    def package(self) -> str:
        return "pytest-llmperf"

    def version(self) -> str:
        """With the commit of the checkout that runs."""
        found = importlib.util.find_spec("pytest_llmperf")
        folder = Path(found.origin).parent if found and found.origin else ROOT
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return f"{super().version()} ({commit or 'no checkout'})"

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        counts = {"concurrency": load.streams, "requests": load.requests - load.streams}
        lengths = {"input-tokens": load.input_tokens, "output-tokens": load.output_tokens}
        options = [f"--{name}={value}" for name, value in (counts | lengths).items()]
        return [str(self.program), "profile", "--url", url, "--model", _MODEL, *options, "--output", str(folder)]

    def read(self, report: Any) -> Reported:
        values = report["points"][0]["metrics"]
        found = {ours: _pick(values[theirs]) for ours, theirs in _LLMPERF.items()}
        rate, requests = values["output_token_throughput"]["value"], values["requests"]
        tokens = values["output_tokens"]["mean"] * values["output_tokens"]["n"]
        load = {"tokens_per_s": rate, "requests": requests["ok"], "tokens": tokens, "failed": requests["failed"]}
        return found | {"load": load}

    def asked(self, sent: Sequence[Sent], load: Load) -> list[Sent]:
        return [request for request in self.loaded(sent, load) if _index(request) >= load.streams]

    def loaded(self, sent: Sequence[Sent], load: Load) -> list[Sent]:
        """Of the last execution, if a run was done over."""
        last = _execution(sent[-1])
        return [request for request in sent if _execution(request) == last]

    def health(self, folder: Path) -> dict[str, Any]:
        point = json.loads((folder / self.report).read_text())["points"][0]
        return {key: point[key] for key in ("valid", "invalid_reasons", "timestamps")} | point["runs"][0]["client"]

    def stamps(self, folder: Path) -> dict[str, list[int]]:
        lines = (folder / "requests" / "profile.jsonl").read_text().splitlines()
        return {line["request_id"]: line["chunk_ns"] for line in map(json.loads, lines) if not line["error"]}


_LLMPERF = {"ttft": "ttft_ms", "tpot": "itl_ms", "gap": "icl_ms"}


def _index(request: Sent) -> int:
    return int(request.id.rpartition("-")[2])


def _execution(request: Sent) -> str:
    return request.id.rpartition("-")[0]


def _pick(values: Any, mean: str = "mean") -> dict[str, float | None]:
    return {"mean": values[mean], "p50": values["p50"], "p99": values["p99"]}


class Vllm(Tool):
    """`vllm bench serve`, on the chat endpoint or (fewer surprises in its TTFT) on completions."""

    program = _ENGINES / "vllm" / "bin" / "vllm"
    report = "vllm.json"

    def __init__(self, endpoint: str) -> None:
        self.name = "vllm" if endpoint == "chat" else f"vllm-{endpoint}"
        self._backend = "openai-chat" if endpoint == "chat" else "openai"
        self._path = "/v1/chat/completions" if endpoint == "chat" else "/v1/completions"

    def package(self) -> str:
        return "vllm"

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        server = ["--backend", self._backend, "--base-url", url, "--endpoint", self._path, "--model", _MODEL]
        lengths = ["--random-input-len", str(load.input_tokens), "--random-output-len", str(load.output_tokens)]
        counts = ["--num-prompts", str(load.requests), "--max-concurrency", str(load.streams)]
        output = ["--save-result", "--result-dir", str(folder), "--result-filename", self.report, "--disable-tqdm"]
        metrics = ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"]
        prompts = ["--tokenizer", _TOKENIZER, "--dataset-name", "random", "--ignore-eos"]
        return [str(self.program), "bench", "serve", *server, *prompts, *lengths, *counts, *metrics, *output]

    def read(self, report: Any) -> Reported:
        found = {ours: self._pick(report, theirs) for ours, theirs in _VLLM.items()}
        return found | {"load": {ours: report[theirs] for ours, theirs in _VLLM_LOAD.items()}}

    def _pick(self, report: Any, name: str) -> dict[str, float | None]:
        return {stat: report[f"{stat}_{name}_ms"] for stat in ("mean", "p50", "p99")}


_VLLM = {"ttft": "ttft", "tpot": "tpot", "gap": "itl"}
_VLLM_LOAD = {
    "tokens_per_s": "output_throughput",
    "requests": "completed",
    "tokens": "total_output_tokens",
    "failed": "failed",
}


class Aiperf(Tool):
    name = "aiperf"
    program = _ENGINES / "peers" / "aiperf" / "bin" / "aiperf"
    report = "profile_export_aiperf.json"

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        server = ["--url", url, "--model", _MODEL, "--endpoint-type", "chat", "--streaming"]
        lengths = ["--isl", str(load.input_tokens), "--osl", str(load.output_tokens), "--osl-stddev", "0"]
        counts = ["--concurrency", str(load.streams), "--request-count", str(load.requests)]
        output = ["--tokenizer", _TOKENIZER, "--artifact-dir", str(folder), "--ui", "none"]
        without = ["--no-gpu-telemetry", "--no-server-metrics"]
        return [str(self.program), "profile", *server, *lengths, *counts, *output, *without]

    def read(self, report: Any) -> Reported:
        found = {ours: _pick(report[theirs], "avg") for ours, theirs in _AIPERF.items() if theirs in report}
        load = {ours: report[theirs]["avg"] for ours, theirs in _AIPERF_LOAD.items()}
        failed = report.get("error_request_count", {"avg": 0})["avg"]
        return found | {"load": load | {"failed": failed}}

    def environment(self) -> dict[str, str]:
        """Told to stay offline, it takes the path of a tokenizer for the name of one in the hub's cache."""
        return dict(os.environ)

    def health(self, folder: Path) -> dict[str, Any]:
        warnings = (folder / "output.txt").read_text(errors="replace").count("taking too long")
        report = json.loads((folder / self.report).read_text())
        return {"warnings": warnings, "credit_to_start_ms": report.get("credit_to_start_latency", {}).get("avg")}


_AIPERF = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "gap": "inter_chunk_latency"}
_AIPERF_LOAD = {"tokens_per_s": "output_token_throughput", "requests": "request_count", "tokens": "total_output_tokens"}


class Guidellm(Tool):
    name = "guidellm"
    program = _ENGINES / "peers" / "guidellm" / "bin" / "guidellm"
    report = "guidellm.json"

    def command(self, url: str, load: Load, folder: Path) -> list[str]:
        settings = {
            "--backend": f"kind=openai_http,target={url},model={_MODEL}",
            "--profile": f"kind=concurrent,streams={load.streams}",
            "--constraint": f"kind=max_requests,count={load.requests}",
            "--data": f"kind=synthetic_text,prompt_tokens={load.input_tokens},output_tokens={load.output_tokens}",
            "--tokenizer": f"kind=huggingface_auto,model={_TOKENIZER}",
            "--output": f"kind=json,path={folder / self.report}",
        }
        options = [word for pair in settings.items() for word in pair]
        return [str(self.program), "run", *options, "--disable-console-interactive"]

    def read(self, report: Any) -> Reported:
        benchmark = report["benchmarks"][0]["metrics"]
        found = {ours: self._pick(benchmark[theirs]["successful"]) for ours, theirs in _GUIDELLM.items()}
        rate, requests = benchmark["output_tokens_per_second"]["successful"], benchmark["request_totals"]
        tokens = benchmark["output_token_count"]["successful"]["total_sum"]
        load = {"tokens_per_s": rate["mean"], "requests": requests["successful"], "tokens": tokens}
        return found | {"load": load | {"failed": requests["errored"]}}

    def _pick(self, values: Any) -> dict[str, float | None]:
        return {"mean": values["mean"], "p50": values["percentiles"]["p50"], "p99": values["percentiles"]["p99"]}

    def health(self, folder: Path) -> dict[str, Any]:
        found = json.loads((folder / self.report).read_text())["benchmarks"][0]["warnings"]
        return {"warnings": {warning["code"]: warning["observed"] for warning in found}}


_GUIDELLM = {"ttft": "time_to_first_token_ms", "tpot": "inter_token_latency_ms"}

TOOLS: dict[str, Tool] = {
    tool.name: tool for tool in (Llmperf(), Vllm("chat"), Vllm("completions"), Aiperf(), Guidellm())
}
