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
# A panic ends the process and the names are stripped, so nobody unwinds. Whatever asks for the tables (LLVM for functions that drop something,
# the ready-made standard library, assembly) gets none: they were 1.1 MiB.
flags+=(-Cforce-unwind-tables=no -Clink-arg=-Wl,--no-eh-frame-hdr -Clink-arg=-Wl,-T,packaging/no-unwind-tables.ld)
export CFLAGS=-fno-asynchronous-unwind-tables
# aws-lc without its tables for P-256, P-384 and P-521 (0.45 MiB): such a signature takes two to six times as long, and a handshake has one or two. Its small form would
# leave out AES-GCM by AVX-512 as well (0.7 MiB), and with it a third of the speed at which bodies pass; keep-avx512.h keeps that. A path may have blanks.
export AWS_LC_SYS_SMALL=1 CC_SHELL_ESCAPED_FLAGS=1
CFLAGS+=" -include '$PWD/packaging/keep-avx512.h'"
# Functions that came out alike are there once. Of the linkers that a host may have, only LLVM's can do that; it is Rust's own on x86-64.
case $(uname -m) in x86_64) flags+=(-Clink-arg=-Wl,--icf=all) ;; esac
# Where the program's own addresses have to be set at start, one bit each in place of 24 bytes: that table was 0.35 MiB. The loader must be of glibc 2.36 or later.
flags+=(-Clink-arg=-Wl,-z,pack-relative-relocs)
# For this machine by its name: build scripts and macros are then spared these flags.
host=$(rustc -vV | sed -n 's/^host: //p')
# Flags of the caller's environment do not count: they would not be on the next machine. A path may have blanks, so the encoded form.
unset RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS

# A folder of its own: other flags in one folder would build everything again at each change between them.
cargo build --release --locked --no-default-features --bin sf-token-proxy --target "$host" --target-dir "$target/released"
install -m 0755 "$target/released/$host/release/sf-token-proxy" "$out/sf-token-proxy"
