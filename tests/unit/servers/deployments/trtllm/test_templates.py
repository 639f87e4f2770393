"""Filling of Triton's templates: what is in quotes, what is not, and what nobody fills."""

import pytest

from pytest_llmperf.servers.deployments.trtllm.templates import fill

TEMPLATE = """
# Set ${nothing} here.
name: "tensorrt_llm"
backend: "${triton_backend}"
max_batch_size: ${triton_max_batch_size}
model_transaction_policy { decoupled: ${decoupled_mode} }
parameters: { key: "gpt_model_path" value: { string_value: "${engine_dir}" } }
parameters: { key: "medusa_choices" value: { string_value: "${medusa_choices}" } }
"""
VALUES = {"triton_backend": "tensorrtllm", "triton_max_batch_size": 8, "decoupled_mode": True, "engine_dir": "/e"}


def test_known_ones_are_filled_and_others_told():
    filled = fill(TEMPLATE, VALUES | {"logits_datatype": "TYPE_FP32"})
    assert filled.text == TEMPLATE.replace("${triton_backend}", "tensorrtllm").replace(
        "${triton_max_batch_size}", "8"
    ).replace("${decoupled_mode}", "True").replace("${engine_dir}", "/e")
    assert filled.left == ("medusa_choices",)
    assert filled.needed == ()
    assert filled.known == VALUES.keys() | {"medusa_choices"}


def test_one_outside_of_quotes_is_needed():
    filled = fill(TEMPLATE, {name: value for name, value in VALUES.items() if name != "triton_max_batch_size"})
    assert filled.needed == ("triton_max_batch_size",)


def test_text_in_quotes_is_escaped():
    filled = fill(TEMPLATE, VALUES | {"engine_dir": '/a "b"\\c'})
    assert r'string_value: "/a \"b\"\\c"' in filled.text


@pytest.mark.parametrize("value", ["a b", "", "1\n", 'x"', "${y}", [1, 2]])
def test_what_no_token_is_stays_out_of_the_file(value):
    with pytest.raises(ValueError, match="decoupled_mode stands outside of quotes"):
        fill(TEMPLATE, VALUES | {"decoupled_mode": value})


@pytest.mark.parametrize("value", [0.85, 1e-7, "0,1;2,3"])
def test_numbers_and_lists_in_quotes(value):
    assert f'"{value}"' in fill('a: "${a}"', {"a": value}).text


def test_quotes_and_comments_do_not_run_into_each_other():
    filled = fill('a: "x # ${b}" # it\'s "${c}\nd: "\\"${e}"', {"b": 1, "c": 2, "e": 3})
    assert filled.text == 'a: "x # 1" # it\'s "${c}\nd: "\\"3"'
