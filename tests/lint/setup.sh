#!/usr/bin/env bash
# Installs into target/lint, at exactly the pinned versions, what reads the Dockerfile and the workflows. Does nothing when it is there already: the stamp
# is a hash of the pins, this script and Python's version.
set -euo pipefail
cd "$(dirname "$0")/../.."
pins=tests/lint
dir="${CARGO_TARGET_DIR:-target}/lint"

stamp=$({ cat "$pins/requirements.txt" "$pins/setup.sh"; python3 -V; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$dir/stamp" 2> /dev/null)" = "$stamp" ]; then
  exit 0
fi

mkdir -p "$dir"
rm -rf "$dir/stamp" "$dir/venv"
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$pins/requirements.txt"
"$dir/venv/bin/pip" check > /dev/null
echo "$stamp" > "$dir/stamp"
