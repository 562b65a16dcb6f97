//! Checks of the store's folder and its disk. They look and write nothing.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use super::finding::{Check, Finding};
use crate::cli::exit::Failure;
use crate::cli::state::State;
use crate::cli::wiring;
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::private_file;
use crate::store::AccountName;

/// Free bytes below which the disk counts as full: a few records and what a file system keeps for
/// itself.
const LEAST_FREE: u64 = 1024 * 1024;
/// What is said if the folders cannot be used at all.
pub(super) fn unusable(why: &anyhow::Error) -> Finding {
    Check::Store.problem(Diagnostic::of(Code::StoreFolder, format!("{why:#}")))
}

/// All checks of the folder and the disk. Reads files.
pub(super) fn checks(config: &Config, state: &State) -> Vec<Finding> {
    if state.is_temporary {
        let why = "the accounts of the embedded sandbox are kept in a temporary folder";
        return vec![Check::Store.skip(why), disk(&std::env::temp_dir())];
    }
    let mut findings = match wiring::database(config) {
        Some(place) => database(state, place),
        None => folder(state),
    };
    findings.push(disk(&state.records));
    findings
}

/// The records are in a database, and the state folder has the rest.
fn database(state: &State, place: Result<String, Failure>) -> Vec<Finding> {
    match place {
        Ok(place) => {
            let mut findings = problems(state);
            if findings.is_empty() {
                findings.push(Check::Store.pass(place));
            }
            findings
        }
        Err(failure) => vec![unusable(&failure.error)],
    }
}

fn problems(state: &State) -> Vec<Finding> {
    let found = [run_folder(state), admin_key(state)].into_iter().flatten();
    found.map(|problem| Check::Store.problem(problem)).collect()
}

fn folder(state: &State) -> Vec<Finding> {
    let check = Check::Store;
    let shown = state.records.display();
    if fs::symlink_metadata(&state.records).is_err() {
        return vec![check.pass(format!("{shown} does not exist yet; the first login makes it"))];
    }
    let mut findings = problems(state);
    if findings.is_empty() {
        findings.push(check.pass(format!("{shown}, which only you can enter")));
    }
    findings
}

fn run_folder(state: &State) -> Option<Diagnostic> {
    let folder = state.folder.join("run");
    fs::symlink_metadata(&folder).ok()?;
    let error = private_file::folder::check(&folder).err()?;
    Some(Diagnostic::of(Code::StoreFolder, error))
}

fn admin_key(state: &State) -> Option<Diagnostic> {
    let path = state.folder.join("admin.key");
    fs::symlink_metadata(&path).ok()?;
    let error = crate::admin::key::read(&path).err()?;
    Some(Diagnostic::of(Code::StoreFolder, error))
}

/// Space and write access, of the folder or of the nearest one above it that exists.
fn disk(folder: &Path) -> Finding {
    let check = Check::Disk;
    let Some(there) = folder.ancestors().find(|above| above.is_dir()) else {
        return check.skip(format!("no folder above {} can be seen", folder.display()));
    };
    let shown = there.display();
    let stat = match statvfs(there) {
        Ok(stat) => stat,
        Err(error) => return check.skip(format!("{shown}: the system does not say: {error}")),
    };
    let problem =
        |title: String, fix: &str| check.problem(Diagnostic::error(Code::Disk, title, fix));
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let fix = "mount it for writing, or set store.path to a folder that can be written";
        return problem(format!("{shown} is on a read-only file system"), fix);
    }
    if access(there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let fix = "give your user write access, or set store.path to a folder of yours";
        return problem(format!("{shown} cannot be written by this user"), fix);
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    // Some file systems count no files.
    let has_files = stat.f_files == 0 || stat.f_favail > 0;
    if free < LEAST_FREE || !has_files {
        let fix = "free some space: a new token that cannot be saved may be lost";
        return problem(format!("the disk of {shown} is full"), fix);
    }
    check.pass(format!("{} MiB are free at {shown}", free / (1024 * 1024)))
}

/// The lock files of a folder, with the accounts they are for.
pub(super) fn lock_files(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let account = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".lock")?.to_owned();
        // The counters have a lock as well.
        name.parse::<AccountName>().is_ok().then_some((name, path))
    };
    let mut found: Vec<_> = entries.flatten().filter_map(|entry| account(entry.path())).collect();
    found.sort();
    found
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_judged_by_the_nearest_folder_that_exists() {
        let folder = tempfile::tempdir().unwrap();
        let found = disk(&folder.path().join("not/yet")).text();
        let there = folder.path().display().to_string();
        assert!(found.starts_with("pass") && found.ends_with(&there), "{found}");
        // Nothing can be saved there, whoever asks.
        let found = disk(Path::new("/proc/sys/none")).text();
        assert!(found.starts_with("fail  disk: /proc/sys") && found.contains("fix: "), "{found}");
    }
}
