//! How the process's file descriptors are shared out: connections take what is left when store,
//! token endpoint and admin listener have theirs.

use tracing::warn;

/// Connections of the admin listener.
pub(super) const ADMIN: usize = 32;
/// Connections to a listener that serves one login.
pub(super) const CALLBACK: usize = 32;
/// Connections of other users that are told so at a time, on each listener.
pub(super) const STRANGERS: usize = 8;
/// Connections beyond the most that are told so at a time, on each listener.
pub(super) const OVERLOADED: usize = 8;
/// Most connections of the data listener, whatever the file limit.
const MOST: usize = 20_000;
/// Most that can be asked for: more than any single machine's tools open.
const MAX_CONNECTIONS: usize = 1_000_000;
/// Least, even where that may be more than the limit allows.
const LEAST: usize = 16;
/// For everything that is no client's connection: listeners, runtimes, store, logs, the token
/// endpoint.
const OTHERS: usize = 64;
const KEPT_BACK: usize = OTHERS + ADMIN + CALLBACK + 3 * (STRANGERS + OVERLOADED);

/// Reads how many connections are wanted; 0 leaves it to the file limit.
///
/// # Errors
/// What is possible.
pub fn max_connections(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= MAX_CONNECTIONS);
    number.ok_or_else(|| format!("must be between 0 (automatic) and {MAX_CONNECTIONS}"))
}

/// Places of the data listener: as configured, 0 = as many as there may be. Each connection may
/// need one to the API beside it.
pub(super) fn places(configured: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let possible = possible(limit);
    match configured {
        0 => possible.min(MOST),
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

fn possible(limit: usize) -> usize {
    (limit.saturating_sub(KEPT_BACK) / 2).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for limit in [256, 1024, 4096, 1 << 20] {
            let all = 2 * possible(limit) + ADMIN + CALLBACK + 3 * (STRANGERS + OVERLOADED);
            assert!(all + OTHERS <= limit, "{limit}: {all}");
        }
        assert_eq!(possible(0), LEAST);
        assert_eq!((places(0).min(MOST), places(7)), (places(0), 7));
    }
}
