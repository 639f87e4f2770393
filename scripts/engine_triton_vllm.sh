#!/usr/bin/env bash
# Triton's vLLM backend on the CPU, in .engines/triton-vllm: the sources of triton-inference-server/vllm_backend in front
# of what engine_triton.sh and engine_vllm.sh installed, which are used and not changed.
#   LLMPERF_VLLM_BACKEND   a checkout of that repository; without it, it is cloned (the one thing here that no package has)
set -euo pipefail

readonly COMMIT=8de0c148bda1da25de1e05ffaaf67116dacc7264
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root triton=$root/.engines/triton vllm=$root/.engines/vllm home=$root/.engines/triton-vllm
readonly python=$home/bin/python stamp=$home/.llmperf-stamp

say() { printf 'engine-triton-vllm: %s (%ss)\n' "$*" "$SECONDS"; }
die() { printf 'engine-triton-vllm: %s\n' "$*" >&2; exit 1; }
recipe() { { printf '%s\n' "$home" "${LLMPERF_VLLM_BACKEND:-}"; cat "$root/scripts/engine_triton_vllm.sh" "$triton/.llmperf-stamp"; } | sha256sum; }
finished() { [[ -x $home/bin/tritonserver && -f $stamp && $(<"$stamp") == "$(recipe)" ]]; }
site() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

# vLLM's packages by a .pth file, which come after this environment's own: the stub needs NumPy 1.
make_environment() {
  rm -rf "$home"
  "$(readlink -f "$vllm/bin/python")" -m venv "$home"
  "$python" -m pip -qq --disable-pip-version-check --no-input install 'numpy<2'
  site "$vllm/bin/python" >"$(site "$python")/vllm.pth"
}

fetch_backend() {
  if [[ -n ${LLMPERF_VLLM_BACKEND:-} ]]; then
    [[ -f $LLMPERF_VLLM_BACKEND/src/model.py ]] || die "LLMPERF_VLLM_BACKEND=$LLMPERF_VLLM_BACKEND has no src/model.py"
    cp -r "$LLMPERF_VLLM_BACKEND/src" "$home/src"
    return
  fi
  git clone -q --no-checkout https://github.com/triton-inference-server/vllm_backend "$home/checkout" ||
    die "could not clone the backend: set LLMPERF_VLLM_BACKEND to a checkout of it"
  git -C "$home/checkout" checkout -q "$COMMIT"
  mv "$home/checkout/src" "$home/src"
}

# Two names have moved since; and vLLM reads files as UTF-8 only where the locale says so, which a stub does not set.
adapt_backend() {
  local backend=$home/backends/vllm
  mkdir -p "$home/backends"
  cp -r "$triton/backends/python" "$home/backends/python"
  mv "$home/src" "$backend"
  sed -i 's/^from vllm\.inputs\.data import TokensPrompt/from vllm.inputs import TokensPrompt/' "$backend/utils/request.py"
  sed -i 's/^from vllm\.v1\.metrics\.loggers import StatLoggerBase, build_1_2_5_buckets/from vllm.v1.metrics.buckets import build_1_2_5_buckets\nfrom vllm.v1.metrics.loggers import StatLoggerBase/' "$backend/utils/metrics.py"
  sed -i '0,/^import asyncio$/s//import locale\nlocale.setlocale(locale.LC_ALL, "C.UTF-8")\nimport asyncio/' "$backend/model.py"
}

make_launcher() {
  cat >"$home/bin/tritonserver" <<LAUNCHER
#!/usr/bin/env bash
export LLMPERF_TRITON_PYTHON="$home/bin" LLMPERF_TRITON_BACKENDS="$home/backends"
exec "$triton/bin/tritonserver" "\$@"
LAUNCHER
  chmod +x "$home/bin/tritonserver"
}

main() {
  [[ -x $triton/bin/tritonserver && -x $vllm/bin/vllm ]] || die "needs make engine-triton engine-vllm first"
  if finished; then say "up to date"; return; fi
  exec 9>"$root/.engines/triton-vllm.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if finished; then say "up to date"; return; fi
  say "building .engines/triton-vllm"
  make_environment
  fetch_backend
  adapt_backend
  make_launcher
  recipe >"$stamp"
  say "ready: $home/bin/tritonserver --model-repository=…"
}

main
