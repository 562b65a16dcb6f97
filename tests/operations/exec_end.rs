//! How `exec` ends: as its program has, for a shell around it too, and what it waits for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use serde_json::json;
use support::command::stderr;
use support::running_exec::{ending, line, on_pty, on_pty_unended, send};
use support::{After, Upstream, Workspace, config_with_api, connected_store, sandbox, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_script_around_exec() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let own = env!("CARGO_BIN_EXE_pleo-proxy");
    let program = "sh -c 'test -p never || mkfifo never; echo ready; read it <>never'";
    for shell in ["sh", "bash"] {
        if Command::new(shell).args(["-c", ":"]).output().is_err() {
            continue;
        }
        let [exec, bare] = [format!("{own} exec -- {program}"), program.to_owned()].map(|start| {
            let script = format!("{start}; echo goes on");
            let steps = json!([["expect", "ready"], ["type", "\x03"]]);
            on_pty(&workspace.bare(&[shell, "-c", &script]), &steps)
        });
        let (Some(exec), Some(bare)) = (exec, bare) else { return };
        assert_eq!(exec, bare, "{shell}");
        assert_eq!(exec.1, 128 + 2, "{shell}: {}", exec.0);
    }
}

/// Writes down what it is told.
const LISTENING: &str = "
import os, signal, sys
wanted = {signal.SIGHUP, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
def say(text):
    with open('told', 'a') as told: told.write(text + '\\n')
say(str(os.getppid()))
try: os.write(1, b'ready')
except OSError: pass
while True:
    got = signal.sigwait(wanted)
    say(got.name)
    if got == signal.SIGUSR1: sys.exit()
";

/// The kernel tells the leader of the session alone that its terminal is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_exec_leads_the_session_is_told_that_the_terminal_is_closed() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    fs::write(workspace.path().join("listening.py"), LISTENING).unwrap();
    let told = workspace.path().join("told");
    let lines = || fs::read_to_string(&told).unwrap_or_default();
    let steps = json!([["expect", "ready"], ["close", ""]]);
    let command = workspace.exec(&[], &["python3", "listening.py"]);
    let Some(mut driver) = on_pty_unended(&command, &steps) else { return };
    wait_until("exec runs", || lines().contains('\n'));
    let exec: u32 = lines().lines().next().unwrap().parse().unwrap();
    wait_until("it is told", || lines().contains("SIGHUP"));
    send("USR1", exec);
    wait_until("it ends", || lines().contains("SIGUSR1"));
    assert_eq!(lines().matches("SIGHUP").count(), 1, "{}", lines());
    driver.wait().unwrap();
}

/// An API that answers once something is sent there, or the sender is dropped.
fn held_upstream() -> (Upstream, Sender<()>) {
    let (release, released) = channel();
    let released = Mutex::new(released);
    let upstream = Upstream::start(move |incoming| {
        let _ = released.lock().unwrap().recv();
        incoming.respond_ok();
        After::Close
    });
    (upstream, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_for_requests_that_a_program_left_behind_is_told() {
    let sandbox = sandbox().await;
    let (upstream, release) = held_upstream();
    let workspace = Workspace::new(&config_with_api(&sandbox, &upstream.origin, ""));
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.terminate();
    let script = "curl -sS $PLEO_BASE_URL/v1/slow >/dev/null 2>&1 & read line; exit 6";
    let mut child =
        workspace.exec(&[], &["sh", "-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    wait_until("the request arrives", || upstream.requests().len() == 1);
    drop(child.stdin.take());
    let mut stderr = child.stderr.take().unwrap();
    let (mut said, mut byte) = (String::new(), [0]);
    while !said.contains("waiting for a request that it left behind") {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{said}");
        said.push(byte[0].into());
    }
    release.send(()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6));
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("1 request as default"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_caller_is_gone_is_not_waited_for() {
    let sandbox = sandbox().await;
    let (upstream, release) = held_upstream();
    let workspace = Workspace::new(&config_with_api(&sandbox, &upstream.origin, ""));
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.terminate();
    for (sent, more) in [(1, ""), (2, "-T - -X POST")] {
        let script = format!("echo $$; exec curl -sS {more} $PLEO_BASE_URL/v1/slow");
        let mut child = workspace.exec(&[], &["sh", "-c", &script]).spawn().unwrap();
        let program = line(&mut child);
        wait_until("the request arrives", || upstream.requests().len() == sent);
        send("KILL", program.parse().unwrap());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ending(ended.status), (None, Some(9)));
        let said = stderr(&ended);
        assert!(said.contains("1 request as default") && !said.contains("waiting"), "{said}");
    }
    drop(release);
}
