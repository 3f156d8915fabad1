#!/usr/bin/env bash
# Installs what the real clients need into target/clients: a Python venv and node_modules, exactly the pinned versions.
# Does nothing when they are there already: the stamp is a hash of the pins, this script and the tools' versions.
set -euo pipefail
cd "$(dirname "$0")/../.."
pins=tests/clients
dir="${CARGO_TARGET_DIR:-target}/clients"

# Debian's packages, only those whose tool is missing. A folder is not enough for venv: it needs ensurepip.
missing=()
command -v curl > /dev/null || missing+=(curl)
command -v python3 > /dev/null || missing+=(python3)
python3 -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
command -v node > /dev/null || missing+=(nodejs)
command -v npm > /dev/null || missing+=(npm)
command -v java > /dev/null && java --list-modules 2> /dev/null | grep -q '^jdk.compiler' || missing+=(openjdk-17-jdk-headless)
if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

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
npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel=error
echo "$stamp" > "$dir/stamp"
