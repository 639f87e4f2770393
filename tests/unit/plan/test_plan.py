"""What a plan means: effective servers, resolved sweeps, limits, locked arguments."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from samples import plan_text, point, server

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.limits import Limit
from pytest_llmperf.plan.server.base import changes_output


def loads(text: str) -> list[str]:
    return [p.name for p in parse_plan(plan_text(loads=text), "plan.yaml").load_points()]


def locking(locked: str, entry: str) -> str:
    return plan_text(f"  a: {entry}", rest=f"locked: {locked}")


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ("concurrency: 8", ["s"]),
        ("concurrency: {sweep: '1:8'}", ["s-c1", "s-c2", "s-c4", "s-c8"]),
        ("request_rate: {sweep: '10:30:10'}", ["s-10rps", "s-20rps", "s-30rps"]),
        ("request_rate: {sweep: [0.5, 12.25]}", ["s-0.5rps", "s-12.25rps"]),
        (
            "concurrency: {sweep: [1, 4]}, input_tokens: {sweep: '100:200'}",
            ["s-c1-in100", "s-c1-in200", "s-c4-in100", "s-c4-in200"],
        ),
        ("concurrency: 1, input_tokens: {sweep: [1048576]}", ["s-in1048576"]),
    ],
)
def test_names_of_a_sweeps_points(axes, names):
    fields = axes if "input_tokens" in axes else f"{axes}, input_tokens: 8"
    assert loads(f"  s: {{{fields}, requests: 20}}") == names


@given(st.lists(st.decimals("0.001", 10_000, places=3).map(float), min_size=1, max_size=20, unique=True))
def test_every_point_of_a_sweep_has_a_name_of_its_own(rates):
    text = plan_text(loads=f"  s: {{input_tokens: 8, requests: 20, request_rate: {{sweep: {rates!r}}}}}")
    points = parse_plan(text, "plan.yaml").load_points()
    assert len({p.name for p in points}) == len(rates)
    assert [p.request_rate for p in points] == rates


def test_a_points_values():
    text = plan_text(
        loads="  s: {input_tokens: 8, requests: 20, request_rate: 3 rps, slo: {ttft: 1 s}, read_timeout: 2 min}",
        rest="runs: 5\nmargins: {itl_p50: 7 %}",
    )
    (found,) = parse_plan(text, "plan.yaml").load_points()
    assert (found.request_rate, found.slo, found.read_timeout) == (3.0, {"ttft": 1000.0}, 120.0)
    assert (found.runs, found.margins) == (5, {"itl_p50": 0.07})


def test_a_loads_limit_replaces_the_plans():
    text = plan_text(
        loads="  s: {input_tokens: 8, requests: 20, concurrency: 1, sla: {ttft_p99: '<= 9 s', itl_p50: '< 1 s'}}",
        rest="sla: {ttft_p99: '<= 1 s', error_rate: '<= 0'}",
    )
    (found,) = parse_plan(text, "plan.yaml").load_points()
    assert list(map(str, found.sla)) == ["error_rate <= 0", "ttft_p99 <= 9000 ms", "itl_p50 < 1000 ms"]


def test_no_request_may_fail_unless_a_limit_says_how_many():
    (load,) = parse_plan(plan_text(rest="sla: {itl_p50: '< 1 s'}"), "plan.yaml").load_points()
    assert list(map(str, load.sla)) == ["itl_p50 < 1000 ms", "error_rate <= 0"]
    (load,) = parse_plan(plan_text(rest="sla: {error_rate: '<= 5 %'}"), "plan.yaml").load_points()
    assert list(map(str, load.sla)) == ["error_rate <= 0.05"]


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("ttft_p99: '>= 1 s'", "lower is better for ttft_p99, so its limit is written <="),
        ("error_rate: '> 0'", "lower is better for error_rate, so its limit is written <"),
        ("request_throughput: '<= 5 req/s'", "higher is better for request_throughput, so its limit is written >="),
    ],
)
def test_a_limit_in_the_wrong_direction(limit, message):
    with pytest.raises(PlanError, match=r"plan\.yaml:6: sla") as error:
        parse_plan(plan_text(rest=f"sla: {{{limit}}}"), "plan.yaml")
    assert message in str(error.value)


def test_a_metric_that_is_neither_good_nor_bad_is_limited_both_ways():
    text = plan_text(rest="sla: {output_tokens_min: '>= 4', input_tokens_max: '<= 8 tokens'}")
    assert len(parse_plan(text, "plan.yaml").sla) == 2


@pytest.mark.parametrize(
    ("locked", "entry"),
    [
        ("{dtype: fp8}", "{engine: vllm}"),
        ("{dtype: fp8}", "{engine: vllm, args: {dtype: fp8}}"),
        ("{kv-cache-dtype: fp8}", "{engine: vllm, args: {--kv_cache_dtype: fp8}}"),
        ("{--kv_cache_dtype: fp8}", "{engine: openai, url: http://h, args: {kv-cache-dtype: fp8}}"),
        ("{-q: fp8}", "{engine: vllm, args: {quantization: fp8}}"),
        ("{}", "{engine: vllm, args: {dtype: fp16}, unlocked: [--dtype]}"),
        ("{dtype: fp8}", "{engine: vllm, args: {dtype: fp16}, unlocked: [dtype]}"),
        ("{dtype: fp8}", "{engine: vllm, args: {dtype: null}, unlocked: [dtype]}"),
    ],
)
def test_a_plan_that_keeps_to_its_locks(locked, entry):
    assert parse_plan(locking(locked, entry), "plan.yaml").server_configs()


@pytest.mark.parametrize(
    ("locked", "entry", "message"),
    [
        ("{dtype: fp8}", "{engine: vllm, args: {dtype: fp16}}", "changes the locked argument dtype to 'fp16'"),
        ("{dtype: fp8}", "{engine: vllm, args: {dtype: null}}", "lacks the locked argument dtype: fp8"),
        ("{dtype: fp8}", "{engine: openai, url: http://h}", "lacks the locked argument dtype: fp8"),
        ("{}", "{engine: vllm, args: {--kv_cache_dtype: fp8}}", "sets kv-cache-dtype, which changes"),
        ("{}", "{engine: vllm, args: {speculative-config: {method: ngram}}}", "sets speculative-config, which changes"),
        ("{rope-theta: 1}", "{engine: embedded}", "no argument 'rope-theta', which this plan locks"),
    ],
)  # fmt: skip
def test_a_server_that_breaks_a_lock(locked, entry, message):
    with pytest.raises(PlanError, match=r"plan\.yaml:3: servers\.a") as error:
        parse_plan(locking(locked, entry), "plan.yaml")
    assert message in str(error.value)


def test_locked_arguments_are_part_of_every_server():
    config = server("{engine: vllm, args: {max_num_seqs: 8}}", locked="{kv-cache-dtype: fp8}")
    assert config.args == {"kv-cache-dtype": "fp8", "max-num-seqs": 8}
    assert config.output_args == {"kv-cache-dtype": "fp8"}
    assert not changes_output("max-num-seqs")


@pytest.mark.parametrize(
    ("entry", "gpus"),
    [
        ("{engine: vllm}", 1),
        ("{engine: vllm, args: {tensor_parallel_size: 4, --pp: 2}}", 8),
        ("{engine: vllm, args: {tp: 2, data-parallel-size: 2}, replicas: 2}", 8),
        ("{engine: vllm, args: {tp: 4}, gpus: 0}", 0),
        ("{engine: embedded, args: {tensor-parallel-size: 4}}", 0),
        ("{engine: openai, url: http://h, gpus: 8}", 8),
    ],
)
def test_gpus_of_a_server(entry, gpus):
    assert server(entry).gpu_count == gpus


@pytest.mark.parametrize("url", ["http://h:8000", "http://h:8000/", "http://h:8000/v1", "http://h:8000/v1/"])
def test_a_url_with_or_without_v1(url):
    assert server(f"{{engine: openai, url: '{url}'}}").url == "http://h:8000"


@pytest.mark.parametrize("url", ["h:8000", "ftp://h", "http://", "http://h:99999", "http://a b"])
def test_what_is_not_a_base_url(url):
    with pytest.raises(PlanError, match=r"servers\.a\.url: "):
        server(f"{{engine: openai, url: '{url}'}}")


def test_what_is_told_of_a_url_with_a_query_and_of_a_path():
    config = server("{engine: openai, url: 'http://h/v1?api-version=1&keyed=abc', path: '/x?sigs=abc'}")
    assert config.url == "http://h?api-version=1&keyed=abc"
    assert (config.as_dict()["url"], config.as_dict()["path"]) == ("http://h?api-version=1&keyed=***", "/x?sigs=***")
    assert "abc" not in str(config.as_dict())
    assert {"path", "ready"}.isdisjoint(server("{engine: openai, url: http://h, ready: false}").as_dict())


def test_configurations_are_equal_by_value_in_any_order_of_their_arguments():
    one = server("{engine: vllm, args: {tp: 2, max-num-seqs: 8}, env: {A: a, B: b}}")
    other = server("{engine: vllm, args: {max_num_seqs: 8, tensor-parallel-size: 2}, env: {B: b, A: a}}")
    assert one == other
    assert hash(one) == hash(other)
    assert one != server("{engine: vllm, args: {tp: 2, max-num-seqs: 9}, env: {A: a, B: b}}")


def test_nothing_can_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        server("{engine: vllm}").model = "other"
    with pytest.raises(ValidationError, match="frozen"):
        point().requests = 3


def test_what_reports_hold_of_a_configuration():
    config = server("{engine: openai, url: http://h, bearer: '${KEY}'}")
    assert config.as_dict()["bearer"] == "${KEY}"
    assert "ready_timeout" not in config.as_dict()
    assert (
        set(point(sla=(Limit(metric="ttft", stat="p99", op="<=", value=1.0),), runs=3).as_dict()) & {"sla", "runs"}
        == set()
    )


def test_servers_and_loads_keep_the_plans_order():
    text = plan_text(
        "  b: {engine: vllm}\n  a: {engine: vllm}",
        "  z: {input_tokens: 1, concurrency: 1, requests: 1}\n  y: {input_tokens: 1, concurrency: 1, requests: 1}",
    )
    plan = parse_plan(text, "plan.yaml")
    names = itertools.product([s.name for s in plan.server_configs()], [p.name for p in plan.load_points()])
    assert list(names) == [("b", "z"), ("b", "y"), ("a", "z"), ("a", "y")]
