#!/bin/sh
# Two processes and commands on one store for a minute, and 10,000 callers that close early: the long form of what
# `cargo test` does in seconds.
set -eu
cd "$(dirname "$0")/../.."
PLEO_PROXY_HEAVY=1 exec cargo test --locked --test journeys -- processes:: peer:: every_login_that_begins
