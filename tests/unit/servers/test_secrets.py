"""References are filled in at the last moment and hidden everywhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import MissingRequirement
from pytest_llmperf.servers.secrets import expand, redact, secret_values


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("Bearer ${KEY}", "Bearer k3y"),
        ("${USER}:${KEY}", "me:k3y"),
        ("no reference", "no reference"),
        ("$KEY {KEY} $${KEY}", "$KEY {KEY} $k3y"),
        ("${EMPTY}", ""),
    ],
)
def test_references_are_filled_in(text, expanded):
    assert expand(text, {"KEY": "k3y", "USER": "me", "EMPTY": ""}) == expanded


def test_a_value_is_not_expanded_again():
    assert expand("${A}", {"A": "${B}", "B": "no"}) == "${B}"


def test_a_variable_that_is_not_set():
    with pytest.raises(MissingRequirement, match="needs the environment variable NOWHERE, which is not set"):
        expand("${NOWHERE}", {})


def test_values_to_hide(monkeypatch):
    monkeypatch.setenv("LONG", "hunter2-and-more")
    monkeypatch.setenv("KEY", "hunter2")
    monkeypatch.setenv("SHORT", "abc")
    monkeypatch.delenv("UNSET", raising=False)
    assert secret_values(["Bearer ${KEY}", "${SHORT} ${UNSET}", "${LONG}${KEY}"]) == ("hunter2-and-more", "hunter2")


def test_the_longest_is_hidden_first():
    assert redact("hunter2-and-more hunter2", ("hunter2-and-more", "hunter2")) == "*** ***"


@given(st.text(), st.lists(st.text("abcdefgh", min_size=4), max_size=3))
def test_nothing_hidden_is_left(text, secrets):
    ordered = sorted(secrets, key=len, reverse=True)
    assert not any(secret in redact(" ".join([text, *secrets, text]), ordered) for secret in secrets)
