#!/usr/bin/env bash
# packaging/published.sh REFERENCE: the digest of what a registry has under REFERENCE (host.example/acme/name:tag), image or chart; nothing when it has
# nothing there. Whoever cannot tell (no network, not allowed, any other answer) fails with 1: "not there" would let the release push over something.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The manifest's own bytes: of an image for several machines that is the index, and the digest is the one that is signed.
if skopeo inspect --raw "docker://$1" > "$work/manifest" 2> "$work/said"; then
  echo "sha256:$(sha256sum "$work/manifest" | cut -d' ' -f1)"
  exit 0
fi
# How skopeo ends its message for the registry's errors MANIFEST_UNKNOWN and NAME_UNKNOWN; only newer versions have an exit code for them. The last two are
# Harbor's, which has a code of its own.
missing='manifest unknown|name unknown|repository name not known to registry|unknown: (artifact|repository) [^ ]+ not found'
if grep -qE ": ($missing)(: |\"?\$)" "$work/said"; then
  exit 0
fi
cat "$work/said" >&2
echo "published.sh: cannot tell whether $1 is there:" >&2
cat "$work/said" >&2
exit 1
