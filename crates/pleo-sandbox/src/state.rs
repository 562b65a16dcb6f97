//! The state that all handlers share. Its two locks are held for lookups and small changes only,
//! never across an await.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::counters::Counters;
use super::dataset::Dataset;
use super::faults::Faults;
use super::grants::Grants;
use super::rate_limit::RateLimiter;
use super::{Options, StaticKey, fixtures};

pub(crate) struct SandboxState {
    pub(crate) options: Options,
    /// The authorization server's own origin.
    pub(crate) issuer: String,
    pub(crate) files_origin: String,
    /// Signs file URLs; new at every start, so that URLs of an earlier run are refused.
    pub(crate) signing_key: String,
    live: Mutex<LiveState>,
    dataset: Mutex<Dataset>,
    stopped: watch::Receiver<bool>,
}

/// What requests and tests change: tokens, faults, counters.
pub(crate) struct LiveState {
    pub(crate) grants: Grants,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) rate: RateLimiter,
    pub(crate) api_keys: Vec<StaticKey>,
    /// Subject of authorization requests that name none.
    pub(crate) next_subject: Option<String>,
}

impl LiveState {
    pub(crate) fn revoke_all(&mut self) {
        self.counters.families_revoked += self.grants.revoke_all();
    }
}

impl SandboxState {
    pub(crate) fn new(
        options: Options,
        auth: SocketAddr,
        files: SocketAddr,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let live = LiveState {
            grants: Grants::default(),
            faults: options.faults.clone(),
            counters: Counters::default(),
            rate: RateLimiter::default(),
            api_keys: options.api_keys.clone(),
            next_subject: None,
        };
        let dataset = Mutex::new(fixtures::dataset(options.more_entries));
        Self {
            options,
            issuer: format!("http://{auth}"),
            files_origin: format!("http://{files}"),
            signing_key: random("key"),
            live: Mutex::new(live),
            dataset,
            stopped,
        }
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, LiveState> {
        self.live.lock()
    }

    pub(crate) fn dataset(&self) -> MutexGuard<'_, Dataset> {
        self.dataset.lock()
    }

    /// Sleeps for `duration`, or until the sandbox stops.
    pub(crate) async fn pause(&self, duration: Duration) {
        if duration.is_zero() {
            return;
        }
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }
}

/// An opaque value with 256 random bits and a prefix that marks it as the sandbox's.
pub(crate) fn random(kind: &str) -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes after boot");
    format!("sbx-{kind}-{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}
