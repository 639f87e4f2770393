"""URLs of servers: what a base URL may be, where routes lie below it, and what of it is shown."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.plan.server.urls import address, bare, base_url, on_host, redirect_target, request_target, shown

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("url", "chat"),
    [
        ("http://h:8000", "/v1/chat/completions"),
        ("http://h:8000/v1/", "/v1/chat/completions"),
        ("http://h/team/", "/team/v1/chat/completions"),
        ("http://h/team/v1", "/team/v1/chat/completions"),
        ("https://h/inference/v2", "/inference/v2/chat/completions"),
        ("https://h/api/paas/v4", "/api/paas/v4/chat/completions"),
        ("https://h/v1beta/openai/", "/v1beta/openai/chat/completions"),
        ("https://h/v1/projects/p/endpoints/openapi", "/v1/projects/p/endpoints/openapi/chat/completions"),
        ("https://h/openai/deployments/d?api-version=1", "/openai/deployments/d/chat/completions?api-version=1"),
        ("https://h/openai/deployments/d%20e/", "/openai/deployments/d%20e/chat/completions"),
        ("https://h/v1?a=1&b=2", "/v1/chat/completions?a=1&b=2"),
        ("https://h?a=1", "/v1/chat/completions?a=1"),
        ("https://h/chat/completions", "/chat/completions"),
        ("https://h/v1/chat/completions", "/v1/chat/completions"),
        ("https://h/v1/completions?a=1", "/v1/chat/completions?a=1"),
    ],
)
def test_a_base_url_may_be_written_in_many_ways(url: str, chat: str) -> None:
    assert request_target(address(base_url(url), CHAT)) == chat


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("HTTP://LLM.Example.COM:80/V", "http://llm.example.com:80/V"),
        ("http://[2001:DB8::1]:8000/v1", "http://[2001:db8::1]:8000"),
        ("http://bücher.example/ä b".replace(" ", "%20"), "http://xn--bcher-kva.example/%C3%A4%20b"),
        ("http://h?key=${KEY}", "http://h?key=${KEY}"),
        ("http://h:", "http://h"),
    ],
)
def test_a_url_is_stored_in_one_form(url: str, stored: str) -> None:
    assert base_url(url) == stored
    assert base_url(stored) == stored


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h/v1#top", "fragment"),
        ("ftp://h", "is not a base URL"),
        ("http://h:0", "is not a base URL"),
        ("http:///v1", "is not a base URL"),
        ("http://h/a b", "is not a base URL"),
        ("http://[::1", "IPv6"),
        ("http://h:99999", "[Pp]ort"),
        ("http://straße.example", "xn--"),
        ("http://${HOST}/v1", "in its host"),
    ],
)
def test_what_is_no_base_url(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        base_url(url)


SEGMENTS = st.text("abcxyz0189-_.~%41", min_size=1, max_size=8).map(lambda text: text.replace("%", "%41"))
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda parts: "".join(f"/{part}" for part in parts))
QUERIES = st.dictionaries(st.text("abcxyz-", min_size=1, max_size=6), st.text("abc019.-%2F", max_size=6), max_size=3)


@given(PATHS, QUERIES, st.sampled_from(["", "/", "/v1", "/v1/"]), st.sampled_from([CHAT, "/v1/models", "/metrics"]))
def test_path_and_query_of_any_url_are_kept(path: str, query: dict[str, str], end: str, route: str) -> None:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    stored = base_url(f"http://h:8000{path}{end}" + (f"?{asked}" if asked else ""))
    assert base_url(stored) == stored
    found = urlsplit(address(stored, route))
    assert (found.netloc, found.query) == ("h:8000", asked)
    assert found.path.startswith(path.removesuffix("/v1"))
    assert found.path.endswith(route.removeprefix("/v1"))
    assert found.path.count("/v1/v1") == path.count("/v1/v1")


def test_a_path_of_the_host_takes_the_place_of_the_urls() -> None:
    assert on_host("http://h/team?k=1", "/other/chat?a=2") == "http://h/other/chat?a=2&k=1"


def test_secrets_of_a_url_are_not_shown() -> None:
    assert shown("http://h/v1?api-version=1&api-key=s3cret&x=2") == "http://h/v1?api-version=1&api-key=***&x=2"
    assert shown("http://h?key=${KEY}") == "http://h?key=${KEY}"
    assert shown("http://me:s3cret@h/v1") == "http://***@h/v1"
    assert bare("http://me:s3cret@h/v1?x=s3cret") == "http://***@h/v1?…"


def test_where_a_redirect_leads_is_bounded_and_escaped() -> None:
    assert redirect_target("https://me:s3cret@h/in\x1b[2J?token=s3cret#s3cret") == r"'https://***@h/in\x1b[2J?…'"
    assert len(redirect_target("https://h/" + "a" * 5000)) < 210
