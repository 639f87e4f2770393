"""`python -m pytest_llmperf` is the command `llmperf`."""

from pytest_llmperf.cli.main import main

main(prog_name="llmperf")
