//! Attacks by HTTP, byte for byte, at both listeners: what each is answered, that the connection
//! ends where it must, and that Pleo and the token endpoint get nothing but honest requests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use support::PATIENCE;
use support::upstream::{After, FINE, Stage, Upstream, eventually, stage, stage_at};

/// What an attack is called, its bytes as [`wire`] writes them, and what comes back as [`answers`]
/// reads it.
type Attack<'a> = (&'a str, &'a str, &'a str);

/// Head of an honest request whose answer is the last of its connection; without its empty line.
const GET: &str = "GET PATH HTTP/1.1\nHost: HOST\nConnection: close\n";
/// The same with a body.
const POST: &str = "POST PATH HTTP/1.1\nHost: HOST\nConnection: close\n";

/// A listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Data,
    Admin,
}

const BOTH: [Door; 2] = [Door::Data, Door::Admin];

/// A proxy with a connected account, and what is behind it.
struct Scene {
    upstream: Upstream,
    stage: Stage,
    /// What an honest request carries.
    token: String,
    posts: u64,
    grant: Value,
}

impl Scene {
    async fn set(more: &str) -> Self {
        Self::before(Upstream::fine(), more).await
    }

    async fn before(upstream: Upstream, more: &str) -> Self {
        let stage = stage(&upstream, more).await;
        assert_eq!(stage.caller().get("/v1/honest").status, 200);
        let (token, posts) = (upstream.last().token(), stage.sandbox.counters().token_posts);
        let grant = grant(&stage).await;
        Self { upstream, stage, token, posts, grant }
    }

    fn address(&self, door: Door) -> SocketAddr {
        match door {
            Door::Data => self.stage.proxy.address(),
            Door::Admin => self.stage.proxy.admin_address(),
        }
    }

    /// The bytes of an attack: a line break is CR LF, `¶` is LF alone, every other character one
    /// byte. HOST and PORT are the listener's, OTHER the other one's, API the upstream's, PATH
    /// something that is served here.
    fn wire(&self, door: Door, text: &str) -> Vec<u8> {
        let (own, other) = match door {
            Door::Data => (Door::Data, Door::Admin),
            Door::Admin => (Door::Admin, Door::Data),
        };
        let path = if door == Door::Data { "/v1/x" } else { "/health" };
        let text = text.replace("HOST", &self.address(own).to_string()).replace("PATH", path);
        let text =
            text.replace("PORT", &self.address(own).port().to_string()).replace('\n', "\r\n");
        let text = text.replace("OTHER", &self.address(other).to_string()).replace('¶', "\n");
        let text = text.replace("API", &self.upstream.address.to_string());
        text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
    }

    /// Sends an attack and looks at all that it did. Each answer 200 of the data listener is one
    /// honest request.
    fn attack(&self, door: Door, (name, text, expected): Attack<'_>) {
        let before = self.upstream.seen().len();
        let got = exchange(self.address(door), &self.wire(door, text));
        assert_eq!(answers(&got), expected, "{name}, {door:?}: {}", String::from_utf8_lossy(&got));
        let served = if door == Door::Data {
            expected.split(", ").filter(|it| *it == "200").count()
        } else {
            0
        };
        let seen = self.upstream.seen().split_off(before);
        assert_eq!(seen.len(), served, "{name}, {door:?}: {seen:#?}");
        assert!(seen.iter().all(|it| it.token() == self.token), "{name}: {seen:#?}");
        assert!(seen.iter().all(|it| !it.head.contains("smuggled")), "{name}: {seen:#?}");
    }

    fn attack_all(&self, doors: &[Door], attacks: &[Attack<'_>]) {
        for door in doors {
            attacks.iter().for_each(|attack| self.attack(*door, *attack));
        }
    }

    /// Nothing happened that shows late, and both listeners serve.
    async fn unharmed(self) {
        assert_eq!(grant(&self.stage).await, self.grant);
        assert_eq!(self.stage.sandbox.counters().token_posts, self.posts);
        let before = self.upstream.seen().len();
        self.attack_all(&BOTH, &[("honest", &format!("{GET}\n"), "200")]);
        assert_eq!(self.upstream.seen().len(), before + 1);
    }
}

/// What would show that the account was changed.
async fn grant(stage: &Stage) -> Value {
    let account = stage.proxy.account("default").await;
    json!([
        account["state"],
        account["generation"],
        account["last_login"],
        account["last_login_error"]
    ])
}

/// All that comes back until the proxy closes the connection, which it must.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before everything is written.
    let _ = stream.write_all(bytes);
    until_closed(&mut stream)
}

fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got);
    let still_open = end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    assert!(!still_open, "not closed after {}", String::from_utf8_lossy(&got));
    got
}

/// True if an answer began and is shorter than its head says.
fn is_cut(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return !bytes.is_empty() };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.is_some_and(|length| body.len() < length.trim().parse().unwrap())
}

/// Status and code of each answer in turn, such as `200, 403 forbidden_host`; without a code for
/// answers of the upstream and for those without any content that hyper gives to what is no
/// request.
fn answers(mut bytes: &[u8]) -> String {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = field("content-length:").map_or(0, |length| length.parse().unwrap());
        let body = &bytes[end..end + length];
        let status = head.split(' ').nth(1).unwrap();
        let code = field("pleo-proxy-error:");
        assert_eq!(
            code.is_some(),
            field("content-type:") == Some("application/problem+json"),
            "{head}"
        );
        match code {
            Some(code) => assert_is_problem(code, body),
            None => assert!(status.starts_with('2') || body.is_empty(), "{head}"),
        }
        assert!(status != "401" && status != "101", "{head}");
        assert!(!head.contains("access-control-"), "{head}");
        all.push([Some(status), code].into_iter().flatten().collect::<Vec<_>>().join(" "));
        bytes = &bytes[end + length..];
    }
    all.join(", ")
}

fn assert_is_problem(code: &str, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["code"], code, "{body}");
    assert!(
        ["title", "detail"]
            .iter()
            .all(|field| body[field].as_str().is_some_and(|text| !text.is_empty())),
        "{body}"
    );
}

/// One attack for each value, made of a pattern in which `VALUE` stands for it.
fn each(scene: &Scene, doors: &[Door], pattern: &str, values: &[&str], expected: &str) {
    for value in values {
        let text = pattern.replace("VALUE", value);
        scene.attack_all(doors, &[(value, &text, expected)]);
    }
}

// --- Who asks: T5 to T19, T39.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_know_their_own_hosts_and_nobody_elses() {
    let scene = Scene::set("").await;
    let host = "GET PATH HTTP/1.1\nHost: VALUE\nConnection: close\n\n";
    let own = ["127.0.0.1:PORT", "localhost:PORT", "LocalHost:PORT", "[::1]:PORT"];
    each(&scene, &BOTH, host, &own, "200");
    let foreign = [
        "0.0.0.0:PORT",
        "[::]:PORT",
        "[::ffff:7f00:1]:PORT",
        "[::ffff:127.0.0.1]:PORT",
        "rebind.test:PORT",
        "rebind.test",
        "localhost.evil.test:PORT",
        "127.0.0.1.evil.test:PORT",
        "evil.localhost:PORT",
        "localhost.:PORT",
        "127.1:PORT",
        "2130706433:PORT",
        "0x7f.0.0.1:PORT",
        "0177.0.0.1:PORT",
        "127.0.0.2:PORT",
        "10.0.2.555:PORT",
        "localhost6:PORT",
        "[::1%25lo]:PORT",
        "[0:0:0:0:0:0:0:1]:PORT",
        "localhost",
        "127.0.0.1",
        "localhost:1",
        "localhost:0PORT",
        "OTHER",
        "API",
    ];
    each(&scene, &BOTH, host, &foreign, "403 forbidden_host");
    let none = [
        "",
        "a@localhost:PORT",
        "localhost:PORT@evil.test",
        "localhost:PORT,evil.test",
        "localhost:PORT/",
        "\u{e9}",
    ];
    each(&scene, &BOTH, host, &none, "400 bad_request");
    let missing = [
        ("no Host", "GET PATH HTTP/1.1\nAccept: a\n\n", "400 bad_request"),
        ("no Host in HTTP/1.0", "GET PATH HTTP/1.0\n\n", "400 bad_request"),
        ("Host twice", "GET PATH HTTP/1.1\nHost: HOST\nHost: HOST\n\n", "400 bad_request"),
        ("two Hosts", "GET PATH HTTP/1.1\nHost: HOST\nHost: evil.test\n\n", "400 bad_request"),
        ("space before the colon", "GET PATH HTTP/1.1\nHost : HOST\n\n", "400 bad_request"),
        (
            "rebound name, in JSON",
            "POST PATH HTTP/1.1\nHost: rebind.test:PORT\nOrigin: http://rebind.test:PORT\n\
             Content-Type: application/json\nContent-Length: 2\n\n{}",
            "403 forbidden_host",
        ),
    ];
    scene.attack_all(&BOTH, &missing);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_refuse_pages_of_others() {
    let scene = Scene::set("").await;
    let origins = [
        "http://evil.test",
        "null",
        "file://",
        "http://localhost:3000",
        "http://OTHER",
        "chrome-extension://aaaabbbb",
        "moz-extension://aaaabbbb",
        "http://HOST/",
        "HTTP://HOST",
        "http://HOST.evil.test",
        "http://HOST0",
        "http://127.0.0.1",
        "http://0.0.0.0:PORT",
        "",
        "\u{e9}",
    ];
    for pattern in [
        format!("{GET}Origin: VALUE\n\n"),
        format!("{POST}Origin: VALUE\nContent-Type: text/plain\nContent-Length: 2\n\n{{}}"),
        "OPTIONS PATH HTTP/1.1\nHost: HOST\nOrigin: VALUE\nAccess-Control-Request-Method: DELETE\n\
         Access-Control-Request-Private-Network: true\n\n"
            .to_owned(),
    ] {
        each(&scene, &BOTH, &pattern, &origins, "403 forbidden_origin");
    }
    let twice = format!("{GET}Origin: VALUE\nOrigin: VALUE\n\n");
    each(&scene, &BOTH, &twice, &["http://HOST", "null"], "400 bad_request");
    // Its own page may call the admin listener; the data listener has no page.
    scene.attack(Door::Admin, ("own page", &format!("{GET}Origin: http://HOST\n\n"), "200"));
    scene.attack(
        Door::Data,
        ("own page", &format!("{GET}Origin: http://HOST\n\n"), "403 forbidden_origin"),
    );
    let site = "GET PATH HTTP/1.1\nHost: HOST\nSec-Fetch-Site: VALUE\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image\n\n";
    each(
        &scene,
        &BOTH,
        site,
        &["cross-site", "same-site", "odd", "", "None"],
        "403 forbidden_origin",
    );
    let web_socket = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
    let own = format!("GET PATH HTTP/1.1\nHost: HOST\n{web_socket}\n");
    let foreign =
        format!("GET PATH HTTP/1.1\nHost: HOST\nOrigin: http://evil.test\n{web_socket}\n");
    let attacks = [
        (
            "service worker",
            "GET PATH HTTP/1.1\nHost: HOST\nService-Worker: script\n\n",
            "403 forbidden_origin",
        ),
        ("a web socket of a page", &foreign, "403 forbidden_origin"),
        ("a web socket of a tool", &own, "400 bad_request"),
    ];
    scene.attack_all(&BOTH, &attacks);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_page_is_allowed_at_the_data_listener_by_its_exact_origin_only() {
    let scene = Scene::set("[guard]\nallow_origins = [\"http://localhost:3000\"]\n").await;
    let origin = format!("{GET}Origin: VALUE\n\n");
    let near = [
        "http://localhost:30001",
        "http://localhost:3000.evil.test",
        "https://localhost:3000",
        "http://localhost:3000/",
        "HTTP://LOCALHOST:3000",
        "http://localhost:3000, http://localhost:3000",
    ];
    each(&scene, &BOTH, &origin, &near, "403 forbidden_origin");
    scene.attack(
        Door::Admin,
        (
            "no page of others",
            &origin.replace("VALUE", "http://localhost:3000"),
            "403 forbidden_origin",
        ),
    );
    let twice = format!("{GET}Origin: http://localhost:3000\nOrigin: http://localhost:3000\n\n");
    scene.attack_all(&BOTH, &[("twice", &twice, "400 bad_request")]);

    let mut caller = scene.stage.caller();
    let asks = [
        "Origin: http://localhost:3000",
        "Access-Control-Request-Method: DELETE",
        "Access-Control-Request-Private-Network: true",
        "Access-Control-Request-Local-Network: true",
    ];
    let before = scene.upstream.seen().len();
    let permitted = caller.ask("OPTIONS", "/v1/x", &asks, b"");
    assert_eq!(
        (permitted.status, permitted.header("access-control-allow-origin")),
        (204, Some("http://localhost:3000"))
    );
    let head = permitted.head.to_ascii_lowercase();
    assert!(!head.contains("private-network") && !head.contains("local-network"), "{head}");
    assert_eq!(scene.upstream.seen().len(), before, "the question is answered here");
    scene.unharmed().await;
}

// --- Where a body ends: T29 to T36, T59, T69.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_turn_ambiguous_lengths_away() {
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
async fn of_both_lengths_the_chunks_count_and_nothing_follows_them() {
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
async fn odd_but_clear_lengths_reach_the_upstream_in_one_plain_form() {
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
    let upstream = Upstream::start(move |visit| {
        let whole = visit.body().is_ok();
        if visit.target() != "/v1/honest" {
            ended.lock().unwrap().send(whole).unwrap();
        }
        visit.say(FINE);
        if whole { After::Keep } else { After::Close }
    });
    (upstream, ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_end_both_requests_unfinished() {
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
        let before = scene.upstream.seen().len();
        let mut stream = TcpStream::connect(scene.address(Door::Data)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&scene.wire(Door::Data, head)).unwrap();
        eventually("the head is at the upstream", || scene.upstream.seen().len() > before);
        let _ = stream.write_all(
            &scene.wire(Door::Data, &format!("{chunks}GET /smuggled HTTP/1.1\nHost: HOST\n\n")),
        );
        let got = until_closed(&mut stream);
        assert!(
            matches!(&*answers(&got), "" | "400 bad_request"),
            "{name}: {}",
            String::from_utf8_lossy(&got)
        );
        assert_eq!(
            ends.recv_timeout(PATIENCE),
            Ok(false),
            "{name}: the upstream must not take it for whole"
        );
    }
    assert!(scene.upstream.seen().iter().all(|seen| seen.target() != "/smuggled"));
    assert_eq!(scene.stage.caller().get("/v1/honest").status, 200);
}

// --- What is a head: T37, T38, T55, T78, T80.

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_turn_away_what_is_no_http() {
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
    let log = scene.stage.proxy.log();
    assert!(log.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{log:?}");
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_end_in_lf_alone_are_judged_and_sent_on_with_cr() {
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

// --- Where it shall go: T40 to T50, T82, T149.

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_no_path_of_the_api_lead_nowhere() {
    let scene = Scene::set("").await;
    let line = "VALUE HTTP/1.1\nHost: HOST\nConnection: close\n\n";
    let refused = [
        "GET foo",
        "GET *",
        "GET HOST",
        "GET @evil.test",
        "GET evil.test:80",
        "GET PATH/../admin",
        "GET PATH/%2e%2E/admin",
        "GET PATH/.%2e",
        "GET PATH/./x",
        "GET PATH/..",
        "GET /..\\admin",
        "GET /\\evil.test/x",
        "GET PATH#fragment",
        "GET PATH?#",
        "GET PATH?\u{c3}\u{a9}",
        "GET PATH\u{c3}\u{a9}",
        "GET PATH?access_token=stolen",
        "GET http://evil.test/x",
        "GET http://HOST@evil.test/x",
        "GET http://OTHER/x",
        "GET http://API/x",
    ];
    each(&scene, &BOTH, line, &refused, "400 bad_request");
    let unreadable =
        ["GET @evil.test/", "GET @HOST/", "GET HOST/v1/x", "GET ?x", "GET http:///x", "GET //"];
    each(&scene, &BOTH, line, &unreadable[..5], "400 bad_request");
    let methods = [
        "CONNECT evil.test:443",
        "TRACE PATH",
        "OPTIONS *",
        "FOO PATH",
        "get PATH",
        "GeT PATH",
        "PRI *",
    ];
    each(&scene, &BOTH, line, &methods, "405 method_not_allowed");
    let whole = "GET VALUE HTTP/1.1\nHost: AUTHORITY\nConnection: close\n\n";
    for authority in [
        "evil.test",
        "evil.test:443",
        "HOST",
        "OTHER",
        "localhost:PORT",
        "API.evil.test",
        "127.0.0.1",
    ] {
        for target in ["http://AUTHORITY/x", "https://AUTHORITY/x", "http://AUTHORITY"] {
            let text = whole.replace("VALUE", target).replace("AUTHORITY", authority);
            // The upstream of the tests has an address with a port, which may be left out.
            let doors = if authority == "127.0.0.1" { &BOTH[1..] } else { &BOTH[..] };
            scene.attack_all(doors, &[(authority, &text, "403 forbidden_host")]);
        }
    }
    let control = whole.replace("VALUE", "http://AUTHORITY/v1/x").replace("AUTHORITY", "API");
    scene.attack(Door::Data, ("the API", &control, "200"));
    assert_eq!(scene.upstream.last().target(), "/v1/x");
    scene.attack(Door::Admin, ("the API", &control, "403 forbidden_host"));
    assert!(!scene.stage.proxy.log().contains("stolen"));
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_writing_of_an_admin_route_is_served_by_the_data_listener() {
    let scene = Scene::set("").await;
    let key = format!("Authorization: Bearer {}\n", scene.stage.proxy.key);
    for target in [
        "/_admin",
        "/%5Fadmin",
        "/%5fadmin/api/status",
        "//_admin",
        "/_admin/",
        "/_ADMIN",
        "/_admin;a=b",
        "/_admin?x",
        "/v1/..%2f_admin",
        "/api/status",
        "/%61pi/status",
        "//api/status",
        "/api//status",
        "/metrics",
        "/health",
        "/callback?code=a&state=b",
        "/connect?account=default",
        "/@default/api/status",
    ] {
        scene.attack(
            Door::Data,
            (
                target,
                &format!("GET {target} HTTP/1.1\nHost: HOST\nConnection: close\n{key}\n"),
                "200",
            ),
        );
        assert_eq!(scene.upstream.last().target(), target.trim_start_matches("/@default"));
    }
    let refused =
        ["GET /v1/../_admin", "GET /%2e%2e/_admin", "GET /_admin/.", "GET /\\_admin", "GET _admin"];
    let line = format!("VALUE HTTP/1.1\nHost: HOST\n{key}\n");
    each(&scene, &[Door::Data], &line, &refused, "400 bad_request");
    let whole = format!("GET http://OTHER/api/status HTTP/1.1\nHost: OTHER\n{key}\n");
    scene.attack(Door::Data, ("in absolute form", &whole, "403 forbidden_host"));
    assert!(scene.upstream.seen().iter().all(|seen| !seen.head.contains(&scene.stage.proxy.key)));
    // Nor is one of the data listener by the admin listener.
    for target in ["/v1/x", "/@default/v1/x", "/v1/introspect"] {
        let text = format!("GET {target} HTTP/1.1\nHost: HOST\nConnection: close\n\n");
        scene.attack(Door::Admin, (target, &text, "404 not_found"));
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_is_judged_by_the_method_on_the_first_line() {
    let scene = Scene::set("[guard]\nread_only = true\n").await;
    let attacks = [
        (
            "POST with _method",
            "POST PATH?_method=GET HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        (
            "a form with _method",
            "POST PATH HTTP/1.1\nHost: HOST\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 11\n\n\
             _method=GET",
            "403 read_only",
        ),
        (
            "an override",
            "POST PATH HTTP/1.1\nHost: HOST\nX-HTTP-Method-Override: GET\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        ("in lower case", "delete PATH HTTP/1.1\nHost: HOST\n\n", "405 method_not_allowed"),
        (
            "search in the query",
            "POST PATH?:search HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        (
            "disconnect",
            "DELETE /v1/installations/me HTTP/1.1\nHost: HOST\n\n",
            "403 protected_operation",
        ),
        (
            "disconnect by _method",
            "POST /v1/installations/me?_method=DELETE HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        ("GET with a body", &format!("{GET}Content-Length: 14\n\n_method=DELETE"), "200"),
        (
            "GET with overrides",
            &format!(
                "{GET}X-HTTP-Method-Override: DELETE\nX_HTTP_Method: DELETE\nX.Method.Override: DELETE\n\n"
            ),
            "200",
        ),
    ];
    scene.attack_all(&[Door::Data], &attacks);
    assert!(!scene.upstream.last().head.contains("DELETE"), "{}", scene.upstream.last().head);
    let all = scene.upstream.seen();
    assert!(all.iter().all(|seen| seen.line().starts_with("GET ")), "{all:#?}");
    scene.unharmed().await;
}

// --- One request behind another: T57, T81.

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_behind_a_request_is_judged_by_itself() {
    let scene = Scene::set("").await;
    let good = "GET PATH HTTP/1.1\nHost: HOST\n\n";
    for (name, second, answer) in [
        ("a foreign Host", "GET /smuggled HTTP/1.1\nHost: evil.test\n\n", "403 forbidden_host"),
        (
            "a page",
            "GET /smuggled HTTP/1.1\nHost: HOST\nOrigin: http://evil.test\n\n",
            "403 forbidden_origin",
        ),
        ("a dot segment", "GET /smuggled/.. HTTP/1.1\nHost: HOST\n\n", "400 bad_request"),
        ("no Host", "GET /smuggled HTTP/1.1\n\n", "400 bad_request"),
        (
            "a tunnel",
            "CONNECT evil.test:443 HTTP/1.1\nHost: evil.test:443\n\n",
            "405 method_not_allowed",
        ),
        (
            "two lengths",
            "POST /smuggled HTTP/1.1\nHost: HOST\nContent-Length: 3\nContent-Length: 4\n\n",
            "400 bad_request",
        ),
        ("no HTTP", "\u{16}\u{3}\u{1}\n\n", "400 bad_request"),
    ] {
        let text = format!("{good}{good}{second}GET /smuggled HTTP/1.1\nHost: HOST\n\n");
        scene.attack_all(&BOTH, &[(name, &text, &format!("200, 200, {answer}"))]);
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_an_offer_to_upgrade_is_passed_on_raw() {
    let scene = Scene::set("").await;
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n";
    let socket =
        "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
    for (name, behind, answer) in [
        ("a request", "GET /smuggled HTTP/1.1\nHost: evil.test\n\n", "200, 403 forbidden_host"),
        ("frames", "PRI * HTTP/2.0\n\nSM\n\n\0\0\0\u{4}\0\0\0\0\0", "200, 400 bad_request"),
        ("bytes", "\u{81}\u{5}smuggled\n\n", "200, 400 bad_request"),
    ] {
        let offer = format!("GET PATH HTTP/1.1\nHost: HOST\n{h2c}\n{behind}");
        scene.attack_all(&BOTH, &[(name, &offer, answer)]);
        let demand = format!("GET PATH HTTP/1.1\nHost: HOST\n{socket}\n{behind}");
        scene.attack_all(&BOTH, &[(name, &demand, "400 bad_request")]);
        let body = format!("POST PATH HTTP/1.1\nHost: HOST\n{socket}Content-Length: 5\n\n{behind}");
        scene.attack_all(&BOTH, &[(name, &body, "400 bad_request")]);
    }
    scene.unharmed().await;
}

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
async fn heads_that_trickle_in_make_room_at_the_cap() {
    let upstream = Upstream::fine();
    let stage = stage_at(&upstream.origin, "", &["--set", "listen.max_connections=8"]).await;
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut caller = stage.caller();
            caller.send("GET /v1/slow HTTP/1.1\r\nX-Slow: ");
            caller
        })
        .collect();
    // Whoever has just come keeps its place for a moment, and others wait for as long: none is
    // turned away.
    assert_eq!(stage.caller().get("/v1/x").status, 200);
    // The one that came first made room, and the one that came last may go on.
    let mut slow = slow.into_iter();
    assert!(slow.next().unwrap().is_closed());
    let mut last = slow.next_back().unwrap();
    last.send(format!("a\r\nHost: {}\r\n\r\n", stage.proxy.address()));
    assert_eq!(last.answer().status, 200);
}

/// Writes a byte now and then until the connection is closed, and returns what came back.
fn trickle(
    address: SocketAddr,
    begin: &[u8],
    forever: &'static str,
) -> thread::JoinHandle<Vec<u8>> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(begin).unwrap();
    let mut writer = stream.try_clone().unwrap();
    thread::spawn(move || {
        let end = thread::spawn(move || until_closed(&mut stream));
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
async fn who_is_slow_with_a_head_is_given_up_by_both_listeners() {
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
async fn a_body_that_does_not_come_is_given_up_by_the_admin_listener() {
    let scene = Scene::set("").await;
    let key = format!("Authorization: Bearer {}\n", scene.stage.proxy.key);
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
async fn a_caller_that_closes_its_half_is_answered_or_cut_and_harms_nobody() {
    let scene = Scene::set("").await;
    let open =
        || std::fs::read_dir(format!("/proc/{}/fd", scene.stage.proxy.child.id())).unwrap().count();
    let descriptors = open();
    for text in [
        format!("{GET}\n"),
        format!("{POST}Content-Length: 3\n\nabc"),
        format!("{POST}Content-Length: 9\n\nabc"),
    ] {
        for door in BOTH {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(scene.address(door)).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.write_all(&scene.wire(door, &text)).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let got = until_closed(&mut stream);
                match is_cut(&got) {
                    // As far as it had come when the proxy saw the end.
                    true => assert!(b"HTTP/1.1 ".starts_with(&got[..got.len().min(9)])),
                    false => drop(answers(&got)),
                }
            }
        }
    }
    // The honest one of the beginning, and each of these once at most.
    let seen = scene.upstream.seen();
    assert!(
        seen.len() <= 1 + 3 * 20 && seen.iter().all(|it| it.token() == scene.token),
        "{seen:#?}"
    );
    eventually("the descriptors are closed", || open() <= descriptors + 5);
    scene.unharmed().await;
}

// --- What comes back: T76.

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_broken_fields_is_not_passed_on() {
    for field in [
        "X-A: b\r\n secret-marker",
        "X-A: b\r\n\tsecret-marker",
        "X-A: \0secret-marker",
        "secret-marker",
        "X\0A: b",
    ] {
        let upstream = Upstream::start(move |visit| match visit.target() {
            "/v1/honest" => visit.fine(),
            _ => {
                visit.say(format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 4\r\n\r\nfine"));
                After::Keep
            }
        });
        let scene = Scene::before(upstream, "").await;
        let answer = scene.stage.caller().get("/v1/x");
        assert_eq!(answer.problem(), (502, "upstream_broken".to_owned()), "{field:?}");
        assert!(!answer.text().contains("secret-marker"), "{field:?}: {}", answer.text());
        assert_eq!(scene.stage.caller().get("/v1/honest").status, 200);
    }
}
