"""The emission log: when the engine wrote each token, as the engine itself saw it.

What a client measured is compared with these facts. One JSON object per line and finished request, written before the
client can have read the end of the answer.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Emission:
    """One finished request. Times are nanoseconds of CLOCK_REALTIME; every token has one, also within a chunk."""

    request_id: str  # the client's X-Request-Id where it sent one; "-<index>" is added for each of several prompts
    received_ns: int  # the last byte of the request was read
    first_scheduled_ns: int  # the first step that computes it was planned
    token_ns: tuple[int, ...]  # just after the write of the token's chunk; just before that of an answer in one piece
    tokens_per_chunk: tuple[int, ...]
    prompt_tokens: int


def read_emission_log(path: Path | str) -> list[Emission]:
    """The finished requests in the order they finished. A last line that is still being written is left out."""
    text = Path(path).read_text(encoding="utf-8")
    found = (json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n"))
    lists = ("token_ns", "tokens_per_chunk")
    return [Emission(**{**given, **{name: tuple(given[name]) for name in lists}}) for given in found]
