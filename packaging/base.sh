#!/usr/bin/env bash
# packaging/base.sh BINARY DIR: puts into DIR what BINARY needs to run and no more: Debian's loader and libraries, the public CA certificates, two users.
# That is what a "distroless" image for C programs holds, from packages that are on this machine; the Dockerfile runs it on the builder image.
#
# The same packages give the same bytes; modes are set, whatever the umask; times are the image builder's business.
set -euo pipefail
binary=$1
root=$2
rm -rf "$root"
umask 022

put() { install -D -m "$1" "$2" "$root$3"; }

# The loader and the libraries, under the names by which they are asked for. Others than these would be news: the list is short on purpose.
packages=(ca-certificates)
mapfile -t libraries < <(ldd "$binary" | grep -oE '/[^ ]+')
for library in "${libraries[@]}"; do
  case ${library##*/} in
    ld-linux-*.so.* | libc.so.6 | libm.so.6 | libgcc_s.so.1) ;;
    *) echo "base.sh: $binary needs $library, which the image has not held so far" >&2; exit 1 ;;
  esac
  put 0755 "$library" "$library"
  # Debian's list has the path before or after /lib became a link to /usr/lib.
  packages+=("$( { dpkg -S "$(readlink -f "$library")" || dpkg -S "$library"; } 2> /dev/null | cut -d: -f1 | head -n 1)")
done
# The package's certificates, not this machine's bundle: that may hold an authority of the machine's own.
mkdir -p "$root/etc/ssl/certs"
dpkg -L ca-certificates | grep '\.crt$' | LC_ALL=C sort | xargs -d '\n' cat > "$root/etc/ssl/certs/ca-certificates.crt"
put 0644 "$(readlink -f /etc/os-release)" /etc/os-release

# Where scanners of images look for the versions of packages.
mkdir -p "$root/var/lib/dpkg/status.d"
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | LC_ALL=C sort -u)
for package in "${packages[@]}"; do
  dpkg-query -s "$package" > "$root/var/lib/dpkg/status.d/$package"
  put 0644 "/usr/share/doc/$package/copyright" "/usr/share/doc/$package/copyright"
done

cat > "$root/etc/passwd" << 'PASSWD'
root:x:0:0:root:/:/sbin/nologin
nonroot:x:65532:65532:nonroot:/:/sbin/nologin
PASSWD
cat > "$root/etc/group" << 'GROUP'
root:x:0:
nonroot:x:65532:
GROUP
cat > "$root/etc/nsswitch.conf" << 'NSSWITCH'
hosts: files dns
NSSWITCH
