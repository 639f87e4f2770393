# Every target sets up what it needs in .venv and .engines; nothing outside the checkout is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RESULTS := llmperf-results
PERF := $(BIN)/python -m pytest --junitxml=$(RESULTS)/junit.xml --llmperf-json=$(RESULTS)/report.json $(ARGS)

.PHONY: perf test fuzz test-unit test-plugin test-faults test-engines soak engine-vllm perf-vllm engine-triton perf-triton engine-triton-vllm perf-triton-vllm perf-deployments engine-kubectl check clean

perf: $(STAMP)  ## the main job on the embedded engine
	$(PERF) perf_tests/test_embedded.py perf_tests/test_answers.py

test: check test-unit test-plugin test-faults test-engines  ## everything that CI runs

test-unit: $(STAMP)  ## unit tests, two files at a time
	$(BIN)/python -m pytest tests/unit tests/fuzz -n 2 --dist loadfile $(ARGS)

test-plugin: $(STAMP)  ## the plugin from outside, two files at a time
	$(BIN)/python -m pytest tests/plugin -n 2 --dist loadfile $(ARGS)

test-faults: $(STAMP) engine-kubectl  ## faults of servers, network, machine and files, each by a session of its own
	$(BIN)/python -m pytest tests/faults -n 2 --dist worksteal $(ARGS)

fuzz: $(STAMP)  ## ten minutes of mutated files, streams and metrics, before a release; finds are kept in .hypothesis
	LLMPERF_FUZZ_EXAMPLES=1500 $(BIN)/python -m pytest tests/fuzz -n 2 --dist worksteal $(ARGS)

soak: $(STAMP)  ## a million tokens over 5,760 streams in one process, whose memory stays as it is; minutes
	LLMPERF_SOAK_SESSIONS=12 LLMPERF_SOAK_STREAMS=480 $(BIN)/python -m pytest -s tests/engines/test_soak.py $(ARGS)

test-engines: $(STAMP) engine-vllm engine-triton engine-kubectl  ## tests on real engines
	LLMPERF_REQUIRE_ENGINES=1 $(BIN)/python -m pytest tests/engines $(ARGS)

engine-vllm: $(STAMP)  ## real vLLM for the CPU and a tiny model, in .engines
	scripts/engine_vllm.sh

perf-vllm: engine-vllm  ## the main job on real vLLM; records this machine's baselines the first time
	$(PERF) --llmperf-update-new perf_tests/test_vllm_cpu.py

engine-triton:  ## real Triton Inference Server for the CPU, in .engines
	scripts/engine_triton.sh

perf-triton: $(STAMP) engine-triton  ## the main job on real Triton; records this machine's baselines the first time
	$(PERF) --llmperf-update-new perf_tests/test_triton.py

engine-triton-vllm: engine-vllm engine-triton  ## Triton's vLLM backend on these two
	scripts/engine_triton_vllm.sh

perf-triton-vllm: engine-triton-vllm  ## the main job on vLLM inside Triton
	$(PERF) --llmperf-update-new perf_tests/test_triton_vllm.py

perf-deployments: $(STAMP) engine-kubectl  ## engines that are deployed in steps, on stand-ins; TensorRT-LLM's engines in real Triton, where it is
	PATH="$(CURDIR)/tests/standins/trtllm/bin:$(CURDIR)/$(BIN):$$PATH:$(CURDIR)/.engines/triton/bin" \
	  $(PERF) perf_tests/test_deployments.py perf_tests/test_mlnode_guide.py perf_tests/test_kubernetes_guide.py

engine-kubectl: $(STAMP)  ## helm and kubectl, in .engines
	PYTHON=$(BIN)/python scripts/engine_kubectl.sh

check: $(STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) $(RESULTS) .pytest_cache .mypy_cache .ruff_cache

.PHONY: bench-peers bench-client

bench-peers:  ## the load tools to compare with, each in a venv of its own
	benchmarks/client/install_peers.sh

bench-client: $(STAMP)  ## how exact ours and theirs are (see docs/benchmarks-client.md)
	$(BIN)/python benchmarks/client/measure.py $(ARGS)

.PHONY: bench-gate

bench-gate: $(STAMP)  ## how often the regression gate is wrong (see docs/gate.md)
	$(BIN)/python benchmarks/gate/study.py $(ARGS)
