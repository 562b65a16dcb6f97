//! Another user of the machine gets nothing, by any trick; needs root to act as one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![cfg(target_os = "linux")]

use crate::support::{self, strace};

use std::process::Command;

use strace::{Faulty, may_trace};
use support::upstream::{Caller, Stage, Upstream, eventually, stage};

/// A program of user 65534; none if this is not root, who alone can start one.
fn as_nobody(program: &str, arguments: &[&str]) -> Option<Command> {
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

fn answer_to_nobody(address: &str) -> Option<String> {
    let output =
        as_nobody("curl", &["-s", "-i", "-m", "10", "--noproxy", "*", address])?.output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn guarded(more: &str) -> (Upstream, Stage) {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, more).await;
    (upstream, stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_by_both_listeners_and_named_in_the_log() {
    let (upstream, stage) = guarded("").await;
    for address in [format!("{}/v1/x", stage.proxy.api), format!("{}/connect", stage.proxy.admin)] {
        let Some(answer) = answer_to_nobody(&address) else { return };
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("forbidden_peer"),
            "{answer}"
        );
        assert!(answer.contains("guard.peer_check"), "{answer}");
    }
    assert!(upstream.seen().is_empty());
    eventually("who was refused is told", || stage.proxy.log().contains("uid=65534"));
    assert_eq!(stage.caller().get("/v1/x").status, 200, "its own user is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_users_and_everybody_are_let_in_when_asked_for() {
    let (_upstream, listed) = guarded("[guard]\npeer_check = [0, 65534]\n").await;
    let Some(answer) = answer_to_nobody(&format!("{}/v1/x", listed.proxy.api)) else { return };
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_upstream, open) = guarded("[guard]\npeer_check = \"off\"\n").await;
    let answer = answer_to_nobody(&format!("{}/v1/x", open.proxy.api)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let notes = open.proxy.status().await["notes"].to_string();
    assert!(notes.contains("peer_check is off"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_not_locked_out_by_a_list_that_leaves_it_out() {
    let me = rustix::process::geteuid().as_raw();
    let other = if me == 65534 { 65533 } else { 65534 };
    let (_upstream, stage) = guarded(&format!("[guard]\npeer_check = [{other}]\n")).await;
    assert_eq!(stage.caller().get("/v1/x").status, 200);
    let status = stage.place.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(0), "{text}");
    assert!(
        text.contains(&format!("these users in: [{other}], and its own user {me} all the same")),
        "{text}"
    );
    let (_upstream, default) = guarded("").await;
    let Some(answer) = answer_to_nobody(&format!("{}/v1/x", default.proxy.api)) else { return };
    assert!(answer.contains(&format!("guard.peer_check = [{me}, 65534]")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_does_not_say_who_calls_is_told_to_the_caller_the_log_and_status() {
    if !may_trace("a kernel without netlink") {
        return;
    }
    let (upstream, stage) = guarded("").await;
    let log = stage.place.path().join("strace");
    let refused = ["trace=socket", "inject=socket:error=EPROTONOSUPPORT"];
    let Some(faulty) = Faulty::attach(stage.proxy.child.id(), &log, &refused) else { return };
    for _ in 0..3 {
        let answer = stage.caller().get("/v1/x");
        assert_eq!(answer.problem(), (403, "forbidden_peer".to_owned()));
        assert!(answer.told("detail").contains("the kernel does not say"), "{}", answer.text());
        assert!(answer.told("fix").contains("guard.peer_check = \"off\""), "{}", answer.text());
    }
    let answer = Caller::to(stage.proxy.admin_address()).get("/health");
    assert_eq!(answer.problem(), (403, "forbidden_peer".to_owned()));
    assert!(upstream.seen().is_empty());
    faulty.end();
    assert_eq!(stage.caller().get("/v1/x").status, 200, "as soon as it is said again");
    let notes = stage.proxy.status().await["notes"].to_string();
    assert!(notes.contains("callers were refused: the kernel does not say"), "{notes}");
    assert_eq!(
        stage.proxy.log().matches("callers are refused").count(),
        1,
        "{}",
        stage.proxy.log()
    );
}

/// A closed socket belongs to user 0 as far as the kernel tells: a proxy of root must not take that
/// for root.
#[tokio::test(flavor = "multi_thread")]
async fn closing_early_does_not_look_like_root() {
    let (upstream, stage) = guarded("").await;
    let rounds = if std::env::var_os("PLEO_PROXY_HEAVY").is_some() { 10_000 } else { 500 };
    let script = "use IO::Socket::INET; my ($port, $rounds) = @ARGV; for (1..$rounds) { \
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!; \
        print $s \"GET /v1/x HTTP/1.1\\r\\nHost: 127.0.0.1:$port\\r\\n\\r\\n\"; close $s; }";
    let port = stage.proxy.address().port().to_string();
    let Some(mut perl) = as_nobody("perl", &["-e", script, &port, &rounds.to_string()]) else {
        return;
    };
    let output = perl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stage.caller().get("/v1/mine").status, 200);
    assert_eq!(
        upstream.seen().iter().map(|it| it.target().to_owned()).collect::<Vec<_>>(),
        ["/v1/mine"]
    );
}
