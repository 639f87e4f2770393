"""--llmperf-export: files of other tools beside the report."""

import json


def test_exports_are_written_per_test(suite):
    options = ("--llmperf-update-baselines", "--llmperf-export=aiperf,genai-perf,vllm,csv,parquet")
    done = suite.run("-k", "tp1pp1-short", *options)
    folder = suite.output / "export" / "test_perf.py.test_serving-tp1pp1-short"
    assert {path.name for path in folder.iterdir()} == {
        *("profile_export_aiperf.json", "profile_export.jsonl", "profile_export_genai_perf.json"),
        *("profile_export_genai_perf.csv", "vllm.json", "requests.csv", "requests.parquet"),
    }
    written = json.loads((folder / "profile_export_aiperf.json").read_text())
    assert written["time_to_first_token"]["unit"] == "ms"
    done.stdout.fnmatch_lines([f"exports: {suite.output / 'export'}"])


def test_an_unknown_export_is_a_mistake_of_usage(suite):
    done = suite.run("--llmperf-export=aiperf,klingon")
    assert done.ret == 4
    done.stderr.fnmatch_lines(["*'klingon' is not one of genai-perf, aiperf, vllm, csv, parquet*"])
