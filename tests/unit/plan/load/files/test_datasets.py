"""Files of prompts: what is read of each format, and mistakes with file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.errors import PlanError
from pytest_llmperf.plan.load.files.datasets import Dialogue, Turn, parse_dataset, read_prompts
from pytest_llmperf.plan.load.prompts import FileFormat


def _dialogues(text: str, kind: FileFormat, source: str, **how: bool) -> tuple[Dialogue, ...]:
    return parse_dataset(text, kind, source, **how).dialogues


def _lines(*entries: Any) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_jsonl():
    text = '{"input": "a\\nb", "output": "c", "id": 3}\n\n{"input": "d"}\r\n'
    assert _dialogues(text, "jsonl", "x.jsonl") == ((Turn("a\nb", "c"),), (Turn("d"),))


def test_csv_by_column():
    text = '\ufeffid,Prompt,output\n1,"two\nlines",yes\n2,plain,\n'
    assert _dialogues(text, "csv", "x.csv") == ((Turn("two\nlines", "yes"),), (Turn("plain"),))
    assert _dialogues("input\na\n", "csv", "x.csv") == ((Turn("a"),),)


def test_csv_without_a_known_column_is_its_first():
    assert _dialogues("hello,1\nworld,2\n\n", "csv", "x.csv") == ((Turn("hello"),), (Turn("world"),))


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
    assert _dialogues(text, "sharegpt", "x.json") == ((Turn("one", "1"), Turn("two"), Turn("three")),)


ASKED = '{"conversations": [{"from": "human", "value": "a"}]}'


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("jsonl", '{"input": "a"}\n{"output": "b"}\n', 'x:2: an object with "input" or "prompt" or'),
        ("jsonl", '{"input": "a"}\n\n{"input": }\n', "x:3: not JSON"),
        ("jsonl", '["a"]\n', "x:1: an object"),
        ("jsonl", '{"input": "a"}\n{"input": "b",}\n', "x:2: not JSON"),
        ("jsonl", '{"input": "a", "x": NaN}\n', "x:1: not JSON (NaN is no JSON number)"),
        ("jsonl", '{"input": "a", "input": "b"}\n', 'x:1: not JSON (the key "input" is given twice)'),
        ("jsonl", "\n" + "[" * 100_000 + "\n", "x:2: not JSON (nested too deeply)"),
        ("jsonl", '{"input": "a"}\n{"input": "half \\ud83d"}\n', "x:2: input: half of a surrogate pair (\\ud83d) at"),
        ("jsonl", '{"input": ["a", "b"]}\n', 'x:1: input: a text that is not empty is needed, given ["a", "b"]'),
        ("jsonl", '{"custom_id": "1", "body": {"messages": []}}\n', "x:1: an object with"),
        ("jsonl", '{"input": "a", "max_tokens": 0}\n', "x:1: max_tokens: 0 is not a number of tokens"),
        ("jsonl", '{"input": "a", "max_tokens": 1e300}\n', "x:1: max_tokens: 1e+300 tokens are more than"),
        ("jsonl", '{"input": "a", "max_tokens": "few"}\n', 'x:1: max_tokens: "few" is not a number'),
        ("jsonl", '{"input": "a", "max_tokens": 3, "output_tokens": 4}\n', "x:1: lengths of the answer that differ"),
        ("jsonl", '{"messages": "a"}\n', "x:1: messages: a list of turns is needed"),
        ("jsonl", '{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}\n', "x:1: a turn is"),
        ("jsonl", '{"turns": [{"text": "a"}, {"text": " "}]}\n', "x:1: text: a text that is not empty"),
        ("jsonl", '{"input": 3}\n', "x:1: input: a text that is not empty is needed, given 3"),
        ("jsonl", '{"input": " "}\n', "x:1: input: a text"),
        ("jsonl", '{"input": "a", "output": 1}\n', "x:1: output: a text"),
        ("jsonl", "\n", "x: no prompt in it"),
        ("csv", "a,prompt\n1,x\n2\n", "x:3: 1 columns; the prompt is in column 2"),
        ("csv", "prompt\na\n \n", "x:3: prompt: a text"),
        ("csv", "prompt\nhello, you\n", "x:2: 2 columns, the header has 1: is a text with commas not quoted?"),
        ("csv", "prompt,output_tokens\na,few\n", 'x:2: output_tokens: "few" is not a number'),
        ("csv", "prompt,Prompt\na,b\n", "x:1: two columns have the same name"),
        ("csv", 'prompt\n"a\n', "x:2: not CSV"),
        ("csv", "prompt\n", "x: no prompt in it"),
        ("sharegpt", "3", "x:1: ShareGPT is a JSON array"),
        ("sharegpt", "{}", 'x:1: an object with "conversations" or'),
        ("sharegpt", f"[{ASKED},\n" + "[" * 100_000, "x:2: not JSON: nested too deeply"),
        ("sharegpt", f'[{ASKED},\n{{"conversations": ["a"]}}]', "x:2: a turn is"),
        ("sharegpt", f'[{ASKED},\n{{"conversations": [{{"from": "human", "value": null}}]}}]', "x:2: a turn is"),
        ("sharegpt", f'{ASKED}\n{{"id": 3}}\n', "x:2: an object with"),
        ("sharegpt", f'[{ASKED},\n\n{{"conversations": 3}}]', "x:3: conversations: a list"),
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


@pytest.mark.parametrize("key", ["input", "prompt", "text_input", "text"])
def test_what_a_prompt_is_called_elsewhere(key: str):
    assert _dialogues(_lines({key: "hello"}), "jsonl", "x") == ((Turn("hello"),),)


@pytest.mark.parametrize("key", ["output_tokens", "max_tokens", "max_completion_tokens", "output_length"])
def test_a_length_of_the_answer_in_a_line(key: str):
    text = _lines({"prompt": "a", key: 200}, {"prompt": "b", key: None}, {"prompt": "c", key: "7"})
    found = parse_dataset(text, "jsonl", "x")
    assert [turn.output_tokens for (turn,) in found.dialogues] == [200, None, 7]
    assert found.notes == (f"x: the answers of 2 of 3 lines have a length of their own there ({key})",)


def test_keys_that_change_nothing_are_told_once():
    entry = {"input": "a", "id": 3, "session_id": "s", "delay": 5, "images": ["i"], "temperature": None}
    assert parse_dataset(_lines(entry, entry, {"input": "b", "tools": []}), "jsonl", "x").notes == (
        "x: not used: delay (2 lines), images (2 lines), session_id (2 lines), tools (1 line)",
    )
    assert parse_dataset("prompt,Topic\na,b\nc,\n", "csv", "x").notes == ("x: not used: topic (1 line)",)
    system = {"system": "s", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}]}
    silent = {"conversations": []}
    assert parse_dataset(json.dumps([system, silent]), "sharegpt", "x").notes == (
        "x: not used: system (1 entry), turns of system (1 entry), no user's turn (1 entry)",
    )


def test_many_unknown_keys_are_not_all_named():
    (note,) = parse_dataset(_lines({"input": "a"} | {f"k{n}": n for n in range(30)}), "jsonl", "x").notes
    assert note.endswith("k11 (1 line) and 18 other keys")


SAID = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("key", ["conversations", "conversation", "messages", "items"])
def test_what_a_dialogue_is_called_elsewhere(key: str):
    asked = ((Turn("q", "a"),),)
    assert _dialogues(json.dumps([{key: SAID}]), "sharegpt", "x") == asked
    assert _dialogues(_lines({key: SAID}), "sharegpt", "x") == asked
    assert _dialogues(_lines({key: SAID}), "jsonl", "x") == asked


def test_entries_on_one_line_are_dialogues_of_their_own():
    text = json.dumps([{"messages": [{"role": "user", "content": name}]} for name in "abc"])
    for sessions in (False, True):
        found = _dialogues(text, "sharegpt", "x", sessions=sessions)
        assert found == ((Turn("a"),), (Turn("b"),), (Turn("c"),))


def test_turns_as_openai_writes_them():
    said = [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "tool", "content": "42"},
        {"role": "user", "content": " "},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "3"},
    ]
    assert _dialogues(_lines({"messages": said}), "jsonl", "x") == ((Turn("one two"), Turn("three", "3")),)


def test_turns_and_sessions_as_aiperf_writes_them():
    turns = {"session_id": "a", "turns": [{"text": "one", "max_tokens": 9}, {"text": "two", "delay": 1500}]}
    rows = [{"session_id": "b", "text": "1"}, {"text": "alone"}, {"session_id": "b", "text": "2", "delay": 0}]
    found = parse_dataset(_lines(turns, *rows), "jsonl", "x", sessions=True)
    assert found.dialogues == (
        (Turn("one", output_tokens=9), Turn("two", delay_s=1.5)),
        (Turn("1"), Turn("2", delay_s=0.0)),
        (Turn("alone"),),
    )
    assert [note for note in found.notes if "not used" in note] == []
    apart = parse_dataset(_lines(*rows), "jsonl", "x")
    assert apart.dialogues == ((Turn("1"),), (Turn("alone"),), (Turn("2"),))
    assert apart.notes == ("x: not used: session_id (2 lines), delay (1 line)",)


@pytest.mark.parametrize("delay", [-1, "soon", 1e12, True])
def test_a_delay_that_is_none(delay: Any):
    with pytest.raises(PlanError, match="x:1: delay: "):
        parse_dataset(_lines({"text": "a", "delay": delay}), "jsonl", "x", sessions=True)


@pytest.mark.parametrize("session", [[1], {}, 1.5, True])
def test_a_session_that_is_none(session: Any):
    with pytest.raises(PlanError, match="x:1: session_id: "):
        parse_dataset(_lines({"text": "a", "session_id": session}), "jsonl", "x", sessions=True)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_of_other_delimiters(delimiter: str):
    rows = [["ID", " PROMPT ", "Max_Tokens"], ["1", '"a, b; c | d"', "9"]]
    text = "\ufeff" + "".join(delimiter.join(row) + "\r\n" for row in rows)
    assert _dialogues(text, "csv", "x") == ((Turn("a, b; c | d", None, 9),),)


def test_csv_without_a_known_column_says_so():
    (note,) = parse_dataset("question,answer\na,b\n", "csv", "x").notes
    assert note == "x: no column is called input or prompt or text_input or text: the first of every row is the prompt"


def test_csv_has_room_for_long_prompts():
    assert _dialogues(f'prompt\n"{"word " * 100_000}"\n', "csv", "x") == ((Turn("word " * 100_000),),)


def test_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pytest_llmperf.plan.load.files.datasets.LONGEST_LINE", 20)
    with pytest.raises(PlanError, match="x:2: a line of 26 characters; at most 20"):
        parse_dataset('{"input": "a"}\n{"input": "aaaaaaaaaaaaa"}\n', "jsonl", "x")


def test_a_file_that_is_not_text(tmp_path: Path):
    (tmp_path / "x").write_bytes(b'{"input": "a"}\r\n{"input": "\xff"}\n')
    with pytest.raises(PlanError, match=r"x:2: not UTF-8 text: byte 0xff$"):
        read_prompts(str(tmp_path / "x"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("input", "prompt", "messages", "turns", "max_tokens", "delay", "session_id", "output")
PART = st.dictionaries(st.sampled_from(["from", "value", "role", "content", "text", "delay"]), JSON | st.just("user"))
ENTRY = st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(PART | JSON, max_size=3), max_size=3)


@given(st.lists(ENTRY | JSON, max_size=3), st.booleans())
def test_any_json_is_read_or_a_mistake_of_a_line(entries: list[Any], sessions: bool):
    _read_or_told(_lines(*entries), "jsonl", sessions)
    _read_or_told(json.dumps(entries), "sharegpt", sessions)


@given(st.text(), st.sampled_from(["jsonl", "csv", "sharegpt"]))
def test_any_text_is_read_or_a_mistake_of_a_line(text: str, kind: FileFormat):
    _read_or_told(text, kind, False)
    _read_or_told(f'prompt,output\n"{text}\n', kind, False)


@given(st.binary())
def test_any_bytes_are_read_or_a_mistake_of_a_line(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    file = tmp_path_factory.getbasetemp() / "bytes"
    file.write_bytes(data)
    try:
        text, mistake = read_prompts(str(file)), ""
    except PlanError as error:
        text, mistake = "", str(error)
    assert text or not data or re.match(rf"{file}:\d+: ", mistake)


def _read_or_told(text: str, kind: FileFormat, sessions: bool) -> None:
    try:
        dialogues, mistake = _dialogues(text, kind, "x", sessions=sessions), ""
    except PlanError as error:
        dialogues, mistake = (), str(error)
    assert dialogues or re.match(r"x:\d+: |x: no prompt in it", mistake)
    assert all(turn.input.strip() for dialogue in dialogues for turn in dialogue)
