#!/bin/sh
# Coverage-guided fuzzing of everything that reads what others wrote: fuzz.sh [BINARY] [SECONDS], or fuzz.sh build to
# build the targets alone. SECONDS for each target, 15 if not told; the binary is not needed. Any toolchain does, with a
# C++ compiler for libFuzzer. The first build takes minutes.
set -eu
cd "$(dirname "$0")/../.."
seconds=15
for argument; do
    case $argument in
        *[!0-9]* | '') ;;
        *) seconds=$argument ;;
    esac
done
command -v c++ >/dev/null || { echo "fuzz: skipped, there is no C++ compiler"; exit 0; }

target=${CARGO_TARGET_DIR:-target}
seeds=tests/fuzz/seeds
dict=tests/fuzz/dict
host=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes too, without the address sanitizer: that needs a nightly compiler, and the product has no
# unsafe code. With a target named, build scripts and macros stay as they are.
export RUSTFLAGS="-Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cargo build --locked --package pleo-proxy-fuzz --profile fuzz --target "$host" >"$log" 2>&1; then
    cat "$log"
    exit 1
fi
[ "${1:-}" != build ] || exit 0

# What a run learns is kept in the target folder, for the next one.
learned=$target/fuzz-corpus
found=$target/fuzz-findings
mkdir -p "$found"
broken=0
for name in guard headers callback token record config; do
    mkdir -p "$learned/$name"
    if "$target/$host/fuzz/fuzz-$name" "$learned/$name" "$seeds/$name" -dict="$dict/$name" \
        -artifact_prefix="$found/$name-" -max_len=1024 -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 >"$log" 2>&1; then
        awk -v name="$name" '
            /DONE +cov:/ { for (i = 1; i < NF; i++) if ($i == "cov:") covered = $(i + 1) }
            /^stat::number_of_executed_units:/ { runs = $2 }
            END { print "fuzz " name ": " runs " runs, " covered " edges, no fault" }' "$log"
    else
        grep -A 3 'panicked at' "$log" || true
        tail -n 12 "$log"
        echo "fuzz $name: a fault; the input that shows it is in $found" >&2
        broken=1
    fi
done
exit "$broken"
