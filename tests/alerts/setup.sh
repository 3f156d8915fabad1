#!/usr/bin/env bash
# A Python venv in target/alerts with exactly the pinned packages. Does nothing when it is there: the stamp is a hash of the pins.
# `setup.sh picture` adds what only picture.py needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
pins=tests/alerts
dir="${CARGO_TARGET_DIR:-target}/alerts"

for tool in promtool prometheus amtool python3 openssl; do
  command -v "$tool" > /dev/null || { echo "$tool is missing: make tools" >&2; exit 1; }
done

stamp=$({ cat "$pins/requirements.txt" "$pins/setup.sh"; python3 -V; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$dir/stamp" 2> /dev/null)" != "$stamp" ]; then
  mkdir -p "$dir"
  rm -rf "$dir/stamp" "$dir/venv"
  python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$pins/requirements.txt"
  echo "$stamp" > "$dir/stamp"
fi
if [ "${1:-}" = picture ]; then
  "$dir/venv/bin/pip" install --quiet --disable-pip-version-check -r "$pins/requirements-picture.txt"
fi
