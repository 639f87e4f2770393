"""Any server in a plan that a command starts."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema, field_validator, model_validator

from pytest_llmperf.plan.fields import EntryError
from pytest_llmperf.plan.server.base import Bearer, LaunchedServer, ReadyCheck, Texts, refuse_secrets
from pytest_llmperf.plan.server.engines.remote import checked_url
from pytest_llmperf.plan.server.words import Word, Words, known_placeholders


def _stop_signal(given: object) -> object:
    """A signal by its whole name; a list is a command."""
    if isinstance(given, list | tuple):
        return given
    name = f"SIG{str(given).upper().removeprefix('SIG')}"
    if not isinstance(given, str) or name not in signal.Signals.__members__:
        raise ValueError(f"{given!r} is neither a signal, such as SIGINT, nor a command as a list of words")
    return name


class CommandServer(LaunchedServer):
    """Any program that serves; its `args` only say what it runs with, for what the plan locks."""

    default_gpus = 0

    engine: Literal["command"]
    command: Words
    """The program and its arguments, word by word: no shell reads them. Where it runs is `cwd`."""
    env: Annotated[dict[str, Word], AfterValidator(refuse_secrets)] = {}
    """Environment variables added to pytest's own; `${NAME}` takes the value from there, and is never shown."""
    cwd: str = "."
    """Folder that it runs in, counted from the plan file."""
    url: Annotated[str, AfterValidator(known_placeholders("model", "port"))] = "http://127.0.0.1:{port}"
    """Base URL under which it answers, with or without `/v1`."""
    ready: ReadyCheck = None
    """The check that a ready server passes, `/health` where not given. False: its first request, repeated until it
    is answered.
    """
    stop: Annotated[
        Words | str,
        BeforeValidator(_stop_signal),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": ["string", "number"]}}]}),
    ] = "SIGTERM"
    """The way to stop it: a signal to all of its processes, or a command. Processes left after 10 s are killed."""
    headers: Texts = {}
    """Sent with every request."""
    bearer: Bearer = None
    """`${NAME}`: the token is read from that environment variable."""

    @property
    def declares_args(self) -> bool:
        return True

    def located(self, folder: Path) -> Self:
        return super().located(folder).model_copy(update={"cwd": str((folder / self.cwd).resolve())})

    @field_validator("url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        checked_url(url.replace("{port}", "1"), ("http", "https"))
        return url.rstrip("/").removesuffix("/v1")

    @model_validator(mode="after")
    def _knows_its_port(self) -> CommandServer:
        given = any("{port}" in text for text in (*self.command, *self.env.values()))
        if "{port}" in self.url and not given:
            raise EntryError("the server is to listen on {port}, which neither `command` nor `env` holds", "command")
        if self.replicas > 1 and "{port}" not in self.url:
            raise EntryError("replicas need ports of their own: write {port} into `url`", "url")
        return self
