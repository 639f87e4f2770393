"""The HTTP face of the engine: routes, admission of requests, metrics, start and stop.

Everything here runs in the event loop. A route is a plain function of the connection and the request; text is written
as the engine thread's steps come in.
"""

import asyncio
import gc
import itertools
import json
import logging
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial

from pytest_llmperf import __version__
from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.engine import Engine, Step, StepResult
from pytest_llmperf.embedded.engine.scheduler import Request
from pytest_llmperf.embedded.http import api
from pytest_llmperf.embedded.http.api import ApiError, Call, Json
from pytest_llmperf.embedded.http.connection import HttpRequest, ServerConnection
from pytest_llmperf.embedded.http.metrics import Metrics
from pytest_llmperf.embedded.http.streams import Generation, encode_json, fault_of
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.embedded.truth import Emission

logger = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 0.3
_Handler = Callable[[ServerConnection, HttpRequest], None]


class Server:
    """`failed` is set to the error when the process is to die, and cancelled when it is to stop."""

    def __init__(self, settings: EngineSettings, step: Step, emit: Callable[[Emission], None]) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.engine = Engine(settings, step, on_step=self._on_step, on_death=self._on_death)
        self._settings = settings
        self._emit = emit
        self._metrics = Metrics(settings.served_name)
        self._started_s = int(time.time())
        self._connections: set[ServerConnection] = set()
        self._active: dict[int, tuple[Generation, int]] = {}  # the engine's request id -> generation, choice
        self._ids = itertools.count()
        self._num_calls = 0
        self._num_ended = 0
        self._routes: dict[str, dict[str, _Handler]] = {
            "/health": {"GET": self._health},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._show_metrics},
            "/v1/models": {"GET": self._models},
            "/v1/completions": {"POST": partial(self._generate, "completion")},
            "/v1/chat/completions": {"POST": partial(self._generate, "chat")},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/embedded/run": {"POST": self._begin_run},
        }

    def connect(self) -> ServerConnection:
        connection = ServerConnection(self._dispatch, split_writes=self._settings.split_writes)
        connection.on_closed = partial(self._connections.discard, connection)
        self._connections.add(connection)
        return connection

    def close(self) -> None:
        """Drop every connection and end the engine's thread, or leave it behind in a long step."""
        for connection in list(self._connections):
            connection.abort()
        if not self.engine.stop(_STOP_TIMEOUT_S):
            logger.warning("The engine is still in a step; not waiting for it")

    # Routes

    def _dispatch(self, connection: ServerConnection, request: HttpRequest) -> None:
        try:
            methods = self._routes.get(request.path)
            if methods is None:
                raise ApiError(404, "Not Found")
            handler = methods.get(request.method)
            if handler is None:
                raise ApiError(405, f"Method Not Allowed; allowed: {', '.join(methods)}")
            handler(connection, request)
        except ApiError as error:
            connection.reply(error.status, encode_json(error.body))

    def _health(self, connection: ServerConnection, request: HttpRequest) -> None:
        connection.reply(200 if self.engine.alive else 503, b"", "text/plain")

    def _version(self, connection: ServerConnection, request: HttpRequest) -> None:
        _reply_json(connection, {"version": __version__, "step": self._settings.step})

    def _show_metrics(self, connection: ServerConnection, request: HttpRequest) -> None:
        connection.reply(200, self._metrics.render().encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _models(self, connection: ServerConnection, request: HttpRequest) -> None:
        model = {
            "id": self._settings.served_name,
            "object": "model",
            "created": self._started_s,
            "owned_by": "vllm",
            "root": self._settings.model,
            "parent": None,
            "max_model_len": self._settings.max_model_len,
        }
        _reply_json(connection, {"object": "list", "data": [model]})

    def _tokenize(self, connection: ServerConnection, request: HttpRequest) -> None:
        given = api.parse_object(request.body)
        tokens = api.chat_prompt(given) if "messages" in given else api.text_prompt(given)
        longest = self._settings.max_model_len
        _reply_json(connection, {"count": len(tokens), "max_model_len": longest, "tokens": list(tokens)})

    def _detokenize(self, connection: ServerConnection, request: HttpRequest) -> None:
        tokens = api.token_list(api.parse_object(request.body).get("tokens"))
        _reply_json(connection, {"prompt": tokenizer.decode(tokens)})

    def _reset_prefix_cache(self, connection: ServerConnection, request: HttpRequest) -> None:
        self.engine.reset_prefix_cache()
        connection.reply(200, b"", "text/plain")

    def _begin_run(self, connection: ServerConnection, request: HttpRequest) -> None:
        run = api.parse_object(request.body).get("run")
        if type(run) is not int:
            raise ApiError(400, "Field required: run, an integer", "run")
        self.engine.begin_run(run)
        _reply_json(connection, {"run": run})

    def _generate(self, kind: api.Kind, connection: ServerConnection, request: HttpRequest) -> None:
        call = api.parse_call(kind, request.body, self._settings)
        if not self.engine.alive:
            raise ApiError(503, "The engine is dead")
        self._num_calls += 1
        fault = fault_of(self._num_calls, self._settings)
        if fault == "status":
            raise ApiError(503, "The server is overloaded (fault-status-every)")
        generation = Generation(
            call,
            connection,
            self._settings,
            request_id=request.headers.get("x-request-id") or uuid.uuid4().hex,
            received_ns=request.received_ns,
            fault=fault,
            on_emission=self._on_emission,
        )
        self._submit(call, generation, connection)
        generation.begin()

    def _submit(self, call: Call, generation: Generation, connection: ServerConnection) -> None:
        connection.on_lost = partial(self._abort, generation)
        for index, (prompt, max_tokens) in enumerate(zip(call.prompts, call.max_tokens, strict=True)):
            request_id = next(self._ids)
            self._active[request_id] = (generation, index)
            self.engine.submit(
                Request(
                    id=request_id,
                    prompt=prompt,
                    max_tokens=max_tokens,
                    min_tokens=call.min_tokens,
                    ignore_eos=call.ignore_eos,
                    temperature=call.temperature,
                    seed=call.seed,
                )
            )
        if 0 < self._settings.fault_engine_die_after < self._num_calls:
            self.engine.crash("fault-engine-die-after: simulated failure of a step")

    # What the engine and the clients do meanwhile

    def _on_step(self, result: StepResult) -> None:
        self._metrics.scheduler = result.stats
        self._metrics.generation_tokens += len(result.tokens)
        for token in result.tokens:
            generation, index = self._active.get(token.request_id, (None, 0))
            if generation is None:  # aborted while the step ran
                continue
            generation.add(index, token)
            if token.finish_reason:
                del self._active[token.request_id]
            if generation.ended:
                self._forget(generation)
                self._count_ended()

    def _on_emission(self, emission: Emission, finish_reason: str) -> None:
        self._metrics.observe(emission, finish_reason)
        self._emit(emission)

    def _on_death(self, error: BaseException) -> None:
        dead = ApiError(500, f"EngineCore encountered an issue: {error}. See the log for the root cause.")
        for generation in {id(item): item for item, _ in self._active.values()}.values():
            self._metrics.finished["error"] += 1
            generation.fail(dead)
        self._active.clear()

    def _abort(self, generation: Generation) -> None:
        self._metrics.finished["abort"] += 1
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        """Take what is left of a generation out of the engine."""
        for request_id in [key for key, (item, _) in self._active.items() if item is generation]:
            del self._active[request_id]
            self.engine.abort(request_id)

    def _count_ended(self) -> None:
        self._num_ended += 1
        limit = self._settings.fault_die_after
        if limit and self._num_ended >= limit and not self.failed.done():
            self.failed.set_exception(RuntimeError(f"fault-die-after: simulated failure after {limit} requests"))


def _reply_json(connection: ServerConnection, value: Json) -> None:
    connection.reply(200, encode_json(value))


async def serve(listening: socket.socket, settings: EngineSettings, step: Step) -> None:
    """Serve on a bound socket until SIGTERM or SIGINT; raises what the process is to die of."""
    loop = asyncio.get_running_loop()
    with ExitStack() as resources:
        server = Server(settings, step, resources.enter_context(_emission_log(settings.emission_log)))
        resources.callback(server.close)
        server.engine.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.failed.cancel)
        # Start-up objects never become garbage; without them a collection takes well under a millisecond.
        gc.collect()
        gc.freeze()
        # The engine thread may hold the interpreter for this long while tokens wait to be written; the default is 5 ms.
        sys.setswitchinterval(0.0005)
        host, port = listening.getsockname()[:2]
        listener = await loop.create_server(server.connect, sock=listening, backlog=2048)
        resources.callback(listener.close)
        logger.info("Started server process on http://%s:%d", host, port)
        logger.info("Application startup complete.")
        try:
            await server.failed
        except asyncio.CancelledError:
            logger.info("Shutting down")


@contextmanager
def _emission_log(path: str | None) -> Iterator[Callable[[Emission], None]]:
    if path is None:
        yield lambda emission: None
        return
    # Line buffered: a request is in the file as soon as it is finished.
    with open(path, "w", encoding="utf-8", buffering=1) as log:
        yield lambda emission: print(json.dumps(asdict(emission)), file=log)
