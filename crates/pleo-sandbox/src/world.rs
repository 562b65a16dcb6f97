//! The state all handlers share. Two locks, held for lookups and small changes only, never across
//! an await.

use data_encoding::HEXLOWER;
use parking_lot::{Mutex, MutexGuard};
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::watch;

use super::books::Books;
use super::counters::Counters;
use super::faults::Faults;
use super::grants::Grants;
use super::{Options, seed};

pub(crate) struct World {
    pub(crate) options: Options,
    /// The authorization server's own origin.
    pub(crate) issuer: String,
    pub(crate) files_origin: String,
    /// Signs file URLs; new at every start, so that old URLs end with the sandbox.
    pub(crate) signing_key: String,
    state: Mutex<State>,
    books: Mutex<Books>,
    stopped: watch::Receiver<bool>,
}

/// What changes with every request.
pub(crate) struct State {
    pub(crate) grants: Grants,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) next_subject: Option<String>,
}

impl State {
    pub(crate) fn revoke_all(&mut self) {
        self.counters.families_revoked += self.grants.revoke_all();
    }
}

impl World {
    pub(crate) fn new(
        options: Options,
        auth: SocketAddr,
        files: SocketAddr,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let state = State {
            grants: Grants::default(),
            faults: options.faults.clone(),
            counters: Counters::default(),
            next_subject: None,
        };
        Self {
            options,
            issuer: format!("http://{auth}"),
            files_origin: format!("http://{files}"),
            signing_key: random("key"),
            state: Mutex::new(state),
            books: Mutex::new(seed::books()),
            stopped,
        }
    }

    // A poisoned lock means that a handler panicked; the state is small enough to be usable still.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock()
    }

    /// Sleeps, but not longer than the sandbox lives.
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

/// An opaque value with 256 bits of chance, marked as the sandbox's own.
pub(crate) fn random(kind: &str) -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes after boot");
    format!("sbx-{kind}-{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}
