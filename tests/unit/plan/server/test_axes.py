"""Server entries and loads that stand for several: their names, values, order, and what is wrong with them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import plan_text

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.file import parse_plan
from pytest_llmperf.plan.plan import Plan
from pytest_llmperf.plan.schema import plan_schema


def plan(*servers: str, loads: str = "", rest: str = "") -> Plan:
    """The first server stands in line 3."""
    lines = "\n".join(f"  {server}" for server in servers)
    return parse_plan(plan_text(lines, **({"loads": loads} if loads else {}), rest=rest), "plan.yaml")


def names(entry: str) -> list[str]:
    return [config.name for config in plan(entry).server_configs()]


def mistake(*servers: str, loads: str = "", rest: str = "") -> str:
    with pytest.raises(PlanError) as error:
        plan(*servers, loads=loads, rest=rest)
    return str(error.value)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("g: {engine: vllm, args: {tp: {sweep: '1:4'}}}", ["g.tp1", "g.tp2", "g.tp4"]),
        (
            "g: {engine: vllm, args: {tensor_parallel_size: {sweep: [1, 2]}, max-num-seqs: {sweep: '64:128:64'}}}",
            ["g.tp1.seqs64", "g.tp1.seqs128", "g.tp2.seqs64", "g.tp2.seqs128"],
        ),
        (
            "g: {engine: vllm, args: {block-size: {sweep: [16, null]}, enforce-eager: {sweep: [true, false]}}}",
            [
                "g.block_size_16.enforce_eager_true",
                "g.block_size_16.enforce_eager_false",
                "g.block_size_default.enforce_eager_true",
                "g.block_size_default.enforce_eager_false",
            ],
        ),
        (
            "g: {engine: vllm, args: {gpu-memory-utilization: {sweep: '0.7:0.9:0.1'}}}",
            ["g.mem0.7", "g.mem0.8", "g.mem0.9"],
        ),
        (
            "g: {engine: embedded, args: {x: 1}, replicas: {sweep: [1, 2]}}".replace("x: 1", "seed: 1"),
            ["g.replicas1", "g.replicas2"],
        ),
        ("g: {engine: vllm, args: {a: {sweep: [/models/tiny-7b/, fp8 e4m3]}}}", ["g.a_tiny_7b", "g.a_fp8_e4m3"]),
        (
            "g: {engine: vllm, env: {API_TOKEN: {sweep: ['${ONE}', '${TWO}']}}}",
            ["g.env.API_TOKEN_1", "g.env.API_TOKEN_2"],
        ),
        ("g: {engine: vllm, combinations: {small: {tp: 1}, large: {tp: 2}}}", ["g.small", "g.large"]),
    ],
)
def test_names(entry, expected):
    assert names(entry) == expected


def test_an_engines_own_fields_at_any_depth():
    (space,) = (
        plan(
            "g: {engine: triton, models: {echo: {backend: vllm, max_batch_size: {sweep: [4, 8]}, "
            "instance_group: [{kind: KIND_CPU, count: {sweep: '1:2'}}], "
            "dynamic_batching: {max_queue_delay_microseconds: {sweep: [0, 100]}}}}}"
        )
        .server_spaces()
        .values()
    )
    assert [axis.path for axis in space.axes] == [
        ("models", "echo", "max_batch_size"),
        ("models", "echo", "instance_group", "0", "count"),
        ("models", "echo", "dynamic_batching", "max_queue_delay_microseconds"),
    ]
    config = space.config((1, 0, 1))
    model = config.models["echo"]
    assert config.name == "g.batch8.instances1.delay100us"
    assert (model.max_batch_size, model.instance_group[0].count) == (8, 1)
    assert model.dynamic_batching.max_queue_delay_microseconds == 100


def test_the_same_field_of_two_models_has_two_names():
    sweep = "{backend: vllm, max_batch_size: {sweep: [4, 8]}}"
    found = names(f"g: {{engine: triton, serve: a, models: {{a: {sweep}, b: {sweep}}}}}")
    assert found[1] == "g.models.a.max_batch_size_4.models.b.max_batch_size_8"


def test_every_configuration_holds_its_values_and_the_locked_ones():
    found = plan(
        "g: {engine: vllm, args: {tp: {sweep: [2, 4]}, pp: 2, block-size: {sweep: [16, null]}}}",
        "one: {engine: vllm}",
        rest="locked: {quantization: fp8}",
    ).server_spaces()
    assert [(config.gpu_count, config.args) for config in found["g"].configs] == [
        (4, {"quantization": "fp8", "tensor-parallel-size": 2, "pipeline-parallel-size": 2, "block-size": 16}),
        (4, {"quantization": "fp8", "tensor-parallel-size": 2, "pipeline-parallel-size": 2}),
        (8, {"quantization": "fp8", "tensor-parallel-size": 4, "pipeline-parallel-size": 2, "block-size": 16}),
        (8, {"quantization": "fp8", "tensor-parallel-size": 4, "pipeline-parallel-size": 2}),
    ]
    assert [(axis.name, axis.values) for axis in found["g"].axes] == [
        ("tensor-parallel-size", (2, 4)),
        ("block-size", (16, None)),
    ]
    assert (found["one"].axes, found["one"].config(()).name) == ((), "one")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_coordinates_and_configurations_agree(sizes):
    args = ", ".join(f"a{number}: {{sweep: {list(range(size))}}}" for number, size in enumerate(sizes))
    space = plan(f"g: {{engine: vllm, args: {{{args}}}}}").server_spaces()["g"]
    assert [space.config(at) for at in space.coordinates()] == list(space.configs)
    assert [tuple(config.args.values()) for config in space.configs] == list(itertools.product(*map(range, sizes)))
    with pytest.raises(IndexError, match="a0 has"):
        space.config((sizes[0], *[0] * (len(sizes) - 1)))


def test_combinations_are_merged_into_the_arguments():
    found = plan(
        "g: {engine: vllm, args: {max-num-seqs: 8, block-size: 16, tp: {sweep: [1, 2]}}, "
        "combinations: {plain: {}, large: {max_num_seqs: 64, max-num-batched-tokens: 4096}}}"
    ).server_configs()
    assert [config.name for config in found] == ["g.tp1.plain", "g.tp1.large", "g.tp2.plain", "g.tp2.large"]
    assert found[0].args == {"max-num-seqs": 8, "block-size": 16, "tensor-parallel-size": 1}
    assert found[3].args["max-num-seqs"] == 64
    assert found[3].args["max-num-batched-tokens"] == 4096


LOAD = "  chat: {requests: 20, output_tokens: 4, concurrency: {sweep: [2, 4]}, combinations: {%s}}"


def test_combinations_of_a_load():
    lengths = "short: {input_tokens: 8}, long: {input_tokens: 80, output_tokens: 16, concurrency: 1}"
    points = plan("a: {engine: embedded}", loads=LOAD % lengths).load_points()
    assert [(p.name, p.input_tokens, p.output_tokens, p.concurrency) for p in points] == [
        ("chat-short-c2", 8, 4, 2),
        ("chat-short-c4", 8, 4, 4),
        ("chat-long", 80, 16, 1),
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("args: {tp: {sweep: '1:x'}}", r"servers.g.args.tp: '1:x' is not a sweep; write"),
        ("args: {tp: {sweep: []}}", r"servers.g.args.tp: a sweep's list is empty"),
        ("args: {tp: {sweep: [[1]]}}", r"a sweep's list holds numbers, texts, true, false and null; [1] is none"),
        ("args: {tp: {sweep: [1, 1]}}", "names a value twice"),
        ("args: {tp: {sweep: '1:4', step: 2}}", "servers.g.args.tp: `sweep` stands alone, without step"),
        (
            "args: {tp: {sweep: [1, 0]}}",
            "servers.g.args.tp: tensor-parallel-size is a whole number of at least 1, not 0",
        ),
        ("replicas: {sweep: [1, x]}", "servers.g.replicas: 'x' is neither a whole number of at least 1 nor auto"),
        ("args: {x: {sweep: [a/b, c/b]}}", "servers.g.args.x: 'a/b' and 'c/b' would both be called 'x_b'"),
        (
            "args: {a: {sweep: '1:64:1'}, b: {sweep: '1:64:1'}}",
            "servers.g: 64 x 64 = 4096 configurations; at most 1000",
        ),
        ("args: {quantization: {sweep: [fp8]}}", "server 'g.quantization_fp8' sets quantization, which changes"),
        ("combinations: {}", "servers.g.combinations: a mapping of names to what goes together is needed, given {}"),
        ("combinations: {a b: {}}", "servers.g.combinations.a b: 'a b' cannot be part of a test id"),
        ("combinations: {a: 3}", "servers.g.combinations.a: a mapping of keys to values is needed, given 3"),
        ("combinations: {a: {}, b: {tp: x}}", "servers.g.combinations.b.tp: tensor-parallel-size is a whole number"),
        ("combinations: {a: {tp: {sweep: [1]}}}", "servers.g.combinations.a.tp: a combination holds values, no sweeps"),
        ("args: {tp: {sweep: [1]}}, combinations: {a: {tp: 2}}", "combinations.a.tp: tp is swept in `args` too"),
    ],
)
def test_mistakes_of_a_server_entry(entry, message):
    text = mistake("one: {engine: vllm}", f"g: {{engine: vllm, {entry}}}")
    assert message in text
    assert [line.partition(" ")[0] for line in text.splitlines()] == ["plan.yaml:4:"]


def test_a_mistake_stands_at_the_line_of_the_swept_argument_and_once():
    entry = (
        "g:\n    engine: embedded\n    args:\n      max-num-seqs: {sweep: '1:4'}\n      max-num-seq: {sweep: [1, 2]}"
    )
    assert mistake(entry) == (
        "plan.yaml:7: servers.g.args.max-num-seq: the embedded engine has no argument 'max-num-seq'; "
        "did you mean 'max-num-seqs'?"
    )


def test_a_mistake_of_some_configurations_names_the_first_of_them():
    model = "{backend: python, files: ., max_batch_size: {sweep: [0, 4]}, dynamic_batching: {}}"
    text = mistake(f"g: {{engine: triton, models: {{m: {model}}}}}")
    assert text.endswith("servers.g.models.m: dynamic_batching needs max_batch_size of at least 1 (in batch0)")


def test_no_secret_is_in_a_mistake():
    text = mistake("g: {engine: vllm, env: {API_TOKEN: {sweep: [hunter2, hunter3]}}, args: {tp: {sweep: [1, 2]}}}")
    assert "servers.g.env.API_TOKEN: API_TOKEN holds a secret in plain text" in text
    assert "hunter" not in text


def test_names_of_configurations_are_nobody_elses():
    text = mistake("g: {engine: vllm, args: {tp: {sweep: [1]}}}", "g.tp1: {engine: vllm}")
    assert text == "plan.yaml:4: servers.g.tp1: 'g.tp1' is the name of a server of 'g' too"


def test_a_locked_argument_has_one_value():
    text = mistake("g: {engine: vllm}", rest="locked: {dtype: {sweep: [half, float]}}")
    assert "locked.dtype: a locked argument has one value on all servers" in text


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        (
            "short: {inputtokens: 8}",
            "combinations.short.inputtokens: unknown key 'inputtokens'; did you mean 'input_tokens'",
        ),
        ("short: {input_tokens: x}", "loads.chat.combinations.short.input_tokens: a whole number is needed, given 'x'"),
        ("c8: {input_tokens: 8}", "loads.chat.combinations.c8: 'c8' is how a swept value is named in test ids"),
        (
            "a: {input_tokens: 8}, b: {}",
            "a load has either `input_tokens` (synthetic prompts) or `prompts: {file: ...}` (in b)",
        ),
    ],
)
def test_mistakes_of_a_loads_combinations(combination, message):
    assert message in mistake("a: {engine: embedded}", loads=LOAD % combination)


def test_the_schema_allows_sweeps_and_combinations():
    definitions = plan_schema()["$defs"]
    sweep = {"$ref": "#/$defs/ServerSweep"}
    for model, key in (
        ("VllmServer", "replicas"),
        ("TritonModel", "max_batch_size"),
        ("InstanceGroup", "count"),
        ("DynamicBatching", "max_queue_delay_microseconds"),
    ):
        assert sweep in definitions[model]["properties"][key]["anyOf"]
    engine = definitions["VllmServer"]["properties"]["engine"]
    assert engine["const"] == "vllm"
    assert "anyOf" not in engine
    assert "combinations" in definitions["VllmServer"]["properties"]
    keys = definitions["LoadSpec"]["properties"]["combinations"]["additionalProperties"]
    assert {"input_tokens", "concurrency"} <= set(keys["properties"])
