//! What requests, refreshes, logins and records go through, with the real binary against the
//! sandbox.

#[path = "../support/mod.rs"]
mod support;

mod access_settings;
mod account_selection;
mod apart;
mod both_listeners;
mod callers;
mod company;
mod connection_limits;
mod crash;
mod crash_case;
mod damaged_records;
mod disk_errors;
mod disk_faults;
mod evidence_search;
mod evidence_secrets;
mod exchanges;
mod foreign_hosts_and_pages;
mod framing;
mod hints;
mod import;
mod leak_search;
mod local_programs;
mod login;
mod login_callback;
mod login_command;
mod outage;
mod outbound;
mod peer;
mod pending_logins;
mod process_secrets;
mod processes;
mod refresh;
mod refresh_responses;
mod refused_requests;
#[cfg(feature = "postgres")]
mod replica_faults;
#[cfg(feature = "postgres")]
mod replica_stores;
#[cfg(feature = "postgres")]
mod replicas;
mod request;
mod request_fidelity;
mod response_fidelity;
mod script_channels;
mod secret_run;
mod secrets;
mod slow_callers;
mod starved;
mod store;
mod targets;
mod tls;
mod tunnel;
mod unauthorized;
mod unix;
mod unwritable_store;
mod upstream_connections;
mod upstream_failures;
