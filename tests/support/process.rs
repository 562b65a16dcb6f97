//! Processes beside the proxy.

use std::process::{Child, Command};

/// A process that is killed when dropped.
pub struct KilledOnDrop(pub Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program run by user 65534; `None` unless this is root, which alone may change the user.
pub fn as_nobody(program: &str, arguments: &[&str]) -> Option<Command> {
    let is_root = rustix::process::geteuid().is_root();
    let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
    if !is_root || !has_setpriv {
        eprintln!(
            "SKIPPED: acting as another user needs root and setpriv (Debian package util-linux)"
        );
        return None;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]).args(arguments);
    Some(command)
}
