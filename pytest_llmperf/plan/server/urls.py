"""URLs of servers: what a base URL may be, where a route lies below it, and what of a URL may be shown. Pure.

A base URL is written as OpenAI's clients take it (`https://api.z.ai/api/paas/v4`), or without the `/v1` that most
servers have (`http://localhost:8000`), or it is the endpoint itself (`https://api.perplexity.ai/chat/completions`).
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, urlsplit

_VERSIONED = re.compile(r"/v\d+\w*(?=/|$)|/deployments/[^/]+$")
"""Endings of a base URL that holds all before `/chat/completions`: v4, v1beta, Azure's deployments in its path."""
_ENDPOINT = re.compile(r"/(chat/completions|completions|responses)$")
_SECRET = re.compile(r"(?i)key|token|secret|passw|sig|auth|cred|code")
"""Names of parameters whose values are not for everybody's eyes."""
_REFERENCE = re.compile(r"\$\{\w+\}")
_SHOWN_CHARACTERS = 200


def base_url(url: str, schemes: tuple[str, ...] = ("http", "https")) -> str:
    """The URL as it is stored: scheme and host in small letters, ASCII only, no `/` or `/v1` at its path's end.

    Raises ValueError where requests cannot be sent there.
    """
    if "#" in url:
        raise ValueError(f"{shown(url)!r} has a fragment (#…), which no request can carry")
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname or parts.port == 0 or re.search(r"[\s\\]", url):
        raise ValueError(f"{shown(url)!r} is not a base URL, such as 'http://10.0.0.5:8000'")
    if _REFERENCE.search(parts.netloc):
        raise ValueError(
            f"{shown(url)!r} has a ${{NAME}} in its host; they are filled in after it, as in ?key=${{KEY}}"
        )
    host = _ascii_host(parts.hostname)
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    path = _quoted(parts.path).rstrip("/").removesuffix("/v1")
    return parts._replace(netloc=netloc, path=path, query=_quoted(parts.query)).geturl()


def _ascii_host(host: str) -> str:
    if ":" in host:
        return f"[{host}]"
    if host.isascii():
        return host
    try:
        encoded = host.encode("idna").decode("ascii")
        is_the_same = encoded.encode("ascii").decode("idna") == host
    except UnicodeError as error:
        raise ValueError(f"{host!r} is not the name of a host: {error}") from error
    # Python knows the rules of 2003 only, by which "ß" is "ss": the name of somebody else.
    if not is_the_same:
        raise ValueError(f"write the host {host!r} in its ASCII form, which begins with xn--")
    return encoded


def _quoted(text: str) -> str:
    """Characters that no URL may hold, percent-encoded; what is encoded already, and `${NAME}`, stay as they are."""
    return quote(text, safe="/?%:@!$&'()*+,;=~-._{}[]")


def address(url: str, route: str) -> str:
    """The URL of `route` (such as `/v1/models`) on the server at `url`, whose query goes with it.

    The route's `/v1` is left out where the path of `url` has a version of its own, or ends with an endpoint.
    """
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    prefix = _ENDPOINT.sub("", path)
    is_whole = prefix != path
    if prefix.endswith("/v1"):
        prefix = prefix.removesuffix("/v1")
    elif route.startswith("/v1/") and (is_whole or _VERSIONED.search(prefix)):
        route = route.removeprefix("/v1")
    return _at(parts, prefix + route)


def on_host(url: str, path: str) -> str:
    """The URL of `path`, which may have a query, on the host of `url`, whose query goes with it."""
    return _at(urlsplit(url), path)


def _at(parts: SplitResult, path: str) -> str:
    path, _, query = path.partition("?")
    return parts._replace(path=path, query="&".join(filter(None, (query, parts.query)))).geturl()


def request_target(url: str) -> str:
    """Path and query of `url`, as they stand in the first line of a request."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def shown(url: str) -> str:
    """The URL for people: `***` for credentials and for the values of parameters that may be secret."""
    bare, question, query = _without_credentials(url).partition("?")
    return bare + question + "&".join(map(_shown_parameter, query.split("&")))


def _shown_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    hidden = value and _SECRET.search(name) and not _REFERENCE.fullmatch(value)
    return f"{name}{equals}***" if hidden else parameter


def bare(url: str) -> str:
    """The URL without credentials and query, for where these may hold secrets that were filled in."""
    found, *query = re.split(r"[?#]", _without_credentials(url), maxsplit=1)
    return f"{found}?…" if query else found


def redirect_target(location: str) -> str:
    """The address of a redirect, as Python text of at most 200 characters, without credentials and query."""
    found = bare(location)
    return repr(found if len(found) <= _SHOWN_CHARACTERS else f"{found[:_SHOWN_CHARACTERS]}…")


def _without_credentials(url: str) -> str:
    return re.sub(r"//[^/?#]*@", "//***@", url)
