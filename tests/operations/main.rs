//! What people do with the program: command, look, configure, find the proxy that runs.

#[path = "../support/mod.rs"]
mod support;

mod account_commands;
mod admin;
mod admin_access;
mod cli;
mod config;
mod config_errors;
mod evidence;
mod interrupted_login;
mod metrics;
mod report;
mod running;
mod sandbox_command;
mod start_and_stop;
mod why;
