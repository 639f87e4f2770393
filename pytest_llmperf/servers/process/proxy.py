"""The proxy that a plan puts between the load driver and the replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_llmperf.load.endpoints.target import Target
from pytest_llmperf.plan.server.proxy import Proxy
from pytest_llmperf.plan.server.words import REPLICAS, fill_in
from pytest_llmperf.servers.process.process import LOOPBACK, Command, ServerProcess, free_port, run_process
from pytest_llmperf.servers.secrets import expand


def proxy_command(proxy: Proxy, model: str, port: int | str, replicas: Sequence[str]) -> Command:
    """The proxy's command before the replicas at these URLs, `${NAME}` references still in it."""
    values = {"port": port, "model": model, "replicas": ",".join(replicas)}
    words = (urls for word in proxy.command for urls in (replicas if word == REPLICAS else [fill_in(word, values)]))
    return Command(tuple(words), {name: fill_in(text, values) for name, text in proxy.env.items()}, cwd=proxy.cwd)


@contextlib.contextmanager
def started_proxy(
    name: str, proxy: Proxy, replicas: Sequence[Target], log: Path
) -> Iterator[tuple[Target, ServerProcess]]:
    """The proxy before these replicas, which runs but may not be ready yet; its target takes what theirs take."""
    port = free_port()
    command = proxy_command(proxy, replicas[0].model, port, [target.url for target in replicas])
    filled = replace(
        command,
        argv=tuple(map(expand, command.argv)),
        env={key: expand(value) for key, value in command.env.items()},
    )
    with run_process(name, filled, log) as process:
        yield replace(replicas[0], url=f"http://{LOOPBACK}:{port}", metrics=""), process
