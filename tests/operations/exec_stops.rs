//! A program below `exec` that is stopped: `exec` stops with it, as a shell expects, and nobody else
//! waits for either.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use pleo_proxy::sandbox::Faults;
use serde_json::json;
use support::command::{SUCCESS, code, stderr};
use support::running_exec::{line, on_pty, on_pty_unended, rest, send, start_job, state};
use support::{
    KilledOnDrop, NO_REFRESH_AHEAD, access_lifetime, connected_store, expire, sandbox,
    slow_token_response, token_posts, wait_until,
};

fn is_stopped(pid: &str) -> bool {
    state(pid).as_deref() == Some("T")
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_stops_with_no_lock_held_once_its_refresh_is_saved() {
    let sandbox = sandbox().await;
    let lifetime = 3000;
    sandbox.set_faults(access_lifetime(lifetime));
    let workspace = connected_store(&sandbox, NO_REFRESH_AHEAD).await;
    let script = "echo $$; read line; curl -sS -o /dev/null $PLEO_BASE_URL/v1/companies &
        read line; wait; exit 5";
    let mut child = start_job(workspace.exec(&[], &["sh", "-c", script]).stdin(Stdio::piped()));
    let program = line(&mut child);
    expire(lifetime).await;
    sandbox.set_faults(Faults { access_life_ms: Some(600_000), ..slow_token_response(1500) });
    let before = sandbox.counters();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    wait_until("the refresh is sent", || token_posts(&sandbox, &before) == 1);
    let generation = workspace.stored_json("default")["record"]["generation"].clone();
    send("TSTP", child.id());
    wait_until("exec stops", || is_stopped(&child.id().to_string()));
    assert!(is_stopped(&program));
    assert_ne!(
        workspace.stored_json("default")["record"]["generation"],
        generation,
        "the tokens are saved"
    );
    // Other processes have the lock.
    sandbox.set_faults(access_lifetime(600_000));
    let refreshed = workspace.run(&["refresh", "--force"]);
    assert_eq!(code(&refreshed), SUCCESS, "{}", stderr(&refreshed));
    send("CONT", child.id());
    input.write_all(b"\n").unwrap();
    assert_eq!(rest(child).1, (Some(5), None));
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_stops_before_its_program_has_started_once_it_holds_no_lock() {
    let sandbox = sandbox().await;
    let lifetime = 1000;
    sandbox.set_faults(access_lifetime(lifetime));
    let workspace = connected_store(&sandbox, NO_REFRESH_AHEAD).await;
    expire(lifetime).await;
    sandbox.set_faults(Faults { access_life_ms: Some(600_000), ..slow_token_response(1500) });
    let before = sandbox.counters();
    let generation = || workspace.stored_json("default")["record"]["generation"].clone();
    let old = generation();
    let child = start_job(&mut workspace.exec(&[], &["sh", "-c", "touch started; exit 5"]));
    let child = KilledOnDrop(child);
    let pid = child.0.id();
    wait_until("the refresh is sent", || token_posts(&sandbox, &before) == 1);
    send("TSTP", pid);
    wait_until("exec stops", || is_stopped(&pid.to_string()));
    assert_ne!(generation(), old, "the tokens are saved");
    assert!(!workspace.path().join("started").exists());
    sandbox.set_faults(access_lifetime(600_000));
    let refreshed = workspace.run(&["refresh", "--force"]);
    assert_eq!(code(&refreshed), SUCCESS, "{}", stderr(&refreshed));
    send("CONT", pid);
    let mut child = child;
    assert_eq!(child.0.wait().unwrap().code(), Some(5));
    assert!(workspace.path().join("started").exists());
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_goes_on_alone_has_its_listener() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script =
        "echo $$; read line; curl -sS -o /dev/null -w '%{http_code}' $PLEO_BASE_URL/v1/companies";
    let child = start_job(workspace.exec(&[], &["sh", "-c", script]).stdin(Stdio::piped()));
    let mut child = KilledOnDrop(child);
    let program = line(&mut child.0);
    let exec = child.0.id().to_string();
    for _ in 0..2 {
        send("TSTP", child.0.id());
        wait_until("both stop", || is_stopped(&program) && is_stopped(&exec));
        send("CONT", program.parse().unwrap());
        wait_until("both go on", || !is_stopped(&program) && !is_stopped(&exec));
    }
    let mut input = child.0.stdin.take().unwrap();
    input.write_all(b"\n").unwrap();
    assert_eq!(line(&mut child.0), "200");
    assert_eq!(child.0.wait().unwrap().code(), Some(0));

    // One that is killed while it is stopped ends exec.
    let mut child = workspace.exec(&[], &["sh", "-c", "echo $$; read line"]);
    let mut child = KilledOnDrop(start_job(child.stdin(Stdio::piped())));
    let program = line(&mut child.0);
    send("TSTP", child.0.id());
    wait_until("exec stops", || is_stopped(&child.0.id().to_string()));
    send("KILL", program.parse().unwrap());
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(child.0.wait().unwrap().signal(), Some(9));
}

/// A program that stops, and again and again once both go on, as one does that reads the terminal in
/// the background.
const STOPS_AGAIN: &str = r#"
import os, signal, time
parent, left = os.getppid(), 5
def stopped():
    return open(f"/proc/{parent}/stat").read().rsplit(") ", 1)[1][0] == "T"
def goes_on(*_):
    global left
    left -= 1
    if left == 0:
        print("over", flush=True)
        os._exit(0)
    until = time.monotonic() + 5
    while stopped() and time.monotonic() < until:
        pass
    open("rounds", "a").write("x")
    os.kill(os.getpid(), signal.SIGSTOP)
signal.signal(signal.SIGCONT, goes_on)
open("new", "w").write(f"{parent} {os.getpid()}")
os.rename("new", "processes")
os.kill(os.getpid(), signal.SIGSTOP)
while True:
    time.sleep(5)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_stops_again_at_once_stops_exec_again() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let exec = workspace.exec(&[], &["python3", "-c", STOPS_AGAIN]);
    let Some(terminal) = on_pty_unended(&exec, &json!([["expect", "over"]])) else { return };
    let mut terminal = KilledOnDrop(terminal);
    let read = |name: &str| fs::read_to_string(workspace.path().join(name)).unwrap_or_default();
    wait_until("the program runs", || !read("processes").is_empty());
    let processes = read("processes");
    let (exec, program) = processes.split_once(' ').unwrap();
    for round in 0..5 {
        wait_until("both stop", || {
            read("rounds").len() == round && is_stopped(exec) && is_stopped(program)
        });
        send("CONT", program.parse().unwrap());
    }
    assert!(terminal.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_stopped_and_let_go_on_from_elsewhere_goes_on_in_the_background() {
    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("SKIPPED: job control needs bash");
        return;
    }
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    // It stops itself alone, and something else lets it alone go on.
    let script = "(sleep 0.5; kill -CONT $$) & kill -STOP $$
        test -z \"$PLEO_BASE_URL\" || curl -sS -o /dev/null $PLEO_BASE_URL/v1/companies
        echo went on with $?; exit 5\n";
    fs::write(workspace.path().join("job"), script).unwrap();
    let own = env!("CARGO_BIN_EXE_pleo-proxy");
    for start in [format!("{own} exec -- sh job"), "sh job".to_owned()] {
        let shell = workspace.bare(&["bash", "--norc", "--noprofile", "-i"]);
        let steps = json!([
            ["type", format!("{start}\n")],
            ["expect", "Stopped"],
            ["expect", "went on with 0"],
            ["type", "wait %1; echo code $?\n"],
            ["expect", "code 5"],
            ["type", "exit 0\n"],
        ]);
        let Some((output, code)) = on_pty(&shell, &steps) else { return };
        assert_eq!(code, 0, "{start}: {output}");
    }
}
