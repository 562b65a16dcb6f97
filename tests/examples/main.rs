//! Every file in `examples/` works: it is run against the sandbox, by the tools that it is for. A
//! tool that is missing is named as skipped; `.ci/run` installs what can be installed.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod ci;
mod clients;
mod collections;
mod export;
mod replicas;
