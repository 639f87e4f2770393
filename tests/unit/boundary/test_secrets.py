"""A value that is known as a secret is in no text that goes outside, whatever the form."""

import base64
import html
import json
from urllib.parse import quote

import pytest

from pytest_llmperf.boundary.secrets import redacted, redacted_file, remember
from pytest_llmperf.boundary.text import foreign, visible

KEY = 'sk-"7f/ä<&\\é'


@pytest.mark.parametrize(
    "form",
    [
        str,
        json.dumps,
        repr,
        html.escape,
        lambda key: quote(key, safe=""),
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: json.dumps(key, ensure_ascii=False),
    ],
    ids=["plain", "json", "repr", "html", "url", "base64", "json-utf8"],
)
def test_forms(form):
    remember(KEY)
    shown = redacted(f"before {form(KEY)} after")
    assert "7f" not in shown
    assert shown.strip("'\"").startswith("before ")
    assert shown.endswith(" after")


def test_the_space_around_a_value_hides_it_not():
    remember("with-a-line-end-3\n")
    assert redacted("Bearer with-a-line-end-3") == "Bearer ***"


def test_the_longest_is_hidden_first():
    remember("hunter2", "hunter2-and-more")
    assert redacted("hunter2-and-more hunter2") == "*** ***"


def test_short_values_hide_nothing():
    remember("q7!")
    assert redacted("q7!") == "q7!"


@pytest.mark.parametrize("word", ["schema", "48151623"])
def test_a_common_word_does_not_break_a_document(word):
    remember(word)
    assert redacted_file(f'{{"schema": 48151623, "error": "{word}"}}').startswith('{"schema": 48151623')


def test_a_document_holds_no_key():
    remember("k3y-of-a-server")
    assert redacted_file('{"error": "k3y-of-a-server"}') == '{"error": "***"}'


def test_control_characters_are_visible():
    assert visible("\x1b[2Ja\x07\u202eb\tc\n\x00") == "\\x1b[2Ja\\x07\\u202eb\tc\n\\x00"


def test_half_a_surrogate_pair_is_visible():
    assert visible("a\ud800b") == "a\\ud800b"
    assert visible("😀") == "😀"


def test_foreign_text_is_stable():
    once = foreign("\x1b]0;\udfff")
    assert foreign(once) == once
