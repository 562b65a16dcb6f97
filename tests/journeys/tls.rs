//! Which certificates and which route to the upstream are accepted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::{
    Caller, Proxy, Upstream, Workspace, assert_problem, certificate_for, config_with_api, sandbox,
    setup, setup_with,
};

// --- TLS and outbound proxies.

#[tokio::test(flavor = "multi_thread")]
async fn only_a_known_root_and_the_right_name_get_a_credential() {
    let (pem, config) = certificate_for("127.0.0.1");
    let upstream = Upstream::secure(config, support::IncomingRequest::respond_ok);
    let setup = setup_with(&upstream.origin, "", &[]).await;
    let response = setup.caller().get("/v1/x");
    assert_problem(&response, 502, "upstream_unreachable");
    assert!(response.problem_field("fix").contains("endpoints.ca_file"), "{}", response.text());
    assert!(upstream.requests().is_empty());

    let ca_file = setup.workspace.path().join("ca.pem");
    fs::write(&ca_file, &pem).unwrap();
    let set = format!("endpoints.ca_file=\"{}\"", ca_file.display());
    let trusting = setup_with(&upstream.origin, "", &["--set", &set]).await;
    let mut caller = trusting.caller();
    assert_eq!(caller.request("POST", "/v1/x", &[], b"body").text(), "fine");
    assert_eq!(caller.get("/v1/y").text(), "fine");
    assert_eq!((upstream.requests().len(), upstream.connections()), (2, 1));
    let mut caller = trusting.caller();
    let authority = upstream.address;
    caller.send(format!("GET http://{authority}/v1/z HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    assert_eq!(caller.read_response().text(), "fine");

    let (other_pem, other) = certificate_for("other.example");
    fs::write(&ca_file, &other_pem).unwrap();
    let upstream = Upstream::secure(other, support::IncomingRequest::respond_ok);
    let setup = setup_with(&upstream.origin, "", &["--set", &set]).await;
    assert_problem(&setup.caller().get("/v1/x"), 502, "upstream_unreachable");
    assert!(upstream.requests().is_empty());
}

/// Counts who calls, and answers as a proxy would that reaches nobody.
fn counting_proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (origin, calls) =
        (format!("http://{}", listener.local_addr().unwrap()), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (origin, calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_is_never_reached_through_an_outbound_proxy() {
    let (origin, calls) = counting_proxy();
    let upstream = Upstream::ok();
    let setup = setup(&upstream, &format!("[upstream]\nproxy = \"{origin}\"\n")).await;
    assert_eq!(setup.caller().get("/v1/x").status, 200);

    let sandbox = sandbox().await;
    let workspace = Workspace::new(&config_with_api(&sandbox, &upstream.origin, ""));
    let mut command = workspace.command(&["--json"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env(name, &origin);
    }
    let proxy = Proxy::launch(command, &workspace.state());
    proxy.login("default").await;
    assert_eq!(Caller::of(&proxy).get("/v1/x").status, 200);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_else_is_reached_through_the_outbound_proxy_only() {
    let (origin, calls) = counting_proxy();
    let more = format!("[upstream]\nproxy = \"{origin}\"\nconnect_timeout = \"5s\"\n");
    let setup = setup_with("https://external.test.invalid", &more, &[]).await;
    let before = calls.load(Ordering::SeqCst);
    let response = setup.caller().get("/v1/x");
    assert_problem(&response, 502, "upstream_unreachable");
    assert!(response.problem_field("detail").contains("proxy"), "{}", response.text());
    // More than one, if a connection was to be made ready in that moment.
    assert!(calls.load(Ordering::SeqCst) > before);
}
