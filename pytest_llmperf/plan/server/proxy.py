"""A proxy in a plan: a program between the load driver and the replicas of a server, which spreads the load itself."""

from __future__ import annotations

from pydantic import field_validator

from pytest_llmperf.boundary.literals import refuse_secret
from pytest_llmperf.plan.fields import Frozen, entry
from pytest_llmperf.plan.server.words import ProxyWord, ProxyWords


class Proxy(Frozen):
    """The proxy of a server's replicas: it is started when all of them are up, and the load goes to it."""

    command: ProxyWords
    """The program and its arguments. `{port}` is where it is to listen; `{replicas}` are the replicas' base URLs: a
    word of its own is a word per replica, within a word they are joined by commas."""
    env: dict[str, ProxyWord] = {}
    """Environment variables added to pytest's own; `${NAME}` takes the value from there, and is never shown."""
    cwd: str = "."
    """Folder that it runs in, counted from the plan file."""
    ready: str = "/health"
    """Path that answers 200 to 299 when it is up."""

    @field_validator("env")
    @classmethod
    def _no_secret_env(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            with entry(name):
                refuse_secret(name, value)
        return env

    @field_validator("command")
    @classmethod
    def _knows_where(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        text = " ".join(words)
        for placeholder in ("{port}", "{replicas}"):
            if placeholder not in text:
                raise ValueError(f"a proxy's command holds {placeholder}, by which it knows the others")
        return words

    @field_validator("ready")
    @classmethod
    def _path(cls, path: str) -> str:
        if not path.startswith("/") or path.startswith("//") or not (path.isascii() and path.isprintable()):
            raise ValueError(f"{path!r} is not a path of the host, such as '/health'")
        return path
