//! What the upstream receives is what the caller sent, but for the credential and hop-by-hop
//! fields.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use super::script_channels::{shared, told};
use support::{After, OK_RESPONSE, Upstream, assert_problem, setup};

// --- Targets and fields.

#[tokio::test(flavor = "multi_thread")]
async fn targets_arrive_byte_for_byte() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    for target in [
        "/",
        "/v1/accounting-entries:search",
        "/v1/a%2Fb%2fc%20d%C3%A9",
        "/v1/..%2fadmin/%252e%252e/%00",
        "/v1//double///slashes/",
        "//evil.example/x",
        "/v1/x?",
        "/v1/x?a=1&a=2&b&=&a=3",
        "/v1/x?cursor=MFRGGZDFMZTWQ2LK====~tail&pageToken=~~==",
        "/v1/x?q=a+b%2Bc%20d&url=http://x/?y=1",
        "/v1/x?json={a:[1,2]}&pipe=|&caret=^&quote='`",
        "/v1/x;p=1/@default/:y!$'()*,",
        "/~user/-._~",
    ] {
        assert_eq!(caller.get(target).status, 200, "{target}");
        assert_eq!(upstream.last().line(), format!("GET {target} HTTP/1.1"));
        let prefixed = format!("/@default{target}");
        assert_eq!(caller.get(&prefixed).status, 200, "{prefixed}");
        assert_eq!(upstream.last().line(), format!("GET {target} HTTP/1.1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_keep_their_order_and_their_bytes() {
    let response = "HTTP/1.1 200 OK\r\nX-Dup: one\r\nLink: <a>; rel=next\r\nX-Dup: two\r\nETag: W/\"a\"\r\nLink: <b>\r\n\
                  Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Empty:\r\nX-Dup: one\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::responding_with(response, After::Keep);
    let setup = setup(&upstream, "").await;
    let lines = [
        "X-Dup: b",
        "Accept: text/csv;q=0.5",
        "X-Dup: a",
        "If-None-Match: W/\"a\"",
        "X-Dup: b, c",
        "X-Empty:",
    ];
    let response = setup.caller().request("GET", "/v1/x", &lines, b"");
    let seen = upstream.last();
    assert_eq!(seen.all("x-dup"), ["b", "a", "b, c"]);
    assert_eq!(
        (seen.all("accept"), seen.all("if-none-match")),
        (vec!["text/csv;q=0.5"], vec!["W/\"a\""])
    );
    assert_eq!(
        (seen.all("x-empty"), seen.all("host")),
        (vec![""], vec![upstream.address.to_string().as_str()])
    );
    let mut names = seen.names();
    names.sort();
    let expected =
        ["accept", "authorization", "host", "if-none-match", "x-dup", "x-dup", "x-dup", "x-empty"];
    assert_eq!(names, expected, "nothing is added but the credential, nothing else is lost");
    assert_eq!(response.all("x-dup"), ["one", "two", "one"]);
    assert_eq!(response.all("link"), ["<a>; rel=next", "<b>"]);
    assert_eq!((response.all("etag"), response.all("x-empty")), (vec!["W/\"a\""], vec![""]));
    assert_eq!(response.all("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_credential_and_it_is_ours_whatever_is_sent() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    assert_eq!(setup.caller().get("/v1/x").status, 200);
    let ours = upstream.last().token();
    assert!(ours.starts_with("Bearer "));
    for lines in [
        &["Authorization: Bearer evil"][..],
        &["Authorization: Bearer evil", "authorization: Basic evil"],
        &["Proxy-Authorization: Basic evil"],
        &["Connection: close, Authorization"],
        &["Connection:", "Connection: authorization, host", "Connection: keep-alive"],
        &["Connection: \"Authorization\""],
        &["Authori_zation: evil", "Authori.zation: evil", "AUTHORIZATION: evil"],
        &["Trailer: Authorization", "TE: trailers"],
    ] {
        assert_eq!(setup.caller().request("GET", "/v1/x", lines, b"").status, 200, "{lines:?}");
        let seen = upstream.last();
        assert_eq!(seen.token(), ours, "{lines:?}");
        assert_eq!(seen.all("host").len(), 1, "{lines:?}");
        let alias = |name: &String| name.contains(['_', '.']);
        assert!(
            !seen
                .names()
                .iter()
                .any(|name| alias(name) && seen.all(name)[0] == "evil" && name.len() == 13)
        );
    }
    let mut caller = setup.caller();
    caller.send_head("POST", "/v1/x", &["Transfer-Encoding: chunked", "Trailer: Authorization"]);
    caller.send("3\r\nabc\r\n0\r\nAuthorization: Bearer evil\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(caller.read_response().status, 200);
    assert_eq!(
        (upstream.last().token(), upstream.last().body),
        (ours, b"abc".to_vec()),
        "no trailer passes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hop_by_hop_proxy_and_browser_fields_are_not_forwarded() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[guard]\nallow_origins = [\"http://page.example\"]\n").await;
    let lines = [
        "Cookie: session=secret",
        "Origin: http://page.example",
        "Referer: http://page.example/secret",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: cors",
        "Forwarded: for=1.2.3.4",
        "X-Forwarded-For: 1.2.3.4",
        "X_Forwarded_Host: evil",
        "X.Forwarded.Proto: https",
        "X-Real-IP: 1.2.3.4",
        "Via: 1.1 other",
        "X-HTTP-Method-Override: DELETE",
        "X-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "Pleo-Account: default",
        "Pleo-Proxy-Key: key",
        "Connection: X-Hop, X-Other-Hop",
        "X-Hop: 1",
        "X-Other-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
    ];
    assert_eq!(setup.caller().request("GET", "/v1/x", &lines, b"").status, 200);
    assert_eq!(upstream.last().names(), ["host", "authorization"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_arrives_piece_by_piece() {
    let (arrived, pieces) = shared();
    let upstream = Upstream::start(move |incoming| {
        for _ in 0..2 {
            // The size line, the piece and its end.
            if incoming.read_exact("5\r\nhello\r\n".len()).is_ok() {
                arrived.lock().unwrap().send(()).unwrap();
            }
        }
        incoming.read_exact("0\r\n\r\n".len()).unwrap();
        incoming.respond(OK_RESPONSE);
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("POST", "/v1/x", &["Transfer-Encoding: chunked", "Content-Type: text/csv"]);
    for _ in 0..2 {
        caller.send("5;extension=1\r\nhello\r\n");
        told(&pieces);
    }
    caller.send("0\r\n\r\n");
    assert_eq!(caller.read_response().text(), "fine");
    assert_eq!(upstream.last().all("transfer-encoding"), ["chunked"]);
    assert!(upstream.last().all("content-length").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_forwarded_with_any_method_and_any_kind_of_length() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(caller.request(method, "/v1/x", &[], b"body").status, 200, "{method}");
        assert_eq!(
            (upstream.last().body, upstream.last().all("content-length")),
            (b"body".to_vec(), vec!["4"])
        );
        assert!(upstream.last().line().starts_with(method));
        caller.send_head(method, "/v1/x", &["Transfer-Encoding: chunked"]);
        caller.send("4\r\nbody\r\n0\r\n\r\n");
        assert_eq!(caller.read_response().status, 200, "{method}");
        assert_eq!(upstream.last().body, b"body", "{method}");
        assert_eq!(
            caller.request(method, "/v1/x", &["Content-Length: 0"], b"").status,
            200,
            "{method}"
        );
        assert_eq!(
            (upstream.last().body, upstream.last().all("content-length")),
            (vec![], vec!["0"]),
            "{method}"
        );
    }
    assert_eq!(caller.get("/v1/x").status, 200);
    assert!(
        upstream.last().all("content-length").is_empty()
            && upstream.last().all("transfer-encoding").is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_answered_by_the_proxy() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("PUT", "/v1/x", &["Content-Length: 4", "Expect: 100-continue"]);
    assert_eq!(caller.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    caller.send("body");
    assert_eq!(caller.read_response().text(), "fine");
    assert_eq!(upstream.last().body, b"body");
    assert!(upstream.last().all("expect").is_empty());

    let mut caller = setup.caller();
    caller.send_head("PUT", "/@nobody/v1/x", &["Content-Length: 4", "Expect: 100-continue"]);
    assert_problem(&caller.read_response(), 404, "account_unknown");
    assert_eq!(upstream.requests().len(), 1, "the body is not asked for in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_works_on_both_sides() {
    let upstream = Upstream::start(|incoming| {
        let _ = incoming.body();
        match incoming.target() {
            "/chunked" => incoming.respond(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            ),
            _ => incoming.respond("HTTP/1.0 200 OK\r\n\r\nto the end"),
        }
        if incoming.target() == "/chunked" { After::Keep } else { After::Close }
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send(format!("GET /chunked HTTP/1.0\r\nHost: {}\r\n\r\n", setup.proxy.address()));
    let response = caller.read_response();
    assert!(response.all("transfer-encoding").is_empty(), "{}", response.head);
    assert_eq!(response.text(), "abc");
    assert!(caller.is_closed());
    assert_eq!(upstream.last().line(), "GET /chunked HTTP/1.1");
    let mut caller = setup.caller();
    assert_eq!(caller.get("/old").text(), "to the end");
    assert_eq!(caller.get("/old").text(), "to the end", "the caller's connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_safer_of_two_lengths_is_used() {
    let upstream = Upstream::start(|incoming| {
        incoming.respond(match incoming.target() {
            "/both" => {
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        });
        After::Close
    });
    let setup = setup(&upstream, "").await;
    for target in ["/both", "/same"] {
        let response = setup.caller().get(target);
        if response.status == 502 {
            assert_problem(&response, 502, "upstream_broken");
            continue;
        }
        assert_eq!((response.status, response.text().as_str()), (200, "abc"), "{target}");
        assert_eq!(
            response.all("content-length").len() + response.all("transfer-encoding").len(),
            1,
            "{}",
            response.head
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_ends_the_upstream_request_unfinished() {
    let (ended, ends) = shared();
    let upstream = Upstream::start(move |incoming| {
        ended.lock().unwrap().send(incoming.body().is_err()).unwrap();
        incoming.respond(OK_RESPONSE);
        After::Close
    });
    let setup = setup(&upstream, "").await;
    for broken in ["3\r\nabcXX", "0x3\r\nabc\r\n", "10000000000000000\r\n", "-1\r\n"] {
        let mut caller = setup.caller();
        caller.send_head("POST", "/v1/x", &["Transfer-Encoding: chunked"]);
        caller.send(format!("3\r\nabc\r\n{broken}"));
        let rest = caller.read_rest();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{broken}: {rest}");
        assert!(told(&ends), "{broken}: the upstream must not take it for a whole request");
    }
}
