//! Connections to the upstream: which are reused, and what is sent again when one has gone stale.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use support::{After, OK_RESPONSE, Upstream, assert_problem, setup, wait_until};

// --- Connections that went stale.

/// Answers the first request of a connection and treats the second as told.
fn good_for_one(second: &'static str) -> Upstream {
    let served = Mutex::new(Vec::new());
    Upstream::start(move |incoming| {
        let _ = incoming.body();
        let is_second = served.lock().unwrap().contains(&incoming.connection);
        if is_second && incoming.target() != "/warm" {
            incoming.respond(second);
            return After::Close;
        }
        served.lock().unwrap().push(incoming.connection);
        incoming.respond(OK_RESPONSE);
        After::Keep
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safe_request_lost_on_a_stale_connection_is_retried() {
    for (method, body) in [("GET", &b""[..]), ("HEAD", b""), ("GET", b"body"), ("OPTIONS", b"")] {
        let upstream = good_for_one("");
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        assert_eq!(caller.get("/warm").status, 200);
        assert_eq!(caller.request(method, "/v1/x", &[], body).status, 200, "{method}");
        let seen = upstream.requests();
        let connections: Vec<_> = seen.iter().map(|it| it.connection).collect();
        assert_eq!(connections, [0, 0, 1], "{method}");
        assert_eq!((&seen[1].body, &seen[2].body), (&body.to_vec(), &body.to_vec()), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_lost_on_a_stale_connection_is_reported_not_retried() {
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let upstream = good_for_one("");
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        assert_eq!(caller.get("/warm").status, 200);
        assert_problem(&caller.request(method, "/v1/x", &[], b"body"), 502, "upstream_broken");
        assert_eq!(upstream.requests().len(), 2, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_retried_after_the_first_byte_of_a_response() {
    for response in ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
        let upstream = good_for_one(response);
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        assert_eq!(caller.get("/warm").status, 200);
        assert_problem(&caller.get("/v1/x"), 502, "upstream_broken");
        assert_eq!(upstream.requests().len(), 2, "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_closed_while_idle_goes_unnoticed() {
    let upstream = Upstream::responding_with(OK_RESPONSE, After::Close);
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    for n in 0..20 {
        let response =
            caller.request(if n % 2 == 0 { "GET" } else { "POST" }, "/v1/x", &[], b"body");
        assert_eq!(response.status, 200, "{n} {}", response.text());
        // The proxy sees the end of the connection before the next request, as it does after any
        // pause.
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(upstream.requests().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_ready_before_the_next_request_comes() {
    let upstream = Upstream::responding_with(OK_RESPONSE, After::Close);
    let setup = setup(&upstream, "").await;
    // What the login asked over is another client's.
    let others = upstream.open_connections();
    let ready = || {
        upstream
            .open_connections()
            .into_iter()
            .filter(|open| !others.contains(open))
            .collect::<Vec<_>>()
    };
    assert_eq!(setup.caller().get("/v1/x").status, 200);
    for _ in 0..2 {
        let used = upstream.last().peer;
        wait_until("the connection that was used has been replaced", || {
            !ready().contains(&used) && !ready().is_empty()
        });
        // The upstream may know of it before the proxy does.
        thread::sleep(Duration::from_millis(100));
        let ready = ready();
        assert_eq!(setup.caller().get("/v1/x").status, 200);
        let used = upstream.last().peer;
        assert!(
            ready.contains(&used),
            "{used} was made for the request, though {ready:?} stood ready"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_before_the_end_of_the_upload_is_forwarded_and_its_connection_not_reused() {
    let upstream = Upstream::start(|incoming| {
        if incoming.target() == "/fine" {
            return incoming.respond_ok();
        }
        incoming.respond("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge");
        incoming.wait_until_closed();
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("PUT", "/v1/x", &["Content-Length: 8000000"]);
    caller.send(vec![b'a'; 1000]);
    let response = caller.read_response();
    assert_eq!((response.status, response.text().as_str()), (413, "large"));
    assert_eq!(setup.caller().get("/fine").status, 200);
    assert_eq!(upstream.connections(), 2);
}
