"""Every mistake in a plan is reported at its file and line, with what was given and what is allowed."""

from pathlib import Path

import pytest
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import load_plan, parse_plan
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.server.table import ENGINE_MODELS
from pytest_llmperf.servers.engines.table import ENGINES

GUIDES = sorted((Path(__file__).parents[3] / "docs" / "guides").glob("*.yaml"))
AXIS = "{input_tokens: 8, concurrency: 2, requests: 20}"
LOAD = "  s: {input_tokens: 8, output_tokens: 4, concurrency: 2, requests: 20}"


def mistakes(text: str) -> list[str]:
    with pytest.raises(PlanError) as error:
        parse_plan(text, "plan.yaml")
    return str(error.value).splitlines()


def load(axis: str) -> str:
    return plan_text(loads=f"  s:\n    input_tokens: 8\n    requests: 20\n    {axis}")


def remote(entry: str) -> str:
    return plan_text(f"  a: {{engine: openai, url: 'http://h', {entry}}}")


def vllm(entry: str) -> str:
    return plan_text(f"  a:\n    engine: vllm\n    {entry}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (plan_text(rest="sal: {}"), "6: sal: unknown key 'sal'; did you mean 'sla'?"),
        (vllm("arg: {}"), "5: servers.a.arg: unknown key 'arg'; did you mean 'args'?"),
        (vllm("url: http://h"), "5: servers.a.url: unknown key 'url'; allowed: model, args, unlocked, ready_timeout"),
        (
            plan_text("  a: {engine: openai, url: http://h, header: {}}"),
            "unknown key 'header'; did you mean 'headers'?",
        ),
        (plan_text("  a: {engine: embedded, executable: x}"), "3: servers.a.executable: unknown key 'executable'"),
        (vllm("name: b"), "5: servers.a.name: the name is the entry's key"),
        (load("ouput_tokens: 4"), "8: loads.s.ouput_tokens: unknown key 'ouput_tokens'; did you mean 'output_tokens'?"),
        (load("concurrency: {swep: '1:8'}"), "8: loads.s.concurrency.swep: unknown key 'swep'; did you mean 'sweep'?"),
        (
            plan_text("  a: {engine: vlm}"),
            "3: servers.a: engine 'vlm' is not known; allowed: command, embedded, ",
        ),
        (plan_text("  a: {args: {}}"), "3: servers.a: 'engine' is missing"),
        (plan_text(rest="sla: {goodput: '>= 1 req/s'}"), "5: loads.s: a limit on goodput needs to know which requests"),
        (plan_text("  a: {engine: openai}"), "3: servers.a: 'url' is missing"),
        (plan_text(loads="  s: {input_tokens: 8, concurrency: 2}"), "5: loads.s: 'requests' is missing"),
        ("servers: {}\nmodel: m\n", "1: 'loads' is missing"),
        (plan_text("  {}"), "2: servers: at least one is needed, given {}"),
        (plan_text("  a: 3"), "3: servers.a: a mapping is needed, given 3"),
        (plan_text("  - a"), "2: servers: a mapping is needed, given ['a']"),
        (plan_text(loads="  s:"), "5: loads.s: a mapping is needed, given None"),
        (vllm("env: {OMP: 1}"), "5: servers.a.env.OMP: a text is needed (quote it), given 1"),
        (vllm("gpus: -1"), "5: servers.a.gpus: must be greater than or equal to 0, given -1"),
        (vllm("ready_timeout: 300"), "5: servers.a.ready_timeout: 300 has no unit; write it as one of: 300 us"),
        (vllm("args: {port: 8000}"), "5: servers.a.args.port: port is the plugin's to choose"),
        (vllm("args: {tp: two}"), "tensor-parallel-size is a whole number of at least 1, not 'two'"),
        (vllm("args: {-tp: 2, tensor_parallel_size: 4}"), "5: servers.a.args: two spellings of one argument"),
        (plan_text("  a: {engine: embedded, args: {max-num-seq: 2}}"), "'max-num-seq'; did you mean 'max-num-seqs'?"),
        (plan_text("  a b: {engine: vllm}"), "3: servers.a b: 'a b' cannot be part of a test id; use letters"),
        (plan_text("  a-: {engine: vllm}"), "3: servers.a-: 'a-' cannot be part of a test id; use letters"),
        (
            plan_text(
                "  a: {engine: embedded}\n  a-s: {engine: embedded}",
                loads=f"  t: {AXIS}\n  s-t: {AXIS}",
            ),
            "6: loads.t: the point of 'a-s' would be a-s-t in test ids, as one of load 's-t' is; rename one",
        ),
        (
            plan_text(loads=f"  s: {AXIS.replace('y: 2', 'y: {sweep: [2]}')}\n  s-c2: {AXIS}"),
            "6: loads.s-c2: the point of 'a' would be a-s-c2 in test ids, as one of load 's' is; rename one",
        ),
        (
            load("extra_body: {messages: null}"),
            "8: loads.s.extra_body.messages: messages: null would leave out the prompt",
        ),
        (load("extra_body: {parameters: 1}"), "8: loads.s.extra_body.parameters: parameters: 1 is no mapping"),
        (load("max_tokens_field: max_token"), "8: loads.s.max_tokens_field: "),
        (
            load("concurrency: 1\n    endpoint: responses\n    max_tokens_field: max_tokens"),
            "max_tokens_field: responses has no such choice",
        ),
        (remote("ready: healthz"), "3: servers.a.ready: 'healthz' is not a whole path of the host, such as"),
        (
            remote("ready: true"),
            "3: servers.a.ready: True is neither a path such as /healthz, {path: /healthz, status: 204}",
        ),
        (remote("ready: {status: 204}"), "3: servers.a.ready: 'path' is missing"),
        (remote("ready: {path: /h, status: 9}"), "3: servers.a.ready.status: "),
        (remote("path: v1"), "3: servers.a.path: 'v1' is not a whole path of the host"),
        (remote("path: '/v1?api-key=hunter2'"), "3: servers.a.path: api-key holds a secret in plain text"),
        (
            plan_text("  a: {engine: openai, url: 'http://h/v1?api-key=hunter2'}"),
            "3: servers.a.url: api-key holds a secret in plain text; write '${NAME}'",
        ),
        (plan_text("  a: {engine: openai, url: 'http://h/v1#x'}"), "3: servers.a.url: 'http://h/v1#x' has a fragment"),
        (load("concurrency: lots"), "8: loads.s.concurrency: a whole number is needed, given 'lots'"),
        (load("concurrency: 0"), "8: loads.s.concurrency: must be greater than 0, given 0"),
        (load("concurrency: {sweep: x}"), "8: loads.s.concurrency.sweep: 'x' is not a sweep; write 'min:max'"),
        (load("concurrency: {sweep: [1.5]}"), "8: loads.s.concurrency.sweep: sweep [1.5] gives (1.5,); whole numbers"),
        (load("request_rate: {sweep: 10:50:10}"), "8: loads.s.request_rate.sweep: 39010 is not a sweep"),
        (load("request_rate: 5 tok/s"), "8: loads.s.request_rate: '5 tok/s' has unknown unit 'tok/s'"),
        (
            load("concurrency: {sweep: '1:1000:1'}\n    dataset_entries: {sweep: '1:1000:1'}"),
            "1000 x 1000 = 1000000 points; at most 1000 are allowed",
        ),
        (load("temperature: .inf"), "8: loads.s.temperature: "),
        (load("temperature: hot"), "8: loads.s.temperature: a number is needed, given 'hot'"),
        (
            load("endpoint: generates"),
            "8: loads.s.endpoint: must be 'chat', 'completions', 'responses', 'generate', 'generate-once', 'infer' or ",
        ),
        (load("ignore_eos: maybe"), "8: loads.s.ignore_eos: true or false is needed, given 'maybe'"),
        (load("slo: {tftt: 1 s}"), "8: loads.s.slo.tftt: slo cannot limit 'tftt'; allowed: ttft, ttfo"),
        (load("arrival: poisson"), "5: loads.s: a load has either `concurrency` (closed loop) or `request_rate`"),
        (load("concurrency: 21"), "5: loads.s: requests: 20 is less than concurrency: 21"),
        (load("{concurrency: 2"), "not valid YAML"),
        (plan_text(rest="sla:\n  ttft_p99: '<= 500'"), "7: sla.ttft_p99: '<= 500' has no unit; write it as one of"),
        (plan_text(rest="sla:\n  error_rate: '<= 0'\n  ttft: '<= 1 s'"), "8: sla.ttft: 'ttft' needs a statistic"),
        (plan_text(rest="sla: {ttft_p98: '<= 1 s'}"), "unknown metric 'ttft_p98'; did you mean 'ttft_p9"),
        (load("output_tokens: {meen: 5}"), "8: loads.s.output_tokens.meen: unknown key 'meen'; did you mean 'mean'?"),
        (
            load("output_tokens: {mean: 5, max: 4}"),
            "8: loads.s.output_tokens: mean: 5 is not between min: 1 and max: 4",
        ),
        (load("output_tokens: {sd: 5}"), "8: loads.s.output_tokens: 'mean' is missing"),
        (load("shared_prefix: {prefix: 5}"), "8: loads.s.shared_prefix.prefix: unknown key 'prefix'; did you mean"),
        (load("conversation: {turns: 2, think_time: 5}"), "8: loads.s.conversation.think_time: 5 has no unit"),
        (load("conversation: {turn: 2}"), "8: loads.s.conversation.turn: unknown key 'turn'; did you mean 'turns'?"),
        (load("prompts: {file: a.txt}"), "8: loads.s.prompts: 'a.txt' does not tell its format: .jsonl (jsonl), .json"),
        (
            load("prompts: {file: a.txt, format: xml}"),
            "8: loads.s.prompts.format: must be 'jsonl', 'sharegpt' or 'csv'",
        ),
        (plan_text(rest="margins: {itl_p50: 5}"), "6: margins.itl_p50: 5 would be a margin of 500%; write '5 %'"),
        (plan_text(rest="margins: {error_rate: 5 %}"), "6: margins.error_rate: error_rate is not compared"),
        (plan_text(rest="runs: 0"), "6: runs: must be greater than 0, given 0"),
        (plan_text(rest="model: n"), "6: 'model' is given twice"),
        (plan_text("  a: {engine: vllm}\n  a: {engine: embedded}"), "4: 'a' is given twice"),
        (plan_text(rest="a: [\nb: }"), "7: not valid YAML"),
        ("model: m\n\tservers: 3\n", "2: not valid YAML: found character '\\t' that cannot start any token"),
        ("model: m\nservers: *vllm\n", "2: not valid YAML: found undefined alias 'vllm'"),
        ("model: m\n---\nmodel: n\n", "2: not valid YAML: but found another document"),
        ("model: m\nname: \x07\n", "2: not valid YAML: special characters are not allowed, given '\\x07'"),
        ("model: !!python/object/apply:os.getcwd []\n", "1: not valid YAML: could not determine a constructor"),
        ("", "1: a plan is a mapping with model, servers and loads, not an empty file"),
        ("# nothing\n", "1: a plan is a mapping with model, servers and loads, not an empty file"),
        ("- model\n", "1: a plan is a mapping with model, servers and loads, not ['model']"),
    ],
)
def test_a_mistake_and_its_line(text, message):
    assert any(line.startswith("plan.yaml:") and message in line.removeprefix("plan.yaml:") for line in mistakes(text))


def test_every_mistake_is_listed():
    text = plan_text("  a: {engine: vlm}\n  b: {engine: vllm, args: 3}", rest="sla: {ttft_p99: 5}\nmodle: m")
    assert [line.split(": ")[0] for line in mistakes(text)] == [f"plan.yaml:{n}" for n in (3, 4, 7, 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (vllm("args: {api-key: hunter2hunter2}"), "5: servers.a.args.api-key: api-key holds a secret in plain text"),
        (vllm("args: {api-key: [hunter2hunter2]}"), "5: servers.a.args.api-key: api-key holds a secret"),
        (vllm("args: {hf-overrides: {auth: {password: hunter2hunter2}}}"), "password holds a secret"),
        (vllm("env: {HF_TOKEN: hunter2hunter2}"), "5: servers.a.env.HF_TOKEN: HF_TOKEN holds a secret"),
        (vllm("env: {AWS_SECRET_ACCESS_KEY: hunter2hunter2}"), "AWS_SECRET_ACCESS_KEY holds a secret"),
        (vllm("env: {HTTPS_PROXY: 'http://me:hunter2hunter2@proxy:3128'}"), "HTTPS_PROXY holds a secret"),
        (vllm("env: {HF_TOKEN: [hunter2hunter2]}"), "5: servers.a.env.HF_TOKEN: a text is needed (quote it)"),
        (plan_text("  a: {engine: openai, url: 'http://me:hunter2hunter2@h'}"), "3: servers.a.url: the URL holds"),
        (
            plan_text("  a: {engine: openai, url: http://h, bearer: hunter2hunter2}"),
            "3: servers.a.bearer: bearer token",
        ),
        (plan_text("  a: {engine: openai, url: http://h, basic: 'me:hunter2hunter2'}"), "3: servers.a.basic: basic"),
        (plan_text("  a: {engine: openai, url: http://h, basic: '${ME}:hunter2hunter2'}"), "3: servers.a.basic: basic"),
        (
            plan_text("  a:\n    engine: openai\n    url: http://h\n    headers:\n      X-Api-Key: hunter2hunter2"),
            "7: servers.a.headers.X-Api-Key: X-Api-Key holds a secret in plain text; write '${NAME}' and set NAME",
        ),
        (plan_text("  a: {engine: openai, url: http://h, headers: {X-Auth: Bearer hunter2hunter2}}"), "X-Auth holds"),
        (plan_text("  a: {engine: openai, url: 'http://h/v1?key=hunter2hunter2'}"), "3: servers.a.url: key holds"),
        (plan_text("  a: {engine: openai, url: 'ftp://h/v1?key=hunter2hunter2'}"), "3: servers.a.url: key holds"),
        (plan_text("  a: {engine: openai, url: http://h, bearer: [hunter2hunter2]}"), "3: servers.a.bearer: a text is"),
        (plan_text("  a: {engine: openai, url: http://h, bearer: {x: hunter2hunter2}}"), "3: servers.a.bearer: a text"),
        (
            plan_text("  a: {engine: openai, url: http://h, server_metrics: 'http://h/m?token=hunter2hunter2'}"),
            "3: servers.a.server_metrics: token holds a secret",
        ),
        (
            plan_text("  a: {engine: triton-remote, url: http://h, metrics: 'http://h/m?sig=hunter2hunter2'}"),
            "3: servers.a.metrics: sig holds a secret",
        ),
        (
            plan_text("  a: {engine: openai, url: http://h, ready: '/up?token=hunter2hunter2'}"),
            "3: servers.a.ready: token holds a secret",
        ),
        (plan_text("  a: [{engine: openai, url: http://h, bearer: hunter2hunter2}]"), "servers.a"),
        (
            vllm("args: {hf-token: '${T}', api-key: hunter2hunter2}"),
            "api-key holds a secret",
        ),
        (plan_text().replace("concurrency: 2", "concurrency: 2, extra_body: {api_key: hunter2hunter2}"), "5: loads.s"),
    ],
)
def test_a_secret_in_plain_text_is_refused_and_not_repeated(text, message):
    (line,) = mistakes(text)
    assert message in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "entry",
    [
        "{engine: vllm, args: {api-key: '${KEY}', max-num-batched-tokens: 8}, env: {HF_TOKEN: '${HF_TOKEN}'}}",
        "{engine: vllm, env: {HTTPS_PROXY: 'http://${USER}:${PASSWORD}@proxy', NO_PROXY: 'http://a:80/b@c'}}",
        "{engine: openai, url: http://h, headers: {Authorization: 'Bearer ${KEY}'}}",
        "{engine: openai, url: http://h, basic: '${USER}:${PASSWORD}'}",
    ],
)
def test_references_and_what_only_looks_like_a_secret_are_fine(entry):
    assert parse_plan(plan_text(f"  a: {entry}"), "plan.yaml").servers


MERGED = """\
model: m
servers:
  a: &base
    engine: vllm
    gpus: 0
    args: &args
      max-num-seqs: 1
  b:
    <<: *base
    args: {<<: *args, max-num-seqs: 8}
  c:
    <<: [*base]
    gpus: 1
loads:
  s: {input_tokens: 8, concurrency: 2, requests: 20}
"""


def test_merge_keys():
    a, b, c = parse_plan(MERGED, "plan.yaml").server_configs()
    assert (a.args, b.args, c.args) == ({"max-num-seqs": 1}, {"max-num-seqs": 8}, {"max-num-seqs": 1})
    assert (b.gpu_count, c.gpu_count) == (0, 1)


def test_a_mistake_that_came_by_a_merge_key_is_where_it_was_written():
    lines = mistakes(MERGED.replace("gpus: 0", "gpus: none"))
    assert lines == [f"plan.yaml:5: servers.{name}.gpus: a whole number is needed, given 'none'" for name in "ab"]


def test_a_mistake_beside_a_merge_key_is_where_it_was_written():
    assert mistakes(MERGED.replace("gpus: 1", "gpu: 1")) == [
        "plan.yaml:13: servers.c.gpu: unknown key 'gpu'; did you mean 'gpus'?"
    ]


def test_a_plan_that_contains_itself():
    assert mistakes("model: m\nservers: &s\n  a: *s\nloads:\n" + LOAD)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match=r"nowhere\.yaml: cannot read the plan"):
        load_plan(tmp_path / "nowhere.yaml")
    with pytest.raises(PlanError, match=r"cannot read the plan"):
        load_plan(tmp_path)
    (tmp_path / "latin1.yaml").write_bytes("model: é".encode("latin1"))
    with pytest.raises(PlanError, match=r"latin1\.yaml: the plan is not UTF-8"):
        load_plan(tmp_path / "latin1.yaml")


def test_paths_count_from_the_plan(tmp_path):
    servers = "  a: {engine: vllm, executable: ../bin/vllm, model: ./tiny}\n  b: {engine: vllm}"
    path = tmp_path / "sub" / "plan.yaml"
    path.parent.mkdir()
    path.write_text(plan_text(servers).replace("model: m", "model: ../models/big"))
    a, b = load_plan(path).server_configs()
    assert a.model == str(tmp_path / "sub" / "tiny")
    assert a.executable == str(tmp_path / "bin" / "vllm")
    assert (b.model, b.executable) == (str(tmp_path / "models" / "big"), "vllm")


def test_two_readings_are_equal_and_hash_alike(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(MERGED + "sla: {ttft_p99: '<= 1 s'}\n")
    first, second = load_plan(path), load_plan(path)
    assert first == second
    assert hash(first) == hash(second)
    for one, other in zip(first.server_configs(), second.server_configs(), strict=True):
        assert (one, hash(one)) == (other, hash(other))
    for one, other in zip(first.load_points(), second.load_points(), strict=True):
        assert (one, hash(one)) == (other, hash(other))
    assert len({*first.server_configs(), *second.server_configs()}) == 3


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "perf_tests").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_plans_of_this_repository(path):
    plan = load_plan(path)
    assert plan.server_configs()
    assert plan.load_points()


def test_the_schema_knows_every_key_of_a_plan():
    schema = Plan.model_json_schema()
    servers = schema["properties"]["servers"]["additionalProperties"]
    assert set(servers["discriminator"]["mapping"]) == set(ENGINES), "a plan's engines are those that can be started"
    models = [model.__name__ for model in ENGINE_MODELS.values()]
    for name in (*models, "LoadSpec"):
        entry = schema["$defs"][name]
        assert entry["additionalProperties"] is False
        assert "name" not in entry["properties"]
    assert schema["$defs"]["LoadSpec"]["properties"]["sla"]["type"] == "object"
    assert schema["$defs"]["VllmServer"]["properties"]["ready_timeout"]["type"] == "string"


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_a_guide_shows_the_plan_that_runs(path):
    assert load_plan(path).load_points()
    assert f"```yaml\n# docs/guides/{path.name}\n{path.read_text()}```" in path.with_suffix(".md").read_text()
