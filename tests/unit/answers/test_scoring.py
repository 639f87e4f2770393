"""A run whose records hold texts: what it holds after it was scored, and what no longer."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from samples import failed, record, run

from pytest_llmperf.answers.scoring import AnswerScorer, without_texts
from pytest_llmperf.plan.load.answers import AnswerSpec
from pytest_llmperf.records import RequestRecord, Run


def answered(prompt: str, text: str, *references: str, **facts: Any) -> RequestRecord:
    return replace(record(), prompt=prompt, text=text, references=references, **facts)


def scored(*records: RequestRecord, **spec: Any) -> Run:
    return AnswerScorer(AnswerSpec(**spec)).scored(run(records))


def test_measured_answers_have_scores_and_no_text():
    done = scored(
        answered("2+2", "4", "4"), answered("3+3", "5", "6"), failed(), answered("x", "y", phase="lead-in"),
        scores=("exact", "token_f1"),
    )  # fmt: skip
    assert [one.scores for one in done.records] == [
        {"exact": 1.0, "token_f1": 1.0}, {"exact": 0.0, "token_f1": 0.0}, None, None,
    ]  # fmt: skip
    assert {(one.prompt, one.text, one.references) for one in done.records} == {(None, None, ())}
    assert done.records[0].prompt_id != done.records[1].prompt_id
    assert done.records[0].output_id is None, "nothing is guarded"


def test_a_prompt_that_stands_twice_in_its_file_is_scored_by_the_references_of_each_request():
    done = scored(answered("p", "a", "a"), answered("p", "a", "b"), scores=("exact",))
    assert [one.scores for one in done.records] == [{"exact": 1.0}, {"exact": 0.0}]


def test_the_guard_takes_the_first_different_prompts():
    records = [answered(prompt, "a") for prompt in ("p", "p", "q", "r")]
    ids = [one.output_id for one in scored(*records, guard={"prompts": 2}).records]
    assert ids[0] == ids[1] == ids[2] is not None
    assert ids[3] is None


@pytest.mark.parametrize(
    ("store", "kept"),
    [
        ("none", [(None, None, ()), (None, None, ())]),
        ("guard", [(None, "card ***", ()), (None, None, ())]),
        ("all", [("my ***?", "card ***", ("***",)), ("q", "b", ())]),
    ],
)
def test_texts_are_kept_as_asked_and_redacted(store, kept):
    spec = {"guard": {"prompts": 1}, "store_texts": store, "redact": (r"\d{4}",)}
    done = scored(answered("my 1234?", "card 1234", "1234"), answered("q", "b"), **spec)
    assert [(one.prompt, one.text, one.references) for one in done.records] == kept


def test_a_long_guarded_answer_is_cut_and_its_digest_is_of_all():
    one, other = (scored(answered("p", "x" * 5000 + end), guard=True, store_texts="guard") for end in "ab")
    assert len(one.records[0].text or "") == 2000
    assert one.records[0].output_id != other.records[0].output_id


def grade(answer: str, references: tuple[str, ...], prompt: str) -> float:
    if answer == "boom":
        raise RuntimeError(answer)
    return float(answer == references[0])


def test_a_users_function_that_raises_costs_its_own_score_and_shows_no_text(monkeypatch):
    monkeypatch.setattr("pytest_llmperf.answers.scoring.load_function", lambda name: grade)
    done = scored(answered("p", "a", "a"), answered("q", "boom", "a"), function="grading:grade")
    assert [one.scores for one in done.records] == [{"function": 1.0}, {}]
    assert done.notes == ("answers: 1 have no score: grading:grade raised RuntimeError",)


def test_an_interrupted_run_holds_no_text():
    (bare,) = without_texts(run([answered("p", "a", "b")])).records
    assert (bare.prompt, bare.text, bare.references, bare.prompt_id) == (None, None, (), None)


class Judge(BaseHTTPRequestHandler):
    """Marks by the answer's first letter; keeps what it was asked."""

    asked: list[tuple[str | None, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.headers["Authorization"], body))
        answer = body["messages"][1]["content"].rpartition("\n")[2]
        if answer == "refuse":
            self.send_error(503)
            return
        replies = {"good": "Quite right: 0.9", "odd": "seven 7", "mute": "hm", "red": "\x1b[31m" + "9" * 5000}
        replies |= {"bare": "Wrong: .1", "comma": "Falsch: 0,1.", "version": "0.9, but for 3.11.4"}
        data = json.dumps({"choices": [{"message": {"content": replies.get(answer)}}]}).encode()
        data = b"[" * 100_000 if answer == "deep" else data
        self.send_response(200)
        self.send_header("Content-Length", str(10**12 if answer == "endless" else len(data)))
        self.end_headers()
        self.wfile.write(data)
        with contextlib.suppress(OSError):
            while answer == "endless":
                self.wfile.write(b" " * 65536)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[tuple[str, list[tuple[str | None, dict[str, Any]]]]]:
    Judge.asked = []
    with HTTPServer(("127.0.0.1", 0), Judge) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", Judge.asked
        server.shutdown()
        thread.join()


def test_a_judge_marks_each_different_answer_once(judge):
    url, asked = judge
    spec = AnswerSpec(judge={"url": url, "model": "m", "parallel": 1})
    texts = ("good", "good", "odd", "mute", "refuse")
    records = [answered("p", text, "right") for text in texts]
    scorer = AnswerScorer(spec, (("Authorization", "Bearer k"),))
    done, again = scorer.scored(run(records)), scorer.scored(run(records))
    assert [one.scores for one in done.records] == [{"judge": 0.9}, {"judge": 0.9}, {}, {}, {}]
    assert len(done.notes) == 3
    assert [one.scores for one in again.records] == [one.scores for one in done.records]
    assert len(asked) == 1 + 3 * 2, "those without a mark twice, nothing anew in the second run"
    header, body = asked[0]
    assert (header, body["model"], body["temperature"]) == ("Bearer k", "m", 0)
    assert "A right answer:\nright" in body["messages"][1]["content"]


def test_a_mark_may_have_no_digit_before_its_point_or_a_comma_for_it(judge):
    spec = AnswerSpec(judge={"url": judge[0], "model": "m"})
    done = AnswerScorer(spec).scored(run([answered("p", "bare"), answered("p", "comma")]))
    assert [one.scores for one in done.records] == [{"judge": 0.1}, {"judge": 0.1}]


@pytest.mark.parametrize("answer", ["deep", "red", "endless", "none", "version"])
def test_a_judges_odd_reply_costs_its_mark_alone(judge, answer):
    url, _ = judge
    spec = AnswerSpec(judge={"url": url, "model": "m", "timeout": "10 s"})
    done = AnswerScorer(spec).scored(run([answered("p", answer, "right"), answered("p", "good", "right")]))
    assert [one.scores for one in done.records] == [{}, {"judge": 0.9}]
    (note,) = done.notes
    assert "1 have no score: the judge gave none" in note
    assert note.isprintable()
    assert len(note) < 400
