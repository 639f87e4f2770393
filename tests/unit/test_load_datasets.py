"""Files of prompts: what is read of each format, and mistakes with file and line."""

from __future__ import annotations

import json

import pytest

from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.datasets import Turn, parse_dataset
from pytest_llmperf.prompt_spec import FileFormat


def test_jsonl():
    text = '{"input": "a\\nb", "output": "c", "id": 3}\n\n{"input": "d"}\r\n'
    assert parse_dataset(text, "jsonl", "x.jsonl") == ((Turn("a\nb", "c"),), (Turn("d"),))


def test_csv_by_column():
    text = '\ufeffid,Prompt,output\n1,"two\nlines",yes\n2,plain,\n'
    assert parse_dataset(text, "csv", "x.csv") == ((Turn("two\nlines", "yes"),), (Turn("plain"),))
    assert parse_dataset("input\na\n", "csv", "x.csv") == ((Turn("a"),),)


def test_csv_without_a_known_column_is_its_first():
    assert parse_dataset("hello,1\nworld,2\n\n", "csv", "x.csv") == ((Turn("hello"),), (Turn("world"),))


def test_sharegpt():
    said = [
        {"from": "system", "value": "be kind"},
        {"from": "human", "value": "one"},
        {"from": "gpt", "value": "1"},
        {"from": "human", "value": "two"},
        {"from": "human", "value": "three"},
        {"from": "gpt", "value": " "},
    ]
    nobody_asks = {"conversations": [{"from": "gpt", "value": "x"}]}
    text = json.dumps([{"id": "a", "conversations": said}, nobody_asks])
    assert parse_dataset(text, "sharegpt", "x.json") == ((Turn("one", "1"), Turn("two"), Turn("three")),)


ASKED = '{"conversations": [{"from": "human", "value": "a"}]}'


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("jsonl", '{"input": "a"}\n{"output": "b"}\n', 'x:2: an object with "input" is needed, given {"output": "b"}'),
        ("jsonl", '{"input": "a"}\n\n{"input": }\n', "x:3: not JSON"),
        ("jsonl", '["a"]\n', "x:1: an object"),
        ("jsonl", '{"input": 3}\n', "x:1: input is a text that is not empty, given 3"),
        ("jsonl", '{"input": " "}\n', "x:1: input is a text"),
        ("jsonl", '{"input": "a", "output": 1}\n', "x:1: output is a text"),
        ("jsonl", "\n", "x: no prompt in it"),
        ("csv", "a,prompt\n1,x\n2\n", "x:3: 1 columns; the prompt is in column 2"),
        ("csv", "prompt\na\n \n", "x:3: the prompt is a text"),
        ("csv", 'prompt\n"a\n', "x:2: not CSV"),
        ("csv", "prompt\n", "x: no prompt in it"),
        ("sharegpt", "{}", "x:1: ShareGPT is a JSON array"),
        ("sharegpt", f'[{ASKED},\n\n{{"conversations": 3}}]', "x:3: an object with"),
        ("sharegpt", f'[\n{ASKED},\n{{"conversations": [{{"from": "human"}}]}}\n]', "x:3: a turn is"),
        ("sharegpt", f"[\n{ASKED}\n{ASKED}]", "x:3: not JSON: ',' or ']' is missing"),
        ("sharegpt", f"[\n{ASKED},\n{{oops}}]", "x:3: not JSON"),
        ("sharegpt", f"[{ASKED}", "x:1: not JSON"),
        ("sharegpt", "[]", "x: no prompt in it"),
    ],
)
def test_a_mistake_and_its_line(kind: FileFormat, text: str, message: str):
    with pytest.raises(PlanError) as error:
        parse_dataset(text, kind, "x")
    assert message in str(error.value)
    assert str(error.value).startswith("x:")
