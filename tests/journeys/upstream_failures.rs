//! An upstream that is down, slow or stops, and callers that leave or stop.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::script_channels::{shared, signal, told};
use support::{
    After, Caller, Proxy, TIMEOUT, Upstream, Workspace, assert_problem, sandbox, setup, setup_with,
    wait_until,
};

// --- Faults of the upstream.

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_upstream_is_reported() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let setup = setup_with(&format!("http://127.0.0.1:{port}"), "", &[]).await;
    let response = setup.caller().get("/v1/x");
    assert_problem(&response, 502, "upstream_unreachable");
    assert!(response.problem_field("detail").contains(&port.to_string()), "{}", response.text());
    assert!(response.header("retry-after").is_some());
    let mut caller = setup.caller();
    assert_problem(&caller.request("POST", "/v1/x", &[], b"body"), 502, "upstream_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_times_out_and_its_connection_is_closed() {
    let (closed, ends) = shared();
    let upstream = Upstream::start(move |incoming| {
        if incoming.target() == "/fine" {
            return incoming.respond_ok();
        }
        let _ = incoming.body();
        if incoming.target() == "/hints" {
            while incoming.try_respond("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        closed.lock().unwrap().send(incoming.wait_until_closed()).unwrap();
        After::Close
    });
    let setup = setup(&upstream, "[upstream]\nresponse_timeout = \"300ms\"\n").await;
    let mut caller = setup.caller();
    for (method, target, body) in
        [("GET", "/silent", &b""[..]), ("POST", "/silent", b"body"), ("GET", "/hints", b"")]
    {
        let response = caller.request(method, target, &[], body);
        assert_problem(&response, 504, "upstream_timeout");
        assert!(told(&ends), "{method} {target}");
    }
    assert_eq!(upstream.requests().len(), 3, "nothing is repeated");
    assert_eq!(caller.get("/fine").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_response_timeout_starts_at_the_end_of_the_request() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[upstream]\nresponse_timeout = \"1s\"\n").await;
    let mut caller = setup.caller();
    caller.send_head("PUT", "/v1/x", &["Content-Length: 6"]);
    for piece in ["ab", "cd", "ef"] {
        caller.send(piece);
        thread::sleep(Duration::from_millis(600));
    }
    let response = caller.read_response();
    assert_eq!(
        (response.status, upstream.last().body),
        (200, b"abcdef".to_vec()),
        "{}",
        response.text()
    );
}

// --- Callers that leave or stall.

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_cancels_its_own_request() {
    let ((arrived, starts), (ended, ends)) = (shared(), shared());
    let upstream = Upstream::start(move |incoming| {
        if incoming.target() == "/fine" {
            return incoming.respond_ok();
        }
        arrived.lock().unwrap().send(()).unwrap();
        let cancelled = match incoming.target() {
            "/waiting" => incoming.wait_until_closed(),
            "/upload" => incoming.body().is_err(),
            _ => {
                incoming.respond("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                while incoming.try_respond("5\r\nhello\r\n").is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
                true
            }
        };
        ended.lock().unwrap().send(cancelled).unwrap();
        After::Close
    });
    let setup = setup(&upstream, "").await;
    for (target, line) in [
        ("/waiting", "X-A: 1"),
        ("/waiting", "Content-Length: 0"),
        ("/upload", "Content-Length: 100"),
        ("/download", "X-A: 1"),
    ] {
        let mut caller = setup.caller();
        caller.send_head("POST", target, &[line]);
        told(&starts);
        match target {
            "/upload" => caller.send("half"),
            "/download" => {
                caller.read_until("hello");
            }
            _ => {}
        }
        caller.disconnect();
        assert!(told(&ends), "{target} {line}");
        assert_eq!(setup.caller().get("/fine").status, 200);
    }
    assert!(setup.caller().get("/fine").complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_come_back_after_callers_left() {
    let upstream = Upstream::start(|incoming| {
        incoming.respond("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
        incoming.wait_until_closed();
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let descriptors =
        || fs::read_dir(format!("/proc/{}/fd", setup.proxy.child.id())).unwrap().count();
    let before = descriptors();
    for _ in 0..100 {
        let mut caller = setup.caller();
        caller.send_head("GET", "/v1/x", &[]);
        caller.read_until("begun");
        caller.disconnect();
    }
    wait_until("the descriptors are closed", || descriptors() <= before + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_times_out_in_both_directions() {
    let (closed, ends) = shared();
    let upstream = Upstream::start(move |incoming| {
        if incoming.target() == "/down" {
            incoming.respond("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
        closed.lock().unwrap().send(incoming.wait_until_closed()).unwrap();
        After::Close
    });
    let setup = setup(&upstream, "[upstream]\nidle_timeout = \"300ms\"\n").await;
    let mut caller = setup.caller();
    caller.send_head("GET", "/down", &[]);
    let response = caller.read_response();
    assert!(response.status == 200 && !response.complete);
    assert!(told(&ends));

    let mut caller = setup.caller();
    caller.send_head("PUT", "/up", &["Content-Length: 10"]);
    caller.send("half");
    assert_problem(&caller.read_response(), 400, "bad_request");
    assert!(caller.is_closed());
    assert!(told(&ends));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stops_reading_times_out() {
    let (release, parked) = signal();
    let upstream = Upstream::start(move |_| {
        // The head was read; nothing of the body ever is.
        let _ = parked.lock().unwrap().recv_timeout(TIMEOUT);
        After::Close
    });
    let limits = "[upstream]\nidle_timeout = \"300ms\"\nresponse_timeout = \"300ms\"\n";
    let setup = setup(&upstream, limits).await;
    let mut caller = setup.caller();
    caller.send_head("PUT", "/v1/x", &["Content-Length: 100000000"]);
    while caller.try_send(vec![b'x'; 65_536]).is_ok() {}
    assert!(caller.read_rest().contains("upstream_timeout") || caller.is_closed());
    let metrics =
        setup.proxy.admin(reqwest::Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("refused_requests_total{code=\"upstream_timeout\"} 1"), "{metrics}");
    release.send(()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_reading_times_out() {
    let (closed, ends) = shared();
    let upstream = Upstream::start(move |incoming| {
        incoming.respond("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while incoming.try_respond(&chunk).is_ok() {}
        closed.lock().unwrap().send(true).unwrap();
        After::Close
    });
    let setup = setup(&upstream, "[upstream]\nidle_timeout = \"300ms\"\n").await;
    let mut caller = setup.caller();
    caller.send_head("GET", "/v1/x", &[]);
    caller.read_exact(1);
    assert!(
        told(&ends),
        "the upstream's connection is closed while the caller still holds its own"
    );
    drop(caller);
}

// --- Memory.

/// The most memory that the proxy ever had, in KiB.
fn peak(proxy: &Proxy) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_bodies_stream_in_constant_memory() {
    const LENGTH: usize = 64 << 20;
    const PIECE: usize = 64 << 10;
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.get("/v1/companies").status, 200);
    let before = peak(&proxy);

    let pattern: Vec<u8> = (0..PIECE).map(|at| u8::try_from(at % 251).unwrap()).collect();
    caller.send_head("GET", &format!("/v1/bytes?n={LENGTH}"), &[]);
    assert_eq!(caller.read_head().all("content-length"), [LENGTH.to_string()]);
    for _ in 0..LENGTH / PIECE {
        assert!(caller.read_exact(PIECE) == pattern);
    }
    for framing in [format!("Content-Length: {LENGTH}"), "Transfer-Encoding: chunked".to_owned()] {
        let chunked = framing.starts_with("Transfer");
        caller.send_head("PUT", "/v1/sink", &[&framing]);
        for _ in 0..LENGTH / PIECE {
            if chunked {
                caller.send(format!("{PIECE:x}\r\n"));
            }
            caller.send(&pattern);
            if chunked {
                caller.send("\r\n");
            }
        }
        if chunked {
            caller.send("0\r\n\r\n");
        }
        let response = caller.read_response();
        assert!(response.text().contains(&format!("\"length\":{LENGTH}")), "{}", response.text());
    }
    let grown = peak(&proxy) - before;
    assert!(grown < 48 << 10, "{grown} KiB");
}
