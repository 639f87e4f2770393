"""Reasons why a response is no answer: its status, the server's words, where a redirect leads. Pure."""

from __future__ import annotations

import re

from pytest_llmperf.load.endpoints.openai import body_text
from pytest_llmperf.plan.server.urls import redirect_target

_REDIRECTS = (301, 302, 303, 307, 308)
_STREAM = "text/event-stream"
_EVENT = re.compile(rb"(\xef\xbb\xbf)?(data|event|id|retry)?:")


def refused(status: int, body: bytes, location: str = "", error: str | None = None) -> str:
    """`HTTP 503: busy` in the server's words; a redirect, which is not followed, with its target.

    `location` is the header of that name; `error` stands in for a body that could not be read.
    """
    if status in _REDIRECTS:
        target = (
            f"to {redirect_target(location)}, which is not followed: write it as the URL" if location else "to nowhere"
        )
        return f"HTTP {status}: a redirect {target}"
    words = body_text(body) if body.strip() else error
    return f"HTTP {status}: {words}" if words else f"HTTP {status} without a body"


def is_event_stream(content_type: str, body: bytes) -> bool:
    """True for a stream of server-sent events: by its type, without one by how its body begins."""
    kind = re.split("[;,]", content_type)[0].strip().lower()
    return kind == _STREAM or (not kind and _EVENT.match(body) is not None)


def not_streamed(content_type: str, body: bytes) -> str:
    """The reason why a response that is_event_stream refuses is no measurement, in the server's words."""
    words = body_text(body)
    # An answer's JSON, which is shown as it came, and no error's, whose message is shown.
    unasked = "the server did not stream: " if words.startswith("{") else ""
    return f"no event stream but {content_type or 'no type'}: {unasked}{words}"
