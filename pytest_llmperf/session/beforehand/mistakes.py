"""Paths, programs, variables and endpoints that a plan or an option names and that are not there: no reason to skip.

A server that this machine has too few GPUs for is another machine's: its paths need not be here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import NotThere
from pytest_llmperf.plan.file import place
from pytest_llmperf.plan.load.point import LoadPoint
from pytest_llmperf.plan.load.prompts import Lengths
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.runner.program import PlannedTest, Program
from pytest_llmperf.servers.duet import sides
from pytest_llmperf.servers.engines.commands import lack
from pytest_llmperf.servers.engines.table import ENGINES
from pytest_llmperf.servers.secrets import unset
from pytest_llmperf.session.options import Options
from pytest_llmperf.session.select.collection import Collection
from pytest_llmperf.telemetry.gpu import Gpu

_CONTEXT = ("max-model-len", "context-length")
"""Arguments of engines that bound the tokens of a prompt and its answer together."""
_Mistake = tuple[tuple[str, ...], str]
"""Keys of the plan, and what is wrong with the value."""


def mistakes(collection: Collection, program: Program, options: Options, gpus: Sequence[Gpu]) -> list[str]:
    """Returns a sentence for each, as `plan.yaml:3: servers.a.executable: needs …`.

    Tests that may be skipped are left out: that may be their reason.
    """
    tests = [planned for planned in program.tests.values() if not planned.conditional]
    found = list(_unwritable(options))
    for server in dict.fromkeys(planned.server for planned in tests):
        configs, own = sides(server), [planned for planned in tests if planned.server == server]
        for config in configs:
            found += _of_endpoints(config, collection.origin(config)[0], own)
        if sum(config.local_gpus for config in configs) <= len(gpus):
            for config in configs:
                found += _of_config(config, *collection.origin(config), own, gpus)
    return list(dict.fromkeys(found))


def _of_endpoints(config: ServerConfig, plan: Path, tests: Sequence[PlannedTest]) -> Iterator[str]:
    """Yields loads that no server of this kind answers, on any machine; an engine may take hours until one is sent."""
    known = ENGINES[config.engine].endpoints(config)
    for point in (planned.point for planned in tests if planned.point.endpoint not in known):
        why = f"{config.name} ({config.engine}) has no {point.endpoint}; write one of {', '.join(known)}"
        yield _told(plan, ("loads", point.load), ("endpoint",), why)


def _of_config(
    config: ServerConfig, plan: Path, entry: str, tests: Sequence[PlannedTest], gpus: Sequence[Gpu]
) -> Iterator[str]:
    lacking = lack(config, gpus)
    if lacking and not lacking.key:
        return
    named = [((lacking.key,), lacking.reason)] if lacking else []
    for keys, why in (*_unset(config.model_dump(mode="json")), *named):
        yield _told(plan, ("servers", entry), keys, why)
    for planned in tests:
        for keys, why in _of_load(planned, config):
            yield _told(plan, ("loads", planned.point.load), keys, why)


def _told(plan: Path, entry: tuple[str, ...], keys: tuple[str, ...], why: str) -> str:
    """The value may stand in the entry, or for all entries at the plan's top."""
    return f"{place(plan, (*entry, *keys), keys)}: {why}"


def _unset(value: Any, *around: str) -> Iterator[_Mistake]:
    for keys, text in _texts(value, around):
        for name in unset(text):
            yield keys, f"needs the environment variable {name}, which is not set"


def _texts(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in it, with the keys that lead there."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, Mapping | list):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in entries:
            yield from _texts(inner, (*keys, str(key)))


def _of_load(planned: PlannedTest, config: ServerConfig) -> Iterator[_Mistake]:
    point = planned.point
    if isinstance(point.missing, NotThere):
        yield ("tokenizer",), str(point.missing)
    if point.answers and point.answers.judge:
        judge = point.answers.judge
        yield from _unset({"url": judge.url, "bearer": judge.bearer}, "answers", "judge")
    for arg in _CONTEXT:
        most, asked = config.args.get(arg), _tokens(point)
        if isinstance(most, int) and asked > most:
            fits = f"do not fit into {config.name}'s {arg}: {most}"
            yield ("output_tokens",), f"{asked:g} tokens of prompt and answer {fits}"


def _tokens(point: LoadPoint) -> float:
    """Tokens of a request, so many as are known: of a distribution the mean, of a file's prompts none."""
    lengths = (point.input_tokens, point.output_tokens) if point.trace is None else ()
    return sum(one.mean if isinstance(one, Lengths) else one or 0 for one in lengths)


def _unwritable(options: Options) -> Iterator[str]:
    """Files and folders of options that cannot be made where they were asked for."""
    records = options.update_baselines or options.update_new or options.accept
    baselines = options.baselines if records else None
    asked = {"json": options.json, "html": options.html, "baselines": baselines, "output": options.output}
    for name, path in asked.items():
        if path and (why := _why_unwritable(path, is_folder=name in ("baselines", "output"))):
            yield f"--llmperf-{name} {path}: {why}"


def _why_unwritable(path: Path, *, is_folder: bool) -> str | None:
    if path.exists() and path.is_dir() != is_folder:
        return "it is a folder, where a file is to be written" if path.is_dir() else "it is a file, and no folder"
    there = next(one for one in (path, *path.parents) if one.exists())
    if there != path and not there.is_dir():
        return f"{there} is a file, and no folder"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"
