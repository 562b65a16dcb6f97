//! A program below `exec` is run as a shell runs it: exit codes, signals, terminal, limits. Each case
//! is run with and without `exec`, and compared.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use pleo_proxy::sandbox::Faults;
use serde_json::json;
use support::command::{code, stderr, stdout};
use support::running_exec::{ending, line, on_pty, rest, send, start_job, state, wait_for_program};
use support::{
    NO_REFRESH_AHEAD, Workspace, access_lifetime, connected_store, expire, sandbox,
    slow_token_response, token_posts, wait_until,
};

/// The program `sh -c SCRIPT`, below `exec` and without it.
fn both(workspace: &Workspace, script: &str) -> [Command; 2] {
    let program = ["sh", "-c", script];
    [workspace.exec(&[], &program), workspace.bare(&program)]
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_the_program() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    for script in [
        "exit 0",
        "exit 7",
        "exit 255",
        "kill -TERM $$",
        "kill -KILL $$",
        "kill -HUP $$",
        "kill -ABRT $$",
        "sleep 60 >/dev/null 2>&1 & exit 3",
        "cat; echo after",
    ] {
        let [exec, bare] = both(&workspace, script).map(|mut it| it.output().unwrap());
        assert_eq!(ending(exec.status), ending(bare.status), "{script}: {}", stderr(&exec));
        assert_eq!(stdout(&exec), stdout(&bare), "{script}");
    }
    let script = workspace.path().join("no-program");
    fs::write(&script, "exit 0").unwrap();
    for (program, expected) in
        [("no-such-program", 127), ("./no-such-program", 127), ("./no-program", 126), ("/", 126)]
    {
        let ran = workspace.exec(&[], &[program]).output().unwrap();
        assert_eq!(code(&ran), expected, "{program}");
        assert!(stderr(&ran).contains(&format!("pleo-proxy: {program}")), "{}", stderr(&ran));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_has_what_it_would_have_without_exec() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    // Ignored signals stay ignored, the mask and the limits are the caller's, and no file is open.
    // Signals 32 and 33 belong to the C library.
    let script = "umask; ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc
        grep ^SigBlk /proc/self/status; grep ^SigIgn /proc/self/status | tail -c 8
        ls /proc/self/fd | wc -l; cut -d ' ' -f 5 /proc/self/stat";
    let limited = "umask 027; ulimit -Sn 500; trap '' HUP USR2; exec \"$@\"";
    let ran = both(&workspace, script).map(|inner| {
        let mut outer = Command::new("sh");
        outer.args(["-c", limited, "sh"]).arg(inner.get_program()).args(inner.get_args());
        outer.current_dir(workspace.path()).env_clear();
        outer.envs(inner.get_envs().map(|(name, value)| (name, value.unwrap())));
        outer.stdin(Stdio::null()).output().unwrap()
    });
    assert_eq!(stdout(&ran[0]), stdout(&ran[1]), "{}", stderr(&ran[0]));
    assert!(stdout(&ran[0]).starts_with("0027\n500\n"), "{}", stdout(&ran[0]));

    // A closed pipe ends it, as `yes | head -1`.
    for mut command in both(&workspace, "while echo more; do :; done") {
        let mut child = command.spawn().unwrap();
        assert_eq!(line(&mut child), "more");
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().signal(), Some(13));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_exec_alone_gets_reach_the_program() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    for signal in ["TERM", "HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT"] {
        let script = format!(
            "trap 'echo got {signal}; exit 9' {signal}; echo ready; while :; do sleep 0.02; done"
        );
        let ended = both(&workspace, &script).map(|mut command| {
            let mut child = command.spawn().unwrap();
            assert_eq!(line(&mut child), "ready");
            send(signal, child.id());
            rest(child)
        });
        assert_eq!(ended[0], ended[1], "{signal}");
        assert_eq!(ended[0], (format!("got {signal}\n"), (Some(9), None)));
    }
    for signal in ["TERM", "HUP", "INT", "QUIT", "USR1"] {
        let ended = both(&workspace, "echo $$; exec sleep 60").map(|mut command| {
            let mut child = command.spawn().unwrap();
            wait_for_program(&line(&mut child), "sleep");
            send(signal, child.id());
            rest(child)
        });
        assert_eq!(ended[0], ended[1], "{signal} without a trap");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_program_in_a_container_of_a_session_outside_it() {
    let in_namespace = ["--pid", "--fork", "--mount-proc"];
    let can = Command::new("unshare").args(in_namespace).arg("true").output();
    if !can.is_ok_and(|tried| tried.status.success()) {
        println!("\nSKIPPED: exec in a PID namespace; unshare (util-linux, as root) is needed");
        return;
    }
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let program = "trap 'exit 9' TERM; touch ready; while :; do sleep 0.02; done";
    let exec = workspace.exec(&[], &["sh", "-c", program]);
    let script = "\"$@\" & while ! [ -e ready ]; do kill -0 $! || exit; sleep 0.02; done
        kill -TERM $!; wait $!; echo ended $?";
    let mut outer = Command::new("unshare");
    outer.args(in_namespace).args(["sh", "-c", script, "sh"]);
    outer.arg(exec.get_program()).args(exec.get_args()).current_dir(workspace.path());
    outer.env_clear().envs(exec.get_envs().map(|(name, value)| (name, value.unwrap())));
    let ran = outer.output().unwrap();
    assert_eq!(stdout(&ran), "ended 9\n", "{}", stderr(&ran));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_stops_and_goes_on_with_exec() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script = "echo $$; read line; echo went on; exit 5";
    for mut command in both(&workspace, script) {
        let mut child = start_job(command.stdin(Stdio::piped()));
        let program = line(&mut child);
        send("TSTP", child.id());
        wait_until("the program stops", || state(&program).as_deref() == Some("T"));
        wait_until("exec stops", || state(&child.id().to_string()).as_deref() == Some("T"));
        send("CONT", child.id());
        wait_until("the program goes on", || state(&program).as_deref() == Some("S"));
        drop(child.stdin.take());
        assert_eq!(rest(child), ("went on\n".into(), (Some(5), None)));
    }
    // One that stops by itself where there is no terminal does not take exec with it.
    let mut child =
        workspace.exec(&[], &["sh", "-c", "echo $$; kill -STOP $$; exit 6"]).spawn().unwrap();
    let program = line(&mut child);
    wait_until("the program stops", || state(&program).as_deref() == Some("T"));
    send("CONT", program.parse().unwrap());
    assert_eq!(rest(child).1, (Some(6), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_learns_that_its_exec_was_killed() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script = "trap 'touch told; exit' TERM; echo ready; while :; do sleep 0.02; done";
    let mut child = workspace.exec(&[], &["sh", "-c", script]).spawn().unwrap();
    assert_eq!(line(&mut child), "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the program is told", || workspace.path().join("told").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_before_the_program_starts_ends_exec_with_its_refresh_saved() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(1000));
    let workspace = connected_store(&sandbox, NO_REFRESH_AHEAD).await;
    expire(1000).await;
    let before = sandbox.counters();
    sandbox.set_faults(Faults { access_life_ms: Some(600_000), ..slow_token_response(1000) });
    let mut child = workspace.exec(&[], &["touch", "started"]).spawn().unwrap();
    wait_until("the refresh is sent", || token_posts(&sandbox, &before) == 1);
    send("TERM", child.id());
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert!(!workspace.path().join("started").exists());
    sandbox.set_faults(access_lifetime(600_000));
    let ran = workspace.exec_script(&[], "exit 0");
    assert!(stderr(&ran).contains("0 refreshes"), "the new tokens were saved: {}", stderr(&ran));
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_the_programs() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    // It waits without a process of its own, whose end by a key some shells tell and some do not.
    let wait =
        "test -p never || mkfifo never; exec 3<>never; echo ready; while :; do read it <&3; done";
    for (script, steps) in [
        // Ctrl-C, once: a second one would be an emergency for many programs.
        (
            format!("n=0; trap 'n=$((n+1)); echo int $n' INT; trap 'echo end $n; exit 8' USR1; {wait}"),
            json!([["expect", "ready"], ["type", "\x03"], ["expect", "int 1"], ["signal", "USR1"]]),
        ),
        (wait.to_owned(), json!([["expect", "ready"], ["type", "\x03"]])),
        (format!("trap 'echo quit; exit 4' QUIT; {wait}"), json!([["expect", "ready"], ["type", "\x1c"]])),
        // Its size, and that it changed, once.
        (
            format!("n=0; trap 'n=$((n+1)); echo winch $n; stty size' WINCH; trap 'echo end $n; exit 0' USR1; {wait}"),
            json!([["expect", "ready"], ["resize", 99], ["expect", "24 99"], ["signal", "USR1"]]),
        ),
        // Input, echo and end of input.
        ("test -t 0 && test -t 1 && test -t 2 && tty >/dev/null && read a && echo got $a; read b; echo end $?".to_owned(), json!([["type", "word\n"], ["expect", "got word"], ["type", "\x04"]])),
    ] {
        let [exec, bare] = both(&workspace, &script);
        let Some(exec) = on_pty(&exec, &steps) else { return };
        let bare = on_pty(&bare, &steps).unwrap();
        assert_eq!(exec, bare, "{script}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_control_of_a_shell_works() {
    if Command::new("bash").arg("--version").output().is_err() {
        eprintln!("SKIPPED: job control needs bash");
        return;
    }
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script = workspace.path().join("job");
    fs::write(&script, "echo ready; read line; echo went on with $line; exit 5\n").unwrap();
    let own = env!("CARGO_BIN_EXE_pleo-proxy");
    for start in [format!("{own} exec -- sh job"), "sh job".to_owned()] {
        let shell = workspace.bare(&["bash", "--norc", "--noprofile", "-i"]);
        let steps = json!([
            ["type", format!("{start}\n")],
            ["expect", "ready"],
            ["type", "\x1a"],
            ["expect", "Stopped"],
            ["type", "fg; echo code $?\n"],
            ["expect", "job\r\n"],
            ["type", "this\n"],
            ["expect", "went on with this"],
            ["expect", "code 5"],
            ["type", "exit 0\n"],
        ]);
        let Some((output, code)) = on_pty(&shell, &steps) else { return };
        assert_eq!(code, 0, "{start}: {output}");
    }
}
