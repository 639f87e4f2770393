"""The token source as a process: built on the spot, started on a core, its log read when it has ended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from truth import Sent, read_log

_CODE = Path(__file__).with_name("token_source.c")


def build(folder: Path) -> Path:
    """Compiles it into `folder`, unless it is there and newer than its code."""
    program = folder / "token_source"
    if not program.exists() or program.stat().st_mtime < _CODE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(program), str(_CODE)], check=True)
    return program


@dataclass(slots=True)
class Source:
    """`sent` and `stats` are there after the end of `running`."""

    url: str
    sent: list[Sent] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)


@contextmanager
def running(program: Path, log: Path, options: Sequence[str] = (), prefix: Sequence[str] = ()) -> Iterator[Source]:
    """`prefix` goes before the command, as in `taskset -c 0`."""
    command = [*prefix, str(program), "--log", str(log), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        source = Source(process.stdout.readline().strip())
        try:
            yield source
        finally:
            process.terminate()
            _, errors = process.communicate()
    source.stats = json.loads(errors.splitlines()[-1])
    source.sent = read_log(log)
