//! Protections that are off or loosened, for the start and for `status`.

use crate::config::Config;
use crate::outbound::ProxyChoice;
use crate::proxy::guard;
use crate::proxy::peer::{self, PeerCheck};

/// One sentence for each of them.
pub(super) fn notes(config: &Config, guard: &guard::Settings) -> Vec<String> {
    let mut notes = Vec::new();
    let anybody = "any user of this machine can use the proxy";
    match &config.callers.peer_check {
        PeerCheck::Off => notes.push(format!("guard.peer_check is off: {anybody}")),
        _ if !peer::IS_SUPPORTED => {
            notes.push(format!("guard.peer_check does not work on this system: {anybody}"))
        }
        PeerCheck::Users(users) => {
            let own = rustix::process::geteuid().as_raw();
            let and = if users.contains(&own) {
                String::new()
            } else {
                format!(", and its own user {own}")
            };
            notes.push(format!("guard.peer_check allows these users: {users:?}{and}"));
        }
        PeerCheck::SameUser => {}
    }
    if !guard.allow_hosts.is_empty() {
        notes.push(format!("guard.allow_hosts allows: {}", guard.allow_hosts.join(", ")));
    }
    if !guard.allow_origins.is_empty() {
        notes.push(format!(
            "guard.allow_origins allows pages of these origins: {}",
            guard.allow_origins.join(", ")
        ));
    }
    if guard.allow_disconnect {
        notes.push("guard.allow_disconnect allows DELETE /v1/installations/me".into());
    }
    if let ProxyChoice::Url(_) = config.outbound.proxy {
        notes.push("upstream.proxy is set: Pleo is reached through an outbound proxy".into());
    }
    if let Some(file) = &config.outbound.ca_file {
        notes.push(format!("endpoints.ca_file adds trust roots: {}", file.display()));
    }
    if rustix::process::geteuid().is_root() {
        notes.push("the proxy runs as root; a separate user is safer".into());
    }
    notes
}
