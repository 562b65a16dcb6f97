#!/usr/bin/env bash
# A container image of the static program: image.sh [BINARY [ARCHIVE]]. At most 15 MB; user 65532; root read-only.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { printf 'SKIPPED: %s\n' "$*" >&2; exit 0; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
binary=${1:-target/dist/pleo-proxy-$version-$(uname -m)-linux-static}
archive=${2:-target/dist/pleo-proxy-$version-$(uname -m)-image.tar}
most=$((15 * 1000 * 1000))
[ -x "$binary" ] || skip "image: there is no $binary; build it with: release/build.sh static"
command -v buildah >/dev/null || skip "image: there is no buildah; get it with: apt-get install buildah"
bundle=''
for candidate in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
    [ -z "$bundle" ] && [ -n "$candidate" ] && [ -r "$candidate" ] && bundle=$candidate
done
[ -n "$bundle" ] || skip "image: there is no bundle of certificates; get it with: apt-get install ca-certificates"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}

context=$(mktemp -d)
# Its own storage: nothing of this machine's images is used or changed.
storage=$(mktemp -d)
trap 'rm -rf "$context" "$storage"' EXIT
install -m 755 "$binary" "$context/pleo-proxy"
install -m 644 "$bundle" "$context/ca-certificates.crt"
install -m 644 release/Containerfile "$context/Containerfile"
echo 'pleo-proxy:x:65532:65532::/state:/pleo-proxy' >"$context/passwd"
echo 'pleo-proxy:x:65532:' >"$context/group"
install -d -m 700 "$context/state"
chmod 644 "$context/passwd" "$context/group"
buildah=(buildah --root "$storage/root" --runroot "$storage/run" --storage-driver vfs)
# Docker's format: the other has no health check.
"${buildah[@]}" build --isolation chroot --format docker --timestamp "$SOURCE_DATE_EPOCH" --quiet \
    --tag "pleo-proxy:$version" "$context" >/dev/null
rm -f "$archive"
"${buildah[@]}" push --quiet "pleo-proxy:$version" "docker-archive:$archive:pleo-proxy:$version"
size=$(stat -c %s "$archive")
echo "== $archive: $size bytes" >&2
if [ "$size" -gt "$most" ]; then
    echo "image.sh: the image is larger than $most bytes" >&2
    exit 1
fi
