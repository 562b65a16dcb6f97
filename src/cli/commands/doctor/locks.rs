//! Who holds the locks of accounts, as the kernel lists them: asking for a lock would keep others
//! from it for a moment.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
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
    let is_foreign = |path: &Path| holder(path).filter(|pid| Some(*pid) != own);
    let held: Vec<_> = locks
        .iter()
        .filter_map(|(account, path)| Some((account, path, is_foreign(path)?)))
        .collect();
    if !held.is_empty() {
        thread::sleep(PATIENCE);
    }
    let still = held.into_iter().filter(|(_, path, pid)| holder(path) == Some(*pid));
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

/// The process that holds a `flock` on a file (proc_locks(5)).
fn holder(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let noted = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder_in(line, device, metadata.ino(), noted))
}

/// The holder in a line such as `3: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF`. Some file systems
/// give another device than `stat` does: there the process that noted itself in the file counts.
fn holder_in(line: &str, device: (u32, u32), inode: u64, noted: Option<u32>) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let pid: u32 = fields.nth(2)?.parse().ok()?;
    let mut place = fields.next()?.split(':');
    let major = u32::from_str_radix(place.next()?, 16).ok()?;
    let minor = u32::from_str_radix(place.next()?, 16).ok()?;
    let is_it =
        place.next()?.parse() == Ok(inode) && ((major, minor) == device || noted == Some(pid));
    (is_it && pid != 0).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_names_the_holder_of_a_file() {
        let line = "3: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF";
        assert_eq!(holder_in(line, (0xfe, 1), 1234, None), Some(4711));
        assert_eq!(holder_in(line, (0xfe, 1), 1235, None), None);
        assert_eq!(holder_in(line, (0, 9), 1234, None), None, "another file system");
        assert_eq!(holder_in(line, (0, 9), 1234, Some(4711)), Some(4711));
        for other in [
            "3: -> FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF",
            "3: POSIX  ADVISORY  WRITE 4711 fe:01:1234 0 EOF",
            "3: FLOCK  ADVISORY  WRITE -1 fe:01:1234 0 EOF",
            "3: FLOCK",
            "",
        ] {
            assert_eq!(holder_in(other, (0xfe, 1), 1234, None), None, "{other}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_knows_who_holds_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.lock");
        let file = fs::File::create(&path).unwrap();
        assert_eq!(holder(&path), None);
        file.lock().unwrap();
        let own = std::process::id();
        fs::write(&path, format!("{own}\n")).unwrap();
        assert_eq!(holder(&path), Some(own));
        assert!(checks(folder.path(), Some(own))[0].text().starts_with("pass"));
        let found = checks(folder.path(), None)[0].text();
        assert!(found.contains("lock of account acme") && found.contains("kill"), "{found}");
    }
}
