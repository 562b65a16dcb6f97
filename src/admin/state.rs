//! What the handlers of the admin listener share.

use std::sync::Arc;

use axum::extract::State;
use tokio_util::sync::CancellationToken;

use super::key::Keys;
use super::protocol::About;
use crate::log::RequestLog;
use crate::log::curl::Target;
use crate::operate::{Operator, Redirect, Users};
use crate::proxy::guard::Guard;
use crate::proxy::peer::Peers;
use crate::secret::LocalKey;

/// The state of the admin listener.
pub struct Admin {
    /// Operations on accounts.
    pub operator: Operator,
    /// The programs that send as an account beside this process.
    pub users: Users,
    /// The latest exchanges, and the counters.
    pub log: Arc<RequestLog>,
    /// Checks every request.
    pub guard: Guard,
    /// The admin key and the sessions.
    pub keys: Arc<Keys>,
    /// Cancelled to end the process.
    pub shutdown: CancellationToken,
    /// The listener's own origin: `http://127.0.0.1:8089`.
    pub origin: String,
    /// Receives the callbacks of logins.
    pub redirect: Arc<Redirect>,
    /// What `status` reports about the process itself.
    pub about: About,
    /// The setting `upstream.pace`, requests a minute.
    pub pace: Option<u32>,
    /// Where tools connect, for commands that they can run.
    pub tools: Target,
    /// What tools must send, if the data listener asks for it.
    pub local_key: Option<LocalKey>,
    /// Whether the kernel could identify callers.
    pub peers: Peers,
}

/// How a handler takes it.
pub(super) type Shared = State<Arc<Admin>>;
