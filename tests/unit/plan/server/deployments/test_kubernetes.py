"""A release in a plan: its names, its secrets, and the mistakes that are told with their line."""

import re
from pathlib import Path

import pytest
from samples import server

from pytest_llmperf.boundary.secrets import redacted
from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.server.deployments.kubernetes import KubernetesServer

DOCS = Path(__file__).parents[5] / "docs"
S3 = "secret: {s3: {region: ru-1, id: '${S3_ID}', key: '${S3_KEY}'}}"


def kube(more="", chart="mldp/triton"):
    return server(f"{{engine: kubernetes, chart: {chart}, context: prod{more}}}")


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("tp2", "llmperf-tp2"),
        ("grid.TP_2.fp8", "llmperf-grid-tp-2-fp8"),
        ("y" * 45, f"llmperf-{'y' * 45}"),
        ("x" * 60, f"llmperf-{'x' * 36}-42f2d973"),
    ],
    ids=["plain", "other characters", "longest", "too long"],
)
def test_a_release_is_named_after_its_server(name, release):
    assert kube().model_copy(update={"name": name}).release_name == release


def test_a_chart_as_its_guide_has_it():
    """Names of Secrets, images and URLs are no secrets."""
    config = kube(
        f""", namespace: triton-demo-1, namespace_labels: {{istio-injection: enabled}}, values_files: [./base.yaml],
        values: {{{S3}, tags: {{istioBasicAuth: {{main: {{enable: true, passwordBase64: "${{AUTH}}"}}}}}},
        imagePullSecrets: [{{name: regcred}}], existingSecret: mine, tls: {{secretName: tls}},
        main: {{serverArgs: ['--model-repository=s3://https://s3.example:443/b/m', --log-verbose=1]}}}},
        url: "https://{{release}}.example.com/v1", headers: {{host: "{{namespace}}.example.com"}}"""
    )
    assert config.filled(config.url) == "https://llmperf-a.example.com"
    assert {name: config.filled(value) for name, value in config.headers.items()} == {
        "Host": "triton-demo-1.example.com"
    }
    assert (config.machine, config.gpu_count, config.local_gpus, config.is_sampled) == ("prod", 0, 0, False)


def test_the_name_of_a_secrets_entry_stays_a_word():
    kube(", values: {hf_token: {secretName: hf, secretKey: quokkas}, auth: {existingSecret: wombats}}")
    assert redacted("quokkas and wombats") == "quokkas and wombats"


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (", values: {secret: {s3: {key: AKIA123}}}", r"key holds a secret in plain text; write '\$\{NAME\}'"),
        (", values: {auth: {passwordBase64: aGk=}}", "passwordBase64 holds a secret in plain text"),
        (", values: {env: [{url: 'https://me:word@host/'}]}", "url holds a secret in plain text"),
        (", prepare: [[rclone, copy, a, 'b:${BUCKET}']]", "other users can read a command's words"),
        (", prepare: [[aws, --secret-key, abcdef]]", "--secret-key holds a secret in plain text"),
        (", url: 'http://{relase}.x'", "{relase} in .* is not known; allowed: {release}, {namespace}; did you mean"),
        (", url: 'http://h', service: s", "`service` and `port` are forwarded to, which `url` is in the place of"),
        (", replicas: 2", "the chart says how many pods serve"),
        (", replicas: auto", "auto counts this machine's GPUs, of which the server takes none"),
        (
            ", proxy: {command: [nginx, '{port}', '{replicas}']}",
            "the cluster spreads the load over the pods behind `url`",
        ),
        (", release: Not_Good", "release"),
        (", basic: 'me:word'", "basic password holds a secret in plain text"),
    ],
)
def test_mistakes(more, problem):
    with pytest.raises(PlanError, match=problem):
        kube(more)


def test_a_folder_is_in_no_repository():
    with pytest.raises(PlanError, match="`repo` holds charts by name"):
        kube(", repo: 'https://charts.example'", chart="./here")


def test_a_cluster_has_a_name():
    with pytest.raises(PlanError, match="name the cluster: `context` is one of"):
        server("{engine: kubernetes, chart: a/b}")
    assert server("{engine: kubernetes, chart: a/b, hardware: h100x8}").machine == "h100x8"


def test_another_content_is_another_server(tmp_path):
    """Of the chart and of the values' files, though their paths are the same."""
    chart = tmp_path / "chart"
    chart.mkdir()
    found = set()
    for values, template in (("a: 1", "x"), ("a: 2", "x"), ("a: 2", "y")):
        (tmp_path / "values.yaml").write_text(values)
        (chart / "t.yaml").write_text(template)
        entry = {"engine": "kubernetes", "chart": "./chart", "hardware": "h", "values_files": ["values.yaml"]}
        found.add(KubernetesServer.model_validate(entry).located(tmp_path))
    assert len(found) == 3
    assert {config.values_files for config in found} == {(str(tmp_path / "values.yaml"),)}


@pytest.mark.parametrize("page", ["kubernetes.md", "guides/kubernetes.md"])
def test_the_plans_of_the_docs(page):
    text, *_ = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    if "loads:" not in text:
        text += "loads: {s: {input_tokens: 1, concurrency: 1, requests: 1}}\n"
    (config,) = parse_plan(text, page).server_configs()
    assert (config.engine, config.gpu_count, config.namespace) == ("kubernetes", 1, "triton-demo-1")
