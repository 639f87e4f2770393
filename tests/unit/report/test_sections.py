"""The list of sections: what is in it is in every medium that the section has, in the list's order."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import EVIL, STARTED, outcomes
from samples import result
from search_samples import searched

from pytest_llmperf.report import media
from pytest_llmperf.report.sections.section import Section
from pytest_llmperf.runner.outcomes import Outcome, RunFolder

SAMPLE = Section(
    key="failures",
    title="Failures",
    view=lambda content: [
        (found.point_id, found.metrics.failed) for _, found in content.measured if found.metrics.failed
    ],
    terminal=lambda view, width: (f"{point_id}: {failed} failed" for point_id, failed in view),
    json=lambda view: {"failures": dict(view)},
    html="<ul>{% for point_id, failed in view %}<li>{{ point_id }}: {{ failed }} failed</li>{% endfor %}</ul>",
    answers=lambda view: [("failures", "Failures", f" at {len(view)} points")],
)


def printed(held, verbosity=0):
    folder = RunFolder(Path("out"), started=STARTED, outcomes={one.test: one for one in held})
    return media.summary(folder, 120, False, verbosity)


def anchors(page):
    return re.findall(r'<section id="([\w-]+)">', page)


def test_every_section_has_an_anchor_of_its_own():
    keys = [section.key for section in media.SECTIONS]
    assert len(set(keys)) == len(keys)


def test_the_page_has_the_lists_order_and_links_each_section_that_it_has():
    held, baselines = outcomes()
    page = media.html_report(held, STARTED, (), baselines, [searched()])
    listed = [section.key for section in media.SECTIONS if section.html]
    assert anchors(page) == [key for key in listed if key not in ("capacity", "replicas", "answers")], (
        "nothing searched a capacity, no server has replicas, and no answer was looked at"
    )
    nav = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r'href="#([\w-]+)"', nav) == anchors(page)


def test_a_row_in_the_list_is_all_that_a_new_section_needs(monkeypatch):
    monkeypatch.setattr(media, "SECTIONS", (*media.SECTIONS, SAMPLE))
    held, _ = outcomes()
    held = [replace(held[0], result=replace(held[0].result, point_id=f"a {EVIL}")), *held[1:]]
    assert f"a {EVIL}: 15 failed\n" in printed(held)
    assert media.report_document(held, STARTED)["failures"]["tp4pp2-chat-c1"] == 15
    page = media.html_report(held, STARTED)
    assert anchors(page)[-1] == "failures"
    assert ">Failures</a> at 6 points</li>" in page
    assert "<li>tp4pp2-chat-c1: 15 failed</li>" in page
    assert EVIL not in page


@pytest.mark.parametrize("held", [(), (Outcome("t", "p", result(), passed=True),)], ids=["no point", "no failure"])
def test_a_section_without_anything_to_show_is_in_the_document_alone(monkeypatch, held):
    monkeypatch.setattr(media, "SECTIONS", (*media.SECTIONS, SAMPLE))
    assert "failed\n" not in printed(held).replace("failed\n/sent", "")
    assert media.report_document(held, STARTED)["failures"] == {}
    assert "failures" not in anchors(media.html_report(held, STARTED))


def test_statistics_of_another_tool_were_measured_somewhere():
    found = replace(result([]), imported=("read from a file",))
    page = media.html_report([Outcome("t", "p", found, passed=True)], STARTED)
    assert "environment" in anchors(page)
    assert "Nothing was measured" not in page
