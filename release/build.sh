#!/usr/bin/env bash
# What is handed to users: build.sh [--profile NAME] [--out DIR] [--twice] [PART...].
#
#   static    one file that runs on every Linux of this architecture: musl, no shared library
#   guided    for glibc, optimised by a profile of the loads in benches/
#   package   a Debian package of the newest of these, with units, examples, man page and completions
#
# Without a part: all three, and SHA256SUMS. What cannot be built here is named with the way to get it; exit code 3 if
# that was everything, 1 if something failed. `--twice` builds `static` once more, elsewhere, and fails unless the same
# source and toolchain made the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*" >&2; }
skip() { printf 'SKIPPED: %s\n' "$*" >&2; }
has() { command -v "$1" >/dev/null 2>&1; }

profile=release out=target/dist twice='' parts=()
while [ $# -gt 0 ]; do
    case $1 in
        --profile) profile=$2; shift ;;
        --out) out=$2; shift ;;
        --twice) twice=yes ;;
        static | guided | package) parts+=("$1") ;;
        *) echo "build.sh: $1? see the head of $0" >&2; exit 2 ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(static guided package)
mkdir -p "$out"
out=$(realpath "$out")
target_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
arch=$(uname -m)
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
# The time of everything that carries one.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH

# Folders of this machine by names that are the same everywhere, in Rust and in C.
cargo_home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
sysroot=$(rustc --print sysroot)
maps() { # maps FLAG TARGET_DIR
    printf '%s ' "$1$PWD=/source" "$1$cargo_home=/cargo" "$1$sysroot=/rust" "$1$2=/target"
}

# What only the linker of the program needs.
link=()

# cargo_build TARGET_DIR FLAGS ARGUMENTS...
cargo_build() {
    local dir=$1 flags=$2
    shift 2
    RUSTFLAGS="$(maps --remap-path-prefix= "$dir")-C strip=symbols $flags" \
        CFLAGS="$(maps -ffile-prefix-map= "$dir")${CFLAGS:-}" CARGO_TARGET_DIR=$dir \
        cargo rustc --locked --profile "$profile" --bin pleo-proxy "$@" -- "${link[@]}"
}
folder() { if [ "$profile" = dev ]; then echo debug; else echo "$profile"; fi; }

built=0
keep() { # keep FILE NAME
    install -m 755 "$1" "$out/$2"
    say "$out/$2: $(stat -c %s "$out/$2") bytes"
    built=$((built + 1))
}

build_static() {
    local target=$arch-unknown-linux-musl
    if ! [ -d "$(rustc --print target-libdir --target "$target")" ]; then
        skip "static: this Rust has no $target; get it with: rustup target add $target"
        return
    fi
    if ! has musl-gcc; then
        skip "static: there is no musl-gcc; get it with: apt-get install musl-tools"
        return
    fi
    say "static ($target)"
    # For the parts in C alone: as the linker it would leave the program to musl's own loader.
    export "CC_${target//-/_}=musl-gcc"
    # A third of a megabyte less; musl reads this form since 1.2.4, and the program brings its own.
    local link=(-C link-arg=-Wl,-z,pack-relative-relocs)
    # The image has to stay small, and what is not on a request's way need not be fast.
    local small=(--config "profile.$profile.package.\"*\".opt-level=\"s\"") crate
    for crate in hyper http httparse bytes tokio tokio-util tokio-rustls rustls memchr smallvec parking_lot mio; do
        small+=(--config "profile.$profile.package.$crate.opt-level=3")
    done
    cargo_build "$target_dir" "" --target "$target" "${small[@]}"
    # One that asks for a loader runs on this machine and not in an empty image.
    if has readelf && readelf -lW "$target_dir/$target/$(folder)/pleo-proxy" | grep -q INTERP; then
        say "static: the program asks for a loader; it is not static"
        exit 1
    fi
    keep "$target_dir/$target/$(folder)/pleo-proxy" "pleo-proxy-$version-$arch-linux-static"
    [ -n "$twice" ] || return 0
    say "static, once more"
    local again
    again=$(mktemp -d)
    cargo_build "$again" "" --target "$target" "${small[@]}"
    cmp "$again/$target/$(folder)/pleo-proxy" "$out/pleo-proxy-$version-$arch-linux-static"
    rm -rf "$again"
    say "the same bytes twice"
}

build_guided() {
    local tools profdata dir loads
    tools=$(rustc --print target-libdir)/../bin
    profdata=$tools/llvm-profdata
    if ! [ -x "$profdata" ]; then
        skip "guided: this Rust has no llvm-profdata; get it with: rustup component add llvm-tools"
        return
    fi
    if ! has python3 || ! has wrk || ! PATH=$PATH:/usr/sbin has nginx; then
        skip "guided: the loads need python3, wrk and nginx; get them with: apt-get install python3 wrk nginx-light"
        return
    fi
    say "guided: the program that counts"
    dir=$target_dir/guided loads=$target_dir/guided/loads
    rm -rf "$loads"
    cargo_build "$dir" "-Cprofile-generate=$loads"
    say "guided: the loads"
    # What the proxy is for: small answers over few and many connections, and bodies in both directions.
    python3 benches/side_by_side --binary "$dir/$(folder)/pleo-proxy" --only pleo-proxy \
        --cases json1,json64,download,upload --rounds 1 --seconds 5
    "$profdata" merge -o "$dir/pleo-proxy.profdata" "$loads"
    say "guided: the program"
    cargo_build "$dir" "-Cprofile-use=$dir/pleo-proxy.profdata"
    keep "$dir/$(folder)/pleo-proxy" "pleo-proxy-$version-$arch-linux-gnu"
}

build_package() {
    if ! has dpkg-deb; then
        skip "package: there is no dpkg-deb; get it with: apt-get install dpkg"
        return
    fi
    local binary='' candidate
    for candidate in "$out/pleo-proxy-$version-$arch-linux-gnu" "$out/pleo-proxy-$version-$arch-linux-static"; do
        [ -z "$binary" ] && [ -x "$candidate" ] && binary=$candidate
    done
    if [ -z "$binary" ]; then
        skip "package: build static or guided first"
        return
    fi
    release/package.sh "$binary" "$version" "$out"
    built=$((built + 1))
}

for part in "${parts[@]}"; do "build_$part"; done
if [ "$built" -eq 0 ]; then
    say "nothing was built"
    exit 3
fi
(cd "$out" && rm -f SHA256SUMS && sha256sum -- * >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS && cat SHA256SUMS)
