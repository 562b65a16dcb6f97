//! Heads and bodies that are too large, too slow or incomplete, at both listeners.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::both_listeners::{
    BOTH, Door, GET, POST, Scene, answers, exchange, is_cut, wait_until_closed,
};
use support::{TIMEOUT, Upstream, setup_with, wait_until};

// --- Too much, too slow, half: T60 to T66.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_limit_heads() {
    let scene = Scene::set("").await;
    let fields = |count: usize| (0..count).map(|n| format!("X-{n}: {n}\n")).collect::<String>();
    let long = |kibibytes: usize| "a".repeat(kibibytes << 10);
    let attacks = [
        ("100 fields", format!("{GET}{}\n", fields(98)), "200"),
        ("101 fields", format!("{GET}{}\n", fields(99)), "431 bad_request"),
        ("1,000 fields", format!("{GET}{}\n", fields(998)), "431 bad_request"),
        ("a field of 60 KiB", format!("{GET}X-A: {}\n\n", long(60)), "200"),
        ("a field of 65 KiB", format!("{GET}X-A: {}\n\n", long(65)), "431 bad_request"),
        ("a field of 300 KiB", format!("{GET}X-A: {}\n\n", long(300)), "431 bad_request"),
        ("a name of 70 KiB", format!("{GET}{}: a\n\n", long(70)), "431 bad_request"),
        ("a field that never ends", format!("{GET}X-A: {}", long(70)), "431 bad_request"),
        ("a line that never ends", long(70), "431 bad_request"),
        ("empty lines that never end", "\n".repeat(40 << 10), "431 bad_request"),
    ];
    for (name, text, expected) in &attacks {
        scene.attack_all(&BOTH, &[(name, text, expected)]);
    }
    let target = format!("GET PATH?{} HTTP/1.1\nHost: HOST\n\n", long(70));
    for door in BOTH {
        let got = exchange(scene.address(door), &scene.wire(door, &target));
        assert!(
            matches!(&*answers(&got), "414 bad_request" | "431 bad_request"),
            "{}",
            String::from_utf8_lossy(&got)
        );
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_are_evicted_at_the_connection_limit() {
    let upstream = Upstream::ok();
    let setup = setup_with(&upstream.origin, "", &["--set", "listen.max_connections=8"]).await;
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut caller = setup.caller();
            caller.send("GET /v1/slow HTTP/1.1\r\nX-Slow: ");
            caller
        })
        .collect();
    // Whoever has just come keeps its place for a moment, and others wait for as long: none is
    // turned away.
    assert_eq!(setup.caller().get("/v1/x").status, 200);
    // One of them made room, if all had been accepted by then, and the others may go on. Which one
    // is up to the order in which two workers accepted them.
    let rest = format!("a\r\nHost: {}\r\nConnection: close\r\n\r\n", setup.proxy.address());
    let served = slow.into_iter().filter_map(|mut caller| {
        caller.try_send(&rest).ok()?;
        caller.read_rest().starts_with("HTTP/1.1 200").then_some(())
    });
    let served = served.count();
    assert!(served >= 7, "{served} of 8");
}

/// Writes a byte now and then until the connection is closed, and returns what came back.
fn trickle(
    address: SocketAddr,
    begin: &[u8],
    forever: &'static str,
) -> thread::JoinHandle<Vec<u8>> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(begin).unwrap();
    let mut writer = stream.try_clone().unwrap();
    thread::spawn(move || {
        let end = thread::spawn(move || wait_until_closed(&mut stream));
        for byte in forever.bytes().cycle() {
            if end.is_finished() || writer.write_all(&[byte]).is_err() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        end.join().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_times_out_at_both_listeners() {
    let scene = Scene::set("").await;
    let mut slow = Vec::new();
    for door in BOTH {
        for (begin, forever) in
            [("G", ""), ("\n", "\n"), ("GET PATH HTTP/1.1\nHost: HOST\nX-A: ", "a"), ("", "a")]
        {
            slow.push(trickle(scene.address(door), &scene.wire(door, begin), forever));
        }
    }
    scene.attack_all(&BOTH, &[("meanwhile", &format!("{GET}\n"), "200")]);
    for slow in slow {
        let got = slow.join().unwrap();
        assert!(matches!(&*answers(&got), "" | "400" | "408"), "{}", String::from_utf8_lossy(&got));
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_body_times_out_at_the_admin_listener() {
    let scene = Scene::set("").await;
    let key = format!("Authorization: Bearer {}\n", scene.setup.proxy.key);
    let mut slow = Vec::new();
    for (route, more) in [
        ("/api/session", "Content-Length: 1000"),
        ("/api/session", "Transfer-Encoding: chunked"),
        ("/api/accounts/default/login", &*format!("{key}Content-Length: 1000")),
    ] {
        for forever in ["", "a"] {
            let begin = format!("POST {route} HTTP/1.1\nHost: HOST\n{more}\n\n");
            slow.push(trickle(
                scene.address(Door::Admin),
                &scene.wire(Door::Admin, &begin),
                forever,
            ));
        }
    }
    scene.attack_all(&BOTH, &[("meanwhile", &format!("{GET}\n"), "200")]);
    for slow in slow {
        let got = slow.join().unwrap();
        assert!(answers(&got).starts_with("400"), "{}", String::from_utf8_lossy(&got));
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_caller_gets_a_response_or_a_closed_connection() {
    let scene = Scene::set("").await;
    let open =
        || std::fs::read_dir(format!("/proc/{}/fd", scene.setup.proxy.child.id())).unwrap().count();
    let descriptors = open();
    for text in [
        format!("{GET}\n"),
        format!("{POST}Content-Length: 3\n\nabc"),
        format!("{POST}Content-Length: 9\n\nabc"),
    ] {
        for door in BOTH {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(scene.address(door)).unwrap();
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                stream.write_all(&scene.wire(door, &text)).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let got = wait_until_closed(&mut stream);
                match is_cut(&got) {
                    // As far as it had come when the proxy saw the end.
                    true => assert!(b"HTTP/1.1 ".starts_with(&got[..got.len().min(9)])),
                    false => drop(answers(&got)),
                }
            }
        }
    }
    // The honest one of the beginning, and each of these once at most.
    let seen = scene.upstream.requests();
    assert!(
        seen.len() <= 1 + 3 * 20 && seen.iter().all(|it| it.token() == scene.token),
        "{seen:#?}"
    );
    wait_until("the descriptors are closed", || open() <= descriptors + 5);
    scene.settle().await;
    scene.unharmed().await;
}
