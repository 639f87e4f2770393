#!/usr/bin/env bash
# Installs Triton Inference Server for CPU into .engines/triton: the real tritonserver that the nvidia-pytriton wheel
# carries, with its Python backend. A finished install is recognised by its stamp and left alone. 200 MB, half a minute.
#   PYTHON   a Python 3.11 with a shared libpython3.11 (default: the first of python3, /usr/bin/python3, python3.11 that
#            has one). The wheel's stubs exist for other versions too, but one recipe is tested.
set -euo pipefail

readonly PYTRITON=0.7.0 VERSION=3.11
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root scripts=$root/scripts venv=$root/.engines/triton
readonly stamp=$venv/.llmperf-stamp python=$venv/bin/python

say() { printf 'engine-triton: %s (%ss)\n' "$*" "$SECONDS"; }
die() { printf 'engine-triton: %s\n' "$*" >&2; exit 1; }
pip() { "$python" -m pip -qq --disable-pip-version-check --no-input "$@"; }

# The path belongs to the recipe: a venv does not survive being moved.
recipe() { { printf '%s\n' "$venv"; cat "$scripts/engine_triton.sh"; } | sha256sum; }

finished() { [[ -x $venv/bin/tritonserver && -f $stamp && $(<"$stamp") == "$(recipe)" ]]; }

# The folder of libpython that the Python backend's stub is linked with; empty when the loader finds it by itself.
shared_libpython() {
  local folder
  for folder in $("$1" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR") or "")') \
    /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib; do
    if [[ -e $folder/libpython$VERSION.so.1.0 ]]; then printf '%s\n' "$folder"; return; fi
  done
  return 1
}

choose_python() {
  local candidate
  for candidate in ${PYTHON:-python3 /usr/bin/python3 python$VERSION}; do
    candidate=$(command -v "$candidate") || continue
    [[ $("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])') == "$VERSION" ]] || continue
    libdir=$(shared_libpython "$candidate") || continue
    printf '%s\n' "$candidate"
    return
  done
  return 1
}

make_venv() {
  local base
  base=$(choose_python) || die "needs Python $VERSION and libpython$VERSION.so.1.0 (Debian: apt-get install libpython$VERSION python3-venv); set PYTHON"
  rm -rf "$venv"
  "$base" -m venv "$venv"
  libdir=$(shared_libpython "$base")
}

# --no-deps: its own dependencies are a Python framework around the server, which nothing here uses.
# NumPy 2 in the interpreter of a stub ends it at the first BYTES input of this release.
install_server() {
  pip install 'numpy<2'
  pip install --no-deps "nvidia-pytriton==$PYTRITON"
  server=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/pytriton/tritonserver
  [[ -x $server/bin/tritonserver ]] || die "nvidia-pytriton $PYTRITON holds no tritonserver for this platform"
}

# Copies, since Triton refuses a library that is a link out of its backend's folder; but the stub finds its own libraries
# beside where it really is.
make_backend() {
  local backend=$venv/backends/python
  mkdir -p "$backend"
  cp "$server/backends/python/libtriton_python.so" "$server/backends/python/triton_python_backend_utils.py" "$backend"
  ln -s "$server/python_backend_stubs/$VERSION/triton_python_backend_stub" "$backend"
}

# perf_tests' models run the embedded engine: a stub ignores PYTHONPATH, so the checkout is named in a file that site reads.
make_importable() {
  printf '%s\n' "$root" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/llmperf.pth"
}

# A stub runs model.py with the first python3 of PATH, and finds libpython by LD_LIBRARY_PATH.
# LLMPERF_TRITON_PYTHON is the folder of another python3, for models that need packages of their own.
make_launcher() {
  cat >"$venv/bin/tritonserver" <<LAUNCHER
#!/usr/bin/env bash
export PATH="\${LLMPERF_TRITON_PYTHON:-$venv/bin}:\$PATH" LD_LIBRARY_PATH="$libdir\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$server/bin/tritonserver" --backend-directory="\${LLMPERF_TRITON_BACKENDS:-$venv/backends}" "\$@"
LAUNCHER
  chmod +x "$venv/bin/tritonserver"
}

check() {
  local missing output
  missing=$(LD_LIBRARY_PATH=$libdir ldd "$(readlink -f "$venv/backends/python/triton_python_backend_stub")" | grep 'not found' || true)
  [[ -z $missing ]] || die "the Python stub lacks libraries: $missing"
  output=$("$venv/bin/tritonserver" --help 2>&1) || [[ $output == *Usage* ]] || die "installed, but 'tritonserver --help' fails:"$'\n'"$output"
}

main() {
  if finished; then say "up to date"; return; fi
  mkdir -p "$root/.engines"
  exec 9>"$root/.engines/triton.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if finished; then say "up to date"; return; fi
  say "building .engines/triton"
  make_venv
  say "nvidia-pytriton $PYTRITON"
  install_server
  make_backend
  make_importable
  make_launcher
  say "checking that it starts"
  check
  recipe >"$stamp"
  say "ready: $venv/bin/tritonserver --model-repository=…"
}

main
