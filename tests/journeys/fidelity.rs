//! What arrives is what was sent, both ways; what goes wrong on the way is told as what it is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use pleo_proxy::sandbox::{ApiFault, ApiFaultKind, Faults};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use support::upstream::{
    After, Answer, Caller, FINE, Upstream, config_before, eventually, stage, stage_at,
};
use support::{PATIENCE, Place, Proxy, sandbox};

fn is(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.problem(), (status, code.to_owned()), "{}", answer.text());
}

/// A sender for scripts, which many threads share.
fn shared<T>() -> (Mutex<mpsc::Sender<T>>, mpsc::Receiver<T>) {
    let (sender, receiver) = mpsc::channel();
    (Mutex::new(sender), receiver)
}

/// Something for a script to wait for.
fn signal() -> (mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>) {
    let (sender, receiver) = mpsc::channel();
    (sender, Mutex::new(receiver))
}

fn told<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("the upstream says so")
}

// --- Targets and fields.

#[tokio::test(flavor = "multi_thread")]
async fn targets_arrive_byte_for_byte() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
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
    let answer = "HTTP/1.1 200 OK\r\nX-Dup: one\r\nLink: <a>; rel=next\r\nX-Dup: two\r\nETag: W/\"a\"\r\nLink: <b>\r\n\
                  Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Empty:\r\nX-Dup: one\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::saying(answer, After::Keep);
    let stage = stage(&upstream, "").await;
    let lines = [
        "X-Dup: b",
        "Accept: text/csv;q=0.5",
        "X-Dup: a",
        "If-None-Match: W/\"a\"",
        "X-Dup: b, c",
        "X-Empty:",
    ];
    let answer = stage.caller().ask("GET", "/v1/x", &lines, b"");
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
    assert_eq!(answer.all("x-dup"), ["one", "two", "one"]);
    assert_eq!(answer.all("link"), ["<a>; rel=next", "<b>"]);
    assert_eq!((answer.all("etag"), answer.all("x-empty")), (vec!["W/\"a\""], vec![""]));
    assert_eq!(answer.all("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_credential_and_it_is_ours_whatever_is_sent() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    assert_eq!(stage.caller().get("/v1/x").status, 200);
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
        assert_eq!(stage.caller().ask("GET", "/v1/x", lines, b"").status, 200, "{lines:?}");
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
    let mut caller = stage.caller();
    caller.begin("POST", "/v1/x", &["Transfer-Encoding: chunked", "Trailer: Authorization"]);
    caller.send("3\r\nabc\r\n0\r\nAuthorization: Bearer evil\r\nX-Trailer: 1\r\n\r\n");
    assert_eq!(caller.answer().status, 200);
    assert_eq!(
        (upstream.last().token(), upstream.last().body),
        (ours, b"abc".to_vec()),
        "no trailer passes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_the_proxy_or_a_browser_stays_here() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "[guard]\nallow_origins = [\"http://page.example\"]\n").await;
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
    assert_eq!(stage.caller().ask("GET", "/v1/x", &lines, b"").status, 200);
    assert_eq!(upstream.last().names(), ["host", "authorization"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_lose_fields_that_a_browser_would_obey() {
    let answer = "HTTP/1.1 200 Fine\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nAccess-Control-Allow-Origin: *\r\n\
                  Access-Control-Allow-Credentials: true\r\nAlt-Svc: h3=\":443\"\r\nClear-Site-Data: \"*\"\r\n\
                  Refresh: 0; url=http://evil\r\nService-Worker-Allowed: /\r\nNEL: {}\r\nReport-To: {}\r\n\
                  Strict-Transport-Security: max-age=1\r\nProxy-Authenticate: Basic\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                  Pleo-Proxy-Error: forged\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi";
    let upstream = Upstream::saying(answer, After::Keep);
    let stage = stage(&upstream, "").await;
    let got = stage.caller().get("/v1/x");
    let mut names: Vec<_> =
        got.head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
    names.sort_unstable();
    let expected = [
        "content-length",
        "content-type",
        "cross-origin-resource-policy",
        "date",
        "x-content-type-options",
    ];
    assert_eq!((names, got.text().as_str()), (expected.to_vec(), "hi"));
    let shown = stage.caller().ask(
        "GET",
        "/v1/x",
        &["Sec-Fetch-Site: none", "Sec-Fetch-Dest: document"],
        b"",
    );
    assert!(shown.header("content-security-policy").unwrap().contains("sandbox"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_on_the_api_is_local_and_no_location_is_followed() {
    let foreign = Upstream::fine();
    let elsewhere = format!("{}/steal?x=1", foreign.origin);
    let location = elsewhere.clone();
    let upstream = Upstream::start(move |visit| {
        let own =
            visit.head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        let to = match visit.target() {
            "/absolute" => format!("http://{own}/v1/y?z=%2F#f"),
            "/relative" => "/v1/y".to_owned(),
            "/upper" => format!("HTTP://{own}/v1/y"),
            "/scheme" => "//evil.example/x".to_owned(),
            "/longer" => format!("http://{own}.evil.example/x"),
            _ => location.clone(),
        };
        visit.say(format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
        ));
        After::Keep
    });
    let stage = stage(&upstream, "").await;
    let (own, api) = (stage.proxy.address(), upstream.address);
    let mut caller = stage.caller();
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
        let before = upstream.seen().len();
        let answer = caller.get(target);
        assert_eq!(
            (answer.status, answer.all("location")),
            (307, vec![expected.as_str()]),
            "{target}"
        );
        assert_eq!(upstream.seen().len(), before + 1, "{target}");
    }
    assert!(foreign.seen().is_empty());
}

// --- Answers of every shape.

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_body_keep_their_fields() {
    let upstream = Upstream::start(|visit| {
        let _ = visit.body();
        let answer = match visit.target() {
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
        visit.say(answer);
        After::Keep
    });
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    let head = caller.ask("HEAD", "/head", &[], b"");
    assert_eq!((head.status, head.all("content-length")), (200, vec!["12345"]));
    let head = caller.ask("HEAD", "/head-unknown", &[], b"");
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
async fn ranges_and_packed_bytes_pass_untouched() {
    let packed: Vec<u8> = (0..=255).chain([0x1f, 0x8b, 13, 10, 0]).collect();
    let mut answer = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-260/1000\r\n\
         Content-Type: application/pdf\r\nContent-Length: {}\r\n\r\n",
        packed.len()
    )
    .into_bytes();
    answer.extend_from_slice(&packed);
    let upstream = Upstream::saying(&answer, After::Keep);
    let stage = stage(&upstream, "").await;
    let got = stage.caller().ask(
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
    let upstream = Upstream::start(move |visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for n in 0..3 {
            visit.say(format!("9\r\ndata: {n}\n\n\r\n"));
            gone.lock().unwrap().recv().unwrap();
        }
        visit.say("0\r\nX-Trailer: 1\r\n\r\n");
        After::Keep
    });
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.begin("GET", "/v1/events", &["Accept: text/event-stream"]);
    let head = caller.head();
    assert_eq!((head.status, head.all("content-type")), (200, vec!["text/event-stream"]));
    for n in 0..3 {
        assert_eq!(caller.until("\n\n\r\n"), format!("9\r\ndata: {n}\n\n\r\n"));
        go.send(()).unwrap();
    }
    assert_eq!(caller.until("\r\n\r\n"), "0\r\n\r\n", "trailers stay behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_arrives_piece_by_piece() {
    let (arrived, pieces) = shared();
    let upstream = Upstream::start(move |visit| {
        for _ in 0..2 {
            // The size line, the piece and its end.
            if visit.some("5\r\nhello\r\n".len()).is_ok() {
                arrived.lock().unwrap().send(()).unwrap();
            }
        }
        visit.some("0\r\n\r\n".len()).unwrap();
        visit.say(FINE);
        After::Keep
    });
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.begin("POST", "/v1/x", &["Transfer-Encoding: chunked", "Content-Type: text/csv"]);
    for _ in 0..2 {
        caller.send("5;extension=1\r\nhello\r\n");
        told(&pieces);
    }
    caller.send("0\r\n\r\n");
    assert_eq!(caller.answer().text(), "fine");
    assert_eq!(upstream.last().all("transfer-encoding"), ["chunked"]);
    assert!(upstream.last().all("content-length").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_arrives_with_whatever_method_and_length_it_came() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(caller.ask(method, "/v1/x", &[], b"body").status, 200, "{method}");
        assert_eq!(
            (upstream.last().body, upstream.last().all("content-length")),
            (b"body".to_vec(), vec!["4"])
        );
        assert!(upstream.last().line().starts_with(method));
        caller.begin(method, "/v1/x", &["Transfer-Encoding: chunked"]);
        caller.send("4\r\nbody\r\n0\r\n\r\n");
        assert_eq!(caller.answer().status, 200, "{method}");
        assert_eq!(upstream.last().body, b"body", "{method}");
        assert_eq!(
            caller.ask(method, "/v1/x", &["Content-Length: 0"], b"").status,
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
async fn a_caller_who_asks_first_is_told_to_go_on_here() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.begin("PUT", "/v1/x", &["Content-Length: 4", "Expect: 100-continue"]);
    assert_eq!(caller.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    caller.send("body");
    assert_eq!(caller.answer().text(), "fine");
    assert_eq!(upstream.last().body, b"body");
    assert!(upstream.last().all("expect").is_empty());

    let mut caller = stage.caller();
    caller.begin("PUT", "/@nobody/v1/x", &["Content-Length: 4", "Expect: 100-continue"]);
    is(&caller.answer(), 404, "account_unknown");
    assert_eq!(upstream.seen().len(), 1, "the body is not asked for in vain");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_http_is_understood_on_either_side() {
    let upstream = Upstream::start(|visit| {
        let _ = visit.body();
        match visit.target() {
            "/chunked" => visit
                .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
            _ => visit.say("HTTP/1.0 200 OK\r\n\r\nto the end"),
        }
        if visit.target() == "/chunked" { After::Keep } else { After::Close }
    });
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.send(format!("GET /chunked HTTP/1.0\r\nHost: {}\r\n\r\n", stage.proxy.address()));
    let answer = caller.answer();
    assert!(answer.all("transfer-encoding").is_empty(), "{}", answer.head);
    assert_eq!(answer.text(), "abc");
    assert!(caller.is_closed());
    assert_eq!(upstream.last().line(), "GET /chunked HTTP/1.1");
    let mut caller = stage.caller();
    assert_eq!(caller.get("/old").text(), "to the end");
    assert_eq!(caller.get("/old").text(), "to the end", "the caller's connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ways_to_tell_a_length_the_safe_one_counts() {
    let upstream = Upstream::start(|visit| {
        visit.say(match visit.target() {
            "/both" => {
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        });
        After::Close
    });
    let stage = stage(&upstream, "").await;
    for target in ["/both", "/same"] {
        let answer = stage.caller().get(target);
        if answer.status == 502 {
            is(&answer, 502, "upstream_broken");
            continue;
        }
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"), "{target}");
        assert_eq!(
            answer.all("content-length").len() + answer.all("transfer-encoding").len(),
            1,
            "{}",
            answer.head
        );
    }
}

// --- Faults of the upstream.

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let stage = stage_at(&format!("http://127.0.0.1:{port}"), "", &[]).await;
    let answer = stage.caller().get("/v1/x");
    is(&answer, 502, "upstream_unreachable");
    assert!(answer.told("detail").contains(&port.to_string()), "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
    let mut caller = stage.caller();
    is(&caller.ask("POST", "/v1/x", &[], b"body"), 502, "upstream_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_makes_no_sense_is_not_passed_on() {
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        (0..150).map(|n| format!("X-{n}: 1\r\n")).collect::<String>()
    );
    let large = format!("HTTP/1.1 200 OK\r\nX-Secret-Marker: {}\r\n\r\n", "a".repeat(600 << 10));
    for answer in [
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
        let upstream = Upstream::saying(answer, After::Close);
        let stage = stage(&upstream, "").await;
        let mut caller = stage.caller();
        let got = caller.ask("POST", "/v1/x", &[], b"body");
        let shown = &answer[..answer.len().min(100)];
        assert_eq!(got.problem(), (502, "upstream_broken".to_owned()), "{shown} {}", got.text());
        assert!(!got.text().to_ascii_lowercase().contains("secret-marker"), "{}", got.text());
        assert_eq!(upstream.seen().len(), 1, "nothing is repeated: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_slow_is_given_up_and_its_connection_closed() {
    let (closed, ends) = shared();
    let upstream = Upstream::start(move |visit| {
        if visit.target() == "/fine" {
            return visit.fine();
        }
        let _ = visit.body();
        if visit.target() == "/hints" {
            while visit.try_say("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n").is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        closed.lock().unwrap().send(visit.until_closed()).unwrap();
        After::Close
    });
    let stage = stage(&upstream, "[upstream]\nresponse_timeout = \"300ms\"\n").await;
    let mut caller = stage.caller();
    for (method, target, body) in
        [("GET", "/silent", &b""[..]), ("POST", "/silent", b"body"), ("GET", "/hints", b"")]
    {
        let answer = caller.ask(method, target, &[], body);
        is(&answer, 504, "upstream_timeout");
        assert!(told(&ends), "{method} {target}");
    }
    assert_eq!(upstream.seen().len(), 3, "nothing is repeated");
    assert_eq!(caller.get("/fine").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_an_answer_begins_at_the_end_of_the_request() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "[upstream]\nresponse_timeout = \"1s\"\n").await;
    let mut caller = stage.caller();
    caller.begin("PUT", "/v1/x", &["Content-Length: 6"]);
    for piece in ["ab", "cd", "ef"] {
        caller.send(piece);
        thread::sleep(Duration::from_millis(600));
    }
    let answer = caller.answer();
    assert_eq!(
        (answer.status, upstream.last().body),
        (200, b"abcdef".to_vec()),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_never_a_whole_answer() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n5\r\nse",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\nnonsense\r\n",
    ] {
        let upstream = Upstream::saying(answer, After::Close);
        let stage = stage(&upstream, "").await;
        let mut caller = stage.caller();
        caller.begin("GET", "/v1/x", &[]);
        let got = caller.answer();
        assert!(got.status == 200 && !got.complete, "{answer}: {got:?}");
        let mut caller = stage.caller();
        caller.begin("GET", "/v1/x", &[]);
        assert!(caller.until("first").starts_with("HTTP/1.1 200"), "what came is passed on");
        assert_eq!(upstream.seen().len(), 2, "nothing is sent again");
    }
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    for kind in [ApiFaultKind::ResetMidBody, ApiFaultKind::Drop] {
        let fault = ApiFault { kind, count: Some(1), ..ApiFault::default() };
        sandbox.set_faults(Faults { api_answer: Some(fault), ..Faults::default() });
        let got = Caller::of(&proxy).ask("POST", "/v1/echo", &[], b"body");
        match kind {
            ApiFaultKind::Drop => is(&got, 502, "upstream_broken"),
            _ => assert!(got.status == 200 && !got.complete, "{got:?}"),
        }
    }
    assert_eq!(Caller::of(&proxy).get("/v1/companies").status, 200);
}

// --- Connections that went stale.

/// Answers the first request of a connection and treats the second as told.
fn good_for_one(second: &'static str) -> Upstream {
    let served = Mutex::new(Vec::new());
    Upstream::start(move |visit| {
        let _ = visit.body();
        let is_second = served.lock().unwrap().contains(&visit.connection);
        if is_second && visit.target() != "/warm" {
            visit.say(second);
            return After::Close;
        }
        served.lock().unwrap().push(visit.connection);
        visit.say(FINE);
        After::Keep
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safe_request_that_a_stale_connection_lost_goes_again() {
    for (method, body) in [("GET", &b""[..]), ("HEAD", b""), ("GET", b"body"), ("OPTIONS", b"")] {
        let upstream = good_for_one("");
        let stage = stage(&upstream, "").await;
        let mut caller = stage.caller();
        assert_eq!(caller.get("/warm").status, 200);
        assert_eq!(caller.ask(method, "/v1/x", &[], body).status, 200, "{method}");
        let seen = upstream.seen();
        let connections: Vec<_> = seen.iter().map(|it| it.connection).collect();
        assert_eq!(connections, [0, 0, 1], "{method}");
        assert_eq!((&seen[1].body, &seen[2].body), (&body.to_vec(), &body.to_vec()), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_stale_connection_lost_is_told_not_repeated() {
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let upstream = good_for_one("");
        let stage = stage(&upstream, "").await;
        let mut caller = stage.caller();
        assert_eq!(caller.get("/warm").status, 200);
        is(&caller.ask(method, "/v1/x", &[], b"body"), 502, "upstream_broken");
        assert_eq!(upstream.seen().len(), 2, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_again_once_there_was_a_byte_of_an_answer() {
    for answer in ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
        let upstream = good_for_one(answer);
        let stage = stage(&upstream, "").await;
        let mut caller = stage.caller();
        assert_eq!(caller.get("/warm").status, 200);
        is(&caller.get("/v1/x"), 502, "upstream_broken");
        assert_eq!(upstream.seen().len(), 2, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_at_rest_is_not_noticed_by_anybody() {
    let upstream = Upstream::saying(FINE, After::Close);
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    for n in 0..20 {
        let answer = caller.ask(if n % 2 == 0 { "GET" } else { "POST" }, "/v1/x", &[], b"body");
        assert_eq!(answer.status, 200, "{n} {}", answer.text());
        // The proxy sees the end of the connection before the next request, as it does after any
        // pause.
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(upstream.seen().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_ready_before_the_next_request_comes() {
    let upstream = Upstream::saying(FINE, After::Close);
    let stage = stage(&upstream, "").await;
    // What the login asked over is another client's.
    let others = upstream.open();
    let ready =
        || upstream.open().into_iter().filter(|open| !others.contains(open)).collect::<Vec<_>>();
    assert_eq!(stage.caller().get("/v1/x").status, 200);
    for _ in 0..2 {
        let used = upstream.last().peer;
        eventually("the connection that was used has been replaced", || {
            !ready().contains(&used) && !ready().is_empty()
        });
        // The upstream may know of it before the proxy does.
        thread::sleep(Duration::from_millis(100));
        let ready = ready();
        assert_eq!(stage.caller().get("/v1/x").status, 200);
        let used = upstream.last().peer;
        assert!(
            ready.contains(&used),
            "{used} was made for the request, though {ready:?} stood ready"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_upload_is_passed_on_and_the_connection_is_not_used_again()
{
    let upstream = Upstream::start(|visit| {
        if visit.target() == "/fine" {
            return visit.fine();
        }
        visit.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge");
        visit.until_closed();
        After::Close
    });
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.begin("PUT", "/v1/x", &["Content-Length: 8000000"]);
    caller.send(vec![b'a'; 1000]);
    let answer = caller.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "large"));
    assert_eq!(stage.caller().get("/fine").status, 200);
    assert_eq!(upstream.connections(), 2);
}

// --- Callers that leave or stall.

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_cancels_its_own_request() {
    let ((arrived, starts), (ended, ends)) = (shared(), shared());
    let upstream = Upstream::start(move |visit| {
        if visit.target() == "/fine" {
            return visit.fine();
        }
        arrived.lock().unwrap().send(()).unwrap();
        let cancelled = match visit.target() {
            "/waiting" => visit.until_closed(),
            "/upload" => visit.body().is_err(),
            _ => {
                visit.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                while visit.try_say("5\r\nhello\r\n").is_ok() {
                    thread::sleep(Duration::from_millis(1));
                }
                true
            }
        };
        ended.lock().unwrap().send(cancelled).unwrap();
        After::Close
    });
    let stage = stage(&upstream, "").await;
    for (target, line) in [
        ("/waiting", "X-A: 1"),
        ("/waiting", "Content-Length: 0"),
        ("/upload", "Content-Length: 100"),
        ("/download", "X-A: 1"),
    ] {
        let mut caller = stage.caller();
        caller.begin("POST", target, &[line]);
        told(&starts);
        match target {
            "/upload" => caller.send("half"),
            "/download" => {
                caller.until("hello");
            }
            _ => {}
        }
        caller.vanish();
        assert!(told(&ends), "{target} {line}");
        assert_eq!(stage.caller().get("/fine").status, 200);
    }
    assert!(stage.caller().get("/fine").complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_come_back_after_callers_left() {
    let upstream = Upstream::start(|visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegun");
        visit.until_closed();
        After::Close
    });
    let stage = stage(&upstream, "").await;
    let descriptors =
        || fs::read_dir(format!("/proc/{}/fd", stage.proxy.child.id())).unwrap().count();
    let before = descriptors();
    for _ in 0..100 {
        let mut caller = stage.caller();
        caller.begin("GET", "/v1/x", &[]);
        caller.until("begun");
        caller.vanish();
    }
    eventually("the descriptors are closed", || descriptors() <= before + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_given_up_either_way() {
    let (closed, ends) = shared();
    let upstream = Upstream::start(move |visit| {
        if visit.target() == "/down" {
            visit.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        }
        closed.lock().unwrap().send(visit.until_closed()).unwrap();
        After::Close
    });
    let stage = stage(&upstream, "[upstream]\nidle_timeout = \"300ms\"\n").await;
    let mut caller = stage.caller();
    caller.begin("GET", "/down", &[]);
    let answer = caller.answer();
    assert!(answer.status == 200 && !answer.complete);
    assert!(told(&ends));

    let mut caller = stage.caller();
    caller.begin("PUT", "/up", &["Content-Length: 10"]);
    caller.send("half");
    is(&caller.answer(), 400, "bad_request");
    assert!(caller.is_closed());
    assert!(told(&ends));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stops_reading_is_given_up() {
    let (release, parked) = signal();
    let upstream = Upstream::start(move |_| {
        // The head was read; nothing of the body ever is.
        let _ = parked.lock().unwrap().recv_timeout(PATIENCE);
        After::Close
    });
    let limits = "[upstream]\nidle_timeout = \"300ms\"\nresponse_timeout = \"300ms\"\n";
    let stage = stage(&upstream, limits).await;
    let mut caller = stage.caller();
    caller.begin("PUT", "/v1/x", &["Content-Length: 100000000"]);
    while caller.try_send(vec![b'x'; 65_536]).is_ok() {}
    assert!(caller.rest().contains("upstream_timeout") || caller.is_closed());
    let metrics =
        stage.proxy.admin(reqwest::Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("refused_requests_total{code=\"upstream_timeout\"} 1"), "{metrics}");
    release.send(()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_stops_reading_is_given_up() {
    let (closed, ends) = shared();
    let upstream = Upstream::start(move |visit| {
        visit.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while visit.try_say(&chunk).is_ok() {}
        closed.lock().unwrap().send(true).unwrap();
        After::Close
    });
    let stage = stage(&upstream, "[upstream]\nidle_timeout = \"300ms\"\n").await;
    let mut caller = stage.caller();
    caller.begin("GET", "/v1/x", &[]);
    caller.some(1);
    assert!(
        told(&ends),
        "the upstream's connection is closed while the caller still holds its own"
    );
    drop(caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_ends_the_upstream_request_unfinished() {
    let (ended, ends) = shared();
    let upstream = Upstream::start(move |visit| {
        ended.lock().unwrap().send(visit.body().is_err()).unwrap();
        visit.say(FINE);
        After::Close
    });
    let stage = stage(&upstream, "").await;
    for broken in ["3\r\nabcXX", "0x3\r\nabc\r\n", "10000000000000000\r\n", "-1\r\n"] {
        let mut caller = stage.caller();
        caller.begin("POST", "/v1/x", &["Transfer-Encoding: chunked"]);
        caller.send(format!("3\r\nabc\r\n{broken}"));
        let rest = caller.rest();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{broken}: {rest}");
        assert!(told(&ends), "{broken}: the upstream must not take it for a whole request");
    }
}

// --- TLS and outbound proxies.

/// A root in PEM, and a server's configuration with a certificate of it for this name.
fn certified(name: &str) -> (String, ServerConfig) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key);
    (pem, config.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_known_root_and_the_right_name_get_a_credential() {
    let (pem, config) = certified("127.0.0.1");
    let upstream = Upstream::secure(config, support::upstream::Visit::fine);
    let stage = stage_at(&upstream.origin, "", &[]).await;
    let answer = stage.caller().get("/v1/x");
    is(&answer, 502, "upstream_unreachable");
    assert!(answer.told("fix").contains("endpoints.ca_file"), "{}", answer.text());
    assert!(upstream.seen().is_empty());

    let ca_file = stage.place.path().join("ca.pem");
    fs::write(&ca_file, &pem).unwrap();
    let set = format!("endpoints.ca_file=\"{}\"", ca_file.display());
    let trusting = stage_at(&upstream.origin, "", &["--set", &set]).await;
    let mut caller = trusting.caller();
    assert_eq!(caller.ask("POST", "/v1/x", &[], b"body").text(), "fine");
    assert_eq!(caller.get("/v1/y").text(), "fine");
    assert_eq!((upstream.seen().len(), upstream.connections()), (2, 1));
    let mut caller = trusting.caller();
    let authority = upstream.address;
    caller.send(format!("GET http://{authority}/v1/z HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    assert_eq!(caller.answer().text(), "fine");

    let (other_pem, other) = certified("other.example");
    fs::write(&ca_file, &other_pem).unwrap();
    let upstream = Upstream::secure(other, support::upstream::Visit::fine);
    let stage = stage_at(&upstream.origin, "", &["--set", &set]).await;
    is(&stage.caller().get("/v1/x"), 502, "upstream_unreachable");
    assert!(upstream.seen().is_empty());
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
    let upstream = Upstream::fine();
    let stage = stage(&upstream, &format!("[upstream]\nproxy = \"{origin}\"\n")).await;
    assert_eq!(stage.caller().get("/v1/x").status, 200);

    let sandbox = sandbox().await;
    let place = Place::new(&config_before(&sandbox, &upstream.origin, ""));
    let mut command = place.command(&["--json"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env(name, &origin);
    }
    let proxy = Proxy::launch(command, &place.state());
    proxy.login("default").await;
    assert_eq!(Caller::of(&proxy).get("/v1/x").status, 200);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_else_is_reached_through_the_outbound_proxy_only() {
    let (origin, calls) = counting_proxy();
    let more = format!("[upstream]\nproxy = \"{origin}\"\nconnect_timeout = \"5s\"\n");
    let stage = stage_at("https://external.test.invalid", &more, &[]).await;
    let before = calls.load(Ordering::SeqCst);
    let answer = stage.caller().get("/v1/x");
    is(&answer, 502, "upstream_unreachable");
    assert!(answer.told("detail").contains("proxy"), "{}", answer.text());
    // More than one, if a connection was to be made ready in that moment.
    assert!(calls.load(Ordering::SeqCst) > before);
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
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.get("/v1/companies").status, 200);
    let before = peak(&proxy);

    let pattern: Vec<u8> = (0..PIECE).map(|at| u8::try_from(at % 251).unwrap()).collect();
    caller.begin("GET", &format!("/v1/bytes?n={LENGTH}"), &[]);
    assert_eq!(caller.head().all("content-length"), [LENGTH.to_string()]);
    for _ in 0..LENGTH / PIECE {
        assert!(caller.some(PIECE) == pattern);
    }
    for framing in [format!("Content-Length: {LENGTH}"), "Transfer-Encoding: chunked".to_owned()] {
        let chunked = framing.starts_with("Transfer");
        caller.begin("PUT", "/v1/sink", &[&framing]);
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
        let answer = caller.answer();
        assert!(answer.text().contains(&format!("\"length\":{LENGTH}")), "{}", answer.text());
    }
    let grown = peak(&proxy) - before;
    assert!(grown < 48 << 10, "{grown} KiB");
}
