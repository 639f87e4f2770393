"""The commands that a release takes, as they are shown and run."""

from samples import server

from pytest_llmperf.boundary.secrets import redacted
from pytest_llmperf.servers.deployments.kubernetes import commands, engine
from pytest_llmperf.servers.engines.commands import steps
from pytest_llmperf.servers.secrets import expand

ENTRY = """{engine: kubernetes, context: prod, namespace: demo, namespace_labels: {istio-injection: enabled},
chart: triton-inference-server, repo: "https://repo.example/chartrepo/mldp", version: 1.2.3,
prepare: [[rclone, copy, model_repository/, "selectel:bucket/model_repository"]],
env: {RCLONE_CONFIG_SELECTEL_TYPE: s3, RCLONE_CONFIG_SELECTEL_SECRET_ACCESS_KEY: "${S3_KEY}"},
values: {main: {numGpus: 1, args: [--log-verbose=1]}, ingress: {host: "{release}.example"},
  secret: {s3: {key: "${S3_KEY}"}}},
url: "http://10.0.0.1", headers: {Host: "{release}.example"}, basic: "${USER_NAME}:${S3_KEY}"}"""


def test_a_dry_run_shows_every_command_and_no_secret(monkeypatch):
    monkeypatch.setenv("S3_KEY", "abcdefgh")
    lines = list(steps(server(ENTRY)))
    assert lines == [
        "export RCLONE_CONFIG_SELECTEL_TYPE=s3",
        'export RCLONE_CONFIG_SELECTEL_SECRET_ACCESS_KEY="${S3_KEY}"',
        "cd . && rclone copy model_repository/ selectel:bucket/model_repository  # 1/6 prepare",
        "kubectl --context prod get namespace demo  # 2/6 namespace: made where it is not there",
        "kubectl --context prod label namespace demo istio-injection=enabled",
        *[line for line in lines if "3/6 release: one that is there is an error" in line],
        "helm upgrade --install llmperf-a triton-inference-server "
        "--repo https://repo.example/chartrepo/mldp --version 1.2.3 --values - --labels llmperf-owner=HOST.PID "
        "--history-max 3 --timeout 600s --kube-context prod --namespace demo"
        "  # 4/6 install, these values on its standard input:",
        "    main:",
        "      numGpus: 1",
        "      args:",
        "      - --log-verbose=1",
        "    ingress:",
        "      host: llmperf-a.example",
        "    secret:",
        "      s3:",
        "        key: ${S3_KEY}",
        "kubectl --context prod --namespace demo get pods,deployments,statefulsets,daemonsets --output json"
        "  # 5/6 rollout: until all pods are ready",
        "# 6/6 reach: http://10.0.0.1",
        "# afterwards, whatever happened: logs and events of the pods, then "
        "helm uninstall llmperf-a --kube-context prod --namespace demo",
        "# written beside a.log: .settings.json, .deployed.json and .pods.log, without secrets",
    ]


def test_values_are_filled_in_when_helm_reads_them(monkeypatch):
    monkeypatch.setenv("S3_KEY", "abcdefgh")
    config = server(ENTRY)
    found = commands.values(config, lambda text: expand(config.filled(text)))
    assert found["secret"] == {"s3": {"key": "abcdefgh"}}
    assert found["main"] == {"numGpus": 1, "args": ["--log-verbose=1"]}
    assert "abcdefgh" not in " ".join(commands.upgrade(config, "me"))


def test_where_requests_go(monkeypatch):
    monkeypatch.setenv("S3_KEY", "abcdefgh")
    monkeypatch.setenv("USER_NAME", "me")
    engine.hide_secrets(server(ENTRY))
    assert redacted("a pod's log: Basic bWU6YWJjZGVmZ2g=") == "a pod's log: Basic ***"
    target = engine.target(server(ENTRY), None)
    assert target.url == "http://10.0.0.1"
    assert target.headers == (("Host", "llmperf-a.example"), ("Authorization", "Basic bWU6YWJjZGVmZ2g="))


def test_what_the_machine_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.missing(server(ENTRY)) == ("needs the executable 'kubectl', which was not found", "")
    for program in ("kubectl", "helm"):
        (tmp_path / program).touch(mode=0o755)
    assert engine.missing(server(ENTRY)) == ("needs the executable 'rclone', which was not found", "")
