"""The quick JSON parser understands exactly what the standard library does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_llmperf.load.endpoints.openai import json_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def _slowly(data: bytes) -> Any:
    event = json.loads(data)
    if not isinstance(event, dict):
        raise ValueError
    return event


@given(st.dictionaries(st.text(), values), st.booleans())
def test_events_read_alike(event: dict[str, Any], ascii_only: bool) -> None:
    data = json.dumps(event, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert repr(json_object(data)) == repr(_slowly(data))


@given(st.dictionaries(st.text(), values, min_size=1), st.data())
def test_damaged_events_are_refused_alike(event: dict[str, Any], data: st.DataObject) -> None:
    damaged = bytearray(json.dumps(event).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.sampled_from(b'{}[]",:\\0-.eEun \x00\xff') | st.integers(0, 255))
    _same(bytes(damaged))


@given(st.binary(max_size=30))
@example(b'{"a": "\\ud800"}')
@example(b'{"a": NaN, "b": -Infinity, "c": 1e400, "d": -0, "a": 2}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a": "\xff"}')
@example(b'{"a": 1,}')
@example(b"[1]")
def test_anything_is_read_or_refused_alike(data: bytes) -> None:
    _same(data)


def _same(data: bytes) -> None:
    try:
        expected = _slowly(data)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - the words are the parsers' own
            json_object(data)
        return
    assert repr(json_object(data)) == repr(expected)
