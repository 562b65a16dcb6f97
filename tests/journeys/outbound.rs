//! The way to Pleo: what goes wrong between the machines, and outbound proxies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use support::{
    After, Caller, IncomingRequest, OK_RESPONSE, Setup, TIMEOUT, Upstream, Workspace,
    assert_problem, certificate_for, sandbox, setup, setup_with,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio_rustls::TlsAcceptor;

// --- Early answers.

const TOO_LARGE: &str =
    "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge";

/// Says that it is too much, and closes with the body unread, which makes a reset.
fn refusing(incoming: &mut IncomingRequest) -> After {
    incoming.respond(TOO_LARGE);
    After::Close
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_body_is_passed_on_whole_though_a_reset_follows() {
    let (pem, config) = certificate_for("127.0.0.1");
    for upstream in [Upstream::start(refusing), Upstream::secure(config, refusing)] {
        let workspace = tempfile::tempdir().unwrap();
        fs::write(workspace.path().join("ca.pem"), &pem).unwrap();
        let set = format!("endpoints.ca_file=\"{}\"", workspace.path().join("ca.pem").display());
        let setup = setup_with(&upstream.origin, "", &["--set", &set]).await;
        let body = vec![b'x'; 900 << 10];
        for n in 0..25 {
            let mut caller = setup.caller();
            caller.send_head("POST", "/v1/up", &[&format!("Content-Length: {}", body.len())]);
            let _ = caller.try_send(&body);
            let response = caller.read_response();
            assert_eq!(
                (response.status, response.text().as_str()),
                (413, "large"),
                "{n} {}",
                upstream.origin
            );
        }
        assert_eq!(upstream.requests().len(), 25, "nothing is repeated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_a_reset_cuts_off_without_an_answer_is_told_and_not_repeated() {
    let upstream = Upstream::start(|incoming| {
        let _ = incoming.read_exact(1000);
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("POST", "/v1/up", &["Content-Length: 900000"]);
    let _ = caller.try_send(vec![b'x'; 900_000]);
    assert_problem(&caller.read_response(), 502, "upstream_broken");
    assert_eq!(upstream.requests().len(), 1);
}

// --- Limits.

const LONGEST_HEAD: usize = 64 << 10;

/// An answer whose head has so many bytes.
fn head_of(bytes: usize) -> Vec<u8> {
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Long: ";
    let filler = "a".repeat(bytes - start.len() - 4);
    format!("{start}{filler}\r\n\r\nfine").into_bytes()
}

fn fields(count: usize) -> Vec<u8> {
    let fields: String = (1..count).map(|n| format!("X-{n}: 1\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n{fields}\r\nfine").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_an_answers_head_are_exact_however_it_comes() {
    let responses = [
        (head_of(LONGEST_HEAD), true),
        (head_of(LONGEST_HEAD + 1), false),
        (head_of(300 << 10), false),
        (fields(100), true),
        (fields(101), false),
    ];
    let told = responses.clone();
    // Each is asked for by its place, and comes in one piece or in many.
    let upstream = Upstream::start(move |incoming| {
        let _ = incoming.body();
        let mut parts =
            incoming.target().split('/').skip(1).map(|part| part.parse::<usize>().unwrap());
        let (response, piece) = (&told[parts.next().unwrap()].0, parts.next().unwrap());
        for piece in response.chunks(piece) {
            incoming.respond(piece);
            thread::sleep(Duration::from_micros(200));
        }
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    for (workspace, (response, passes)) in responses.iter().enumerate() {
        for piece in [1 << 20, 7000] {
            let seen = upstream.requests().len();
            let got =
                setup.caller().request("POST", &format!("/{workspace}/{piece}"), &[], b"body");
            if *passes {
                assert_eq!(
                    (got.status, got.text().as_str()),
                    (200, "fine"),
                    "{} bytes",
                    response.len()
                );
            } else {
                assert_problem(&got, 502, "upstream_broken");
                assert!(got.problem_field("detail").contains("64 KiB"), "{}", got.text());
            }
            assert_eq!(upstream.requests().len(), seen + 1, "nothing is repeated");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_are_swallowed_and_a_flood_of_them_ends() {
    let upstream = Upstream::start(|incoming| {
        let _ = incoming.body();
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(50);
        if incoming.target() == "/v1/few" {
            incoming.respond(&interim);
            incoming.respond(OK_RESPONSE);
            return After::Keep;
        }
        while incoming.try_respond(&interim).is_ok() {}
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    assert_eq!(caller.get("/v1/few").text(), "fine");
    for method in ["GET", "POST"] {
        let response = caller.request(method, "/v1/many", &[], b"body");
        assert_problem(&response, 502, "upstream_broken");
        assert!(response.problem_field("detail").contains("1xx"), "{}", response.text());
        assert_eq!(caller.get("/v1/few").text(), "fine");
    }
    assert_eq!(
        upstream.requests().iter().filter(|it| it.target() == "/v1/many").count(),
        2,
        "nothing is repeated"
    );
}

// --- Connections at rest.

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_used_again_only_while_the_server_says_it_keeps_it() {
    for (hint, connections) in [("timeout=60", 1), ("timeout=5, max=0", 2), ("timeout=1", 2)] {
        let response =
            format!("HTTP/1.1 200 OK\r\nKeep-Alive: {hint}\r\nContent-Length: 4\r\n\r\nfine");
        let upstream = Upstream::responding_with(response, After::Keep);
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        assert_eq!(caller.request("POST", "/v1/x", &[], b"body").status, 200);
        thread::sleep(Duration::from_millis(600));
        assert_eq!(caller.request("POST", "/v1/x", &[], b"body").status, 200);
        assert_eq!(upstream.connections(), connections, "{hint}");
    }
}

const IDLE_TOO_LONG: &str =
    "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 4\r\n\r\nidle";

#[tokio::test(flavor = "multi_thread")]
async fn a_408_that_meets_a_request_on_a_connection_that_rested_is_the_end_of_that_connection() {
    let upstream = Upstream::start(|incoming| {
        if incoming.number != 1 {
            return incoming.respond_ok();
        }
        incoming.respond(IDLE_TOO_LONG);
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    assert_eq!(caller.get("/warm").status, 200);
    assert_eq!(caller.get("/v1/x").text(), "fine");
    let connections: Vec<_> = upstream.requests().iter().map(|it| it.connection).collect();
    assert_eq!(connections, [0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_408_to_a_write_or_on_a_new_connection_is_the_callers() {
    let upstream = Upstream::start(|incoming| {
        if incoming.target() == "/warm" {
            return incoming.respond_ok();
        }
        incoming.respond(IDLE_TOO_LONG);
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    assert_eq!(caller.get("/warm").status, 200);
    assert_eq!(caller.request("POST", "/v1/x", &[], b"body").text(), "idle");
    assert_eq!(upstream.requests().len(), 2, "a write is not repeated");
    assert_eq!(caller.get("/v1/y").status, 408, "nor is what a new connection answers");
}

// --- TLS and outbound proxies.

/// An outbound proxy that leads everything to one place, and the heads that it was sent.
struct Relay {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    async fn start(to: SocketAddr, tls: Option<ServerConfig>, response: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), heads: Arc::default() };
        let (heads, tls) = (relay.heads.clone(), tls.map(|tls| TlsAcceptor::from(Arc::new(tls))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heads, tls) = (heads.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => lead(stream, to, response, &heads).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => lead(stream, to, response, &heads).await,
                            Err(error) => heads.lock().unwrap().push(format!("no TLS: {error}")),
                        },
                    }
                });
            }
        });
        relay
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn lead(
    mut near: impl AsyncRead + AsyncWrite + Unpin,
    to: SocketAddr,
    response: &str,
    heads: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match near.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    let _ = near.write_all(response.as_bytes()).await;
    if response.starts_with("HTTP/1.1 200") {
        let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
    let _ = near.shutdown().await;
}

const CONNECTED: &str = "HTTP/1.1 200 Connection established\r\nProxy-Agent: corp\r\n\r\n";

/// An API at `external.test` behind an outbound proxy, and roots for both.
async fn behind(relay: &Relay, scheme: &str, roots: &[&str], userinfo: &str) -> Setup {
    let workspace = tempfile::tempdir().unwrap().keep();
    fs::write(workspace.join("ca.pem"), roots.concat()).unwrap();
    let ca_file = format!("endpoints.ca_file=\"{}\"", workspace.join("ca.pem").display());
    let proxy = format!("upstream.proxy=\"{scheme}://{userinfo}{}\"", relay.address);
    let setup =
        setup_with("https://external.test", "", &["--set", &ca_file, "--set", &proxy]).await;
    fs::remove_dir_all(workspace).unwrap();
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn both_clients_go_through_plain_and_tls_proxies_with_the_password() {
    let (api_root, api) = certificate_for("external.test");
    let upstream = Upstream::secure(api, IncomingRequest::respond_ok);
    let (proxy_root, config) = certificate_for("127.0.0.1");
    for (scheme, tls) in [("http", None), ("https", Some(config))] {
        let relay = Relay::start(upstream.address, tls, CONNECTED).await;
        let setup = behind(&relay, scheme, &[&api_root, &proxy_root], "DOM%5Cuser:p@ss%25@").await;
        // The login asked whose token it is, with the client of the token calls.
        let asked = relay.heads();
        assert!(!asked.is_empty(), "{scheme}");
        assert_eq!(
            setup.caller().request("POST", "/v1/x", &[], b"body").text(),
            "fine",
            "{scheme}"
        );
        let heads = relay.heads();
        assert!(heads.len() > asked.len(), "{scheme}");
        for head in &heads {
            assert!(head.starts_with("CONNECT external.test:443 HTTP/1.1\r\n"), "{scheme}: {head}");
            let secret = "authorization: basic RE9NXHVzZXI6cEBzcyU=";
            assert!(head.to_lowercase().contains(&secret.to_lowercase()), "{scheme}: {head}");
        }
        assert!(!setup.proxy.log().contains("p@ss"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_who_it_says_gets_no_password() {
    let (api_root, api) = certificate_for("external.test");
    let upstream = Upstream::secure(api, IncomingRequest::respond_ok);
    let (_, config) = certificate_for("127.0.0.1");
    let relay = Relay::start(upstream.address, Some(config), CONNECTED).await;
    let setup = behind(&relay, "https", &[&api_root], "user:word@").await;
    let response = setup.caller().get("/v1/x");
    assert_problem(&response, 502, "upstream_unreachable");
    assert!(response.problem_field("detail").contains("upstream.proxy"), "{}", response.text());
    assert!(response.problem_field("fix").contains("endpoints.ca_file"), "{}", response.text());
    assert!(relay.heads().iter().all(|head| head.starts_with("no TLS")), "{:?}", relay.heads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_lead_on_is_told_with_what_to_change() {
    let nowhere: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (response, detail, fix) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "password",
            "percent-encoded",
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "answered 403", "let it through"),
        ("-ERR unknown command\r\n\r\n", "as an HTTP proxy", "HTTP proxy"),
    ] {
        let relay = Relay::start(nowhere, None, response).await;
        let setup = behind(&relay, "http", &[&certificate_for("x").0], "").await;
        let got = setup.caller().get("/v1/x");
        assert_problem(&got, 502, "upstream_unreachable");
        assert!(
            got.problem_field("detail").contains(detail)
                && got.problem_field("detail").contains("upstream.proxy"),
            "{}",
            got.text()
        );
        assert!(got.problem_field("fix").contains(fix), "{}", got.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_names_no_usable_proxy_is_an_error_at_the_start() {
    let sandbox = sandbox().await;
    let workspace =
        Workspace::new(&support::config_with_api(&sandbox, "https://external.test", ""));
    for value in ["socks5h://user:canary@127.0.0.1:1", "http://user:can/ary@127.0.0.1:1"] {
        let mut serving = workspace.command(&["serve"]).env("all_proxy", value).spawn().unwrap();
        let start = Instant::now();
        while serving.try_wait().unwrap().is_none() && start.elapsed() < TIMEOUT {
            thread::sleep(Duration::from_millis(10));
        }
        // One that serves after all has no exit code then.
        let _ = serving.kill();
        let output = serving.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("ALL_PROXY") && !told.contains("ary"), "{told}");
    }
}

/// The length of the TLS record that a proxy greets with.
async fn greeting(key_exchange: &str) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("https://{}", listener.local_addr().unwrap());
    let lengths = Arc::new(Mutex::new(Vec::new()));
    let seen = lengths.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut header = [0; 5];
            if stream.unwrap().read_exact(&mut header).is_ok() {
                seen.lock().unwrap().push(usize::from(u16::from_be_bytes([header[3], header[4]])));
            }
        }
    });
    let set = format!("upstream.tls_key_exchange={key_exchange}");
    let setup = setup_with(&origin, "", &["--set", &set]).await;
    assert_problem(&Caller::of(&setup.proxy).get("/v1/x"), 502, "upstream_unreachable");
    let lengths = lengths.lock().unwrap();
    assert!(
        lengths.len() >= 2 && lengths.iter().all(|length| length.abs_diff(lengths[0]) < 64),
        "{lengths:?}"
    );
    lengths[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_key_exchange_greets_in_one_packet() {
    // What fits a packet of 1,280 bytes (RFC 8200 section 5) fits everywhere.
    assert!(greeting("hybrid").await > 1280);
    assert!(greeting("classic").await < 1000);
}
