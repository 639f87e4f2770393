"""Finds in a server's log the first error that is a cause, rather than the last line.

Logs of real engines need some care. Several processes write at once, each with its own prefix. Healthy servers print
warnings with the words "OSError" and "Exception" in them. A request's own fault is logged like the engine's. And the
death of one process makes the others log errors that say only "see above".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_llmperf.boundary.text import foreign

# vLLM puts "(EngineCore pid=17) ERROR 11-21 03:04:05 [core.py:12] " before each line of a traceback too, SGLang
# "[2026-11-21 03:04:05 TP0] " before the first one only, and no level.
_PREFIX = re.compile(
    r"^(?:\x1b\[[0-9;]*m)*(?P<process>\([^)]*pid=\d+\))?(?:\x1b\[[0-9;]*m)*\s?"
    r"(?:\[\d{4}-\d\d-\d\d [\d:.]+(?: [A-Z]+\d+)*\] )?"
    r"(?:(?P<level>ERROR|CRITICAL|WARNING|INFO|DEBUG)(?::\s*| )(?:[\d-]+ [\d:.]+ )?(?:\[[^\]]*\] ?)?)?"
)
_TRACEBACK = re.compile(r"(?:\w+ hit an exception: )?Traceback \(most recent call last\)")
_CHAIN = re.compile(r"The above exception was the direct cause|During handling of the above exception")
_USAGE_ERROR = re.compile(r"[\w .-]+: error: |\S+: (?:(?:unrecognized|invalid|ambiguous) )?option ")
"""Usage errors in the wording of Python's argparse and of C's getopt."""
_LOOSE_ERROR = re.compile(
    r".{0,60}?\b(?:ERROR\b|FATAL\b|[Ee]rror: |[Ff]atal: |panic: |\w+(?:Error|Exception): )"
    r"|.*: (?:command )?not found$|.*: error while loading "
    r"|.*\[TRT-LLM\] \[E\] "
)
_NATIVE_CRASH = re.compile(r"Fatal Python error: |terminate called after throwing|Segmentation fault")
# Triton's own: E1121 07:33:05.713238 25787 model_lifecycle.cc:642] "failed to load 'm' version 1: …"
_TRITON_ERROR = re.compile(r"E\d{4} [\d:.]+ +\d+ (?P<where>[\w.]+:\d+)\] \"?(?P<text>.*?)\"?$")
_TRITON_FATAL = re.compile(r"(ERROR: )?[Ff]ailed to (load|start|stat|create)|Poll failed|creating server")
_TRITON_HARMLESS = re.compile(r"CudaDriverHelper has not been initialized|Error when closing|RmGpu|cudaGetDeviceCount")
_TRITON_EXIT = re.compile(r"error: (?P<text>creating server: .*)")
_PROTOBUF_ERROR = re.compile(r"\[libprotobuf ERROR [^\]]*\] (?P<text>.*)")
_CONSEQUENCE = re.compile(
    r"EngineDeadError|Engine core initialization failed|WorkerProc initialization failed|died unexpectedly"
    r"|failed to load all models|Poll failed"
)
# Lines by which a server announces an error of one request, after which it lives on.
_ONE_REQUEST = re.compile(r"Error in .*(generator|stream)|Exception in ASGI application|.* caught\. Request id")
_READ_LIMIT = 4 << 20
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    process: str | None
    level: str | None
    text: str


@dataclass(frozen=True, slots=True)
class _Error:
    number: int
    text: str
    one_request: bool = False
    """Logged about a request, by a process that lived on."""
    loose: bool = False
    """An error line without an exception."""

    @property
    def rank(self) -> tuple[int, int]:
        """Causes first, then what they led to, then lines that may mean anything; in the log's order."""
        consequence = bool(_CONSEQUENCE.search(self.text))
        return (3 if self.loose else 2 if self.one_request else 1 if consequence else 0), self.number


def read_log(path: Path) -> list[str]:
    """Lines of the log; of a very long one the first and the last 4 MiB. Empty when there is none."""
    try:
        with path.open("rb") as file:
            head = file.read(_READ_LIMIT)
            file.seek(max(len(head), path.stat().st_size - _READ_LIMIT))
            return (head + file.read()).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def log_tail(path: Path, lines: int = 40) -> str:
    """The last lines of the log, as they may be shown."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - 64 * 1024))
            text = _COLOUR.sub("", file.read().decode("utf-8", "replace"))
            return "\n".join(map(foreign, text.splitlines()[-lines:]))
    except OSError:
        return ""


def first_error(lines: Sequence[str]) -> str | None:
    """The error that is the root cause: the first exception that follows from no other, else the first error line."""
    return min(_errors(lines), key=lambda error: error.rank, default=_NONE).text or None


def cause_of_death(lines: Sequence[str]) -> str | None:
    """`first_error` for a server that had served: faults of single requests did not kill it. None: the log is silent,
    as when a signal killed the engine."""
    causes = (error for error in _errors(lines) if error.rank[0] == 0)
    return min(causes, key=lambda error: error.number, default=_NONE).text or None


_NONE = _Error(0, "")


def _errors(lines: Sequence[str]) -> Iterator[_Error]:
    parsed = [_parse(number, line) for number, line in enumerate(lines)]
    suspects = [line for line in parsed if line.level in (None, "ERROR", "CRITICAL")]
    # A process at a time, because several write into one log and their tracebacks mix.
    by_process: dict[str | None, list[_Line]] = {}
    for line in suspects:
        by_process.setdefault(line.process, []).append(line)
    for own in by_process.values():
        yield from _exceptions(own)
        yield from _plain_errors(own)
        yield from _triton_errors(own)


def _parse(number: int, line: str) -> _Line:
    match = _PREFIX.match(line)
    assert match is not None, "every part of the prefix is optional"
    return _Line(number, match["process"], match["level"], line[match.end() :])


def _plain_errors(lines: Sequence[_Line]) -> Iterator[_Error]:
    for line in lines:
        in_traceback = line.text.startswith(" ") or _TRACEBACK.match(line.text)  # which is read as a whole
        if _USAGE_ERROR.match(line.text) or _NATIVE_CRASH.match(line.text):
            yield _Error(line.number, line.text.strip())
        elif (line.level or _LOOSE_ERROR.match(line.text)) and not in_traceback:
            yield _Error(line.number, line.text.strip(), loose=True)


def _triton_errors(lines: Sequence[_Line]) -> Iterator[_Error]:
    """Finds the lines that keep a server from starting; other E lines, which every start prints, may mean anything."""
    for line in lines:
        if found := _PROTOBUF_ERROR.match(line.text) or _TRITON_EXIT.match(line.text):
            yield _Error(line.number, found["text"])
        elif (found := _TRITON_ERROR.match(line.text)) and not _TRITON_HARMLESS.search(line.text):
            text = " ".join(found["text"].replace("\\n", " ").split())
            yield _Error(line.number, text, loose=not _TRITON_FATAL.match(text))


def _exceptions(lines: Sequence[_Line]) -> Iterator[_Error]:
    """One per traceback; a chain of them counts as one, and its last link that is a cause says it best."""
    for chain in _chains(lines):
        first, _ = chain[0]
        texts = [_headline(lines, start, end) for start, end in chain if end < len(lines)]
        causes = [text for text in texts if not _CONSEQUENCE.search(text)]
        one_request = first > 0 and bool(_ONE_REQUEST.match(lines[first - 1].text))
        if texts:
            yield _Error(lines[first].number, (causes or texts)[-1], one_request)


def _chains(lines: Sequence[_Line]) -> list[list[tuple[int, int]]]:
    """Start and end of every traceback, those that caused each other together."""
    chains: list[list[tuple[int, int]]] = []
    for start, line in enumerate(lines):
        if not _TRACEBACK.match(line.text):
            continue
        span = start, _end_of_traceback(lines, start)
        if chains and any(_CHAIN.match(between.text) for between in lines[chains[-1][-1][1] : start]):
            chains[-1].append(span)
        else:
            chains.append([span])
    return chains


def _end_of_traceback(lines: Sequence[_Line], start: int) -> int:
    """Index of the exception itself: the first line that is not indented."""
    end = start + 1
    while end < len(lines) and (not lines[end].text or lines[end].text.startswith(" ")):
        end += 1
    return end


def _headline(lines: Sequence[_Line], start: int, end: int) -> str:
    """The exception, with the line that says why where it does not: pydantic's reason, a bare assert's source."""
    text = lines[end].text.strip()
    after = [line.text for line in lines[end + 1 : end + 3]]
    if "validation error" in text and after:
        reason = after[:1] if after[0].startswith(" ") else after
        return ": ".join([text, *(line.strip() for line in reason)])
    if ":" not in text:
        source = [line.text.strip() for line in lines[start:end] if line.text.startswith("    ")]
        code = [line for line in source if line.strip("^~ ")]
        return f"{text}: {code[-1]}" if code else text
    return text
