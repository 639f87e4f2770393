"""The OpenAI API as vLLM speaks it: JSON bodies in, validated calls out, and the shapes of every answer.

Pure: no sockets, no engine. A body that is wrong raises ApiError, which knows its HTTP status and its JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.settings import EngineSettings

Kind = Literal["completion", "chat"]
Json = dict[str, Any]

_ERROR_TYPES = {
    400: "BadRequestError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    503: "ServiceUnavailableError",
}


class ApiError(Exception):
    """The client's mistake, or the server's state, as an HTTP answer."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    @property
    def body(self) -> Json:
        kind = _ERROR_TYPES.get(self.status, "InternalServerError")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Call:
    """A request for text. `max_tokens` has one entry per prompt, clamped to the room the prompt leaves."""

    kind: Kind
    model: str
    prompts: tuple[tuple[int, ...], ...]
    max_tokens: tuple[int, ...]
    min_tokens: int
    temperature: float
    seed: int | None
    ignore_eos: bool
    stream: bool
    include_usage: bool
    usage_in_every_chunk: bool
    return_token_ids: bool


def parse_call(kind: Kind, body: bytes, settings: EngineSettings) -> Call:
    """Raises ApiError. Fields that are not known are ignored."""
    given = parse_object(body)
    model = _field(given, "model", str, settings.served_name)
    if model != settings.served_name:
        raise ApiError(404, f"The model `{model}` does not exist.", "model")
    prompts = _prompts(given) if kind == "completion" else (chat_prompt(given),)
    _check_sampling(given)
    stream = _field(given, "stream", bool, False)
    options = _field(given, "stream_options", dict, {})
    if options and not stream:
        raise ApiError(400, "Stream options can only be defined when `stream=True`.", "stream_options")
    return Call(
        kind=kind,
        model=model,
        prompts=prompts,
        max_tokens=_max_tokens(kind, given, prompts, settings.max_model_len),
        min_tokens=_field(given, "min_tokens", int, 0),
        temperature=float(_field(given, "temperature", (int, float), 1.0)),
        seed=_field(given, "seed", int, None),
        ignore_eos=_field(given, "ignore_eos", bool, False),
        stream=stream,
        include_usage=_field(options, "include_usage", bool, False),
        usage_in_every_chunk=_field(options, "continuous_usage_stats", bool, False),
        return_token_ids=_field(given, "return_token_ids", bool, False),
    )


def parse_object(body: bytes) -> Json:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ApiError(400, f"The body is {type(given).__name__}; allowed: a JSON object")
    return given


def chat_prompt(given: Json) -> tuple[int, ...]:
    messages = _field(given, "messages", list, None)
    if not messages:
        raise ApiError(400, "Field required: messages, a list of {role, content}", "messages")
    return tuple(tokenizer.encode_chat([_message(message) for message in messages]))


def text_prompt(given: Json) -> tuple[int, ...]:
    prompt = _field(given, "prompt", str, None)
    if prompt is None:
        raise ApiError(400, "Field required: prompt", "prompt")
    return tuple(tokenizer.encode(prompt))


def token_list(tokens: object) -> tuple[int, ...]:
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise ApiError(400, "A prompt is text or a list of token ids", "prompt")
    for token in tokens:
        if not 0 <= token < tokenizer.VOCAB_SIZE:
            raise ApiError(400, f"Token id {token} is out of vocabulary (0 to {tokenizer.VOCAB_SIZE - 1})", "prompt")
    return tuple(tokens)


def _field(given: Json, name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    """The value of a field; null counts as absent. A boolean is not a number."""
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = [item.__name__ for item in (kind if isinstance(kind, tuple) else (kind,))]
        raise ApiError(400, f"{name} is {json.dumps(value)[:80]}; allowed: {' or '.join(names)}", name)
    return value


def _check_sampling(given: Json) -> None:
    if _field(given, "n", int, 1) != 1:
        raise ApiError(400, f"n is {given['n']}; allowed: 1", "n")
    for name in ("temperature", "min_tokens"):
        if not _field(given, name, (int, float), 0) >= 0:
            raise ApiError(400, f"{name} is {given[name]}; allowed: at least 0", name)


def _message(message: object) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ApiError(400, "A message is an object with role and content", "messages")
    role, content = _field(message, "role", str, ""), message.get("content")
    if isinstance(content, list):
        texts = [part.get("text", "") for part in content if isinstance(part, dict)]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not role or not isinstance(content, str):
        raise ApiError(400, "A message needs a role and a content of text", "messages")
    return role, content


def _prompts(given: Json) -> tuple[tuple[int, ...], ...]:
    prompt = given.get("prompt")
    if prompt is None:
        raise ApiError(400, "Field required: prompt", "prompt")
    several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
    prompts = [
        tuple(tokenizer.encode(item)) if isinstance(item, str) else token_list(item)
        for item in (prompt if several else [prompt])
    ]
    if not all(prompts):
        raise ApiError(400, "The prompt is empty; allowed: at least one token", "prompt")
    return tuple(prompts)


def _max_tokens(kind: Kind, given: Json, prompts: Sequence[tuple[int, ...]], longest: int) -> tuple[int, ...]:
    name = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    wanted = _field(given, name, int, 16 if kind == "completion" else longest)
    if wanted < 1:
        raise ApiError(400, f"{name} is {wanted}; allowed: at least 1", name)
    for prompt in prompts:
        if len(prompt) >= longest:
            raise ApiError(
                400,
                f"This model's maximum context length is {longest} tokens. However, your request has {len(prompt)}"
                " input tokens. Please reduce the length of the input messages.",
                "input_tokens",
            )
    return tuple(min(wanted, longest - len(prompt)) for prompt in prompts)


@dataclass(frozen=True, slots=True)
class TokenCounts:
    prompt_tokens: int
    completion_tokens: int

    @property
    def json(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one choice: what a chunk carries, or a whole answer."""

    index: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: str | None


class Shapes:
    """The answers to one call. Field for field vLLM's: it leaves out unset fields in chat, and sends null elsewhere."""

    def __init__(self, call: Call, request_id: str, created_s: int) -> None:
        self._call = call
        self._chat = call.kind == "chat"
        self._id = f"chatcmpl-{request_id}" if self._chat else f"cmpl-{request_id}"
        self._created_s = created_s

    def role_chunk(self, usage: TokenCounts) -> Json:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        chunk = self._envelope("chat.completion.chunk", [choice])
        chunk["prompt_token_ids"] = list(self._call.prompts[0]) if self._call.return_token_ids else None
        return self._with_usage(chunk, usage)

    def chunk(self, piece: Piece, usage: TokenCounts, *, first: bool) -> Json:
        tokens = list(piece.tokens) if self._call.return_token_ids else None
        if self._chat:
            choice = {"index": piece.index, "delta": {"content": piece.text}, "logprobs": None}
            choice |= {"finish_reason": piece.finish_reason, "token_ids": tokens}
            if piece.finish_reason:
                choice["stop_reason"] = None
            return self._with_usage(self._envelope("chat.completion.chunk", [choice]), usage)
        choice = {"index": piece.index, "text": piece.text, "logprobs": None, "finish_reason": piece.finish_reason}
        prompt = list(self._call.prompts[piece.index]) if self._call.return_token_ids and first else None
        choice |= {"stop_reason": None, "prompt_token_ids": prompt, "token_ids": tokens}
        chunk = self._envelope("text_completion", [choice])
        chunk["usage"] = None
        return self._with_usage(chunk, usage)

    def usage_chunk(self, usage: TokenCounts) -> Json:
        return self._envelope(self._stream_object, []) | {"usage": usage.json}

    def whole(self, pieces: Sequence[Piece], usage: TokenCounts) -> Json:
        name = "chat.completion" if self._chat else "text_completion"
        return self._envelope(name, [self._whole_choice(piece) for piece in pieces]) | {"usage": usage.json}

    @property
    def _stream_object(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _whole_choice(self, piece: Piece) -> Json:
        choice: Json = {"index": piece.index}
        if self._chat:
            choice["message"] = {"role": "assistant", "content": piece.text}
        else:
            choice["text"] = piece.text
        choice |= {"logprobs": None, "finish_reason": piece.finish_reason, "stop_reason": None}
        if self._call.return_token_ids:
            choice["prompt_token_ids"] = list(self._call.prompts[piece.index])
        choice["token_ids"] = list(piece.tokens) if self._call.return_token_ids else None
        return choice

    def _envelope(self, name: str, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": name,
            "created": self._created_s,
            "model": self._call.model,
            "choices": choices,
        }

    def _with_usage(self, chunk: Json, usage: TokenCounts) -> Json:
        if self._call.usage_in_every_chunk and self._call.include_usage:
            chunk["usage"] = usage.json
        return chunk
