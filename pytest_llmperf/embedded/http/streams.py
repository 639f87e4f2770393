"""Turns tokens into the bytes that a client sees: one Generation per API call, streamed as SSE or answered whole.

Holds the faults that happen within an answer, and notes when each token was written.
"""

import json
import time
from collections.abc import Callable
from typing import Literal

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.engine import Token
from pytest_llmperf.embedded.http.api import ApiError, Call, Json, Piece, Shapes, TokenCounts
from pytest_llmperf.embedded.http.connection import ServerConnection
from pytest_llmperf.embedded.settings import EngineSettings
from pytest_llmperf.embedded.truth import Emission

Fault = Literal["status", "stream error", "hang", "disconnect"]

_FAULT_AFTER_TOKENS = 2


def fault_of(ordinal: int, settings: EngineSettings) -> Fault | None:
    """The fault of the Nth request, counted from 1; None where it has none."""
    every: dict[Fault, int] = {
        "status": settings.fault_status_every,
        "stream error": settings.fault_stream_error_every,
        "hang": settings.fault_hang_every,
        "disconnect": settings.fault_disconnect_every,
    }
    return next((fault for fault, period in every.items() if period and ordinal % period == 0), None)


# Made once: json.dumps() builds an encoder in every call that is not all defaults, half the cost of a token's chunk.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode_json(value: Json) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", "replace")


class _Choice:
    """The output of one prompt so far."""

    __slots__ = (
        "chunk_sizes",
        "detokenizer",
        "finish_reason",
        "first_scheduled_ns",
        "index",
        "pending_text",
        "pending_tokens",
        "prompt_tokens",
        "token_ns",
        "tokens",
    )

    def __init__(self, index: int, prompt_tokens: int) -> None:
        self.index = index
        self.prompt_tokens = prompt_tokens
        self.detokenizer = tokenizer.Detokenizer()
        self.tokens: list[int] = []
        self.pending_tokens: list[int] = []
        self.pending_text = ""
        self.token_ns: list[int] = []
        self.chunk_sizes: list[int] = []
        self.first_scheduled_ns = 0
        self.finish_reason: str | None = None

    @property
    def usage(self) -> TokenCounts:
        return TokenCounts(self.prompt_tokens, len(self.tokens))

    def add(self, token: Token) -> None:
        self.first_scheduled_ns = token.first_scheduled_ns
        self.finish_reason = token.finish_reason
        self.tokens.append(token.token)
        self.pending_tokens.append(token.token)
        self.pending_text += self.detokenizer.add(token.token, last=token.finish_reason is not None)

    def take(self, *, without_text: bool) -> Piece:
        """The tokens since the last chunk; text that is held back comes with the next one."""
        text = "" if without_text and not self.finish_reason else self.pending_text
        self.pending_text = self.pending_text[len(text) :]
        return Piece(self.index, text, tuple(self.pending_tokens), self.finish_reason)

    def written(self, now_ns: int) -> None:
        self.token_ns += [now_ns] * len(self.pending_tokens)
        self.chunk_sizes.append(len(self.pending_tokens))
        self.pending_tokens.clear()


class Generation:
    """One call under way. `ended` turns true when the answer is complete, broken off, or has failed."""

    def __init__(
        self,
        call: Call,
        connection: ServerConnection,
        settings: EngineSettings,
        *,
        request_id: str,
        received_ns: int,
        fault: Fault | None,
        on_emission: Callable[[Emission, str], None],
    ) -> None:
        self.ended = False
        self._call = call
        self._connection = connection
        self._settings = settings
        self._request_id = request_id
        self._received_ns = received_ns
        self._fault = fault
        self._on_emission = on_emission
        self._shapes = Shapes(call, request_id, received_ns // 10**9)
        self._choices = [_Choice(index, len(prompt)) for index, prompt in enumerate(call.prompts)]
        self._role_sent = call.kind != "chat"
        self._chunks = 0
        self._newline = b"\r\n" if settings.crlf else b"\n"

    def begin(self) -> None:
        """Send the head of a stream: the request is accepted, its first token not there yet."""
        if not self._call.stream:
            return
        self._connection.begin_stream("text/event-stream; charset=utf-8")
        if self._settings.role_chunk_first and not self._role_sent:
            self._connection.send_chunks(self._role_event())

    def add(self, index: int, token: Token) -> None:
        choice = self._choices[index]
        choice.add(token)
        if self._call.stream:
            self._stream(choice)
        elif all(choice.finish_reason for choice in self._choices):
            self._answer()
        self._break_off()

    def fail(self, error: ApiError) -> None:
        """End with an error: an event without choices in a stream, which has had its 200, else a status."""
        self.ended = True
        if self._call.stream:
            self._connection.end_stream(self._event(encode_json(error.body)), self._event(b"[DONE]"))
        else:
            self._connection.reply(error.status, encode_json(error.body))

    def _stream(self, choice: _Choice) -> None:
        interval = self._settings.stream_interval if choice.chunk_sizes else 1
        if len(choice.pending_tokens) < interval and not choice.finish_reason:
            return
        events = [] if self._role_sent else [self._role_event()]
        first = not choice.chunk_sizes
        piece = choice.take(without_text=self._textless())
        events.append(self._event(encode_json(self._shapes.chunk(piece, choice.usage, first=first))))
        self._connection.send_chunks(*events)
        choice.written(time.time_ns())
        if choice.finish_reason:
            self._finish_stream(choice)

    def _finish_stream(self, choice: _Choice) -> None:
        if self._fault:
            return
        # Before the last bytes leave: who has read them finds the request in the log.
        self._report(choice)
        if not all(choice.finish_reason for choice in self._choices):
            return
        self.ended = True
        last = [self._event(b"[DONE]")]
        if self._call.include_usage:
            last.insert(0, self._event(encode_json(self._shapes.usage_chunk(self._total()))))
        self._connection.end_stream(*last)

    def _answer(self) -> None:
        if self._fault:
            return
        self.ended = True
        pieces = [
            Piece(item.index, item.pending_text, tuple(item.tokens), item.finish_reason) for item in self._choices
        ]
        body = encode_json(self._shapes.whole(pieces, self._total()))
        for choice in self._choices:
            choice.written(time.time_ns())
            self._report(choice)
        self._connection.reply(200, body)

    def _break_off(self) -> None:
        """The fault of this request, once it has shown two tokens or all it has."""
        tokens = sum(len(choice.tokens) for choice in self._choices)
        complete = all(choice.finish_reason for choice in self._choices)
        if not self._fault or (tokens < _FAULT_AFTER_TOKENS and not complete):
            return
        if self._fault == "stream error":
            self.fail(ApiError(500, "EngineCore encountered an issue (fault-stream-error-every)"))
        elif self._fault == "disconnect":
            self._connection.close()
        self.ended = True

    def _report(self, choice: _Choice) -> None:
        suffix = f"-{choice.index}" if len(self._choices) > 1 else ""
        emission = Emission(
            request_id=self._request_id + suffix,
            received_ns=self._received_ns,
            first_scheduled_ns=choice.first_scheduled_ns,
            token_ns=tuple(choice.token_ns),
            tokens_per_chunk=tuple(choice.chunk_sizes),
            prompt_tokens=choice.prompt_tokens,
        )
        self._on_emission(emission, choice.finish_reason or "abort")

    def _textless(self) -> bool:
        self._chunks += 1
        period = self._settings.empty_text_every
        return bool(period) and self._chunks % period == 0

    def _role_event(self) -> bytes:
        self._role_sent = True
        return self._event(encode_json(self._shapes.role_chunk(TokenCounts(self._choices[0].prompt_tokens, 0))))

    def _event(self, data: bytes) -> bytes:
        return b"data: " + data + self._newline * 2

    def _total(self) -> TokenCounts:
        usages = [choice.usage for choice in self._choices]
        return TokenCounts(
            sum(usage.prompt_tokens for usage in usages), sum(usage.completion_tokens for usage in usages)
        )
