//! Refreshes: what makes one happen, and what the token endpoint saw of it.

use std::time::Duration;

use pleo_proxy::sandbox::{Counters, Faults, Sandbox};

use super::{Proxy, Workspace};

/// Configuration under which nothing is refreshed ahead of need: the test decides when a refresh
/// begins.
pub const NO_REFRESH_AHEAD: &str = "[tokens]\nkeep_warm = \"1ms\"\n";

/// A proxy whose account `default` is connected.
pub async fn connected(sandbox: &Sandbox, more: &str) -> (Workspace, Proxy) {
    let workspace = Workspace::for_sandbox(sandbox, more);
    let proxy = workspace.serve();
    proxy.login("default").await;
    (workspace, proxy)
}

/// Access tokens issued from now on live this long.
pub fn access_lifetime(milliseconds: u64) -> Faults {
    Faults { access_life_ms: Some(milliseconds), ..Faults::default() }
}

/// The token endpoint handles a request at once and responds this much later.
pub fn slow_token_response(milliseconds: u64) -> Faults {
    Faults { token_latency_after_ms: milliseconds, ..Faults::default() }
}

/// Waits until an access token with this lifetime has expired.
pub async fn expire(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds + 20)).await;
}

/// Token requests since the counters were read, whatever their result.
pub fn token_posts(sandbox: &Sandbox, before: &Counters) -> u64 {
    sandbox.counters().token_posts - before.token_posts
}
