//! Who holds the locks of accounts, as the kernel lists them: asking for a lock would keep others
//! from it for a moment.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{Access, access};

use super::finding::{Check, Finding};
use super::store::lock_files;
use crate::cli::run_file;
use crate::diagnostic::{Code, Diagnostic};
use crate::platform::processes;

/// A lock that is still held after this time by the same process is worth mentioning: most refreshes
/// take a fraction of it.
const PATIENCE: Duration = Duration::from_millis(1200);

/// The locks of a folder. `own` is the proxy that responds, whose refreshes may take their time.
pub(super) fn checks(folder: &Path, own: Option<u32>) -> Vec<Finding> {
    let locks = lock_files(folder);
    let mut findings: Vec<Finding> =
        locks.iter().filter_map(|(account, path)| unusable(account, path)).collect();
    let is_foreign = |path: &Path| processes::lock_holder(path).filter(|pid| Some(*pid) != own);
    let held: Vec<_> = locks
        .iter()
        .filter_map(|(account, path)| Some((account, path, is_foreign(path)?)))
        .collect();
    if !held.is_empty() {
        thread::sleep(PATIENCE);
    }
    let still =
        held.into_iter().filter(|(_, path, pid)| processes::lock_holder(path) == Some(*pid));
    findings.extend(still.map(|(account, _, pid)| held_by(account, pid)));
    if findings.is_empty() {
        let what =
            if locks.is_empty() { "there is none yet" } else { "no other process holds one" };
        findings.push(Check::Locks.pass(what));
    }
    findings
}

fn unusable(account: &str, path: &Path) -> Option<Finding> {
    let shown = path.display();
    let metadata = fs::symlink_metadata(path).ok()?;
    let title = if !metadata.is_file() {
        format!("{shown} is not a regular file")
    } else if access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        format!("{shown} cannot be opened by this user")
    } else {
        return None;
    };
    let fix = format!("while no proxy runs, remove it: rm {shown}");
    Some(Check::Locks.problem(Diagnostic::error(Code::LockFile, title, fix)).about(account))
}

fn held_by(account: &str, pid: u32) -> Finding {
    let name = processes::name(pid).map(|name| format!(" ({name})")).unwrap_or_default();
    let stopped = if run_file::is_stopped(pid) == Some(true) { ", and is stopped" } else { "" };
    let title = format!(
        "process {pid}{name} has held the lock of account {account} for more than a second{stopped}, so no other \
         process can refresh it"
    );
    let fix = format!("wait for it; if it hangs, stop it with: kill {pid}");
    Check::Locks.problem(Diagnostic::warning(Code::LockHeld, title, fix)).about(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_knows_who_holds_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(processes::lock_holder(&path), None);
        file.lock().unwrap();
        let own = std::process::id();
        fs::write(&path, format!("{own}\n")).unwrap();
        assert_eq!(processes::lock_holder(&path), Some(own));
        assert!(checks(folder.path(), Some(own))[0].text().starts_with("pass"));
        let found = checks(folder.path(), None)[0].text();
        assert!(found.contains("lock of account acme") && found.contains("kill"), "{found}");
    }
}
