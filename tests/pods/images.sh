#!/usr/bin/env bash
# Builds localhost/sf-token-proxy-pod-app:test, the app of the pods: examples/pod_app.rs as `cargo test` has built it, on the base that
# tests/image/build.sh has made. Does nothing when neither has changed.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
dir="$target/pods"
base=${SF_TOKEN_PROXY_BASE:-localhost/sf-token-proxy-base:test}
image=localhost/sf-token-proxy-pod-app:test
app="$target/debug/examples/pod_app"

id() { buildah inspect --type image --format '{{.FromImageID}}' "$1" 2> /dev/null || true; }
known="$(sha256sum < "$app") $(id "$base")"
if [ -n "$(id "$image")" ] && [ "$(cat "$dir/stamp" 2> /dev/null)" = "$known $(id "$image")" ]; then
  exit 0
fi
mkdir -p "$dir"
rm -f "$dir/stamp"
rm -rf "$dir/app"
mkdir "$dir/app"
strip --strip-debug -o "$dir/app/pod-app" "$app"
cat > "$dir/app/Dockerfile" << 'DOCKERFILE'
ARG BASE
FROM ${BASE}
COPY pod-app /pod-app
USER 10001:10001
ENTRYPOINT ["/pod-app"]
CMD []
DOCKERFILE
buildah bud --quiet --isolation chroot --timestamp 0 --pull-never --build-arg "BASE=$base" -t "$image" "$dir/app" > /dev/null
echo "$known $(id "$image")" > "$dir/stamp"
