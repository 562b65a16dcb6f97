//! What people do with the program: command, look, configure, find the proxy that runs.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod cli;
mod config;
mod running;
