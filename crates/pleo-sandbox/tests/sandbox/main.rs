//! The sandbox from outside: everything that a client of Pleo relies on, and every fault.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod api;
mod api_keys;
mod entries;
mod exports;
mod faults;
mod listeners;
mod login;
mod marketplace;
mod openapi;
mod rate_limit;
mod schema;
mod scopes;
mod test_client;
mod tokens;
