"""The HTML report in a real browser: it draws, answers to the keyboard, fits, and asks the network for nothing."""

import struct
import zlib

import pytest
from chromium import browser, executable
from report_samples import STARTED, outcomes
from search_samples import searched

from pytest_llmperf.report.media import html_report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("html") / "report.html"
    held, baselines = outcomes()
    path.write_text(html_report(held, STARTED, (), baselines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    program = executable()
    if program is None:
        pytest.skip("no Chromium or Chrome on PATH to open the report in")
    with browser(program, tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture
def page(tab):
    """The one tab, as if it were new: what is opened in it next keeps nothing of what was there."""
    tab.complaints.clear()
    tab.requests.clear()
    return tab


DRAWN = "[...document.querySelectorAll('.chart')].filter(c => c.dataset.drawn && c.querySelector('svg')).length"


def test_it_opens_offline_without_a_complaint(page, report):
    page.open(report)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for(f"{DRAWN} == document.querySelectorAll('.chart').length")
    assert page.evaluate(DRAWN) == 3 + 1 + 6 * 8
    assert page.evaluate("document.title").startswith("FAIL")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def test_a_link_opens_its_point_from_the_keyboard(page, report):
    page.open(report)
    assert page.evaluate("document.getElementById('point-2').open") is False
    page.evaluate("document.querySelector('.worst a[href=\"#point-2\"]').focus()")
    page.press("Enter", 13)
    page.wait_for("document.getElementById('point-2').open")
    page.wait_for("!!document.querySelector('#point-2 .chart svg')")
    page.evaluate("document.querySelector('#point-2 figure summary').focus()")
    page.press("Enter", 13)
    page.wait_for("document.querySelector('#point-2 figure details').open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_is_not_blank(page, report, width, scheme):
    page.open(report, width, 1200, scheme)
    page.evaluate("document.querySelector('.chart').scrollIntoView()")
    page.wait_for(f"{DRAWN} > 0")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the side"
    rows = pixels(page.screenshot())
    assert len(set(rows)) > 100, "lines of pixels that differ: there is something to see"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert dark == (scheme == "dark")
    assert page.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_search_says_its_answer_first_and_fits(page, tmp_path, width):
    path = tmp_path / "search.html"
    path.write_text(html_report([], STARTED, searches=[searched()]), encoding="utf-8")
    page.open(path, width, 1200)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for(f"{DRAWN} == 2")
    assert page.evaluate("document.querySelector('h1').innerText").endswith(
        "grid.tp4.seqs8.plain leads, 1 other within noise: 400.0 tok/s"
    )
    assert page.evaluate("document.querySelectorAll('table.cards tbody tr').length") == 16
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out at the side"
    assert page.complaints == []


def test_contrast_is_enough_in_both_schemes(page, report):
    for scheme in ("light", "dark"):
        page.open(report, scheme=scheme)
        for ink in ("ink", "quiet", "link", "good", "bad", "doubt", "none"):
            for ground in ("ground", "panel", "bad-ground"):
                assert page.evaluate(CONTRAST.format(ink=ink, ground=ground)) >= 4.5, (scheme, ink, ground)


CONTRAST = """(() => {{
  const of = (name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
  const light = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const [a, b] = [light(of('{ink}')), light(of('{ground}'))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}})()"""


def pixels(png: bytes) -> list[bytes]:
    """The rows of a PNG as they are packed: equal rows of an empty picture pack to equal bytes."""
    at, data, width = 8, b"", 0
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        if kind == b"IHDR":
            width, _, depth, colour = struct.unpack(">IIBB", png[at + 8 : at + 18])
            stride = width * {2: 3, 6: 4}[colour] * depth // 8 + 1
        if kind == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(data)
    return [raw[place : place + stride] for place in range(0, len(raw), stride)]
