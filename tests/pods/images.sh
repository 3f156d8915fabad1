#!/usr/bin/env bash
# Builds the images of the pods' other containers, on the base that tests/image/build.sh has made:
#
#   localhost/sf-token-proxy-pod-app:test   an app that calls: examples/pod_app.rs as `cargo test` has built it
#   localhost/sf-token-proxy-pod-busybox:test   busybox, for the tests of the stand-in itself
#
# Does nothing when neither these nor the base have changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
dir="$target/pods"
base=${SF_TOKEN_PROXY_BASE:-localhost/sf-token-proxy-base:test}

for tool in buildah strip busybox; do
  command -v "$tool" > /dev/null || { echo "images.sh: $tool is missing; make tools installs it" >&2; exit 1; }
done
id() { buildah inspect --type image --format '{{.FromImageID}}' "$1" 2> /dev/null || true; }

# build NAME PROGRAM: an image whose only program is /NAME.
build() {
  local image="localhost/sf-token-proxy-pod-$1:test" known before folder="$dir/$1"
  known="$(cat "$2" tests/pods/images.sh | sha256sum) $(id "$base")"
  if [ -n "$(id "$image")" ] && [ "$(cat "$folder.stamp" 2> /dev/null)" = "$known $(id "$image")" ]; then
    return
  fi
  before=$(id "$image")
  rm -rf "$folder" "$folder.stamp"
  mkdir -p "$folder"
  # A program without anything to strip is copied.
  strip --strip-debug -o "$folder/$1" "$2"
  printf 'ARG BASE\nFROM ${BASE}\nCOPY %s /%s\nUSER 10001:10001\nENTRYPOINT ["/%s"]\nCMD []\n' "$1" "$1" "$1" > "$folder/Dockerfile"
  buildah bud --quiet --isolation chroot --timestamp 0 --pull-never --build-arg "BASE=$base" -t "$image" "$folder" > /dev/null
  # What had the name before has none now. A container may still use it.
  if [ -n "$before" ] && buildah images --quiet --no-trunc --filter dangling=true | grep -q "$before"; then
    buildah rmi "$before" > /dev/null || echo "images.sh: the image $before is left, something uses it" >&2
  fi
  echo "$known $(id "$image")" > "$folder.stamp"
}
build app "$target/debug/examples/pod_app"
build busybox "$(command -v busybox)"

