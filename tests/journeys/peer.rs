//! Another user of the machine gets nothing, by any trick; needs root to act as one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![cfg(target_os = "linux")]

use crate::support::{self, strace};

use strace::{Faulty, may_trace};
use support::{Caller, Setup, Upstream, as_nobody, setup};

fn answer_to_nobody(address: &str) -> Option<String> {
    let output =
        as_nobody("curl", &["-s", "-i", "-m", "10", "--noproxy", "*", address])?.output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn guarded(more: &str) -> (Upstream, Setup) {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, more).await;
    (upstream, setup)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_refused_by_both_listeners_and_named_in_the_log() {
    let (upstream, setup) = guarded("").await;
    for address in [format!("{}/v1/x", setup.proxy.api), format!("{}/connect", setup.proxy.admin)] {
        let Some(response) = answer_to_nobody(&address) else { return };
        assert!(
            response.starts_with("HTTP/1.1 403") && response.contains("forbidden_peer"),
            "{response}"
        );
        assert!(response.contains("guard.peer_check"), "{response}");
    }
    assert!(upstream.requests().is_empty());
    setup.proxy.wait_for_log("uid=65534");
    assert_eq!(setup.caller().get("/v1/x").status, 200, "its own user is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_users_and_everybody_are_let_in_when_asked_for() {
    let (_upstream, listed) = guarded("[guard]\npeer_check = [0, 65534]\n").await;
    let Some(response) = answer_to_nobody(&format!("{}/v1/x", listed.proxy.api)) else { return };
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let (_upstream, open) = guarded("[guard]\npeer_check = \"off\"\n").await;
    let response = answer_to_nobody(&format!("{}/v1/x", open.proxy.api)).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    let notes = open.proxy.status().await["notes"].to_string();
    assert!(notes.contains("peer_check is off"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_not_locked_out_by_a_list_that_leaves_it_out() {
    let me = rustix::process::geteuid().as_raw();
    let other = if me == 65534 { 65533 } else { 65534 };
    let (_upstream, setup) = guarded(&format!("[guard]\npeer_check = [{other}]\n")).await;
    assert_eq!(setup.caller().get("/v1/x").status, 200);
    let status = setup.workspace.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(0), "{text}");
    assert!(
        text.contains(&format!("allows these users: [{other}], and its own user {me}")),
        "{text}"
    );
    let (_upstream, default) = guarded("").await;
    let Some(response) = answer_to_nobody(&format!("{}/v1/x", default.proxy.api)) else { return };
    assert!(response.contains(&format!("guard.peer_check = [{me}, 65534]")), "{response}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_does_not_say_who_calls_is_told_to_the_caller_the_log_and_status() {
    if !may_trace("a kernel without netlink") {
        return;
    }
    let (upstream, setup) = guarded("").await;
    let log = setup.workspace.path().join("strace");
    let refused = ["trace=socket", "inject=socket:error=EPROTONOSUPPORT"];
    let Some(faulty) = Faulty::attach(setup.proxy.child.id(), &log, &refused) else { return };
    for _ in 0..3 {
        let response = setup.caller().get("/v1/x");
        assert_eq!(response.problem(), (403, "forbidden_peer".to_owned()));
        assert!(
            response.problem_field("detail").contains("the kernel does not say"),
            "{}",
            response.text()
        );
        assert!(
            response.problem_field("fix").contains("guard.peer_check = \"off\""),
            "{}",
            response.text()
        );
    }
    let response = Caller::to(setup.proxy.admin_address()).get("/health");
    assert_eq!(response.problem(), (403, "forbidden_peer".to_owned()));
    assert!(upstream.requests().is_empty());
    faulty.end();
    assert_eq!(setup.caller().get("/v1/x").status, 200, "as soon as it is said again");
    let notes = setup.proxy.status().await["notes"].to_string();
    assert!(notes.contains("callers were refused: the kernel does not say"), "{notes}");
    setup.proxy.wait_for_log("callers are refused");
    assert_eq!(
        setup.proxy.log().matches("callers are refused").count(),
        1,
        "{}",
        setup.proxy.log()
    );
}

/// A closed socket belongs to user 0 as far as the kernel tells: a proxy of root must not take that
/// for root.
#[tokio::test(flavor = "multi_thread")]
async fn closing_early_does_not_look_like_root() {
    let (upstream, setup) = guarded("").await;
    let rounds = if std::env::var_os("PLEO_PROXY_HEAVY").is_some() { 10_000 } else { 500 };
    let script = "use IO::Socket::INET; my ($port, $rounds) = @ARGV; for (1..$rounds) { \
        my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $!; \
        print $s \"GET /v1/x HTTP/1.1\\r\\nHost: 127.0.0.1:$port\\r\\n\\r\\n\"; close $s; }";
    let port = setup.proxy.address().port().to_string();
    let Some(mut perl) = as_nobody("perl", &["-e", script, &port, &rounds.to_string()]) else {
        return;
    };
    let output = perl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(setup.caller().get("/v1/mine").status, 200);
    assert_eq!(
        upstream.requests().iter().map(|it| it.target().to_owned()).collect::<Vec<_>>(),
        ["/v1/mine"]
    );
}
