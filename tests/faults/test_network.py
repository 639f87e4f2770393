"""Faults of the network and of answers"""

import socket

import pytest
from arrangements import at_start, on_url
from fault import Fault, check, rows

_NOT_READY = "was not ready within 2 s (ready_timeout)"
_ODD = {"after": 3, "every": 3}


def _midway(key, what, answer, *says, keeps=10, **options):
    """Every third request of the load meets it."""
    return Fault(
        f"load-{key}", what, on_url(answer, **_ODD, **options), says=("3 of 10 requests failed", *says), keeps=keeps
    )


def _models(key, what, answer, *says):
    """`/v1/models` meets it, which is asked first."""
    return Fault(f"start-{key}", f"`/v1/models`: {what}", at_start(answer, "/v1/models"), says=says)


def _first(key, what, answer, *says):
    return Fault(f"first-{key}", f"the first request: {what}", at_start(answer, "first"), says=says)


def _passes(key, what, answer, where):
    """What is asked beside the load costs nothing but time."""
    return Fault(
        key, what, on_url(answer, where=where, entry={"server_metrics": True}), says=("1 passed",), keeps=10, exit=0
    )


def _listening(serve):
    """A port that accepts connections and has no server behind it."""

    def run(sandbox):
        listener = sandbox.enter_context(socket.create_server(("127.0.0.1", 0), backlog=50))
        sandbox.url_plan(f"{serve}://127.0.0.1:{listener.getsockname()[1]}")
        return sandbox.pytest()

    return run


def _nowhere(url):
    def run(sandbox):
        sandbox.url_plan(url)
        return sandbox.pytest()

    return run


FAULTS = (
    _midway(
        "closed-midway",
        "the connection is closed in the middle of an answer",
        "close_midway",
        "connection closed by the server in the middle of the response",
    ),
    _midway("reset-midway", "the connection is reset in the middle of an answer", "reset_midway", "connection reset"),
    _midway("silence", "no byte of an answer comes", "silence", "no response within 1 s (no_data_timeout)"),
    _midway(
        "silence-midway",
        "an answer stops after its first token",
        "silence_midway",
        "no further data within 1 s (no_data_timeout)",
    ),
    _midway("drip-head", "the head of an answer comes byte by byte", "drip_head", "within 2 s (read_timeout)"),
    _midway("drip-body", "the body of an answer comes byte by byte", "drip_body", "within 2 s (read_timeout)"),
    _midway("interim", "`100 Continue` without end", "endless_interim", "within 2 s (read_timeout)"),
    _midway(
        "endless-events",
        "a fast stream of events without end",
        "endless_events",
        "MiB (max_response_mib)",
        load={"read_timeout": "20 s", "max_response_mib": 2},
    ),
    _midway(
        "endless-garbage",
        "a fast stream of garbage without end",
        "endless_garbage",
        "MiB (max_response_mib)",
        load={"read_timeout": "20 s", "max_response_mib": 2},
    ),
    _midway("garbage", "bytes that are no HTTP", "garbage", "malformed HTTP response"),
    _midway("http-500", "HTTP 500", "error_500", "HTTP 500: boom"),
    _midway("http-429", "HTTP 429", "error_429", "HTTP 429: slow down"),
    _midway("redirect", "a redirect", "redirect", "HTTP 307", "https://elsewhere.example/v1"),
    _midway("html", "a page of HTML in the place of a stream", "html", "502 Bad Gateway"),
    _midway("html-as-events", "a page of HTML that says it is a stream", "html_as_events", "502 Bad Gateway"),
    _midway("short", "fewer bytes than Content-Length says", "short", "closed by the server in the middle"),
    _midway("bad-chunk", "the size of a chunk is no number", "bad_chunk", "malformed HTTP response: not a chunk size"),
    _midway("bad-length", "a Content-Length below 0", "bad_length", "malformed HTTP response: not a content-length"),
    _midway(
        "two-lengths", "two values of Content-Length", "two_lengths", "malformed HTTP response: not a content-length"
    ),
    _midway("long-head", "20,000 header fields", "long_head", "the head of the response is longer than 65536 bytes"),
    _midway("no-stream", "a whole answer in the place of a stream", "no_stream", "the server did not stream"),
    _midway("no-end", "a stream ends without a reason, usage or [DONE]", "no_end", "3 x "),
    _midway("choices-text", "an event's choices are a text", "choices_text", "event not understood"),
    _midway("bad-utf-8", "an event is no UTF-8", "bad_utf8", "event not understood ('utf-8' codec"),
    _midway("empty", "an answer without a body", "empty", "3 x "),
    _midway("deep-event", "an event of 200,000 brackets", "deep_event", "3 x "),
    _midway("deep-error", "HTTP 500 with 200,000 brackets", "deep_error", "HTTP 500"),
    _models("drip-head", "the head comes byte by byte", "drip_head", _NOT_READY, "GET /v1/models"),
    _models("drip-body", "the body comes byte by byte", "drip_body", _NOT_READY, "GET /v1/models"),
    _models("interim", "`100 Continue` without end", "endless_interim", _NOT_READY, "GET /v1/models"),
    _models("silence", "no answer", "silence", _NOT_READY, "GET /v1/models"),
    _models("reset", "the connection is reset", "reset_before", _NOT_READY, "GET /v1/models"),
    _models("garbage", "bytes that are no HTTP", "garbage", _NOT_READY, "GET /v1/models"),
    _models("bad-gzip", "gzip that is none", "bad_gzip", _NOT_READY, "gzip"),
    _first("silence", "no answer", "silence", "its first request failed", "no end of the answer within"),
    _first("drip-head", "the head comes byte by byte", "drip_head", "its first request failed", "no end of the answer"),
    _first("interim", "`100 Continue` without end", "endless_interim", "its first request failed", "no end of the"),
    _first("http-500", "HTTP 500", "error_500", "its first request failed: HTTP 500: boom"),
    _first("bad-gzip", "gzip that is none", "bad_gzip", "its first request failed", "gzip"),
    _first("deep", "JSON of 200,000 brackets", "deep", "its first request failed"),
    _first("html", "a page of HTML", "html", "its first request failed", "502 Bad Gateway"),
    _first("redirect", "a redirect", "redirect", "HTTP 307", "https://elsewhere.example/v1"),
    Fault(
        "mute-http", "the port accepts connections and is silent", _listening("http"), says=(_NOT_READY, "ReadTimeout")
    ),
    Fault("mute-https", "the same, asked by TLS", _listening("https"), says=(_NOT_READY, "ReadTimeout")),
    Fault(
        "refused", "nothing listens at the URL", _nowhere("http://127.0.0.1:1"), says=(_NOT_READY, "Connection refused")
    ),
    Fault("unknown-host", "the URL's host has no address", _nowhere("http://no-such-host.invalid"), says=(_NOT_READY,)),
    _passes("metrics-silent", "`/metrics` does not answer", "silence", "/metrics"),
    _passes("metrics-drip", "`/metrics` comes byte by byte", "drip_body", "/metrics"),
    _passes("metrics-garbage", "`/metrics` is garbage", "garbage", "/metrics"),
    _passes("metrics-bomb", "`/metrics` is 64 MiB in a few kB of gzip", "gzip_bomb", "/metrics"),
    _passes("version-drip", "`/version` comes byte by byte", "drip_head", "/version"),
    _passes("version-deep", "`/version` is JSON of 200,000 brackets", "deep", "/version"),
    _passes("version-silent", "`/version` does not answer", "silence", "/version"),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
