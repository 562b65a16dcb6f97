//! What people do with the program: command, look, configure, find the proxy that runs.

#[path = "../support/mod.rs"]
mod support;

mod account_commands;
mod accounts;
mod admin;
mod admin_access;
mod api;
mod api_keys;
mod cli;
mod config;
mod config_errors;
#[cfg(feature = "postgres")]
mod database;
mod doctor;
mod events;
mod evidence;
mod exec;
mod exec_end;
mod exec_record;
mod exec_secrets;
mod exec_signals;
mod exec_stops;
mod exec_store;
mod hooks;
mod interrupted_login;
mod metrics;
mod next_steps;
mod open_metrics;
mod rate;
mod readiness;
mod report;
mod request_log;
mod running;
mod sandbox_command;
mod service_sockets;
mod service_units;
mod setup;
mod start_and_stop;
mod store_commands;
mod why;
