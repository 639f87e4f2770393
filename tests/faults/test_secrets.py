"""Secrets in the wrong place"""

import pytest
from arrangements import on_url
from fault import Fault, check, rows

KEY = "canary-/sk+3f9a7c21d8"
_ENV = {"LLM_KEY": KEY}
_REPORTS = ("--junitxml=junit.xml", "--llmperf-export=csv,aiperf,vllm,genai-perf", "--llmperf-html=report.html", "-l")
_BEARER = {"bearer": "${LLM_KEY}"}
_BASIC = {"basic": "${ME}:${LLM_KEY}"}
_HEADER = {"headers": {"X-Secret": "${LLM_KEY}"}}


def _echoing(answer, entry, *words, **options):
    def run(sandbox):
        sandbox.url_plan(sandbox.serve(answer, **options).url, entry=entry)
        return sandbox.pytest(*(words or _REPORTS), env={**_ENV, "ME": "me"})

    return run


def _printing(sandbox):
    """The server's log has its environment; meanwhile the list of processes is looked at."""
    entry = {"env": {"HF_TOKEN": "${LLM_KEY}"}, "bearer": "${LLM_KEY}"}
    sandbox.own_plan("--life", "print_environment:HF_TOKEN", entry=entry)
    session = sandbox.pytest(*_REPORTS, env=_ENV)
    session.until_log("INFO arguments:")
    sandbox.write("ps.txt", "\n".join(session.processes().values()))
    return session


def _refused(**entry):
    def run(sandbox):
        sandbox.url_plan(entry.pop("url", "http://127.0.0.1:9"), entry=entry)
        return sandbox.pytest()

    return run


def _profile(*words):
    def run(sandbox):
        load = ("--requests", "2", "--concurrency", "1", "--input-tokens", "5")
        return sandbox.llmperf("profile", "--model", "m", *load, *words)

    return run


_LOOKS = "sk-canary-3f9a7c21d8e5b604"
_AT_ONCE = {"exit": 4, "has_report": False, "hides": KEY}
_USAGE = {"exit": 2, "has_report": False, "hides": KEY}
FAULTS = (
    Fault(
        "bearer-echoed",
        "a server repeats the bearer token in its refusal under load, with every report and local variables shown",
        _echoing("echo", _BEARER, after=2),
        says=("HTTP 401: not known: Bearer ***",),
        keeps=10,
        hides=KEY,
    ),
    Fault(
        "basic-echoed",
        "a server repeats name and password, in base64, in an event of its stream",
        _echoing("echo_event", _BASIC, after=2, every=2),
        says=("upstream said 401 to Basic ***",),
        keeps=10,
        hides=KEY,
    ),
    Fault(
        "header-echoed",
        "a server repeats a header with a secret in an event of its stream",
        _echoing("echo_event", _HEADER, after=2, every=2),
        says=("upstream said 401 to ***",),
        keeps=10,
        hides=KEY,
    ),
    Fault(
        "echoed-at-start",
        "a server repeats the token in its answer to the first request",
        _echoing("echo", _BEARER, where="first"),
        says=("the credentials are missing or wrong", "Bearer ***"),
        hides=KEY,
    ),
    Fault(
        "server-prints-its-environment",
        "a server prints its arguments and its environment, and processes are listed meanwhile",
        _printing,
        says=("1 passed",),
        keeps=10,
        exit=0,
        hides=KEY,
    ),
    Fault(
        "key-with-a-line-end",
        "a token ends in a line break, as read from a file, and pytest shows local variables",
        lambda sandbox: _key_with_line_end(sandbox),
        says=("'Authorization'", "characters that a header cannot carry"),
        hides=KEY,
    ),
    Fault(
        "url-with-a-key",
        "a plan's URL has a key in its query",
        _refused(url=f"http://127.0.0.1:9/v1?key={KEY}"),
        says=("plan.yaml:1: servers.s.url: key holds a secret in plain text", "${NAME}"),
        **_AT_ONCE,
    ),
    Fault(
        "url-with-a-password",
        "a plan's URL has a password before its host",
        _refused(url=f"http://me:{KEY.replace('/', '')}@127.0.0.1:9"),
        says=("the URL holds credentials in plain text", "basic:"),
        **_AT_ONCE | {"hides": KEY.replace("/", "")},
    ),
    Fault(
        "token-of-the-metrics",
        "a plan's URL of metrics has a token in its query",
        _refused(server_metrics=f"http://127.0.0.1:9/metrics?token={KEY}"),
        says=("servers.s.server_metrics: token holds a secret in plain text",),
        **_AT_ONCE,
    ),
    Fault(
        "bearer-in-a-list",
        "a plan's token is written as a list",
        _refused(bearer=[KEY]),
        says=("servers.s.bearer: a text is needed",),
        **_AT_ONCE,
    ),
    Fault(
        "key-in-the-body",
        "a load's extra_body has a key",
        on_url("good", load={"extra_body": {"api_key": KEY}}),
        says=("loads.a", "api_key holds a secret", "`headers` or `bearer`"),
        **_AT_ONCE,
    ),
    Fault(
        "key-by-its-looks",
        "a plan's command has a key behind a flag that nobody knows, in a shell's line",
        lambda sandbox: _shell_line(sandbox),
        says=("servers.s.command: -c holds a secret in plain text", "${NAME}"),
        **_AT_ONCE | {"hides": _LOOKS},
    ),
    Fault(
        "filled-into-a-command",
        "an option of Triton is to be filled in with a token",
        lambda sandbox: _triton_option(sandbox),
        says=("servers.s.options: metrics-token would stand in a command line or a file", "hand it over in `env`"),
        **_AT_ONCE,
    ),
    Fault(
        "typed-header",
        "a token is typed as a header of `llmperf profile`",
        _profile("--url", "http://127.0.0.1:9", "-H", f"Authorization: Bearer {KEY}"),
        says=("Authorization holds a secret in plain text",),
        **_USAGE,
    ),
    Fault(
        "typed-url",
        "a URL with a key is typed for `llmperf profile`",
        _profile("--url", f"http://127.0.0.1:9?key={KEY}"),
        says=("key holds a secret in plain text",),
        **_USAGE,
    ),
    Fault(
        "typed-password",
        "a URL with a password is typed for `llmperf profile`",
        _profile("--url", f"http://me:{KEY.replace('/', '')}@127.0.0.1:9"),
        says=("credentials in plain text",),
        **_USAGE | {"hides": KEY.replace("/", "")},
    ),
)


def _shell_line(sandbox):
    sandbox.plan({"engine": "command", "command": ["sh", "-c", f"serve --port {{port}} -k {_LOOKS}"]})
    return sandbox.pytest()


def _triton_option(sandbox):
    model = {"m": {"backend": "vllm"}}
    sandbox.plan({"engine": "triton", "models": model, "options": {"metrics-token": "${LLM_KEY}"}})
    return sandbox.pytest(env=_ENV)


def _key_with_line_end(sandbox):
    sandbox.url_plan(sandbox.serve().url, entry=_BEARER)
    return sandbox.pytest("-l", env={"LLM_KEY": f"{KEY}\n"})


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
