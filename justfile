# Shortcuts; each is a line that can be typed without `just` as well.

# What there is to call.
default:
    @just --list

# Format, lints, unit tests and one journey through the real program: under a minute once built.
check:
    cargo fmt --all --check
    cargo clippy --locked --all-targets -- -D warnings
    cargo test --locked --lib
    cargo run --locked --quiet --example quickstart

# All tests that need no browser and take no minutes each; arguments are those of `cargo test`.
test *arguments:
    cargo test --locked {{ arguments }}

# Everything: checks, tests, heavy suites, benchmarks. Installs what is missing.
all:
    .ci/run

# The map of the code, in the browser.
map:
    cargo doc --locked --no-deps --open
