#!/usr/bin/env bash
# Builds the images that tests use, prints their ids, and does nothing when its inputs have not changed:
#
#   localhost/sf-token-proxy:test            as it is released: the release binary without the practice org
#   localhost/sf-token-proxy-practice:test   for tests only: the debug binary with the practice org
#
# The Dockerfile is the released one; nothing is pulled. A ready binary can be named: SF_TOKEN_PROXY_BINARY, SF_TOKEN_PROXY_PRACTICE_BINARY.
#
# `build.sh --again NAME` makes the released image once more under another name, from the same binary: base, times and folder are new.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
dir="$target/image"
image=localhost/sf-token-proxy:test
practice=localhost/sf-token-proxy-practice:test
base=localhost/sf-token-proxy-base:test

for tool in buildah ldd dpkg-query strip; do
  command -v "$tool" > /dev/null || { echo "build.sh: $tool is missing; make tools installs it" >&2; exit 1; }
done

# What the release gives as arguments is fixed here: the same bytes give the same digest.
build() {
  local name=$1 folder=$2
  shift 2
  buildah bud --quiet --isolation chroot --timestamp 0 --identity-label=false --pull-never --build-context "binary=$folder" -t "$name" "$@" . > /dev/null
}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)

if [ "${1:-}" = --again ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  cp "$dir/release/sf-token-proxy" "$folder/"
  packaging/base.sh "$folder/sf-token-proxy" "$folder/base"
  find "$folder" -exec touch --no-dereference --date "2001-02-03 04:05:06" {} +
  # The base's name stands in the image, so it is the same.
  build "$base" "$folder" --target base
  build "$2" "$folder" --build-arg "BASE=$base" --build-arg "VERSION=$version"
  exit 0
fi

# The versions of the base's packages are inputs as the sources are. No time counts, only bytes.
stamp=$({
  find src packaging .cargo Cargo.toml Cargo.lock config/schema.json Dockerfile .dockerignore tests/image/build.sh -type f -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum
  for given in "${SF_TOKEN_PROXY_BINARY:-}" "${SF_TOKEN_PROXY_PRACTICE_BINARY:-}"; do
    if [ -n "$given" ]; then sha256sum "$given"; else echo built; fi
  done
  rustc -V
  dpkg-query -W libc6 libgcc-s1 ca-certificates
} | sha256sum | cut -d' ' -f1)
ids() {
  local name
  for name in "$image" "$practice"; do
    buildah inspect --type image --format '{{.FromImageID}}{{"\n"}}' "$name"
  done
}
if known=$(ids 2> /dev/null) && [ "$(cat "$dir/stamp" 2> /dev/null)" = "$stamp $known" ]; then
  echo "$known"
  exit 0
fi

mkdir -p "$dir/release" "$dir/practice"
rm -f "$dir/stamp"
if [ -n "${SF_TOKEN_PROXY_BINARY:-}" ]; then
  install -m 0755 "$SF_TOKEN_PROXY_BINARY" "$dir/release/sf-token-proxy"
else
  packaging/binary.sh "$dir/release" >&2
fi
packaging/base.sh "$dir/release/sf-token-proxy" "$dir/release/base"

if [ -z "${SF_TOKEN_PROXY_PRACTICE_BINARY:-}" ]; then
  # `cargo build` would build the dependencies again: tests enable more of them.
  cargo test --locked --test it --no-run >&2
fi
strip --strip-debug -o "$dir/practice/sf-token-proxy" "${SF_TOKEN_PROXY_PRACTICE_BINARY:-$target/debug/sf-token-proxy}"

before=$(ids 2> /dev/null || true)
build "$base" "$dir/release" --target base
build "$image" "$dir/release" --build-arg "BASE=$base" --build-arg "VERSION=$version"
build "$practice" "$dir/practice" --build-arg "BASE=$base" --build-arg "VERSION=$version"

known=$(ids)
# What had the names before has none now. A container may still use it.
for id in $before; do
  if buildah images --quiet --no-trunc --filter dangling=true | grep -q "$id"; then
    buildah rmi "$id" > /dev/null || echo "build.sh: the image $id is left, something uses it" >&2
  fi
done
echo "$stamp $known" > "$dir/stamp"
echo "$known"
