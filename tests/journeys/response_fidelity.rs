//! What the caller receives is what the upstream sent, but for what a browser would act on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use super::script_channels::signal;
use pleo_proxy::sandbox::{ApiFault, ApiFaultKind, Faults};
use support::{After, Caller, Upstream, Workspace, assert_problem, sandbox, setup};

#[tokio::test(flavor = "multi_thread")]
async fn responses_lose_fields_that_a_browser_would_obey() {
    let response = "HTTP/1.1 200 Fine\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nAccess-Control-Allow-Origin: *\r\n\
                  Access-Control-Allow-Credentials: true\r\nAlt-Svc: h3=\":443\"\r\nClear-Site-Data: \"*\"\r\n\
                  Refresh: 0; url=http://evil\r\nService-Worker-Allowed: /\r\nNEL: {}\r\nReport-To: {}\r\n\
                  Strict-Transport-Security: max-age=1\r\nProxy-Authenticate: Basic\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                  Pleo-Proxy-Error: forged\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi";
    let upstream = Upstream::responding_with(response, After::Keep);
    let setup = setup(&upstream, "").await;
    let got = setup.caller().get("/v1/x");
    let mut names: Vec<_> =
        got.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    names.sort_unstable();
    let expected = [
        "content-length",
        "content-type",
        "cross-origin-resource-policy",
        "date",
        "pleo-proxy-request",
        "x-content-type-options",
    ];
    assert_eq!((names, got.text().as_str()), (expected.to_vec(), "hi"));
    let shown = setup.caller().request(
        "GET",
        "/v1/x",
        &["Sec-Fetch-Site: none", "Sec-Fetch-Dest: document"],
        b"",
    );
    assert!(shown.header("content-security-policy").unwrap().contains("sandbox"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_within_the_api_becomes_local_and_none_is_followed() {
    let foreign = Upstream::ok();
    let elsewhere = format!("{}/steal?x=1", foreign.origin);
    let location = elsewhere.clone();
    let upstream = Upstream::start(move |incoming| {
        let own =
            incoming.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        let to = match incoming.target() {
            "/absolute" => format!("http://{own}/v1/y?z=%2F#f"),
            "/relative" => "/v1/y".to_owned(),
            "/upper" => format!("HTTP://{own}/v1/y"),
            "/scheme" => "//evil.example/x".to_owned(),
            "/longer" => format!("http://{own}.evil.example/x"),
            _ => location.clone(),
        };
        incoming.respond(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        ));
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    let (own, api) = (setup.proxy.address(), upstream.address);
    let mut caller = setup.caller();
    for (target, expected) in [
        ("/absolute", format!("http://{own}/v1/y?z=%2F#f")),
        ("/@default/absolute", format!("http://{own}/@default/v1/y?z=%2F#f")),
        ("/relative", "/v1/y".to_owned()),
        ("/@default/relative", "/@default/v1/y".to_owned()),
        ("/@default/upper", format!("http://{own}/@default/v1/y")),
        ("/scheme", "//evil.example/x".to_owned()),
        ("/longer", format!("http://{api}.evil.example/x")),
        ("/@default/foreign", elsewhere.clone()),
    ] {
        let before = upstream.requests().len();
        let response = caller.get(target);
        assert_eq!(
            (response.status, response.all("location")),
            (307, vec![expected.as_str()]),
            "{target}"
        );
        assert_eq!(upstream.requests().len(), before + 1, "{target}");
    }
    assert!(foreign.requests().is_empty());
}

// --- Answers of every shape.

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_keep_their_fields() {
    let upstream = Upstream::start(|incoming| {
        let _ = incoming.body();
        let response = match incoming.target() {
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
            "/head-unknown" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/204" => "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            "/304-length" => {
                "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 500\r\n\r\n"
            }
            "/304-chunked" => {
                "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nTransfer-Encoding: chunked\r\n\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        };
        incoming.respond(response);
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    let head = caller.request("HEAD", "/head", &[], b"");
    assert_eq!((head.status, head.all("content-length")), (200, vec!["12345"]));
    let head = caller.request("HEAD", "/head-unknown", &[], b"");
    assert!(head.status == 200 && head.all("content-length").is_empty(), "{}", head.head);
    let none = caller.get("/204");
    assert_eq!((none.status, none.all("x-a")), (204, vec!["1"]));
    assert!(none.all("content-length").is_empty() && none.all("transfer-encoding").is_empty());
    for target in ["/304", "/304-length", "/304-chunked"] {
        let unchanged = caller.get(target);
        assert_eq!((unchanged.status, unchanged.all("etag")), (304, vec!["\"a\""]), "{target}");
    }
    let empty = caller.get("/empty");
    assert_eq!((empty.status, empty.all("content-length")), (200, vec!["0"]));
    assert_eq!(upstream.connections(), 1, "each left the connection fit for the next");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_compressed_bodies_pass_unchanged() {
    let packed: Vec<u8> = (0..=255).chain([0x1f, 0x8b, 13, 10, 0]).collect();
    let mut response = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-260/1000\r\n\
         Content-Type: application/pdf\r\nContent-Length: {}\r\n\r\n",
        packed.len()
    )
    .into_bytes();
    response.extend_from_slice(&packed);
    let upstream = Upstream::responding_with(&response, After::Keep);
    let setup = setup(&upstream, "").await;
    let got = setup.caller().request(
        "GET",
        "/v1/x",
        &["Range: bytes=0-260", "Accept-Encoding: gzip, br"],
        b"",
    );
    assert_eq!(
        (upstream.last().all("range"), upstream.last().all("accept-encoding")),
        (vec!["bytes=0-260"], vec!["gzip, br"])
    );
    assert_eq!((got.status, got.all("content-range")), (206, vec!["bytes 0-260/1000"]));
    assert_eq!(
        (got.all("content-encoding"), got.all("content-length")),
        (vec!["gzip"], vec!["261"])
    );
    assert_eq!(got.body, packed);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_arrives_before_the_next_one_is_sent() {
    let (go, gone) = signal();
    let upstream = Upstream::start(move |incoming| {
        incoming.respond("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for n in 0..3 {
            incoming.respond(format!("9\r\ndata: {n}\n\n\r\n"));
            gone.lock().unwrap().recv().unwrap();
        }
        incoming.respond("0\r\nX-Trailer: 1\r\n\r\n");
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("GET", "/v1/events", &["Accept: text/event-stream"]);
    let head = caller.read_head();
    assert_eq!((head.status, head.all("content-type")), (200, vec!["text/event-stream"]));
    for n in 0..3 {
        assert_eq!(caller.read_until("\n\n\r\n"), format!("9\r\ndata: {n}\n\n\r\n"));
        go.send(()).unwrap();
    }
    assert_eq!(caller.read_until("\r\n\r\n"), "0\r\n\r\n", "trailers stay behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_response_is_not_forwarded() {
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        (0..150).map(|n| format!("X-{n}: 1\r\n")).collect::<String>()
    );
    let large = format!("HTTP/1.1 200 OK\r\nX-Secret-Marker: {}\r\n\r\n", "a".repeat(600 << 10));
    for response in [
        "SSH-2.0-secret-marker\r\n\r\n",
        "",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: secret-marker\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        &many,
        &large,
    ] {
        let upstream = Upstream::responding_with(response, After::Close);
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        let got = caller.request("POST", "/v1/x", &[], b"body");
        let shown = &response[..response.len().min(100)];
        assert_eq!(got.problem(), (502, "upstream_broken".to_owned()), "{shown} {}", got.text());
        assert!(!got.text().to_ascii_lowercase().contains("secret-marker"), "{}", got.text());
        assert_eq!(upstream.requests().len(), 1, "nothing is repeated: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_body_never_looks_complete() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n5\r\nse",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nnonsense\r\n",
    ] {
        let upstream = Upstream::responding_with(response, After::Close);
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        caller.send_head("GET", "/v1/x", &[]);
        let got = caller.read_response();
        assert!(got.status == 200 && !got.complete, "{response}: {got:?}");
        let mut caller = setup.caller();
        caller.send_head("GET", "/v1/x", &[]);
        assert!(caller.read_until("first").starts_with("HTTP/1.1 200"), "what came is passed on");
        assert_eq!(upstream.requests().len(), 2, "nothing is sent again");
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    for kind in [ApiFaultKind::ResetMidBody, ApiFaultKind::Drop] {
        let fault = ApiFault { kind, count: Some(1), ..ApiFault::default() };
        sandbox.set_faults(Faults { api_answer: Some(fault), ..Faults::default() });
        let got = Caller::of(&proxy).request("POST", "/v1/echo", &[], b"body");
        match kind {
            ApiFaultKind::Drop => assert_problem(&got, 502, "upstream_broken"),
            _ => assert!(got.status == 200 && !got.complete, "{got:?}"),
        }
    }
    assert_eq!(Caller::of(&proxy).get("/v1/companies").status, 200);
}
