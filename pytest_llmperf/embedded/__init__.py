"""An OpenAI-compatible server that imitates vLLM's serving: `python -m pytest_llmperf.embedded`.

It runs in a process of its own, needs the standard library, numpy and h11 only, and is ready within a second. Nothing
is imported here, so that reading the settings' names (`settings.py`) or an emission log (`truth.py`) stays cheap.
"""
