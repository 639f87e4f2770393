"""What is said of broken answers, servers and files"""

import gzip
import json
import shutil
import subprocess

import pytest
from arrangements import at_start, of_own, on_url
from fault import Fault, check, rows
from sandbox import TEST_WITH_BASELINE

_DEEP = "[" * 100_000 + "]" * 100_000


_AUTHORITY = """
[ca]
default_ca = own
[own]
database = {folder}/issued.txt
new_certs_dir = {folder}
serial = {folder}/serial.txt
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[extensions]
basicConstraints = CA:TRUE
subjectAltName = {name}
"""


def _certificate(name, begin=2020, end=2090):
    """A server speaks TLS with a certificate of this name, valid from one year to another, and it is trusted."""

    def run(sandbox):
        paths = {kind: str(sandbox.folder / f"{kind}.pem") for kind in ("key", "asked", "cert")}
        sandbox.write("issued.txt", "")
        authority = sandbox.write("authority.cnf", _AUTHORITY.format(folder=sandbox.folder, name=name))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=test")
        _openssl("req", *curve, "-keyout", paths["key"], "-out", paths["asked"])
        signed = ("-selfsign", "-batch", "-create_serial", "-keyfile", paths["key"], "-in", paths["asked"])
        valid = ("-startdate", f"{begin}0101000000Z", "-enddate", f"{end}0101000000Z")
        _openssl("ca", "-config", str(authority), *signed, *valid, "-notext", "-out", paths["cert"])
        sandbox.url_plan(sandbox.serve(tls=(paths["cert"], paths["key"])).url)
        return sandbox.pytest(env={"SSL_CERT_FILE": paths["cert"]})

    return run


def _openssl(*words):
    subprocess.run(["openssl", *words], check=True, capture_output=True)


_OPENSSL = (pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),)


def _plan(text):
    def run(sandbox):
        sandbox.write("plan.yaml", text)
        return sandbox.pytest()

    return run


def _data(load, name, text):
    def run(sandbox):
        sandbox.write(name, text)
        return on_url("good", load=load)(sandbox)

    return run


def _imported(name, text, *words):
    def run(sandbox):
        sandbox.write(name, text)
        return sandbox.llmperf("import", name, *words, "--json", "o.json")

    return run


def _resumed(content):
    """A session is continued whose one point holds this."""

    def run(sandbox):
        sandbox.write("out/points/test_x.py.test_serving-s-a.json.gz", gzip.compress(content))
        return on_url("good", words=("--llmperf-resume",))(sandbox)

    return run


def _pruned(text):
    def run(sandbox):
        sandbox.write("report.json", text)
        return sandbox.llmperf("baseline", "prune", "--keep-from", "report.json", "--yes")

    return run


def _listed(**changes):
    """A baseline was edited by hand, and is listed."""

    def run(sandbox):
        sandbox.write("test_x.py", TEST_WITH_BASELINE)
        recorded = on_url("good", words=("--llmperf-update-baselines",))(sandbox).end()
        assert recorded.exit == 0, recorded.text
        (path,) = (sandbox.folder / "baselines").rglob("*.json")
        baseline = json.loads(path.read_text())
        baseline["sessions"][0] |= changes
        path.write_text(json.dumps(baseline))
        return sandbox.llmperf("baseline", "list")

    return run


_HEAD = """model: m
servers:
  s: {engine: openai, url: 'http://127.0.0.1:9'}
loads:
  a: {input_tokens: %s, requests: 1}
"""
_PLAN = {"exit": 4, "has_report": False}
_COMMAND = {"exit": 1, "has_report": False}
FAULTS = (
    Fault(
        "models-bad-gzip",
        "what answers at the start is no gzip, though it says so",
        at_start("bad_gzip", "/v1/models"),
        says=("GET /v1/models", "content-encoding 'gzip'"),
    ),
    Fault(
        "version-deep",
        "the server's version is 200 000 brackets",
        at_start("deep", "/version"),
        says=("1 passed",),
        keeps=10,
        exit=0,
    ),
    Fault(
        "escapes",
        "an error's text has commands for the terminal: title, clipboard, direction",
        on_url("escapes", after=2, every=3),
        says=(r"HTTP 500: \x1b]0;owned\x07\x1b[2J\x1b]52;c;b3duZWQ=\x07\u202ertl",),
        keeps=10,
        hides="\x1b]52",
    ),
    Fault(
        "markup",
        "an error's text has brackets and colons that mean something to the terminal's library",
        on_url("markup", after=2, every=3),
        says=("HTTP 500: [/x] [bold] :bomb:",),
        keeps=10,
    ),
    Fault(
        "ends-at-start",
        "a server ends at its start: the first error and the last lines of its log",
        of_own("--life", "exit:3"),
        says=("exit code 3; first error in its log: ValueError: max-num-seqs must", "| INFO bye"),
    ),
    Fault(
        "goes-to-the-background",
        "a server puts itself into the background",
        of_own("--life", "daemonize"),
        says=("exit code 0", "must stay in the foreground"),
    ),
    Fault(
        "is-stopped",
        "a server is stopped under load: it is not called dead",
        of_own("--answer", "stop_self", "--after", "6"),
        says=("is up, but it hangs or is stopped: GET /health",),
        keeps=6,
    ),
    Fault(
        "html-as-events",
        "a page comes as a stream of events",
        on_url("html_as_events", after=2, every=3),
        says=("requests failed", "502 Bad Gateway"),
        keeps=10,
    ),
    Fault(
        "redirected",
        "a request is answered by a redirect",
        on_url("redirect", after=2, every=3),
        says=("HTTP 307: a redirect to 'https://elsewhere.example/v1'", "write it as the URL"),
        keeps=10,
    ),
    Fault(
        "certificate-of-another-host",
        "a certificate is another host's",
        _certificate("DNS:elsewhere.example"),
        says=("CERTIFICATE_VERIFY_FAILED", "write the URL with a name or an address that it holds"),
        marks=_OPENSSL,
    ),
    Fault(
        "certificate-expired",
        "a certificate is expired",
        _certificate("IP:127.0.0.1", end=2021),
        says=("certificate has expired", "must be renewed, or this machine's clock is wrong"),
        marks=_OPENSSL,
    ),
    Fault(
        "certificate-of-tomorrow",
        "a certificate is not yet valid",
        _certificate("IP:127.0.0.1", begin=2080),
        says=("certificate is not yet valid", "valid later, or this machine's clock is wrong"),
        marks=_OPENSSL,
    ),
    Fault(
        "plan-too-deep",
        "a plan is nested too deeply",
        _plan(_HEAD % 10 + f"x: {'[' * 20_000}{']' * 20_000}\n"),
        says=("plan.yaml: it is nested more deeply than a file can be",),
        **_PLAN,
    ),
    Fault(
        "plan-with-5000-digits",
        "a number of a plan has 5000 digits",
        _plan(_HEAD % ("9" * 5000)),
        says=("plan.yaml",),
        **_PLAN,
    ),
    Fault(
        "plan-in-itself",
        "a part of a plan contains itself",
        _plan(_HEAD.replace("url:", "args: {a: &x [*x]}, url:") % 10),
        says=("plan.yaml",),
        **_PLAN,
    ),
    Fault(
        "prompts-too-deep",
        "a file of prompts is nested too deeply",
        _data({"prompts": {"file": "p.jsonl"}, "input_tokens": None}, "p.jsonl", f'{{"input": "a", "x": {_DEEP}}}\n'),
        says=("p.jsonl:1", "nested too deeply"),
        **_PLAN,
    ),
    Fault(
        "name-with-a-line-end",
        "a server's name ends in a line break",
        _plan(_HEAD.replace("  s:", '  "s\\n":') % 10),
        says=("plan.yaml", "'s\\n'"),
        **_PLAN,
    ),
    Fault(
        "resume-too-deep",
        "a stored point is nested too deeply: it is measured again",
        _resumed(_DEEP.encode()),
        says=("is not whole", "it is passed over", "1 passed"),
        keeps=10,
        exit=0,
    ),
    Fault(
        "resume-bomb",
        "a stored point of some kilobytes holds gigabytes: it is measured again",
        _resumed(b"0" * (300 << 20)),
        says=("more than 100 times its size when unpacked", "it is passed over", "1 passed"),
        keeps=10,
        exit=0,
    ),
    Fault(
        "report-too-deep",
        "the report given to `llmperf baseline prune` is nested too deeply",
        _pruned(_DEEP),
        says=("Error: report.json is no report of pytest-llmperf",),
        **_COMMAND,
    ),
    Fault(
        "import-too-deep",
        "a file for `llmperf import` is nested too deeply",
        _imported("a.json", f'{{"mean_ttft_ms": 1, "x": {_DEEP}}}'),
        says=("Error: a.json", "nested too deeply"),
        **_COMMAND,
    ),
    Fault(
        "import-rate-nan",
        "a rate typed for `llmperf import` is no number",
        _imported("a.csv", "run,index\n1,2\n", "--request-rate", "nan"),
        says=("Error:",),
        **_COMMAND,
    ),
    Fault(
        "baseline-with-markup",
        "a commit in a baseline has brackets that mean something to the terminal's library",
        _listed(git_sha="[/x]abc"),
        says=("[/x]abc",),
        exit=0,
        passes=True,
        has_report=False,
    ),
)


@pytest.mark.parametrize("fault", rows(FAULTS))
def test_fault(fault, sandbox):
    check(fault, sandbox)
