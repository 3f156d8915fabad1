#!/usr/bin/env bash
# packaging/sbom.sh DIR: writes DIR/sf-token-proxy.cdx.json, the crates that the image's binaries are made of, with versions, licences and checksums
# (CycloneDX). Not part of `make test`: cargo-cyclonedx takes minutes to build. It checks what it has written.
#
# The image is for two kinds of machine and is attested as one, so the list is that of both; a crate that only one of them has says which.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

TARGETS=(x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu)
CARGO_CYCLONEDX=0.5.9
if [ "$(cargo cyclonedx --version 2> /dev/null)" != "cargo-cyclonedx-cyclonedx $CARGO_CYCLONEDX" ]; then
  cargo install --locked --debug cargo-cyclonedx --version "$CARGO_CYCLONEDX"
fi

# The time of the commit. Given one, cargo-cyclonedx writes no serial number; without one SBOM is none for actions/attest, so it is made below.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# Of every kind of machine; the lock file's own versions.
cargo fetch --locked
work=$(mktemp -d)
trap 'rm -rf "$work" sbom-being-written.json' EXIT
for target in "${TARGETS[@]}"; do
  cargo cyclonedx --format json --spec-version 1.5 --no-default-features --no-build-deps --target "$target" --override-filename sbom-being-written
  mv sbom-being-written.json "$work/$target.json"
  # What cargo itself says is in the binary, no more and no less.
  cargo tree --locked --no-default-features --edges normal --target "$target" --prefix none --format '{p}' |
    awk 'NR > 1 {print $1 "@" substr($2, 2)}' | LC_ALL=C sort -u > "$work/$target.txt"
done
python3 - "$out/sf-token-proxy.cdx.json" "$work" "${TARGETS[@]}" << 'PYTHON'
import hashlib, json, pathlib, sys, uuid

out, work, targets = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
boms = {}
for target in targets:
    bom = boms[target] = json.loads((work / f"{target}.json").read_text())
    want = set((work / f"{target}.txt").read_text().split())
    got = {f"{one['name']}@{one['version']}" for one in bom["components"]}
    assert bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["name"] == "sf-token-proxy"
    assert got >= want, f"{target}: missing: {sorted(want - got)}"
    # cargo-cyclonedx counts what is optional and not taken, too.
    there = {one["bom-ref"] for one in bom["components"] if f"{one['name']}@{one['version']}" in want}
    there.add(bom["metadata"]["component"]["bom-ref"])
    bom["components"] = [one for one in bom["components"] if one["bom-ref"] in there]
    bom["dependencies"] = [one for one in bom["dependencies"] if one["ref"] in there]
    for one in bom["dependencies"]:
        one["dependsOn"] = [ref for ref in one.get("dependsOn", []) if ref in there]

# The first one, and what the others have beside it.
bom = json.loads(json.dumps(boms[targets[0]]))
having = {}
for target in targets:
    for one in boms[target]["components"]:
        having.setdefault(one["bom-ref"], (one, []))[1].append(target)
bom["components"] = [one for one, _ in having.values()]
for one, its in having.values():
    if its != targets:
        one["properties"] = one.get("properties", []) + [{"name": "sf-token-proxy:target", "value": target} for target in its]
edges = {}
for target in targets:
    for one in boms[target]["dependencies"]:
        edges.setdefault(one["ref"], set()).update(one.get("dependsOn", []))
bom["dependencies"] = [{"ref": ref, "dependsOn": sorted(its)} if its else {"ref": ref} for ref, its in sorted(edges.items())]
stated = [one for target in targets for one in boms[target]["metadata"].get("properties", [])]
if stated:
    bom["metadata"]["properties"] = [one for number, one in enumerate(stated) if one not in stated[:number]]
# The same contents have the same number.
bom.pop("serialNumber", None)
contents = hashlib.sha256(json.dumps(bom, sort_keys=True).encode()).hexdigest()
bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, contents)}"
out.write_text(json.dumps(bom, indent=2) + "\n")

bom = json.loads(out.read_text())
# What actions/attest asks of a CycloneDX file.
assert all(bom.get(key) for key in ("bomFormat", "serialNumber", "specVersion")), "no CycloneDX that can be attested"
components = bom["components"]
assert not any(one["name"] == "prost" for one in components), "the practice org's crates are in it"
nameless = [one["name"] for one in components if not one.get("licenses") or not one.get("hashes")]
assert not nameless, f"without licence or checksum: {nameless}"
only = sorted(f"{one['name']} ({', '.join(its)})" for one, its in having.values() if its != targets)
print(f"sbom: {len(components)} crates; not everywhere: {', '.join(only) or 'none'}")
PYTHON
