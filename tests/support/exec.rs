//! `pleo-proxy exec` on a store with one connected account, and the same program without it.

use std::process::{Command, Output};

use pleo_proxy::sandbox::Sandbox;

use super::{Workspace, connected};

/// How the line begins that `exec` prints at its end.
pub const SUMMARY: &str = "pleo-proxy: ";

/// A store whose account `default` is connected, and no proxy that runs.
pub async fn connected_store(sandbox: &Sandbox, more: &str) -> Workspace {
    let (workspace, proxy) = connected(sandbox, more).await;
    proxy.terminate();
    workspace
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
