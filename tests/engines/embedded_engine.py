"""The embedded engine as a process of its own, and a small load for it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_llmperf.plan.load.point import LoadPoint


@contextmanager
def embedded_engine(*arguments: str) -> Iterator[str]:
    """The URL of a fast modelled engine."""
    fast = ("--step", "modelled", "--decode-ms-per-step", "2", "--step-overhead-ms", "0", "--max-model-len", "1024")
    command = [sys.executable, "-m", "pytest_llmperf.embedded", "--port", "0", *fast, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            log = ""
            for line in process.stderr:
                log += line
                if "Application startup complete." in line:
                    break
            url = re.search(r"Started server process on (http://127.0.0.1:\d+)", log)
            assert url, log
            yield url[1]
        finally:
            process.terminate()


def small_load(**changes: Any) -> LoadPoint:
    """8 short requests, 4 at a time."""
    shape: dict[str, Any] = {"concurrency": 4, "requests": 8, "input_tokens": 20, "output_tokens": 12}
    return LoadPoint(**({"name": "p", "no_data_timeout": "60 s"} | shape | changes))
