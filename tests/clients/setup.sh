#!/usr/bin/env bash
# Installs what the real clients need into target/clients: a Python venv, node_modules (a Node 22 for the sf CLI among them)
# and the generated Pub/Sub client; exactly the pinned versions. Does nothing when they are there already: the stamp is a
# hash of the pins, this script and the tools' versions.
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

stamp=$({ cat "$pins/requirements.txt" "$pins/package.json" "$pins/package-lock.json" "$pins/setup.sh" "$pins/pubsub/pubsub_api.proto"; python3 -V; node -v; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$dir/stamp" 2> /dev/null)" = "$stamp" ]; then
  exit 0
fi

mkdir -p "$dir"
rm -rf "$dir/stamp" "$dir/venv" "$dir/node_modules" "$dir/pubsub"
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$pins/requirements.txt"
"$dir/venv/bin/pip" check > /dev/null
# No line of the generated client is ours.
mkdir "$dir/pubsub"
"$dir/venv/bin/python" -m grpc_tools.protoc -I "$pins/pubsub" --python_out="$dir/pubsub" --grpc_python_out="$dir/pubsub" pubsub_api.proto
cp "$pins/package.json" "$pins/package-lock.json" "$dir/"
# No script of a package is run. The CLI wants Node 22, which is a package of the list; it is seen to be there.
npm ci --prefix "$dir" --ignore-scripts --no-audit --no-fund --loglevel=error
"$dir/node_modules/.bin/node" --version > /dev/null
echo "$stamp" > "$dir/stamp"
