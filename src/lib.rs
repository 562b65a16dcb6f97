//! The map of `pleo-proxy`, a local HTTP proxy that adds a fresh Pleo credential to plain requests.
//! The README describes it for users. This page describes the layout of the code, its invariants,
//! and what was left out on purpose.
//!
//! # Rows
//!
//! A file imports from lower rows and from its own folder only; `tests/rules/architecture.rs`
//! checks it. So every call goes down the rows and returns; the
//! one exception is [`login::Serve`], a callback.
//!
//! | row | parts |
//! | --- | --- |
//! | 12 | `main`, and this file |
//! | 11 | [`cli`]: commands and exit codes; builds the parts |
//! | 10 | [`config`]: the only reader of configuration files and environment variables; fills the settings of each part |
//! | 9 | [`server`]: listeners, workers, drain |
//! | 8 | [`admin`]: the listener for logins and commands; its documentation is the table of routes, [`admin::protocol`] has the bodies |
//! | 7 | [`log`]: the latest exchanges, and what can be said from them |
//! | 6 | [`operate`]: operations on accounts, used by the admin listener, and by commands while no proxy runs |
//! | 5 | [`proxy`]: the life of a request; [`login`]: from the authorization URL to a saved grant; [`hooks`]: commands of the operator's that run when an account needs a login |
//! | 4 | [`accounts`]: accounts, their snapshots, gate, refresh and background tasks. [`exchange`]: one request from its arrival to the last byte of its response; ends in one place |
//! | 3 | [`store`]: keeps grants, under a lock. [`explain`]: pure functions that say why Pleo refuses a request, or would, and what to do. [`usage`]: counters by account and operation, and what follows for scopes |
//! | 2 | [`oauth`]: pure functions that build requests and read responses; the only sender to the token endpoint. [`diagnostic`]: problems of a configuration or a set-up, as values. [`operations`]: the operations of Pleo's API, which of them write, and the scopes they need. [`problem`]: the codes and the form of the proxy's own error responses. [`redaction`]: takes secrets out of what leaves as evidence |
//! | 1 | [`secret`], [`clock`], [`lazy_timer`], [`nearest`], [`telemetry`], [`outbound`], [`private_file`], [`hardening`], [`supervise`], [`timeout`] |
//! | 0 | [`platform`]: what differs by system |
//! | aside | [`sandbox`], the crate `pleo-sandbox`: a fake Pleo. It shares no code with the proxy, so that it does not repeat its mistakes |
//!
//! Configuration is near the top so that no other part depends on it: each part declares its own
//! `Settings`.
//!
//! # A request
//!
//! [`server`] accepts on a worker, a runtime of one thread with its own connections to Pleo; it
//! borrows an idle one of another worker if it has none, and the first worker keeps one open.
//! [`Forwarder::answer`](proxy::Forwarder::answer) then reads top to bottom: [`proxy::guard`]
//! checks the head before a token is used or a body read; [`proxy::route`] finds the account and
//! the raw target; the account returns a [`Lease`](accounts::Lease), which holds the credential;
//! [`proxy::headers`] builds a new header map and inserts the credential last; [`proxy::replay`]
//! streams the body and keeps a bounded copy; [`proxy::upstream`] sends. When the head of the
//! response arrives, the lease is returned and the response streams back. A 401 is handled here,
//! once. Every failure becomes a [`problem::Problem`]. The [`exchange`] belongs to the request from
//! its arrival, then to the response body; dropping it ends it, and hands what was noted to the
//! worker's recorder, which the [`log`] empties ten times a second.
//!
//! # A refresh
//!
//! A token near expiry, a 401, an unused account, a command: all of them end in the accounts'
//! refresher (`accounts/refresher.rs`), which runs one job of an account at a time. The job takes
//! the account's refresh lock in this process, then the lock on the [`store`], and reads the record
//! again: a newer one is adopted, and nothing is sent. Otherwise an intent is saved, the gate
//! closes, leases are returned, and [`oauth`] sends the token request. Its result is named by what
//! must be done ([`oauth::Outcome`]); a pure function decides what follows, and an executor carries
//! it out: new tokens are saved, then published, and the gate opens; only a definite refusal
//! requires a login.
//!
//! # A login
//!
//! [`Operator::begin_login`](operate::Operator::begin_login) makes sure that something listens at
//! the redirect URI; [`Logins::begin`](login::Logins::begin) creates PKCE verifier and state; the
//! user consents; the callback comes to [`admin`], to a
//! [`CallbackListener`](login::CallbackListener), or is pasted.
//! [`Logins::finish`](login::Logins::finish) exchanges the code at once (codes are valid for a
//! minute), asks Pleo whose grant it is, and installs it under both locks with the next generation.
//! A refresh that finds a higher generation than it started with drops its own result.
//!
//! # Invariants
//!
//! 1. There is one token request, however many callers and processes find the token expired. A
//!    refresh token that is known to have a successor is never sent.
//! 2. New tokens are on disk before any request carries them, or the account is `unsaved`. A
//!    process that is killed at any point leaves a store that loads.
//! 3. A caller that disconnects cancels its own request and nothing else.
//! 4. Rotation is invisible: requests whose bodies are kept never see a 401 or another error that a
//!    refresh caused.
//! 5. The credential goes to the configured origin of the API and nowhere else.
//! 6. Web pages, other origins, other users and other machines get no response with data and
//!    cause no request to Pleo.
//! 7. No secret in logs, errors, metrics, pages, arguments or files that others can read. Secrets
//!    are types without `Display`; the places that may unwrap them are listed in
//!    `tests/rules/architecture.rs`.
//! 8. Memory is bounded, however much is streamed and however many callers connect.
//! 9. A failing account does not slow others.
//! 10. A grant is only deleted by a logout or replaced by a newer one, never because of a failure.
//! 11. What leaves as evidence (page, log, archive, command line, report) holds no secret, in no
//!     encoding, also none of generations long gone: everything goes through [`redaction`].
//! 12. Noting a request never makes it wait: what the log cannot take is dropped, and counted.
//!
//! # Absent on purpose
//!
//! - No retries except two: after a 401, and after a failure on an idle connection that had been
//!   closed.
//! - No redirects followed, no decompression, no caching, no rewriting of bodies, no `CONNECT`
//!   except to the API itself, which the proxy terminates.
//! - Only one place each that refreshes, posts to the token endpoint, and turns failures into
//!   statuses.
//! - No admin route on the data listener: tools and admin routes use two origins.
//! - No text is made of a request on its way: it is noted in a few fields ([`exchange::record`]), and
//!   [`log`] makes an entry when somebody looks. No lock across an await on the usual path, no access
//!   to the store and none to the token endpoint.
//! - No traits with one implementation, no global state except the log subscriber and the TLS
//!   provider, both set by [`cli`]. Time is passed in; tests use the sandbox over HTTP
//!   instead of mocks.
//!
//! # Cancellation
//!
//! Any future here may be dropped at any await. What must not stop half-way (a token request and
//! its save, the end of a login) runs in its own task on the control runtime, and the caller only
//! waits for it ([`Accounts::run_to_completion`](accounts::Accounts::run_to_completion)). Leases,
//! the gate and locks are released in `Drop`. When the process ends, requests get a moment to
//! finish, and a token request that was sent is waited for until its tokens are saved.

pub mod accounts;
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod diagnostic;
pub mod exchange;
pub mod explain;
pub mod hardening;
pub mod hooks;
pub mod lazy_timer;
pub mod log;
pub mod login;
pub mod nearest;
pub mod oauth;
pub mod operate;
pub mod operations;
pub mod outbound;
pub mod platform;
pub mod private_file;
pub mod problem;
pub mod proxy;
pub mod redaction;
pub mod secret;
pub mod server;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod timeout;
pub mod usage;

pub use pleo_sandbox as sandbox;
