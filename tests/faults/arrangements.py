"""How a row arranges its fault: each gives what a Fault's `run` wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox import Sandbox, Session

Run = Callable[[Sandbox], Session]


def on_url(answer: str, *, words: tuple[str, ...] = (), load: dict[str, Any] | None = None, **options: Any) -> Run:
    """A server that is up has the fault; `options` are FakeServer's, or keys of the plan."""
    keys = {name: options.pop(name) for name in ("entry", "sla", "runs", "margins") if name in options}

    def run(sandbox: Sandbox) -> Session:
        sandbox.url_plan(sandbox.serve(answer, **options).url, load, **keys)
        return sandbox.pytest(*words)

    return run


def at_start(answer: str, where: str) -> Run:
    """The fault is in what readiness asks for."""
    return on_url(answer, where=where)


def of_own(*arguments: str, words: tuple[str, ...] = (), load: dict[str, Any] | None = None, **keys: Any) -> Run:
    """A server that pytest starts has the fault: arguments of fake_server.py."""

    def run(sandbox: Sandbox) -> Session:
        sandbox.own_plan(*arguments, load=load, **keys)
        return sandbox.pytest(*words)

    return run
