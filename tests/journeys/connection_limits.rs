//! The limit on connections and heads, and a graceful stop.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::{Mutex, mpsc};
use std::thread;

use super::unauthorized::holding_first;
use support::{
    After, Setup, Upstream, Workspace, assert_problem, config_with_api, sandbox, setup, wait_until,
};

#[tokio::test(flavor = "multi_thread")]
async fn over_the_connection_limit_with_all_busy_the_caller_gets_a_503() {
    let ((arrived, waiting), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let (arrived, gone) = (Mutex::new(arrived), Mutex::new(gone));
    let upstream = Upstream::start(move |incoming| {
        if incoming.target() == "/busy" {
            arrived.lock().unwrap().send(()).unwrap();
            gone.lock().unwrap().recv().unwrap();
        }
        incoming.respond_ok()
    });
    let sandbox = sandbox().await;
    let config = config_with_api(&sandbox, &upstream.origin, "");
    let workspace =
        Workspace::new(&config.replace("[listen]\n", "[listen]\nmax_connections = 2\n"));
    let proxy = workspace.serve();
    proxy.login("default").await;
    let setup = Setup { proxy, workspace, sandbox };
    let mut busy = Vec::new();
    for _ in 0..2 {
        // The admin connection of the login is at rest and makes room for one of them.
        let mut caller = setup.caller();
        caller.send_head("GET", "/busy", &[]);
        waiting.recv_timeout(support::TIMEOUT).unwrap();
        busy.push(caller);
    }
    let mut caller = setup.caller();
    let response = caller.get("/v1/x");
    assert_problem(&response, 503, "overloaded");
    assert!(response.header("retry-after").is_some() && caller.is_closed());
    // Either of them may be the first to go.
    busy.iter().for_each(|_| go.send(()).unwrap());
    for mut caller in busy {
        assert_eq!(caller.read_response().status, 200);
    }
    wait_until("there is room again", || setup.caller().get("/v1/x").status == 200);
    assert_eq!(upstream.requests().iter().filter(|it| it.target() == "/busy").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_limited_in_fields_and_bytes() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let fields = |count: usize| (1..count).map(|n| format!("X-{n}: {n}")).collect::<Vec<_>>();
    let ask = |lines: &[String]| {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        setup.caller().request("GET", "/v1/x", &lines, b"")
    };
    assert_eq!(ask(&fields(100)).status, 200, "Host and 99 more");
    assert_eq!(upstream.last().all("x-99"), ["99"]);
    assert_eq!(ask(&fields(101)).status, 431);
    assert_eq!(ask(&[format!("X-Long: {}", "a".repeat(60 << 10))]).status, 200);
    assert_eq!(upstream.last().all("x-long")[0].len(), 60 << 10);
    let seen = upstream.requests().len();
    assert_eq!(ask(&[format!("X-Long: {}", "a".repeat(65 << 10))]).status, 431);
    let long = setup.caller().get(&format!("/{}", "a".repeat(70 << 10)));
    assert!(matches!(long.status, 414 | 431), "{}", long.head);
    assert_eq!(upstream.requests().len(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_times_out() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send(format!("GET /v1/x HTTP/1.1\r\nHost: {}\r\n", setup.proxy.address()));
    let sent = (0..support::TIMEOUT.as_millis() / 250).take_while(|_| {
        thread::sleep(std::time::Duration::from_millis(250));
        caller.try_send("X-A: b\r\n").is_ok()
    });
    assert!(sent.count() < 100, "still open");
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_connection_limit_idle_connections_are_closed_and_busy_ones_kept() {
    let (upstream, waiting, go) = holding_first();
    let sandbox = sandbox().await;
    let config = config_with_api(&sandbox, &upstream.origin, "");
    let workspace =
        Workspace::new(&config.replace("[listen]\n", "[listen]\nmax_connections = 3\n"));
    let proxy = workspace.serve();
    proxy.login("default").await;
    let setup = Setup { proxy, workspace, sandbox };
    let mut busy = setup.caller();
    busy.send_head("GET", "/v1/busy", &[]);
    waiting.recv().unwrap();
    let mut resting = Vec::new();
    for n in 0..20 {
        let mut caller = setup.caller();
        assert_eq!(caller.get("/v1/x").status, 200, "connection {n}");
        resting.push(caller);
    }
    go.send(()).unwrap();
    assert_eq!(busy.read_response().text(), "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_lets_a_download_finish() {
    let ((half, started), (go, gone)) = (mpsc::channel(), mpsc::channel::<()>());
    let (half, gone) = (Mutex::new(half), Mutex::new(gone));
    let upstream = Upstream::start(move |incoming| {
        incoming.respond("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        half.lock().unwrap().send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        incoming.respond(" half");
        After::Close
    });
    let mut setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("GET", "/v1/x", &[]);
    started.recv().unwrap();
    let head = caller.read_head();
    assert_eq!((head.status, caller.read_exact(5)), (200, b"first".to_vec()));
    setup.proxy.signal("TERM");
    let address = setup.proxy.address();
    wait_until("no new connection is taken", || match std::net::TcpStream::connect(address) {
        Err(_) => true,
        Ok(stream) => {
            drop(stream);
            false
        }
    });
    assert!(setup.proxy.child.try_wait().unwrap().is_none(), "it waits for the download");
    go.send(()).unwrap();
    assert_eq!(caller.read_exact(5), b" half");
    assert_eq!(setup.proxy.child.wait().unwrap().code(), Some(0));
}

/// The worker that drives a connection may have nobody of its own to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_what_runs_over_another_workers_connection() {
    // Which worker gets a caller is the kernel's choice: of six pairs, some are not on the same.
    for round in 0..6 {
        let (started, half) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let (started, wait) = (Mutex::new(started), Mutex::new(wait));
        let upstream = Upstream::start(move |incoming| {
            if incoming.target() == "/first" {
                return incoming.respond_ok();
            }
            incoming.respond("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            started.lock().unwrap().send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            incoming.respond(" half");
            After::Close
        });
        let mut setup = setup(&upstream, "").await;
        assert_eq!(setup.caller().get("/first").status, 200);
        let mut caller = setup.caller();
        caller.send_head("GET", "/v1/x", &[]);
        half.recv().unwrap();
        assert_eq!((caller.read_head().status, caller.read_exact(5)), (200, b"first".to_vec()));
        assert_eq!(upstream.connections(), 1, "it was used again");
        setup.proxy.signal("TERM");
        let address = setup.proxy.address();
        wait_until("no new connection is taken", || std::net::TcpStream::connect(address).is_err());
        // Time for a worker that believes to be alone to end.
        std::thread::sleep(std::time::Duration::from_millis(100));
        go.send(()).unwrap();
        assert_eq!(caller.read_exact(5), b" half", "round {round}");
        assert_eq!(setup.proxy.child.wait().unwrap().code(), Some(0));
    }
}
