"""The best configuration as something to take away: a plan of its own, and a shell line. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pytest_llmperf.plan.load.prompts import OWN_SET
from pytest_llmperf.plan.server.axes import written_out
from pytest_llmperf.plan.server.table import ServerConfig
from pytest_llmperf.search.candidates import Candidates
from pytest_llmperf.search.strategy.space import Position
from pytest_llmperf.servers.engines.commands import preparation, shown_command, steps
from pytest_llmperf.telemetry.gpu import Gpu

_PATHS = frozenset({"cwd", "file", "files", "json_schema", "tokenizer", "values_files"})
"""Keys of paths that count from the plan's folder without ./ before them too."""
_FREE = frozenset(
    {"args", "config", "convert", "env", "extra_body", "headers", "locked", "namespace_labels", "options"}
    | {"parameters", "programs", "template", "values"}
)
"""Keys of mappings whose own keys mean what somebody else says."""


class _Dumper(yaml.SafeDumper):
    """Writes what a plan said twice (by an anchor) twice, so that each entry can be read by itself."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def server_snippet(plan_text: str, found: Candidates, position: Position) -> str:
    """The `servers:` part of a plan that has this configuration alone."""
    return _yaml({"servers": _servers(yaml.safe_load(plan_text), found, position)})


def plan_snippet(plan_text: str, found: Candidates, position: Position, folder: Path | None = None) -> str:
    """The plan with this configuration as its only server, and the search's loads; paths count from `folder`."""
    data = yaml.safe_load(plan_text)
    names = {point.load for point in found.points}
    whole = {
        **{key: value for key, value in data.items() if key != "searches"},
        "servers": {
            name: _with_folders(entry, found.configs[position])
            for name, entry in _servers(data, found, position).items()
        },
        "loads": {name: load for name, load in data["loads"].items() if name in names},
    }
    return _yaml(whole if folder is None else _absolute(whole, folder))


def _with_folders(entry: Mapping[str, Any], config: ServerConfig) -> dict[str, Any]:
    """The entry that says in which folders its programs run: where nothing is said, in the plan's."""
    whole = {**entry, "cwd": entry.get("cwd", ".")} if hasattr(config, "cwd") else dict(entry)
    if proxy := whole.get("proxy"):
        whole["proxy"] = {**proxy, "cwd": proxy.get("cwd", ".")}
    return whole


def _servers(data: Mapping[str, Any], found: Candidates, position: Position) -> dict[str, Any]:
    config = found.configs[position]
    entry = written_out(data["servers"][found.spec.server], found.server, found.coordinates(position))
    if config.is_local and (config.replicas > 1 or "replicas" in entry):
        entry["replicas"] = config.replicas
    return {config.name: entry}


def _absolute(value: Any, folder: Path, key: str = "") -> Any:
    """Texts that start with ./ or ../, and what `key` says is a path, as whole paths."""
    if isinstance(value, Mapping):
        return {name: _absolute(inner, folder, key if key in _FREE else name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_absolute(inner, folder, key) for inner in value]
    if not isinstance(value, str):
        return value
    is_path = (key in _PATHS and not value.startswith(OWN_SET)) or value.startswith(("./", "../"))
    return str((folder / value).resolve()) if is_path else value


def _yaml(data: Mapping[str, Any]) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def launch_command(config: ServerConfig, gpus: Sequence[Gpu]) -> str:
    """The shell line of its first replica, or the steps of an engine that is deployed in steps.

    Secrets are `${NAME}` references in it, PLAN is the plan of the best.
    """
    if lines := steps(config):
        return "; ".join(lines)
    command = shown_command(config, "8000", gpus[: config.local_gpus // config.process_count])
    return " && ".join(line for line in (preparation(config), command) if line)
