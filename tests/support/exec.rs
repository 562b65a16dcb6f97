//! `pleo-proxy exec` on a store with one connected account, and the same program without it.

use std::fs;
use std::process::{Command, Output};
use std::sync::{Arc, Once};

use pleo_proxy::sandbox::Sandbox;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTSTP};

use super::{Workspace, connected};

/// How the line begins that `exec` prints at its end.
pub const SUMMARY: &str = "pleo-proxy: ";

/// A store whose account `default` is connected, and no proxy that runs.
pub async fn connected_store(sandbox: &Sandbox, more: &str) -> Workspace {
    let (workspace, proxy) = connected(sandbox, more).await;
    proxy.terminate();
    hear_ignored_signals();
    workspace
}

/// Makes what is started from now on hear the signals that these tests were started to ignore, as by
/// `nohup`: a signal with a handler is not ignored by a program that is started, execve(2).
fn hear_ignored_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.map_or(0, |bits| u64::from_str_radix(bits.trim(), 16).unwrap());
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTSTP] {
            if ignored >> (signal - 1) & 1 == 1 {
                signal_hook::flag::register(signal, Arc::default()).unwrap();
            }
        }
    });
}

impl Workspace {
    /// `exec` of a program.
    pub fn exec(&self, flags: &[&str], program: &[&str]) -> Command {
        self.command(&[&["exec"], flags, &["--"], program].concat())
    }

    /// `exec` of a script, to its end.
    pub fn exec_script(&self, flags: &[&str], script: &str) -> Output {
        self.exec(flags, &["sh", "-c", script]).output().unwrap()
    }

    /// A program in the same place without `exec`.
    pub fn bare(&self, program: &[&str]) -> Command {
        let exec = self.command(&[]);
        let mut bare = Command::new(program[0]);
        bare.args(&program[1..]).current_dir(self.path()).env_clear();
        for (name, value) in exec.get_envs() {
            bare.env(name, value.unwrap_or_default());
        }
        bare.stdin(std::process::Stdio::null());
        bare.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        bare
    }
}
