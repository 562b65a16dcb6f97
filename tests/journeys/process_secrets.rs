//! What other processes of the machine can read of the proxy.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use super::secret_run::after;
use pleo_proxy::sandbox::Options;
use support::{Proxy, Workspace, sandbox_with};

/// True if the process may become another user; says so if not.
fn may_be_nobody() -> bool {
    let tried = Command::new("setpriv").args(NOBODY).arg("true").output();
    let allowed = tried.is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("not root (or no setpriv): looked at as the same user");
    }
    allowed
}

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

/// Hands a folder and all in it to nobody.
fn hand_over(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            hand_over(&entry.path());
        }
        std::os::unix::fs::chown(entry.path(), Some(65534), Some(65534)).unwrap();
    }
    std::os::unix::fs::chown(folder, Some(65534), Some(65534)).unwrap();
}

/// What a user of the same id gets to see of a process.
fn look(path: &str, as_nobody: bool) -> bool {
    let mut command = match as_nobody {
        true => Command::new("setpriv"),
        false => Command::new("env"),
    };
    if as_nobody {
        command.args(NOBODY);
    }
    command.args(["head", "-c", "1", path]).output().unwrap().status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_cannot_read_the_process_and_it_leaves_no_core() {
    let sandbox = sandbox_with(Options::default()).await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let as_nobody = may_be_nobody();
    let inner = workspace.command(&["--json"]);
    let mut command = after("ulimit -c unlimited 2>/dev/null", &inner);
    if as_nobody {
        let program = workspace.path().join("pleo-proxy");
        fs::copy(inner.get_program(), &program).unwrap();
        hand_over(workspace.path());
        let nobody = format!(
            "ulimit -c unlimited 2>/dev/null; set -- setpriv {} {} --json; shift 0",
            NOBODY.join(" "),
            program.display()
        );
        command = after(&format!("{nobody}; exec \"$@\""), &inner);
    }
    let mut proxy = Proxy::launch(command, &workspace.state());
    let process = format!("/proc/{}", proxy.child.id());
    let control = format!("/proc/{}/environ", std::process::id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    assert!(status.contains("pleo-proxy"), "{status}");
    if as_nobody {
        assert!(status.contains("Uid:\t65534"), "{status}");
        assert!(look("/proc/self/environ", true), "a user sees a process of its own");
    } else {
        assert!(look(&control, false), "a user sees a process of its own");
    }
    if as_nobody || !is_root() {
        for file in ["environ", "mem", "maps", "auxv"] {
            let path = format!("{process}/{file}");
            assert!(!look(&path, as_nobody), "{file} is open to the same user");
            assert_eq!(fs::metadata(&path).unwrap().uid(), 0, "{file}");
        }
    }
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{cores}");

    proxy.signal("SEGV");
    proxy.signal("ABRT");
    let ended = proxy.child.wait().unwrap();
    assert!(matches!(ended.signal(), Some(6 | 11)), "{ended}");
    assert!(!ended.core_dumped());
    let names = fs::read_dir(workspace.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let cores: Vec<String> = names.filter(|name| name.starts_with("core")).collect();
    assert!(cores.is_empty(), "{cores:?}");
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
