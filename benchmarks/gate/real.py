"""The gate on real engines: unchanged sessions, and sessions behind a proxy that makes every token 10 % later.

    python benchmarks/gate/real.py vllm --sessions 20 --json benchmarks/gate/results/real-vllm.json

Needs `make engine-vllm` or `make engine-triton` and a machine with nothing else to do. Sessions are pytest's own, of
two points with default margins, `warmup: auto` and the lengths that `llmperf calibrate` recommends. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ROOT / ".engines"
SERVERS = {
    "embedded": "engine: embedded\n    args: {step: modelled, max-num-seqs: 8}",
    "vllm": f"""engine: vllm
    executable: {ENGINES}/vllm/bin/vllm
    gpus: 0
    ready_timeout: 300 s
    env: {{HF_HUB_OFFLINE: "1", TRANSFORMERS_OFFLINE: "1", VLLM_NO_USAGE_STATS: "1", VLLM_HOST_IP: 127.0.0.1,
      GLOO_SOCKET_IFNAME: lo, OMP_WAIT_POLICY: PASSIVE}}
    args: {{served-model-name: tiny, enforce-eager: true, kv-cache-memory-bytes: 67108864, max-num-seqs: 8}}""",
    "triton": f"""engine: triton
    executable: {ENGINES}/triton/bin/tritonserver
    gpus: 0
    ready_timeout: 60 s
    models:
      decoder: {{backend: python, decoupled: true, max_batch_size: 0,
        files: {ROOT}/perf_tests/triton_models/decoder}}""",
}
MODELS = {"embedded": "m", "vllm": f"{ENGINES}/models/tiny-llama", "triton": "decoder"}
LOCKED = {"vllm": "{dtype: float32, max-model-len: 1024}"}
READY = {"embedded": "/health", "vllm": "/health", "triton": "/v2/health/ready"}
PLAN = """model: {model}
locked: {locked}
servers:
  s:
    {server}
    proxy:
      command: [{python}, {late}, "{{port}}", "{{replicas}}"]
      env: {{LATE: "${{LATE}}"}}
      ready: {ready}
loads:
  closed:
    {load}
    concurrency: 4
    requests: 200
  open:
    {load}
    request_rate: 8
    arrival: poisson
    requests: 100
"""
LOAD = """{endpoint}input_tokens: {{mean: 60, sd: 20, min: 20, max: 120}}
    output_tokens: {{mean: 32, sd: 8, min: 8, max: 64}}"""
TEST = """import pytest

@pytest.mark.llmperf(plan="plan.yaml")
def test_serving(llm_server, load_driver, load_point, baseline):
    baseline.check(load_driver.run(llm_server, load_point))
"""
CHANGES = {1.0: "none", 1.1: "every token 10 % later"}
FIRST_AGAINST_LATER = (("itl_ms", "p50"), ("ttft_ms", "p50"))


class Suite:
    """The folder of a suite, and sessions of it."""

    def __init__(self, folder: Path, engine: str) -> None:
        self._folder = folder
        load = LOAD.format(endpoint="endpoint: generate\n    " if engine == "triton" else "")
        late = Path(__file__).with_name("late.py")
        self._plan = folder / "plan.yaml"
        self._plan.write_text(
            PLAN.format(
                model=MODELS[engine],
                locked=LOCKED.get(engine, "{}"),
                server=SERVERS[engine],
                python=sys.executable,
                late=late,
                ready=READY[engine],
                load=load,
            )
        )
        (folder / "test_real.py").write_text(TEST)
        (folder / "tox.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")

    def calibrate(self) -> str:
        """Gives the plan the recommended lengths and warm-ups, not the margins and runs; returns what was said."""
        done = self._run("-m", "pytest_llmperf", "calibrate", "plan.yaml", late=1.0)
        if done.returncode:
            raise SystemExit(f"the plan was not calibrated:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        said = done.stdout
        diff = said[said.find("--- plan.yaml") :] if "--- plan.yaml" in said else ""
        if diff:
            subprocess.run(["patch", "-p0", "plan.yaml"], cwd=self._folder, input=diff, text=True, check=True)
        kept = re.sub(r"^(margins|runs):.*\n(?:[ \t].*\n)*", "", self._plan.read_text(), flags=re.MULTILINE)
        self._plan.write_text(kept)
        return said

    def session(self, *options: str, late: float = 1.0) -> Mapping[str, Any]:
        """The report of a session, whatever its verdicts, with the `seconds` that it took."""
        report = self._folder / "report.json"
        report.unlink(missing_ok=True)
        begun_s = time.monotonic()
        done = self._run("-m", "pytest", "-q", f"--llmperf-json={report}", *options, late=late)
        if not report.exists():
            raise SystemExit(f"a session left no report:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return {**json.loads(report.read_text()), "seconds": time.monotonic() - begun_s}

    def _run(self, *words: str, late: float) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if name not in ("CI", "BUILD_NUMBER")}
        environ["LATE"] = str(late)
        return subprocess.run([sys.executable, *words], cwd=self._folder, env=environ, capture_output=True, text=True)


def first_against_later(points: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """Logs of the first run's latency over the mean of later ones, of every launch with several runs."""
    for point in points:
        for _, launch in groupby(point["runs"], key=lambda run: run["launch"]):
            runs = [run["metrics"] for run in launch]
            for name, stat in FIRST_AGAINST_LATER:
                values = [run.get(name, {}).get(stat) for run in runs]
                if len(values) > 1 and all(values):
                    yield math.log(values[0] / statistics.fmean(values[1:]))


def order(sessions: int, late: int) -> Iterator[float]:
    """The factors of all sessions, the later ones spread over the others: the machine's hours are the same for both."""
    for session in range(sessions):
        yield 1.0
        yield from [1.1] * ((session + 1) * late // sessions - session * late // sessions)


def _told(change: str, report: Mapping[str, Any]) -> str:
    """A line on one session."""
    points = [
        f"{point['id']} {(point.get('regression') or {'verdict': 'none'})['verdict']} after {len(point['runs'])} runs"
        for point in report["points"]
    ]
    return f"{change}: {', '.join(points)}; {report['seconds']:.0f} s"


def row(engine: str, change: str, reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts over all points of these sessions."""
    points = [point for report in reports for point in report["points"]]
    verdicts = Counter((point.get("regression") or {"verdict": "none"})["verdict"] for point in points)
    ratios = list(first_against_later(points))
    found = {
        "engine": engine,
        "change": change,
        "points": len(points),
        "verdicts": dict(verdicts),
        "runs": statistics.fmean(len(point["runs"]) for point in points),
        "launches": statistics.fmean(len({run["launch"] for run in point["runs"]}) for point in points),
        "seconds": sum(report["seconds"] for report in reports) / len(points),
        "first_run": math.expm1(statistics.fmean(ratios)) if ratios else None,
    }
    shares = [f"{verdicts[name] / len(points):.0%}" for name in ("FAIL", "INCONCLUSIVE", "IMPROVED")]
    first = "" if found["first_run"] is None else f"{found['first_run']:+.1%}"
    numbers = [f"{found['runs']:.1f}", f"{found['launches']:.1f}", f"{found['seconds']:.0f}", first]
    print(f"| {' | '.join([engine, change, str(len(points)), *shares, *numbers])} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=SERVERS)
    parser.add_argument("--sessions", type=int, default=20, help="unchanged ones")
    parser.add_argument("--late", type=int, default=8, help="sessions behind the proxy, spread over the unchanged ones")
    parser.add_argument("--baseline", type=int, default=5, help="sessions of the baseline")
    parser.add_argument("--keep-lengths", action="store_true", help="do not calibrate: to try the script")
    parser.add_argument("--reports", type=Path, help="folder that keeps the report of each session")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        suite = Suite(Path(folder), args.engine)
        if not args.keep_lengths:
            print(suite.calibrate(), file=sys.stderr, flush=True)
        for _ in range(args.baseline):
            suite.session("--llmperf-update-baselines")
        reports: dict[float, list[Mapping[str, Any]]] = {change: [] for change in CHANGES}
        for number, late in enumerate(order(args.sessions, args.late)):
            reports[late].append(suite.session(late=late))
            print(_told(CHANGES[late], reports[late][-1]), file=sys.stderr, flush=True)
            if args.reports:
                args.reports.mkdir(parents=True, exist_ok=True)
                kept = args.reports / f"{args.engine}-{number:02}-{late}.json"
                kept.write_text(json.dumps(reports[late][-1]), encoding="utf-8")
    print("| engine | change | points | FAIL | INCONCLUSIVE | IMPROVED | runs | launches | s per point | first run |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    rows = [row(args.engine, CHANGES[late], of_change) for late, of_change in reports.items() if of_change]
    if args.json:
        facts = {"sessions": args.sessions, "late": args.late, "baseline": args.baseline, "table": rows}
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
