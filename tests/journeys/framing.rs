//! Where a request ends: lengths, chunks, line ends and fields that could be read in two ways.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};

use super::both_listeners::{BOTH, Door, GET, POST, Scene, answers, each, wait_until_closed};
use support::{After, OK_RESPONSE, TIMEOUT, Upstream, wait_until};

// --- Where a body ends: T29 to T36, T59, T69.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_refuse_ambiguous_lengths() {
    let scene = Scene::set("").await;
    let inner = "GET /smuggled HTTP/1.1\nHost: HOST\n\n";
    let coding = format!("{POST}Transfer-EncodingVALUE\n\n0\n\n{inner}");
    let none = [
        ": xchunked",
        ": chunked, identity",
        ": chunked\nTransfer-Encoding: identity",
        " : chunked",
        "\t: chunked",
        ": \u{b}chunked",
        ": chunked\u{b}",
        ": \u{0}chunked",
        ": \"chunked\"",
        ": chunked;q=1",
        ": identity",
        ": ",
        ":\n chunked",
    ];
    each(&scene, &BOTH, &coding, &none, "400 bad_request");
    let unsafe_ones = [
        ": gzip, chunked",
        ": chunked, chunked",
        ": chunked\nTransfer-Encoding: chunked",
        ": identity\nTransfer-Encoding: chunked",
        ": , chunked",
        ": chunked\nTransfer-Encoding:\u{20}\nTransfer-Encoding: chunked",
    ];
    each(&scene, &BOTH, &coding, &unsafe_ones, "400 bad_request");
    let length = format!("{POST}Content-LengthVALUE\n\n{inner}");
    let lengths = [
        ": 3\nContent-Length: 4",
        ": 3, 3",
        ": 3, 4",
        ": +3",
        ": -1",
        ": 0x3",
        ": 3;",
        ": 3 3",
        ": 3.0",
        ": 3e0",
        ": ",
        " : 3",
        ": 18446744073709551616",
        ": 99999999999999999999999999999",
        ": \u{b2}",
    ];
    each(&scene, &BOTH, &length, &lengths, "400 bad_request");
    each(&scene, &BOTH, &length, &[": 18446744073709551615"], "400 bad_request");
    let old =
        "POST PATH HTTP/1.0\nHost: HOST\nVALUE\n\n0\n\nGET /smuggled HTTP/1.1\nHost: HOST\n\n";
    let in_old = ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked\nContent-Length: 5"];
    each(&scene, &BOTH, old, &in_old, "400 bad_request");
    let refused =
        format!("POST PATH HTTP/1.1\nHost: HOST\nOrigin: null\nContent-Length: 50\n\n{inner}");
    scene.attack_all(
        &BOTH,
        &[("a request in a refused one's body", &refused, "403 forbidden_origin")],
    );
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_encoding_overrides_content_length_and_ends_the_connection() {
    let scene = Scene::set("").await;
    let inner = "GET /smuggled HTTP/1.1\nHost: HOST\n\n";
    let lengths = [
        "Content-Length: 6\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 6",
    ];
    for both in lengths {
        let attack = format!("POST PATH HTTP/1.1\nHost: HOST\n{both}\n\n0\n\n{inner}");
        scene.attack(Door::Data, (both, &attack, "200"));
        let seen = scene.upstream.last();
        assert!(
            seen.body.is_empty()
                && seen.all("content-length").len() + seen.all("transfer-encoding").len() <= 1
        );
        scene.attack(Door::Admin, (both, &attack, "405 method_not_allowed"));
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_but_unambiguous_lengths_are_normalized_for_the_upstream() {
    let scene = Scene::set("").await;
    let chunked = "3\nabc\n0\n\n";
    for (line, body, sent) in [
        ("Content-Length: 003", "abc", "3"),
        ("Content-Length: 00000000000000000000000000003", "abc", "3"),
        ("Content-Length: 3\nContent-Length: 3", "abc", "3"),
        ("Content-Length: 3 ", "abc", "3"),
        ("CONTENT-LENGTH:3", "abc", "3"),
        ("Transfer-Encoding: cHuNkEd", chunked, "chunked"),
        ("Transfer-Encoding:\tchunked\t ", chunked, "chunked"),
        (
            "Transfer-Encoding: chunked\nTransfer_Encoding: identity\nContent_Length: 7",
            chunked,
            "chunked",
        ),
    ] {
        scene.attack(Door::Data, (line, &format!("{POST}{line}\n\n{body}"), "200"));
        let seen = scene.upstream.last();
        let framing = [seen.all("content-length"), seen.all("transfer-encoding")].concat();
        assert_eq!((framing, &*seen.body), (vec![sent], &b"abc"[..]), "{line}");
        assert!(!seen.names().iter().any(|name| name.contains('_')), "{}", seen.head);
    }
    scene.unharmed().await;
}

/// An upstream that says how each body that it reads has ended.
fn reading() -> (Upstream, mpsc::Receiver<bool>) {
    let (ended, ends) = mpsc::channel();
    let ended = Mutex::new(ended);
    let upstream = Upstream::start(move |incoming| {
        let whole = incoming.body().is_ok();
        if incoming.target() != "/v1/honest" {
            ended.lock().unwrap().send(whole).unwrap();
        }
        incoming.respond(OK_RESPONSE);
        if whole { After::Keep } else { After::Close }
    });
    (upstream, ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_abort_both_requests() {
    let (upstream, ends) = reading();
    let scene = Scene::before(upstream, "").await;
    let long = format!("3;{}\nabc\n0\n\n", "x".repeat(20 << 10));
    for (name, chunks) in [
        ("an extension of 20 KiB", &*long),
        ("LF in an extension", "3;a¶b\nabc\n0\n\n"),
        ("LF after an extension", "3;a¶abc\n0\n\n"),
        ("LF after a length", "3¶abc\n0\n\n"),
        ("a length with a sign", "+3\nabc\n0\n\n"),
        ("a length below zero", "-1\nabc\n0\n\n"),
        ("a length with a prefix", "0x3\nabc\n0\n\n"),
        ("a length of 17 digits", "10000000000000000\nabc\n0\n\n"),
        ("no length", "\nabc\n0\n\n"),
        ("more than the length", "3\nabcXX\n0\n\n"),
        ("LF after the data", "3\nabc¶0\n\n"),
        ("a trailer of 70 KiB", &format!("3\nabc\n0\nX-A: {}\n\n", "x".repeat(70 << 10))),
    ] {
        // Something arrives before it, so that the upstream has the head.
        let head = "POST PATH HTTP/1.1\nHost: HOST\nTransfer-Encoding: chunked\n\n2\nok\n";
        let before = scene.upstream.requests().len();
        let mut stream = TcpStream::connect(scene.address(Door::Data)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(&scene.wire(Door::Data, head)).unwrap();
        wait_until("the head is at the upstream", || scene.upstream.requests().len() > before);
        let _ = stream.write_all(
            &scene.wire(Door::Data, &format!("{chunks}GET /smuggled HTTP/1.1\nHost: HOST\n\n")),
        );
        let got = wait_until_closed(&mut stream);
        assert!(
            matches!(&*answers(&got), "" | "400 bad_request"),
            "{name}: {}",
            String::from_utf8_lossy(&got)
        );
        assert_eq!(
            ends.recv_timeout(TIMEOUT),
            Ok(false),
            "{name}: the upstream must not take it for whole"
        );
    }
    assert!(scene.upstream.requests().iter().all(|seen| seen.target() != "/smuggled"));
    assert_eq!(scene.setup.caller().get("/v1/honest").status, 200);
}

// --- What is a head: T37, T38, T55, T78, T80.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_refuse_bytes_that_are_not_http() {
    let scene = Scene::set("").await;
    let field = format!("{GET}VALUE\n\n");
    let fields = [
        "X-A: b\n folded",
        "X-A: b\n\tfolded",
        "X-A: b\rc",
        "X-A: b\r",
        "X-A: b\rX-B: c",
        "X-A: b\u{0}c",
        "X-A: b\u{1}c",
        "X-A: b\u{7f}c",
        "X-A\u{0}: b",
        "X A: b",
        "X\tA: b",
        " X-A: b",
        "X-A : b",
        "X-A\t: b",
        ": b",
        "no colon",
        "nocolon",
        "author\u{ef}ization: Bearer evil",
        "\u{e9}: b",
        "X-A(: b",
    ];
    each(&scene, &BOTH, &field, &fields, "400 bad_request");
    let line = "VALUE\nHost: HOST\nConnection: close\n\n";
    let lines = [
        "GET PATH",
        "GET PATH HTTP/1.2",
        "GET PATH HTTP/0.9",
        "GET PATH HTTP/2",
        "GET PATH http/1.1",
        "GET  PATH HTTP/1.1",
        "GET PATH  HTTP/1.1",
        "GET\tPATH\tHTTP/1.1",
        "GET PATH HTTP/1.1 ",
        "GET PATH HTTP/1.1\rX-A: b",
        " GET PATH HTTP/1.1",
        "G@T PATH HTTP/1.1",
        "G\u{0}T PATH HTTP/1.1",
        "PATH HTTP/1.1",
        "HTTP/1.1 200 OK",
        "GET PATH?\u{0} HTTP/1.1",
        "GET PATH?\u{1} HTTP/1.1",
        "GET PATH?\u{7f} HTTP/1.1",
        "GET PATH?\tx HTTP/1.1",
        "GET PATH?\u{e9} HTTP/1.1",
        "GET PATH HTTP/1.1\n folded: b",
    ];
    each(&scene, &BOTH, line, &lines, "400 bad_request");
    let others = [
        ("lines that end in CR alone", "GET PATH HTTP/1.1\rHost: HOST\r\r", "400 bad_request"),
        (
            "HTTP/2 without asking",
            "PRI * HTTP/2.0\n\nSM\n\n\0\0\0\u{4}\0\0\0\0\0",
            "400 bad_request",
        ),
        (
            "a greeting of TLS",
            "\u{16}\u{3}\u{1}\0\u{5}\u{1}\0\0\u{1}\0\u{3}\u{3}\n\n",
            "400 bad_request",
        ),
        ("another protocol", "EHLO evil.test\n", "400 bad_request"),
    ];
    scene.attack_all(&BOTH, &others);
    let log = scene.setup.proxy.log();
    assert!(log.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{log:?}");
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_ending_in_lf_alone_are_checked_and_forwarded_with_crlf() {
    let scene = Scene::set("").await;
    for (door, status) in [(Door::Data, "200"), (Door::Admin, "200")] {
        scene.attack(
            door,
            ("all lines", "GET PATH HTTP/1.1¶Host: HOST¶Connection: close¶¶", status),
        );
        scene.attack(door, ("a field", &format!("{GET}X-A: a¶X-B: b\n\n"), status));
        scene.attack(door, ("the last line", &format!("{GET}¶"), status));
        scene.attack(door, ("empty lines before", &format!("\n¶{GET}\n"), status));
    }
    scene.attack(Door::Data, ("a body", &format!("{POST}Content-Length: 3¶¶abc"), "200"));
    let seen = scene.upstream.last();
    assert_eq!((&*seen.body, seen.line()), (&b"abc"[..], "POST /v1/x HTTP/1.1"));
    assert_eq!(
        seen.head.matches('\n').count(),
        seen.head.matches("\r\n").count(),
        "{:?}",
        seen.head
    );
    let attacks = [
        ("a foreign Host", "GET PATH HTTP/1.1¶Host: evil.test¶¶", "403 forbidden_host"),
        ("a second Host", "GET PATH HTTP/1.1\nHost: HOST¶Host: evil.test\n\n", "400 bad_request"),
        (
            "a page",
            "GET PATH HTTP/1.1\nHost: HOST\nX-A: a¶Origin: http://evil.test\n\n",
            "403 forbidden_origin",
        ),
        (
            "a second length",
            "POST PATH HTTP/1.1\nHost: HOST\nContent-Length: 3¶Content-Length: 4\n\nabcd",
            "400 bad_request",
        ),
        ("a folded line", "GET PATH HTTP/1.1¶Host: HOST¶X-A: b¶ c¶¶", "400 bad_request"),
    ];
    scene.attack_all(&BOTH, &attacks);
    scene.unharmed().await;
}

// --- What comes back: T76.

#[tokio::test(flavor = "multi_thread")]
async fn a_response_with_invalid_header_fields_is_not_forwarded() {
    for field in [
        "X-A: b\r\n secret-marker",
        "X-A: b\r\n\tsecret-marker",
        "X-A: \0secret-marker",
        "secret-marker",
        "X\0A: b",
    ] {
        let upstream = Upstream::start(move |incoming| match incoming.target() {
            "/v1/honest" => incoming.respond_ok(),
            _ => {
                incoming.respond(format!(
                    "HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 4\r\n\r\nfine"
                ));
                After::Keep
            }
        });
        let scene = Scene::before(upstream, "").await;
        let response = scene.setup.caller().get("/v1/x");
        assert_eq!(response.problem(), (502, "upstream_broken".to_owned()), "{field:?}");
        assert!(!response.text().contains("secret-marker"), "{field:?}: {}", response.text());
        assert_eq!(scene.setup.caller().get("/v1/honest").status, 200);
    }
}
