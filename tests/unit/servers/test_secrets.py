"""References are filled in at the last moment, and their values are known as secrets from then on."""

import pytest

from pytest_llmperf.boundary.secrets import redacted
from pytest_llmperf.errors import PlanError
from pytest_llmperf.servers.secrets import expand, expand_url


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
    with pytest.raises(PlanError, match="needs the environment variable NOWHERE, which is not set"):
        expand("${NOWHERE}", {})


def test_a_value_that_was_filled_in_is_hidden():
    assert expand("Bearer ${KEY}", {"KEY": "filled-in-1"}) == "Bearer filled-in-1"
    assert redacted("401 for filled-in-1") == "401 for ***"


def test_a_value_in_a_url_is_hidden_in_both_forms(monkeypatch):
    monkeypatch.setenv("KEY", "filled/in 2")
    assert expand_url("http://h?key=${KEY}") == "http://h?key=filled%2Fin%202"
    assert redacted("filled/in 2, filled%2Fin%202, filled%2Fin+2") == "***, ***, ***"


def test_a_path_of_this_machine_is_no_secret(tmp_path):
    expand("${HOME}/x", {"HOME": str(tmp_path)})
    assert redacted(f"{tmp_path}/x") == f"{tmp_path}/x"
