"""Samples one server while it is measured: `python -P sampler.py`, commands on stdin, one JSON line per answer.

A process of its own, so that neither a slow `/metrics` nor the reading of it ever costs the load driver a token's
receive time. It is run as a file, with the standard library alone (and pynvml for GPUs), and says `ready` when it can
begin. Then `{"interval_s", "metrics", "processes", "gpus"}` begins and `end` answers with what was seen since; it ends
with its stdin. URLs and headers come by the pipe and appear in nothing that it says.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MOST = 240
"""Samples of a source that are kept; of a longer run every second one, then every fourth, and so on."""
_JITTER = (0.6, 1.4)
_TIMEOUT_S = 2.0
_LARGEST = 16 << 20
_LEAST_TICKS = 5
"""Ticks between two samples from which on processor time between them is known."""
_FAMILY_EVERY = 10
"""The tree of a server's processes is looked through at every tenth sample: it rarely grows in a run."""
_SAMPLE = re.compile(rb"^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)", re.MULTILINE)
METRICS: Mapping[str, tuple[str, Callable[[Iterable[float]], float]]] = {
    "vllm:num_requests_running": ("requests_running", sum),
    "vllm:num_requests_waiting": ("requests_waiting", sum),
    "vllm:kv_cache_usage_perc": ("kv_cache_usage", max),
    "vllm:gpu_cache_usage_perc": ("kv_cache_usage", max),
    "vllm:num_preemptions_total": ("preemptions", sum),
    "vllm:generation_tokens_total": ("generated_tokens", sum),
    "sglang:generation_tokens_total": ("generated_tokens", sum),
    "sglang:num_running_reqs": ("requests_running", sum),
    "sglang:num_queue_reqs": ("requests_waiting", sum),
    "sglang:token_usage": ("kv_cache_usage", max),
    "sglang:num_retracted_requests_total": ("preemptions", sum),
    "nv_inference_pending_request_count": ("requests_waiting", sum),
    "nv_inference_queue_duration_us": ("queue_us", sum),
    "nv_inference_request_success": ("requests_finished", sum),
    "nv_gpu_utilization": ("gpu_utilization", max),
    "nv_gpu_memory_used_bytes": ("gpu_memory_bytes", sum),
    "nv_gpu_power_usage": ("gpu_power_w", sum),
}
"""Prometheus names that are understood, ours for them, and how the samples of all labels become one number."""

Row = dict[str, float]


class Absent(Exception):
    """A source has no values, and will not have any later; the text says why, without any URL."""


class Missed(Exception):
    """One sample could not be had; the text says why."""


class SourceLog:
    """Samples of one source, with the time of each (ns of CLOCK_REALTIME)."""

    def __init__(self, source: str, read: Callable[[], Row]) -> None:
        self._source, self._read = source, read
        self._lock = threading.Lock()
        self._rows: list[tuple[int, Row]] = []
        self._note = ""
        self._slower = 1

    def follow(self, stop: threading.Event, interval_s: float) -> None:
        """Samples until `stop`; a source that answers late is asked less often."""
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            try:
                self._keep(self._read())
            except Absent as error:
                self._note = str(error)
                return
            except Missed as error:
                self._note = f"not every sample could be had ({error})"
            except (OSError, http.client.HTTPException) as error:
                self._note = f"not every sample could be had ({type(error).__name__})"
            except Exception as error:  # no source ends without a word
                self._note = f"it could not be sampled any more ({type(error).__name__})"
                return
            # At random: a load that comes in waves would else be met at the same place of each. Never at once, however
            # late this sample was: two within a tick of the processor's clock say that nothing was done between them.
            wait_s = interval_s * self._slower
            due = max(due + wait_s * random.uniform(*_JITTER), time.monotonic() + wait_s * _JITTER[0])

    def _keep(self, row: Row) -> None:
        with self._lock:
            self._rows.append((time.time_ns(), row))
            if len(self._rows) > MOST:
                self._rows = self._rows[::2]
                self._slower *= 2

    def as_dict(self) -> dict[str, Any]:
        with self._lock:
            names = dict.fromkeys(name for _, row in self._rows for name in row)
            return {
                "source": self._source,
                "note": self._note,
                "at_ns": [at for at, _ in self._rows],
                "values": {name: [row.get(name) for _, row in self._rows] for name in names},
            }


def metrics_reader(url: str, headers: Mapping[str, str]) -> Callable[[], Row]:
    """Asks a Prometheus URL, on a connection that is kept."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def read() -> Row:
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            text = answer.read(_LARGEST)
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        if answer.status == 429 or answer.status >= 500:  # a gateway's word on this moment
            raise Missed(f"HTTP {answer.status}")
        if answer.status != 200:
            raise Absent(f"its metrics answer HTTP {answer.status}")
        if not (row := parse(text)):
            raise Absent("its metrics hold none of the names that are known")
        return row

    return read


def parse(text: bytes) -> Row:
    """The known series of a Prometheus text, by our names; NaN is no value."""
    found: dict[str, list[float]] = {}
    for match in _SAMPLE.finditer(text):
        name = match[1].decode()
        with contextlib.suppress(ValueError):
            if name in METRICS and (value := float(match[2])) == value:
                found.setdefault(METRICS[name][0], []).append(value)
    combined = dict(METRICS.values())
    return {name: combined[name](values) for name, values in found.items()}


def process_rows(pid: int) -> Iterator[Row]:
    """CPU (in cores) and resident memory of everything below `pid`, which is the server's supervisor."""
    tick_s, page = 1 / os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    members: list[int] = []
    before: dict[int, int] = {}
    at = 0.0
    for count in itertools.count():
        if count % _FAMILY_EVERY == 0:
            members = sorted(family(pid))
        now, ticks, pages = time.monotonic(), dict[int, int](), 0
        for member in members:
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{member}/stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks[member], pages = int(fields[11]) + int(fields[12]), pages + int(fields[21])
        if not ticks:
            raise Absent("its processes cannot be looked at")
        row = {"rss_bytes": float(pages * page)}
        if before and now - at < _LEAST_TICKS * tick_s:
            yield row
            continue
        if before:
            grown = sum(ticks[member] - before[member] for member in ticks if member in before)
            row["cpu_cores"] = grown * tick_s / (now - at)
        before, at = ticks, now
        yield row


def family(pid: int) -> set[int]:
    """All descendants of a process."""
    parents: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry))
    found, frontier = set(), [pid]
    while frontier:
        children = parents.get(frontier.pop(), [])
        found.update(children)
        frontier += children
    return found


def gpu_rows(device: str) -> Iterator[Row]:
    """Utilisation, memory and power by NVML, of an index or a UUID; values that the device does not report are left
    out.
    """
    try:
        import pynvml
    except ImportError as error:
        raise Absent("NVML's module is not installed: pip install 'pytest-llmperf[gpu]'") from error
    try:
        pynvml.nvmlInit()
        find = pynvml.nvmlDeviceGetHandleByIndex if device.isdigit() else pynvml.nvmlDeviceGetHandleByUUID
        handle = find(int(device) if device.isdigit() else device)
    except pynvml.NVMLError as error:
        raise Absent(f"NVML: {error}") from error
    questions: dict[str, Callable[[], float]] = {
        "gpu_utilization": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
        "gpu_memory_bytes": lambda: float(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        "gpu_power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    while True:
        row: Row = {}
        for name, ask in questions.items():
            with contextlib.suppress(pynvml.NVMLError):
                row[name] = ask()
        if not row:
            raise Absent("NVML tells nothing about it")
        yield row


class Sampling:
    """The sources of one run, each followed by a thread."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self._stop = threading.Event()
        self._logs = [
            *(SourceLog(one["source"], metrics_reader(one["url"], one["headers"])) for one in asked["metrics"]),
            *(SourceLog(one["source"], process_rows(one["pid"]).__next__) for one in asked["processes"]),
            *(SourceLog(one["source"], gpu_rows(one["device"]).__next__) for one in asked["gpus"]),
        ]
        for log in self._logs:
            threading.Thread(target=log.follow, args=(self._stop, asked["interval_s"]), daemon=True).start()

    def end(self) -> list[dict[str, Any]]:
        """Ends the sampling at once: a question that is still open is not waited for."""
        self._stop.set()
        return [log.as_dict() for log in self._logs]


def _lines() -> Iterable[str]:
    """The lines of stdin, until it or our parent ends (a fork of which may hold the pipe)."""
    parent, rest = os.getppid(), b""
    while os.getppid() == parent:
        if select.select([0], [], [], 1.0)[0]:
            got = os.read(0, 1 << 16)
            if not got:
                return
            *whole, rest = (rest + got).split(b"\n")
            yield from (line.decode() for line in whole)


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    os.nice(5)
    _say("ready")
    watch: Sampling | None = None
    for line in _lines():
        if watch is not None:
            found, watch = watch.end(), None
            if line == "end":
                _say(found)
        if line != "end":
            watch = Sampling(json.loads(line))


if __name__ == "__main__":
    main()
