#!/usr/bin/env bash
# A Debian package of a binary: package.sh BINARY VERSION FOLDER. Called by build.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$1 version=$2 out=$3
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

put() { # put MODE FILE PLACE
    install -D -m "$1" "$2" "$root/$3"
}
print() { # print PLACE ARGUMENTS...: what the program prints, as a file
    local place=$root/$1
    shift
    mkdir -p "$(dirname "$place")"
    "$binary" "$@" >"$place" && chmod 644 "$place"
}

put 755 "$binary" usr/bin/pleo-proxy
# Units of the machine's manager, and of each user's.
for manager in system user; do
    for unit in pleo-proxy.socket pleo-proxy-admin.socket pleo-proxy.service; do
        # From nowhere, so that no configuration of this machine counts.
        (cd / && HOME=/nonexistent XDG_CONFIG_HOME='' print "usr/lib/systemd/$manager/$unit" \
            service print "--$manager" --program /usr/bin/pleo-proxy "$unit")
    done
done
doc=usr/share/doc/pleo-proxy
for file in README.md SECURITY.md LICENSE docs/*; do put 644 "$file" "$doc/$file"; done
gzip -9n <CHANGELOG.md >"$root/$doc/changelog.gz"
while IFS= read -r file; do put 644 "$file" "$doc/$file"; done < <(find examples -type f ! -path '*/__pycache__/*' ! -name '.*' | sort)
install -d "$root/usr/share/man/man1"
"$binary" man --out "$root/usr/share/man/man1" >/dev/null
chmod 644 "$root"/usr/share/man/man1/*
gzip -9n "$root"/usr/share/man/man1/*
print usr/share/bash-completion/completions/pleo-proxy completions bash
print usr/share/zsh/vendor-completions/_pleo-proxy completions zsh
print usr/share/fish/vendor_completions.d/pleo-proxy.fish completions fish

# The newest symbols of glibc that it asks for; a static program asks for none.
glibc=$({ grep -aoE 'GLIBC_[0-9]+\.[0-9]+' "$binary" || true; } | sed 's/GLIBC_//' | sort -Vu | tail -1)
depends=ca-certificates
if [ -n "$glibc" ]; then
    depends="$depends, libc6 (>= $glibc), libgcc-s1"
fi
mkdir -p "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<CONTROL
Package: pleo-proxy
Version: $version
Architecture: $architecture
Maintainer: ${MAINTAINER:-pleo-proxy <root@localhost>}
Depends: $depends
Section: net
Priority: optional
Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f1)
Description: local proxy that adds a fresh Pleo credential to plain HTTP requests
 Tools send plain requests to 127.0.0.1; the proxy keeps the tokens, refreshes
 them before they expire, and forwards to Pleo. Nothing is started by the
 installation: /usr/share/doc/pleo-proxy/docs/service.md tells.
CONTROL
cat >"$root/DEBIAN/postinst" <<'SCRIPT'
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
    # After an update: the sockets stay, so no caller is refused.
    if [ -n "$2" ]; then systemctl try-restart pleo-proxy.service || true; fi
fi
SCRIPT
cat >"$root/DEBIAN/prerm" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now pleo-proxy.socket pleo-proxy-admin.socket pleo-proxy.service || true
fi
SCRIPT
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
find "$root" -type d -exec chmod 755 {} +
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package=$out/pleo-proxy_${version}_$architecture.deb
dpkg-deb --root-owner-group --build -Zxz "$root" "$package" >&2
echo "== $package: $(stat -c %s "$package") bytes" >&2
