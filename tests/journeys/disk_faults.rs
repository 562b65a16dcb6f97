//! Disks that fail or fill up: faults for the tests, and what they look at.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::Faults;
use pleo_proxy::store::Record;
use serde_json::Value;
use strace::wrapped;
use support::{Proxy, TIMEOUT, Workspace, text};
use tokio::task::JoinHandle;

/// Nothing is refreshed ahead of need, so that a test decides when a refresh begins.
pub(super) const SHORT_WAITS: &str =
    "[tokens]\nkeep_warm = \"1ms\"\nhold = \"1s\"\ndrain = \"100ms\"\n";

/// The token endpoint takes its time between its work and its answer: the disk fails meanwhile.
pub(super) fn slow_answer() -> Faults {
    Faults { token_latency_after_ms: 1500, ..Faults::default() }
}

pub(super) fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Starts the proxy without root's right to write where the mode says no. None if that right cannot
/// be dropped.
pub(super) fn serve_bound_by_modes(workspace: &Workspace) -> Option<Proxy> {
    const DROP: [&str; 2] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    if !rustix::process::geteuid().is_root() {
        return Some(workspace.serve());
    }
    if !Command::new(DROP[0]).args([DROP[1], "true"]).status().is_ok_and(|status| status.success())
    {
        eprintln!(
            "SKIPPED: modes do not bind root, and setpriv cannot change that here; run as another user"
        );
        return None;
    }
    Some(Proxy::launch(
        wrapped(&workspace.command(&["--json", "--log", "debug"]), &DROP),
        &workspace.state(),
    ))
}

/// A file system of its own for the store, gone with this value.
pub(super) struct Small(pub(super) PathBuf);

impl Small {
    /// None where this user may not mount.
    pub(super) fn mount(workspace: &Workspace) -> Option<Self> {
        let at = workspace.path().join("state");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k,mode=0700", "pleo-proxy-test"]).arg(&at);
        if !mount.output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: no file system can be mounted here; run as root");
            return None;
        }
        Some(Self(at))
    }

    pub(super) fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let full = (0..64).find_map(|_| file.write_all(&[b'x'; 4096]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    pub(super) fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The same in the background.
pub(super) fn forced(proxy: &Proxy) -> JoinHandle<()> {
    let request =
        proxy.http.post(format!("{}/api/accounts/default/refresh?force=true", proxy.admin));
    let request = request.bearer_auth(&proxy.key);
    tokio::spawn(async move { drop(request.send().await) })
}

pub(super) async fn until(what: &str, wanted: impl Fn() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < TIMEOUT, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn ready(proxy: &Proxy) -> (u16, String) {
    let response = proxy.http.get(format!("{}/ready", proxy.admin)).send().await.unwrap();
    (response.status().as_u16(), text(&response.json::<Value>().await.unwrap()["status"]))
}

pub(super) fn record(workspace: &Workspace) -> Record {
    Record::decode(&fs::read(workspace.record("default")).unwrap()).unwrap()
}
