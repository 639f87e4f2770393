"""--llmperf-html: the option."""

import importlib.util


def test_the_option_writes_one_file(suite):
    path = suite.pytester.path / "reports" / "r.html"
    done = suite.run("-k", "short", "--llmperf-update-baselines", f"--llmperf-html={path}")
    text = path.read_text(encoding="utf-8")
    assert "2 points: 2 PASS" in text
    assert "SIMULATED" in text
    done.stdout.fnmatch_lines([f"HTML report: {path}", "report: *"])


def test_the_baseline_of_an_earlier_session_is_overlaid(suite):
    path = suite.pytester.path / "r.html"
    suite.run("-k", "tp1pp1-short", "--llmperf-update-baselines")
    suite.run("-k", "tp1pp1-short", f"--llmperf-html={path}", "--llmperf-update-baselines")
    text = path.read_text(encoding="utf-8")
    assert "beside the baseline&#39;s 50." in text


def test_without_the_extra_the_option_says_what_to_install(suite, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "plotly" else find(name, *a))
    done = suite.run("--llmperf-html=r.html")
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*needs plotly: pip install 'pytest-llmperf[[]report]'*"])


def test_secrets_do_not_reach_the_page(suite, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-t0ken")
    suite.edit_plan("decode-ms-per-step: 2, max-num-seqs: 4}", "max-num-seqs: 4}, env: {HF_TOKEN: '${MY_TOKEN}'}")
    path = suite.pytester.path / "r.html"
    suite.run("-k", "tp4pp2-short", "--llmperf-update-baselines", f"--llmperf-html={path}")
    text = path.read_text(encoding="utf-8")
    assert "s3cr3t" not in text
    assert "${MY_TOKEN}" in text
