//! What systemd and its like pass to the program, and are told about it: sockets (sd_listen_fds(3)),
//! readiness, the status line and the watchdog (sd_notify(3)). Without one, nothing is sent.

use std::future::pending;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::context::variables;
use crate::accounts::Accounts;
use crate::platform::abstract_address;
use crate::server::{Passed, PassedError};

/// How often the status line is looked at where there is no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The sockets that were passed to this process.
///
/// # Errors
/// [`PassedError`]: they cannot be used, or it is unclear for what.
pub(super) fn sockets() -> Result<Passed, PassedError> {
    Passed::take(variables().get("LISTEN_FDNAMES").map(String::as_str))
}

/// The service manager that started this process, if there is one.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// It ends the process if it hears nothing for this time.
    watchdog: Option<Duration>,
    /// The last status line.
    told: Mutex<String>,
}

impl ServiceManager {
    /// The one that the variables of this process name.
    pub(super) fn find() -> Self {
        let variables = variables();
        let get = |name: &str| variables.get(name).map(String::as_str);
        let socket = get("NOTIFY_SOCKET").and_then(|name| match connect(name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!("the service manager cannot be told anything at {name}: {error}");
                None
            }
        });
        let is_for_us = get("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = get("WATCHDOG_USEC").and_then(|time| time.parse().ok());
        let watchdog = watchdog.filter(|time| is_for_us && *time > 0).map(Duration::from_micros);
        Self { socket, watchdog, told: Mutex::default() }
    }

    /// Tells that the process serves, and from then on how it is. The watchdog is fed by a task of
    /// its own on the control runtime, which refreshes tokens: if that hangs, nothing feeds it.
    pub(super) fn serves(self: &Arc<Self>, accounts: &Arc<Accounts>) {
        self.ready(&summary(accounts));
        let (manager, accounts) = (self.clone(), accounts.clone());
        // Until the process ends.
        tokio::spawn(async move {
            manager.watch(|| summary(&accounts), || is_healthy(&accounts)).await;
        });
    }

    fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", self.status_line(status).unwrap_or_default()));
    }

    /// The process ends.
    pub(super) fn stopping(&self) {
        let line = self.status_line("ending: requests in progress are answered");
        self.send(&format!("STOPPING=1\n{}", line.unwrap_or_default()));
    }

    /// Keeps the status line up to date, and the watchdog quiet for as long as the process is
    /// healthy. Never ends.
    async fn watch(&self, status: impl Fn() -> String, is_healthy: impl Fn() -> bool) {
        if self.socket.is_none() {
            return pending().await;
        }
        // Twice in each period, as sd_watchdog_enabled(3) advises.
        let every = self.watchdog.map_or(STATUS_INTERVAL, |time| time / 2);
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let alive =
                (self.watchdog.is_some() && is_healthy()).then(|| "WATCHDOG=1\n".to_owned());
            let message: String = alive.into_iter().chain(self.status_line(&status())).collect();
            self.send(&message);
        }
    }

    /// The line that tells a status, if it is news.
    fn status_line(&self, status: &str) -> Option<String> {
        let mut told = self.told.lock();
        if *told == status {
            return None;
        }
        status.clone_into(&mut told);
        Some(format!("STATUS={}\n", status.replace('\n', " ")))
    }

    fn send(&self, message: &str) {
        if let Some(socket) = self.socket.as_ref().filter(|_| !message.is_empty()) {
            // A manager that does not read is not waited for, and its watchdog notices it.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// Requests are accepted, and tokens are refreshed.
fn is_healthy(accounts: &Accounts) -> bool {
    !accounts.supervisor().accepts_no_requests() && accounts.scheduler_silence().is_none()
}

/// How the accounts are; without their names: every user of the machine can ask for the line.
fn summary(accounts: &Accounts) -> String {
    let all = accounts.all();
    let serving = all.iter().filter(|account| account.can_serve()).count();
    let is_well = serving > 0 && all.iter().all(|account| account.is_well());
    let noun = if serving == 1 { "account serves" } else { "accounts serve" };
    let hint = if is_well { "" } else { "; run: pleo-proxy status" };
    format!("{serving} {noun}{hint}")
}

/// A path, or on Linux a name of the abstract kind behind `@`.
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match name.strip_prefix('@') {
        Some(name) => socket.connect_addr(&abstract_address(name)?)?,
        None => socket.connect(name)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manager's end, and ours.
    fn pair(watchdog: Option<Duration>) -> (UnixDatagram, ServiceManager) {
        let (theirs, ours) = UnixDatagram::pair().unwrap();
        (theirs, ServiceManager { socket: Some(ours), watchdog, told: Mutex::default() })
    }

    fn next(theirs: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let length = theirs.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_status_line_is_told_once_and_is_one_line() {
        let (theirs, manager) = pair(None);
        manager.ready("serves\nWATCHDOG=trigger");
        assert_eq!(next(&theirs), "READY=1\nSTATUS=serves WATCHDOG=trigger\n");
        manager.ready("serves\nWATCHDOG=trigger");
        assert_eq!(next(&theirs), "READY=1\n");
        manager.stopping();
        assert!(next(&theirs).starts_with("STOPPING=1\nSTATUS=ending"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_hears_of_a_healthy_process_only() {
        let (theirs, manager) = pair(Some(Duration::from_secs(4)));
        let checks = std::cell::Cell::new(0);
        let is_healthy = || {
            checks.set(checks.get() + 1);
            checks.get() != 2
        };
        let watch = manager.watch(|| format!("look {}", checks.get()), is_healthy);
        let _ = tokio::time::timeout(Duration::from_secs(5), watch).await;
        assert_eq!(next(&theirs), "WATCHDOG=1\nSTATUS=look 1\n");
        assert_eq!(next(&theirs), "STATUS=look 2\n");
        assert_eq!(next(&theirs), "WATCHDOG=1\nSTATUS=look 3\n");
        assert_eq!(checks.get(), 3, "two checks in each period");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_manager_is_reached_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        connect(path.to_str().unwrap()).unwrap().send(b"READY=1").unwrap();
        assert_eq!(next(&by_path), "READY=1");
        let name = path.to_str().unwrap();
        let abstractly = UnixDatagram::bind_addr(&abstract_address(name).unwrap()).unwrap();
        connect(&format!("@{name}")).unwrap().send(b"READY=1").unwrap();
        assert_eq!(next(&abstractly), "READY=1");
    }
}
