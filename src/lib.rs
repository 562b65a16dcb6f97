//! The map of `pleo-proxy`, a local HTTP proxy that adds a fresh Pleo credential to plain requests.
//! What it does for its users stands in the README; here stands how the code is laid out, what it
//! promises, and what is not in it.
//!
//! # Rows
//!
//! A file imports from lower rows and from its own folder only; `tests/rules/architecture.rs`
//! checks it. So every journey walks down and comes back, and each fact has one home.
//!
//! | row | parts |
//! | --- | --- |
//! | 10 | `main`, and this file |
//! | 9 | [`cli`]: commands, exit codes; puts the parts together |
//! | 8 | [`config`]: the only reader of configuration files and of the environment; fills the settings of each part |
//! | 7 | [`server`]: listeners, workers, the drain |
//! | 6 | [`admin`]: where people and operators talk; its documentation is the table of routes, [`admin::protocol`] the bodies |
//! | 5 | [`operate`]: what a person does to accounts, through the admin listener or on the store while no proxy runs |
//! | 4 | [`proxy`]: the life of a request; [`login`]: from the authorize address to a saved grant |
//! | 3 | [`tokens`]: accounts, their snapshots, gate, refresh, and what happens unasked |
//! | 2 | [`store`]: where grants are kept, under a lock |
//! | 1 | [`oauth`]: requests built and answers read by pure functions; the only sender to the token endpoint. [`operations`]: what Pleo's API offers, and what of it writes |
//! | 0 | [`secret`], [`clock`], [`alarm`], [`telemetry`], [`outbound`], [`private_file`], [`hardening`], [`supervise`], [`timeout`] |
//! | aside | [`sandbox`], the crate `pleo-sandbox`: a fake Pleo. It imports nothing of ours: a fake that shares our code agrees with our mistakes |
//!
//! Configuration is near the top because nothing below should know that it exists: each part has a
//! `Settings` of its own.
//!
//! # A request
//!
//! [`server`] accepts on a worker, a runtime of one thread with its own connections to Pleo; it
//! borrows another's when none of its own is at rest, and the first worker keeps one ready.
//! [`Forwarder::answer`](proxy::Forwarder::answer) then reads top to bottom: [`proxy::guard`]
//! judges the head before a token is looked at or a body read; [`proxy::route`] finds the account
//! and the raw target; the account gives a [`Lease`](tokens::Lease), which holds the credential;
//! [`proxy::headers`] builds a new map and puts the credential in last; [`proxy::body`] streams,
//! and keeps a bounded copy; [`proxy::upstream`] sends. With the head of the response the lease is
//! returned and the answer streams back. A 401 is handled here, once. Whatever fails goes to
//! [`proxy::reply`], never sideways.
//!
//! # A refresh
//!
//! Near expiry, a 401, a long idle time, a person: all end in
//! [`Accounts::refresh`](tokens::Accounts::refresh), which runs one job of an account at a time. The
//! job takes the account's refresh lock in this process, then the lock on the [`store`], and reads
//! the record again: a newer one is adopted, and nothing is sent. Otherwise the intent is written,
//! the gate closes, leases under way are returned, and [`oauth`] sends the token request. What it
//! answers is named by what must be done ([`oauth::Outcome`]); a pure function decides what follows,
//! and an executor carries it out: a fresh pair is saved, then published, and the gate opens; only a
//! definite refusal ends in a login.
//!
//! # A login
//!
//! [`Operator::begin_login`](operate::Operator::begin_login) sees to it that somebody listens at
//! the redirect URI; [`Logins::begin`](login::Logins::begin) makes PKCE verifier and state; the
//! person consents; the answer comes to [`admin`], to a
//! [`CallbackListener`](login::CallbackListener), or by hand.
//! [`Logins::finish`](login::Logins::finish) exchanges the code at once (codes live for a minute),
//! asks whose grant it is, and installs it under both locks with the next generation. A refresh
//! that finds a higher generation than it began with drops its own result.
//!
//! # Invariants
//!
//! 1. However many callers and processes meet an expired token: one token request. A refresh token
//!    that is known to have a successor is never sent.
//! 2. A new pair is on disk before any request carries it, or the account says that it is
//!    `unsaved`. A process that is killed anywhere leaves a store that loads.
//! 3. A caller that leaves cancels its own request and nothing else.
//! 4. Rotation is invisible: requests whose bodies are kept see no 401 and no error that Pleo did
//!    not mean.
//! 5. The credential goes to the configured origin of the API and nowhere else.
//! 6. Web pages, other origins, other users and other machines get no answer with data, and cause
//!    no request to Pleo.
//! 7. No secret in logs, errors, metrics, pages, arguments or files that others can read. Secrets
//!    are types without `Display`; the places that may unwrap them are listed in
//!    `tests/rules/architecture.rs`.
//! 8. Memory is bounded, whatever streams through and however many connect.
//! 9. An account in trouble slows no other.
//! 10. A grant is deleted only by a logout or replaced by a newer one, never because something
//!     failed.
//!
//! # Absent on purpose
//!
//! - No retry but two: the one after a 401, and the one on a connection that was closed while it
//!   rested.
//! - No redirects followed, no decompression, no caching, no rewriting of bodies, no `CONNECT` but
//!   to the API itself, which ends here.
//! - No second place that refreshes, posts to the token endpoint, or turns failures into statuses.
//! - No route for people on the data listener: what tools may call and what operators may do are
//!   two origins.
//! - No access log, and on the usual path of a request no lock over an await, no store and no token
//!   endpoint.
//! - No traits with one implementation, no global state but the log subscriber and the TLS
//!   provider, both set by [`cli`]. Time is passed in; the fake is the sandbox, over HTTP.
//!
//! # Cancellation
//!
//! Any future here may be dropped at any await. What must not stop half-way (an exchange and its
//! save, the end of a login) runs in a task of its own on the control runtime, and the caller only
//! waits for it ([`Accounts::keep`](tokens::Accounts::keep)). Leases, the gate and all locks are
//! returned in `Drop`. At the end of the process requests get a moment, and a token request that
//! was sent is waited for until its pair is saved.

pub mod admin;
pub mod alarm;
pub mod cli;
pub mod clock;
pub mod config;
pub mod hardening;
pub mod login;
pub mod oauth;
pub mod operate;
pub mod operations;
pub mod outbound;
pub mod private_file;
pub mod proxy;
pub mod secret;
pub mod server;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod timeout;
pub mod tokens;

pub use pleo_sandbox as sandbox;
