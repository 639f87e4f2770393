"""`python -m pytest_llmperf.embedded`: read the arguments, bind, build the model, serve.

Exit codes as vLLM's: 2 for a command line that cannot be read, 1 for anything else that goes wrong, 0 after SIGTERM.
"""

import asyncio
import contextlib
import logging
import os
import resource
import socket
import sys
from dataclasses import fields

from pytest_llmperf.embedded.engine.engine import make_step
from pytest_llmperf.embedded.http.server import serve
from pytest_llmperf.embedded.settings import EngineSettings, Listen, SettingsError, parse_arguments

logger = logging.getLogger("pytest_llmperf.embedded")


class StartError(Exception):
    """The server cannot start; the message is all a reader needs."""


def main(argv: list[str]) -> int:
    _configure_log()
    try:
        listen, settings = parse_arguments(argv)
        _log_settings(settings)
        _raise_file_limit()
        with _bind(listen) as listening:
            _run(listening, settings)
    except (SettingsError, StartError) as error:
        logger.error("%s", error)
        return 1
    except Exception:  # the process's boundary
        logger.exception("The server died")
        return 1
    return 0


def _run(listening: socket.socket, settings: EngineSettings) -> None:
    try:
        if settings.fault_start:
            raise RuntimeError("fault-start: simulated failure of the engine's start")
        step = make_step(settings)
    except Exception as error:  # as vLLM: the cause first, then a last line that hides it
        logger.exception("EngineCore failed to start.")
        raise RuntimeError("Engine core initialization failed. See root cause above.") from error
    asyncio.run(serve(listening, settings, step))


def _bind(listen: Listen) -> socket.socket:
    """Bound but not listening: a taken port is known at once, and nobody connects before the model is there."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise StartError(f"--host is {listen.host!r}, which does not resolve: {error}") from error
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise StartError(f"Cannot listen on {listen.host} port {listen.port}: {error.strerror}") from error
    return listening


def _raise_file_limit() -> None:
    """Allows as many connections as the machine does, since each is an open file; as vLLM does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses an unlimited one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_settings(settings: EngineSettings) -> None:
    given = {item.name: getattr(settings, item.name) for item in fields(settings)}
    changed = {item.name: given[item.name] for item in fields(settings) if given[item.name] != item.default}
    logger.info("non-default args: %s", changed)
    logger.info(
        "Initializing the embedded engine: %s steps, %d KV blocks of %d tokens, at most %d requests at once",
        *(settings.step, settings.kv_blocks, settings.block_size, settings.max_num_seqs),
    )


def _configure_log() -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(levelname)s %(asctime)s [%(filename)s:%(lineno)d] %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )


if __name__ == "__main__":
    code = main(sys.argv[1:])
    logging.shutdown()
    sys.stderr.flush()
    # Not sys.exit: an engine thread inside a long step would be joined by nobody and might touch a dying interpreter.
    os._exit(code)
