"""Baseline files: the only module that reads or writes them.

One JSON file per point and environment, `<folder>/<environment-slug>/<test path>/<test>-<point>.json`, holding per-run
summaries (the data that a verdict is made of) and the whole environment. Keys are sorted and numbers rounded, because
these files are committed and their changes are reviewed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.definitions import METRICS, Quantity
from pytest_llmperf.errors import BaselineError
from pytest_llmperf.metrics import Summary
from pytest_llmperf.result import Result

SCHEMA_NAME = "llmperf.baseline"
SCHEMA_VERSION = 1
UPDATE_HINT = "record it with --llmperf-update-baselines"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a file holds. `runs` has one mapping per run, over all recorded sessions."""

    path: Path
    identity: Mapping[str, Any]
    """Hard facts: where one differs, nothing may be compared."""
    circumstances: Mapping[str, Any]
    """Soft facts: where one differs, the comparison stands and says so."""
    runs: tuple[Mapping[Quantity, float | None], ...]


def baseline_path(folder: Path, slug: str, nodeid: str) -> Path:
    """`tests/test_a.py::test_serving[tp2-short]` -> `<folder>/<slug>/tests/test_a/test_serving-tp2-short.json`."""
    file, _, name = nodeid.partition("::")
    stem = re.sub(r"[^\w.+-]+", "-", name.replace("::", ".")).strip("-")
    return folder / slug / Path(file).with_suffix("") / f"{stem}.json"


def identity(result: Result) -> dict[str, Any]:
    """What makes two measurements comparable: same machine, engine, model, output-changing arguments and trace."""
    return {
        "environment": result.environment.slug,
        "gpus": list(result.environment.gpus),
        "engine": result.server.engine,
        "model": Path(result.server.model).name if result.server.model.startswith("/") else result.server.model,
        "output_args": result.server.output_args,
        "load_shape": "closed loop" if result.load.closed_loop else "open loop",
        "trace_hash": result.trace_hash,
    }


def circumstances(result: Result) -> dict[str, Any]:
    """What may differ, for instance because it is the change under test."""
    facts = result.environment
    args = {name: value for name, value in result.server.args.items() if name not in result.server.output_args}
    software = {"engine_version": facts.engine_version, "args": args}
    if facts.simulated:
        return software  # modelled step times are the same on every machine
    machine = ("driver", "cpu", "cpu_cores", "host", "kernel")
    return {**software, **{name: getattr(facts, name) for name in machine}}


def read_baseline(path: Path) -> Baseline:
    """BaselineError names the file and what is wrong with it; a missing file names the flag that records one."""
    if not path.exists():
        raise BaselineError(f"no baseline for this point in this environment ({path}); {UPDATE_HINT}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        name, version = _schema(data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BaselineError(f"baseline {path} is damaged ({error}); restore it from git, or {UPDATE_HINT}") from error
    if name != SCHEMA_NAME or version != SCHEMA_VERSION:
        raise BaselineError(
            f"baseline {path} has schema {data['schema']!r}; this version ({__version__}) reads "
            f"{SCHEMA_NAME}/{SCHEMA_VERSION}; upgrade pytest-llmperf, or {UPDATE_HINT}"
        )
    try:
        runs = tuple(_run_values(run["metrics"]) for session in data["sessions"] for run in session["runs"])
        found = Baseline(path, dict(data["identity"]), dict(data["circumstances"]), runs)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"baseline {path} is damaged ({error!r}); restore it from git, or {UPDATE_HINT}") from error
    if not found.runs:
        raise BaselineError(f"baseline {path} holds no run; {UPDATE_HINT}")
    return found


def _schema(data: Any) -> tuple[str, int]:
    name, _, version = str(data["schema"]).partition("/")
    return name, int(version)


def _run_values(metrics: Mapping[str, Any]) -> Mapping[Quantity, float | None]:
    return dict(_quantities(metrics))


def _quantities(metrics: Mapping[str, Any]) -> Iterator[tuple[Quantity, float | None]]:
    for metric in METRICS.values():
        stored = metrics.get(metric.key)
        if stored is None:
            continue
        if metric.kind == "scalar":
            yield Quantity(metric.name), _number(stored["value"])
        else:
            yield from ((Quantity(metric.name, stat), _number(value)) for stat, value in stored.items() if stat != "n")


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def differences(baseline: Baseline, result: Result) -> tuple[str, ...]:
    """Soft differences as sentences; BaselineError when a hard fact differs, since then nothing compares."""
    hard = list(_changes(baseline.identity, identity(result)))
    if hard:
        raise BaselineError(
            f"baseline {baseline.path} is not comparable: {'; '.join(hard)}. "
            "If the change is meant, renew it with --llmperf-update-baselines"
        )
    return tuple(_changes(baseline.circumstances, circumstances(result)))


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        before = then.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            merged = {key: before.get(key) for key in (*before, *value)}
            yield from _changes(merged, {key: value.get(key) for key in merged})
        elif before != value:
            yield f"{name} was {before!r}, is {value!r}"


def write_baseline(path: Path, result: Result, nodeid: str, git_sha: str | None) -> None:
    """Replace the file by this result, whole or not at all (a reader never sees half of one)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_document(result, nodeid, git_sha), indent=1, sort_keys=True, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _document(result: Result, nodeid: str, git_sha: str | None) -> dict[str, Any]:
    return {
        "schema": f"{SCHEMA_NAME}/{SCHEMA_VERSION}",
        "llmperf": __version__,
        "test": nodeid,
        "point_id": result.point_id,
        "identity": identity(result),
        "circumstances": circumstances(result),
        "environment": result.environment.as_dict(),
        "server": result.server.as_dict(),
        "load": result.load.as_dict(),
        "sessions": [_session(result.summaries, git_sha)],
    }


def _session(summaries: Sequence[Summary], git_sha: str | None) -> dict[str, Any]:
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git_sha,
        "runs": [{"run": number, "metrics": s.as_dict()} for number, s in enumerate(summaries, start=1)],
    }
