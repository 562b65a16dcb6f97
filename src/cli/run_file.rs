//! Run files of running proxies: `run/<boot id>-<pid>.json` in the environment's state folder.
//!
//! A process id alone is ambiguous: it is reused after a restart, and it names another process in
//! another pid namespace or on another machine that shares the folder. So a run file also holds the
//! boot id, the namespace and the start time of the process. Reading changes nothing; only a proxy
//! that starts removes the files of dead processes.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use strum::VariantArray as _;

use super::embedded_sandbox::Addresses;
use crate::config::{Config, Environment};
use crate::operate::Users;
use crate::private_file::{self, access::Access};
use crate::store::{AccountName, KeysHeld};

/// Larger than any run file, in bytes.
const LIMIT: u64 = 64 * 1024;

/// The content of a run file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Instance {
    #[serde(flatten)]
    pub(super) process: Process,
    /// The environment's name.
    pub(super) environment: String,
    pub(super) api: String,
    pub(super) admin: Option<String>,
    /// The folder of the records.
    pub(super) store: PathBuf,
    /// The keys of the store that it holds.
    #[serde(default)]
    pub(super) store_keys: KeysHeld,
    /// The program of an `exec`, which serves that program alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exec: Option<String>,
    /// The account of an `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<String>,
    /// The sandbox of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sandbox: Option<Addresses>,
}

impl Instance {
    /// Names it for users.
    pub(super) fn named(&self) -> String {
        let Self { process, environment, api, store, .. } = self;
        format!("process {} ({environment}, tools {api}, store {})", process.pid, store.display())
    }

    /// True if it serves everybody, as `serve` does.
    pub(super) fn is_proxy(&self) -> bool {
        self.exec.is_none()
    }
}

/// One process, distinguished from all others that have or had its id.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Id of the system's boot; empty if the system has none.
    boot_id: String,
    /// Start time in clock ticks since the boot; 0 if unknown.
    started: u64,
    /// The pid namespace, such as `pid:[4026531836]`.
    pid_namespace: String,
    /// Host name of the machine or container.
    pub(super) host: String,
}

/// What this process knows about the process of a run file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It runs.
    Alive,
    /// It has certainly ended.
    Dead,
    /// It belongs to another container, another machine or an earlier boot, so nothing is known
    /// about it.
    Elsewhere,
}

impl Process {
    /// As replicas name it to each other.
    pub(super) fn replica(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }

    /// This process.
    pub(super) fn own() -> Self {
        let pid = std::process::id();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            pid,
            boot_id: kernel("random/boot_id"),
            started: stat(pid).map_or(0, |(_, started)| started),
            pid_namespace: namespace.display().to_string(),
            host: kernel("hostname"),
        }
    }

    /// Whether it runs, as far as can be seen from here.
    pub(super) fn liveness(&self) -> Liveness {
        let own = Self::own();
        if (&self.boot_id, &self.pid_namespace) != (&own.boot_id, &own.pid_namespace) {
            return Liveness::Elsewhere;
        }
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        // Another user's process answers EPERM: the id is somebody else's now.
        let answers = pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        let is_it = match stat(self.pid) {
            // What has ended and was not waited for still answers.
            Some(('Z' | 'X', _)) => false,
            Some((_, started)) => self.started == 0 || started == self.started,
            None => true,
        };
        if answers && is_it { Liveness::Alive } else { Liveness::Dead }
    }

    /// True if it may run elsewhere: in another container of this boot, or on another machine.
    pub(super) fn may_run_elsewhere(&self) -> bool {
        let own = Self::own();
        self.liveness() == Liveness::Elsewhere
            && (self.boot_id == own.boot_id || self.host != own.host)
    }

    fn file_name(&self) -> String {
        format!("{}-{}.json", self.boot_id, self.pid)
    }

    /// Used if the first name is taken by the same process id of another namespace, as with
    /// containers that share a folder.
    fn second_file_name(&self) -> String {
        let namespace: String = self.pid_namespace.chars().filter(char::is_ascii_digit).collect();
        format!("{}-{}-{namespace}.json", self.boot_id, self.pid)
    }
}

fn kernel(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default().trim().to_owned()
}

/// State and start time of a process: fields 3 and 22 of proc_pid_stat(5). Field 2, its name in
/// brackets, may hold any character.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// True if a process is stopped, as by Ctrl-Z; none if it is gone, or the system does not say.
pub(super) fn is_stopped(pid: u32) -> Option<bool> {
    stat(pid).map(|(state, _)| matches!(state, 'T' | 't'))
}

/// The run file of this process, removed when dropped.
#[derive(Debug)]
pub(super) struct RunFile(PathBuf);

impl RunFile {
    /// Writes the run file of this process.
    pub(super) fn write(state: &Path, instance: &Instance) -> io::Result<Self> {
        let folder = state.join("run");
        private_file::folder::make(&folder)?;
        remove_dead(state);
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(&serde_json::to_vec(instance)?)?;
        let path = folder.join(instance.process.file_name());
        match file.persist_noclobber(&path) {
            Ok(_) => Ok(Self(path)),
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => {
                let path = folder.join(instance.process.second_file_name());
                taken.file.persist(&path).map_err(|error| error.error)?;
                Ok(Self(path))
            }
            Err(failed) => Err(failed.error),
        }
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes our own run files of processes that have certainly ended.
fn remove_dead(state: &Path) {
    for (path, instance) in read_all(state) {
        let is_ours = fs::symlink_metadata(&path).is_ok_and(|it| Access::of(&it).is_ours());
        if is_ours && instance.process.liveness() == Liveness::Dead {
            let _ = fs::remove_file(path);
        }
    }
}

/// The run files of live proxies in a state folder, newest first; without those of `exec`.
pub(super) fn proxies(state: &Path) -> Vec<Instance> {
    let mut proxies = alive(state);
    proxies.retain(Instance::is_proxy);
    proxies
}

/// All run files of live processes in a state folder, newest first.
pub(super) fn alive(state: &Path) -> Vec<Instance> {
    let all = read_all(state).into_iter().map(|(_, instance)| instance);
    all.filter(|instance| instance.process.liveness() == Liveness::Alive).collect()
}

/// The programs of `exec` that are bound to an account of a store.
pub(super) fn users(folder: &Path, records: &Path) -> Users {
    let (folder, records) = (folder.to_owned(), records.to_owned());
    Arc::new(move |account: &AccountName| {
        let uses = |it: &Instance| {
            !it.is_proxy()
                && it.store == records
                && it.account.as_ref().is_none_or(|name| name == account.as_str())
        };
        let users = alive(&folder).into_iter().filter(uses);
        let named = |it: Instance| {
            let program = it.exec.unwrap_or_default();
            format!("pleo-proxy exec of {program} (process {})", it.process.pid)
        };
        users.map(named).collect()
    })
}

/// The state folders of all environments: those of the configured place of stores, and of the usual
/// one, which no `store.path` names.
pub(super) fn folders(config: &Config) -> Vec<PathBuf> {
    let usual = config.default_root.iter().filter(|root| config.state_root.as_ref() != Some(root));
    let roots = config.state_root.iter().chain(usual);
    roots.flat_map(|root| Environment::VARIANTS.iter().map(|it| root.join(it.as_str()))).collect()
}

/// The run files of proxies that may run in another container or on another machine.
pub(super) fn elsewhere(state: &Path) -> Vec<Instance> {
    let all = read_all(state).into_iter().map(|(_, instance)| instance);
    all.filter(|instance| instance.is_proxy() && instance.process.may_run_elsewhere()).collect()
}

/// All run files that are private to this user, newest first.
fn read_all(state: &Path) -> Vec<(PathBuf, Instance)> {
    let Ok(entries) = fs::read_dir(state.join("run")) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(content) = private_file::read(&path, LIMIT) else { continue };
        let Ok(instance) = serde_json::from_slice::<Instance>(&content) else { continue };
        found.push((
            entry.metadata().and_then(|metadata| metadata.modified()).ok(),
            path,
            instance,
        ));
    }
    found.sort_by(|(a, ..), (b, ..)| b.cmp(a));
    found.into_iter().map(|(_, path, instance)| (path, instance)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(process: Process) -> Instance {
        Instance {
            process,
            environment: "sandbox".into(),
            api: "http://127.0.0.1:1".into(),
            admin: None,
            store: "/store".into(),
            store_keys: KeysHeld::default(),
            exec: None,
            account: None,
            sandbox: None,
        }
    }

    fn names(state: &Path) -> Vec<String> {
        let names = fs::read_dir(state.join("run")).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_reused_process_id_and_another_namespace_or_machine_are_recognised() {
        let own = Process::own();
        assert_eq!(own.liveness(), Liveness::Alive);
        let later = Process { started: own.started + 1, ..own.clone() };
        assert_eq!(later.liveness(), Liveness::Dead);
        assert_eq!(Process { pid: u32::MAX, ..own.clone() }.liveness(), Liveness::Dead);
        let container =
            Process { pid_namespace: "pid:[1]".into(), host: "box".into(), ..own.clone() };
        assert_eq!(
            (container.liveness(), container.may_run_elsewhere()),
            (Liveness::Elsewhere, true)
        );
        let machine = Process { boot_id: "other".into(), host: "box".into(), ..own.clone() };
        assert_eq!((machine.liveness(), machine.may_run_elsewhere()), (Liveness::Elsewhere, true));
        let before = Process { boot_id: "other".into(), ..own };
        assert_eq!(
            (before.liveness(), before.may_run_elsewhere()),
            (Liveness::Elsewhere, false),
            "a restart ended it"
        );
    }

    #[test]
    fn a_start_removes_only_dead_run_files_and_keeps_the_same_id_of_another_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let own = Process::own();
        let stranger = Process { pid_namespace: "pid:[1]".into(), ..own.clone() };
        let theirs = RunFile::write(folder.path(), &instance(stranger)).unwrap();
        let dead = Process { started: own.started + 1, pid: 1, ..own.clone() };
        let dead = RunFile::write(folder.path(), &instance(dead)).unwrap();
        let ours = RunFile::write(folder.path(), &instance(own.clone())).unwrap();
        assert!(!dead.0.exists());
        assert_eq!(names(folder.path()), {
            let mut names = vec![own.file_name(), own.second_file_name()];
            names.sort();
            names
        });
        assert_eq!(alive(folder.path()).len(), 1);
        drop(ours);
        assert!(theirs.0.exists());
        assert!(alive(folder.path()).is_empty());
    }
}
