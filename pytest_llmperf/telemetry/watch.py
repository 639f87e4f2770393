"""Our end of the sampler process: its questions, and the part of its answer that goes into a Run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_llmperf import clock
from pytest_llmperf.records import Telemetry, Track
from pytest_llmperf.telemetry import sampler

INTERVAL_S = 0.5
_ANSWER_S = 3.0
"""A sampler answers at once; this is for a machine on which nothing does."""
_MOST_OWED = 3
"""Answers that did not come in time, after which the sampler is asked no more."""


class MetricsSource(NamedTuple):
    """A Prometheus URL and what to send with the question; either may hold secrets."""

    source: str
    url: str
    headers: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"MetricsSource({self.source!r})"


class Sources(NamedTuple):
    """Sources of samples during a run, each with its name in the report."""

    metrics: tuple[MetricsSource, ...] = ()
    processes: tuple[tuple[str, int], ...] = ()
    """Name and process id of a server's supervisor."""
    gpus: tuple[tuple[str, str], ...] = ()
    """Name, and index or UUID."""


class Watcher:
    """The sampler process of one server: started beside it, idle but for its runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._rest = b""
        self._is_known = False
        """True once the sampler has been waited for: one that starts slowly must not hold up every run."""
        self._owed = 0
        """Answers still to come."""

    def begin(self, sources: Sources) -> None:
        """Returns when the sampler has the sources, of which it then takes its first samples."""
        if self._owed > _MOST_OWED:  # it reads nothing any more: its pipe would fill, and we would wait
            return
        if not self._is_known:
            self._answer()
            self._is_known = True
        self._write_line(
            json.dumps(
                {
                    "interval_s": INTERVAL_S,
                    "metrics": [{**one._asdict(), "headers": dict(one.headers)} for one in sources.metrics],
                    "processes": [{"source": source, "pid": pid} for source, pid in sources.processes],
                    "gpus": [{"source": source, "device": device} for source, device in sources.gpus],
                }
            )
        )

    def end(self) -> Telemetry:
        """The samples since `begin`."""
        if self._owed > _MOST_OWED:
            return telemetry(None)
        self._write_line("end")
        return telemetry(self._answer())

    def _write_line(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line.encode() + b"\n")

    def _answer(self) -> Any:
        """The answer to the last question; those that came too late for theirs are passed over.

        None where none comes in time: telemetry is never worth a run.
        """
        deadline = clock.monotonic() + _ANSWER_S
        self._owed += 1
        while (line := self._line(deadline)) is not None:
            self._owed -= 1
            if not self._owed:
                return json.loads(line)
        return None

    def _line(self, deadline: float) -> bytes | None:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([pipe], [], [], max(0.0, deadline - clock.monotonic()))[0]:
                return None
            got = os.read(pipe, 1 << 16)
            if not got:
                return None
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextlib.contextmanager
def watcher() -> Iterator[Watcher]:
    """A sampler process that is gone on leaving."""
    with subprocess.Popen(
        [sys.executable, "-P", sampler.__file__],
        bufsize=0,  # what a sampler that has died never read would be written once more when the pipe is closed
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield Watcher(process)
        finally:
            process.kill()


def telemetry(answer: Sequence[Mapping[str, Any]] | None) -> Telemetry:
    """The sampler's answer as facts of a run; None is the answer that did not come."""
    if answer is None:
        return Telemetry(INTERVAL_S, (), ("the sampler gave no answer",))
    notes = tuple(f"{sampled['source']}: {sampled['note']}" for sampled in answer if sampled["note"])
    return Telemetry(INTERVAL_S, tuple(_track(sampled) for sampled in answer if sampled["at_ns"]), notes)


def _track(sampled: Mapping[str, Any]) -> Track:
    values = {name: tuple(found) for name, found in sampled["values"].items()}
    for counter in ("preemptions", "generated_tokens"):
        if counter in values:
            values[counter] = _since_the_first(values[counter])
    if "queue_us" in values:
        values["queue_ms"] = _per_request_ms(values.pop("queue_us"), values.pop("requests_finished", ()))
    return Track(sampled["source"], tuple(sampled["at_ns"]), tuple(values.items()))


_Values = tuple[float | None, ...]


def _since_the_first(values: _Values) -> _Values:
    """Gains of a counter since its first value; where it goes back, it was begun anew at 0."""
    total, last, gains = 0.0, None, list[float | None]()
    for value in values:
        if value is not None and last is not None:
            total += value - last if value >= last else value
        last = last if value is None else value
        gains.append(None if value is None else total)
    return tuple(gains)


def _per_request_ms(queue_us: _Values, finished: _Values) -> _Values:
    """Mean time that the requests which ended between two samples had waited; None where none did."""
    gains: list[float | None] = [None]
    for place in range(1, min(len(queue_us), len(finished))):
        around = (queue_us[place - 1], queue_us[place], finished[place - 1], finished[place])
        if any(value is None for value in around):
            gains.append(None)
            continue
        us, next_us, count, next_count = (value or 0.0 for value in around)
        gains.append((next_us - us) / (next_count - count) / 1e3 if next_count > count else None)
    return tuple(gains)
