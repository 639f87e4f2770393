#!/usr/bin/env bash
# Installs the load tools to compare with, each into a venv of its own: .engines/peers/<name>. A finished one is left alone.
# `vllm bench serve` is the one of .engines/vllm (make engine-vllm).
#   PYTHON                the interpreter to build with (default python3; 3.11 or newer)
#   LLMPERF_TORCH_INDEX   an extra package index that has torch's CPU builds (GuideLLM), where pip's own index has none
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root peers=$root/.engines/peers

say() { printf 'bench-peers: %s (%ss)\n' "$*" "$SECONDS"; }

# peer NAME REQUIREMENT...
peer() {
  local venv=$peers/$1 stamp=$peers/$1/.llmperf-stamp
  local recipe="$venv ${*:2}"
  if [[ -f $stamp && $(<"$stamp") == "$recipe" ]]; then say "$1 is up to date"; return; fi
  say "installing ${*:2}"
  "${PYTHON:-python3}" -m venv --clear "$venv"
  "$venv/bin/python" -m pip -qq --disable-pip-version-check --no-input install \
    ${LLMPERF_TORCH_INDEX:+--extra-index-url "$LLMPERF_TORCH_INDEX"} "${@:2}"
  "$venv/bin/$1" --help >/dev/null
  printf '%s\n' "$recipe" >"$stamp"
  say "ready: $venv/bin/$1"
}

peer aiperf aiperf==0.13.0
peer guidellm guidellm==0.8.1 torch==2.13.0+cpu  # the CUDA build of torch is 3 GB and never used here
[[ -x $root/.engines/vllm/bin/vllm ]] || say "vLLM is not installed: make engine-vllm"
