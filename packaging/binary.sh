#!/usr/bin/env bash
# packaging/binary.sh DIR: builds the binary that is released, DIR/sf-token-proxy. The one place that says how: the Dockerfile runs it, and so do
# tests/image/build.sh and, by the Dockerfile, the release workflow.
#
# Without the practice org; nothing that names the machine it was built on, so that two machines with one compiler build the same bytes.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

target=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
# The folders of downloaded crates are there once they have been fetched.
cargo fetch --locked --quiet
flags=()
# Panics name the file: of this program as src/…, of a crate as /cargo/crate-version/…, of Rust itself as its own releases do.
for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
  flags+=("--remap-path-prefix=${folder%/}=/cargo")
done
flags+=("--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')")
flags+=("--remap-path-prefix=$PWD=/build" "--remap-path-prefix=$target=/target")
# Flags of the caller's environment do not count: they would not be on the next machine. A path may have blanks, so the encoded form.
unset RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

# A folder of its own: other flags in one folder would build everything again at each change between them.
cargo build --release --locked --no-default-features --bin sf-token-proxy --target-dir "$target/released"
install -m 0755 "$target/released/release/sf-token-proxy" "$out/sf-token-proxy"
