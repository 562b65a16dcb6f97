//! What requests, refreshes, logins and records go through, with the real binary against the
//! sandbox.

#[path = "../support/mod.rs"]
mod support;

mod apart;
mod attacks;
mod attacks_local;
mod callers;
mod company;
mod crash;
mod disk;
mod fidelity;
mod login;
mod outage;
mod outbound;
mod peer;
mod processes;
mod refresh;
mod request;
mod secrets;
mod starved;
mod store;
mod tunnel;
mod unix;
