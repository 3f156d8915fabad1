#!/usr/bin/env bash
# packaging/sbom.sh DIR: writes DIR/sf-token-proxy.cdx.json, the crates that the image's binary is made of, with versions, licences and checksums
# (CycloneDX). Not part of `make test`: cargo-cyclonedx takes minutes to build. It checks what it has written.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

CARGO_CYCLONEDX=0.5.9
if [ "$(cargo cyclonedx --version 2> /dev/null)" != "cargo-cyclonedx-cyclonedx $CARGO_CYCLONEDX" ]; then
  cargo install --locked --debug cargo-cyclonedx --version "$CARGO_CYCLONEDX"
fi

# The time of the commit, and a serial number that follows from it.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# Of both kinds of machine that the image is for; the lock file's own versions.
cargo fetch --locked
trap 'rm -f sbom-being-written.json' EXIT
cargo cyclonedx --format json --spec-version 1.5 --no-default-features --no-build-deps --target x86_64-unknown-linux-gnu --override-filename sbom-being-written
mv sbom-being-written.json "$out/sf-token-proxy.cdx.json"

# What cargo itself says is in the binary, no more and no less.
cargo tree --locked --no-default-features --edges normal --target x86_64-unknown-linux-gnu --prefix none --format '{p}' |
  awk 'NR > 1 {print $1 "@" substr($2, 2)}' | LC_ALL=C sort -u > "$out/crates.txt"
python3 - "$out/sf-token-proxy.cdx.json" "$out/crates.txt" << 'PYTHON'
import json, pathlib, sys

bom = json.loads(pathlib.Path(sys.argv[1]).read_text())
want = set(pathlib.Path(sys.argv[2]).read_text().split())
got = {f"{one['name']}@{one['version']}" for one in bom["components"]}
assert bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["name"] == "sf-token-proxy"
assert got == want, f"missing: {sorted(want - got)}, too many: {sorted(got - want)}"
assert not any(one["name"] == "prost" for one in bom["components"]), "the practice org's crates are in it"
nameless = [one["name"] for one in bom["components"] if not one.get("licenses") or not one.get("hashes")]
assert not nameless, f"without licence or checksum: {nameless}"
print(f"sbom: {len(got)} crates")
PYTHON
