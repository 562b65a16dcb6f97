//! Shares out the process's file descriptors: client connections get what store, token endpoint and
//! admin listener do not need.

use tracing::warn;

/// Connections of the admin listener.
pub(super) const ADMIN: usize = 32;
/// Connections to a listener that serves one login.
pub(super) const CALLBACK: usize = 32;
/// Connections of other users that are refused with a response at a time, on each listener.
pub(super) const REFUSED_PEERS: usize = 8;
/// Connections beyond the limit that are refused with a response at a time, on each listener.
pub(super) const OVERLOADED: usize = 8;
/// Connections of the data listener at most, unless configured, whatever the file limit.
const MAX_AUTOMATIC: usize = 20_000;
/// Largest setting: more than the programs of any single machine open.
const MAX_CONNECTIONS: usize = 1_000_000;
/// Connections at least, even if the file limit allows fewer.
const MIN: usize = 16;
/// For everything else: listeners, runtimes, store, logs, the token endpoint.
const RESERVED: usize = 64;
const ALL_RESERVED: usize = RESERVED + ADMIN + CALLBACK + 3 * (REFUSED_PEERS + OVERLOADED);

/// Reads `listen.max_connections`; 0 leaves it to the file limit.
///
/// # Errors
/// What is allowed.
pub fn max_connections(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= MAX_CONNECTIONS);
    number.ok_or_else(|| format!("must be between 0 (automatic) and {MAX_CONNECTIONS}"))
}

/// Connections that the data listener admits: as configured, or as many as possible if that is 0.
/// Each may need a connection to the API too.
pub(super) fn max_admitted(configured: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let possible = possible(limit);
    match configured {
        0 => possible.min(MAX_AUTOMATIC),
        _ if configured > possible => {
            warn!(
                "listen.max_connections = {configured} is more than the file limit of {limit} allows; {possible} are \
                 served at a time; raise the limit (ulimit -n, LimitNOFILE)"
            );
            possible
        }
        _ => configured,
    }
}

/// Connections that the data listener can admit with this limit of open files.
pub fn possible(limit: usize) -> usize {
    (limit.saturating_sub(ALL_RESERVED) / 2).max(MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_file_descriptors_for_everything_else() {
        for limit in [256, 1024, 4096, 1 << 20] {
            let all = 2 * possible(limit) + ADMIN + CALLBACK + 3 * (REFUSED_PEERS + OVERLOADED);
            assert!(all + RESERVED <= limit, "{limit}: {all}");
        }
        assert_eq!(possible(0), MIN);
        assert_eq!((max_admitted(0).min(MAX_AUTOMATIC), max_admitted(7)), (max_admitted(0), 7));
    }
}
