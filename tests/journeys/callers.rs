//! Callers as they are: who sends everything before it reads, who shuts its sending half, who sends
//! one request behind another, who never reads. Each gets its answer, and costs no more than it
//! may.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use support::{
    After, Caller, IncomingRequest, OK_RESPONSE, RawResponse, Setup, TIMEOUT, Upstream,
    assert_problem, certificate_for, setup, setup_with, setup_without_account, wait_until,
};

/// All that a connection gives back, up to its end.
fn rest(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream
        .read_to_end(&mut got)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&got)));
    String::from_utf8(got).unwrap()
}

/// The statuses of answers behind one another.
fn statuses(text: &str) -> Vec<&str> {
    let responses = text
        .split("HTTP/1.1 ")
        .skip(1)
        .filter(|response| response.starts_with(|c: char| c.is_ascii_digit()));
    responses.map(|response| &response[..3]).collect()
}

// --- Early answers.

/// Sends a whole body, in chunks or with its length, before anything is read.
fn send_all(caller: &mut Caller, target: &str, body: &[u8], chunked: bool) {
    if !chunked {
        caller.send_head("POST", target, &[&format!("Content-Length: {}", body.len())]);
        return caller.try_send(body).expect("nobody resets who is still sending");
    }
    caller.send_head("POST", target, &["Transfer-Encoding: chunked"]);
    for piece in body.chunks(100_000) {
        let piece = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        caller.try_send(piece).expect("nobody resets who is still sending");
    }
    caller.send("0\r\n\r\n");
}

/// An answer that came before the body was read: the connection goes on, or says that it ends and
/// does so in order.
fn goes_on_or_says_so(caller: &mut Caller, response: &RawResponse, next: (u16, &str)) {
    match response.header("connection") {
        Some(connection) => {
            assert_eq!(connection, "close");
            assert!(caller.is_closed());
        }
        None => assert_problem(&caller.get("/@nobody/v1/x"), next.0, next.1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_sends_before_reading_receives_the_refusal() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    for length in [1, 10_000, 1 << 20, (1 << 20) + 200_000, 8 << 20] {
        let body = vec![b'#'; length];
        for chunked in [false, true] {
            for _ in 0..5 {
                let mut caller = setup.caller();
                send_all(&mut caller, "/@nobody/v1/x", &body, chunked);
                let response = caller.read_response();
                assert_problem(&response, 404, "account_unknown");
                if !chunked {
                    let closes = response.header("connection").is_some();
                    assert!(
                        closes == (length > 2 << 20) || (1 << 20..2 << 20).contains(&length),
                        "{length}"
                    );
                }
                goes_on_or_says_so(&mut caller, &response, (404, "account_unknown"));
            }
        }
        // The guard's refusals end the connection in any case.
        let mut caller = setup.caller();
        caller.send_head(
            "POST",
            "/v1/x",
            &["Origin: http://evil.example", &format!("Content-Length: {length}")],
        );
        caller.try_send(&body).expect("nobody resets who is still sending");
        assert_problem(&caller.read_response(), 403, "forbidden_origin");
        assert!(caller.is_closed());
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_listener_also_responds_to_callers_that_send_before_reading() {
    let setup = setup(&Upstream::ok(), "").await;
    for length in [1000, 5 << 20] {
        for chunked in [false, true] {
            let mut caller = Caller::to(setup.proxy.admin_address());
            send_all(&mut caller, "/api/accounts/default/login", &vec![b'x'; length], chunked);
            let response = caller.read_response();
            assert_eq!(response.status, 401, "{}", response.head);
            match response.header("connection") {
                Some(_) => assert!(caller.is_closed()),
                None => assert_eq!(caller.get("/health").status, 200),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_upstream_response_arrives_and_the_unread_body_is_not_parsed_as_a_request() {
    let upstream = Upstream::start(|incoming| match incoming.target() {
        "/early" => {
            incoming.respond("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow");
            incoming.wait_until_closed();
            After::Close
        }
        _ => incoming.respond_ok(),
    });
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    for round in 0..30 {
        let body = b"GET /v1/# HTTP/1.1\r\nHost: x\r\n\r\n".repeat(if round % 2 == 0 {
            700
        } else {
            5000
        });
        caller.send_head("POST", "/early", &[&format!("Content-Length: {}", body.len())]);
        caller.send(&body[..1000]);
        let early = caller.read_response();
        assert_eq!((early.status, early.text().as_str()), (429, "slow"), "round {round}");
        assert_eq!(early.header("connection"), None, "it goes on");
        caller.send(&body[1000..]);
        assert_eq!(caller.get("/v1/x").status, 200, "round {round}");
    }
    // One that is too long to be waited for says that it ends, and nothing of it becomes a request.
    let mut caller = setup.caller();
    caller.send_head("POST", "/early", &["Content-Length: 8000000"]);
    let response = caller.read_response();
    assert_eq!((response.status, response.header("connection")), (429, Some("close")));
    caller.try_send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10_000)).unwrap();
    assert!(caller.is_closed());
    assert!(upstream.requests().iter().all(|it| ["/early", "/v1/x"].contains(&it.target())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_expect_100_caller_need_not_send_its_body() {
    let setup = setup(&Upstream::ok(), "").await;
    let mut caller = setup.caller();
    caller.send_head("POST", "/@nobody/v1/x", &["Expect: 100-continue", "Content-Length: 5"]);
    let response = caller.read_response();
    assert_problem(&response, 404, "account_unknown");
    assert_eq!(response.header("connection"), Some("close"));
    // What comes now is either the body or a request; nobody knows.
    let _ = caller.try_send("GET /v1/x HTTP/1.1\r\n\r\n");
    assert!(caller.is_closed());
}

/// Programs with a client of their own, which prints the status and the code that it saw.
const CLIENTS: [(&str, &[&str]); 3] = [
    (
        "python3",
        &[
            "-c",
            "import sys, http.client as h; c = h.HTTPConnection(sys.argv[1]); c.request('POST', '/v1/x', b'x' * 5000000); \
             r = c.getresponse(); print(r.status, r.getheader('pleo-proxy-error'))",
        ],
    ),
    (
        "python3",
        &[
            "-c",
            "import sys, urllib.request as u, urllib.error as e\ntry: u.urlopen('http://%s/v1/x' % sys.argv[1], b'x' * 5000000)\n\
             except e.HTTPError as r: print(r.code, r.headers['pleo-proxy-error'])",
        ],
    ),
    (
        "node",
        &[
            "-e",
            "fetch(`http://${process.argv[1]}/v1/x`, { method: 'POST', body: 'x'.repeat(5e6) })\
             .then(r => console.log(r.status, r.headers.get('pleo-proxy-error')))",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn http_clients_of_other_languages_see_why_an_upload_is_refused() {
    let setup = setup_without_account(&Upstream::ok(), "").await;
    let address = setup.proxy.address().to_string();
    for (program, arguments) in CLIENTS {
        for round in 0..5 {
            let output = match Command::new(program).args(arguments).arg(&address).output() {
                Ok(output) => output,
                Err(error) => {
                    eprintln!("skipped: {program} cannot be run ({error})");
                    break;
                }
            };
            let told = String::from_utf8_lossy(&output.stdout);
            assert_eq!(told.trim(), "503 login_required", "{program}, round {round}: {output:?}");
        }
    }
}

// --- One request behind another.

#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_is_refused_in_every_request_line_and_nowhere_else() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
    let get =
        |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {own}\r\nX-Color: #fff\r\n\r\n");
    let length = format!(
        "POST /v1/p HTTP/1.1\r\nHost: {own}\r\nContent-Length: 18\r\n\r\nGET /# HTTP/1.1\r\n#"
    );
    let chunks = format!(
        "POST /v1/p HTTP/1.1\r\nHost: {own}\r\nTransfer-Encoding: chunked\r\n\r\n\
         c;a=#\r\nGET /# HTTP/\r\n1\r\n\n\r\n0\r\nX-T: #\r\n\r\n"
    );
    let end = format!("GET /end HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n");
    let fine = get("/v1/x");
    let wrong = get("/v1/x#y");
    for (text, expected) in [
        (format!("{fine}{length}{chunks}{fine}{end}"), vec!["200"; 5]),
        (format!("{fine}{wrong}"), vec!["200", "400"]),
        (format!("{length}{wrong}"), vec!["200", "400"]),
        (format!("{chunks}{wrong}"), vec!["200", "400"]),
        (
            format!("\r\n{length}{chunks}{fine}{fine}{wrong}"),
            vec!["200", "200", "200", "200", "400"],
        ),
    ] {
        for split in [0, 1, 50, text.len() / 2, text.len() - 30, text.len() - 3] {
            let mut stream = TcpStream::connect(own).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(&text.as_bytes()[..split]).unwrap();
            thread::sleep(std::time::Duration::from_millis(2));
            stream.write_all(&text.as_bytes()[split..]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let got = rest(&mut stream);
            assert_eq!(statuses(&got), expected, "split at {split} of {text:?}: {got}");
        }
    }
    assert!(upstream.requests().iter().all(|it| ["/v1/x", "/v1/p", "/end"].contains(&it.target())));
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_a_reason_also_after_a_served_request() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    for address in [setup.proxy.address(), setup.proxy.admin_address()] {
        for (line, told) in [
            ("GET /v1/a<b HTTP/1.1", ["the character <", "%3C"]),
            ("GET /v1/x?a=\u{7f} HTTP/1.1", ["0x7F", "%7F"]),
            ("GET /v1/a b HTTP/1.1", ["a blank", "%20"]),
            ("G@T /secret-marker HTTP/1.1", ["a method", "METHOD"]),
        ] {
            for before in ["", "GET /health HTTP/1.1\r\nHost: HOST\r\n\r\n"] {
                let before = before.replace("HOST", &address.to_string());
                let mut stream = TcpStream::connect(address).unwrap();
                stream
                    .write_all(
                        format!("{before}{line}\r\nHost: {address}\r\nX: secret-marker\r\n\r\n")
                            .as_bytes(),
                    )
                    .unwrap();
                let got = rest(&mut stream);
                let refusal =
                    &got[got.rfind("HTTP/1.1 400 ").unwrap_or_else(|| panic!("{line}: {got}"))..];
                assert_eq!(statuses(&got).len(), 1 + usize::from(!before.is_empty()), "{got}");
                for part in ["pleo-proxy-error: bad_request", "connection: close", told[0], told[1]]
                {
                    assert!(refusal.contains(part), "{line}: {part} in {refusal}");
                }
                assert!(!got.contains("secret-marker"), "{got}");
            }
        }
    }
}

// --- Who shuts its sending half.

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_shuts_down_its_sending_side_always_gets_its_response() {
    let upstream = Upstream::start(|incoming| {
        let body = incoming.body().unwrap();
        thread::sleep(std::time::Duration::from_millis(30));
        incoming.respond(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()));
        incoming.respond(body);
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    let ask = |address: SocketAddr, text: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.replace("HOST", &address.to_string()).as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(&mut stream)
    };
    for _ in 0..10 {
        let (data, admin) = (setup.proxy.address(), setup.proxy.admin_address());
        let get = ask(data, "GET /v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n");
        assert_eq!(statuses(&get), ["200"], "{get}");
        let post = ask(data, "POST /v1/x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc");
        assert!(statuses(&post) == ["200"] && post.ends_with("\r\n\r\nabc"), "{post}");
        let two = ask(data, &"GET /v1/x HTTP/1.1\r\nHost: HOST\r\n\r\n".repeat(2));
        assert_eq!(statuses(&two), ["200", "200"], "{two}");
        let health = ask(admin, "GET /health HTTP/1.1\r\nHost: HOST\r\n\r\n");
        assert_eq!(statuses(&health), ["200"], "{health}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_is_noticed_whatever_was_pipelined() {
    let (left, has_left) = std::sync::mpsc::channel();
    let upstream = Upstream::start(move |incoming| {
        let _ = left.send(incoming.wait_until_closed());
        After::Close
    });
    let setup = setup(&upstream, "").await;
    for (number, behind) in [0, 1, 5000, 300_000].into_iter().enumerate() {
        let mut caller = setup.caller();
        caller.send_head("GET", "/v1/x", &[]);
        caller.send(vec![b'x'; behind]);
        wait_until("the request is under way", || upstream.requests().len() > number);
        drop(caller);
        assert_eq!(has_left.recv(), Ok(true), "{behind} bytes behind it");
    }
}

// --- Who takes the end of the connection for the end of the answer.

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_response_without_a_length_does_not_look_complete() {
    let upstream = Upstream::responding_with(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        After::Close,
    );
    let setup = setup(&upstream, "").await;
    for (version, is_told) in [("HTTP/1.0", true), ("HTTP/1.1", false)] {
        let mut stream = TcpStream::connect(setup.proxy.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(stream, "GET /v1/x {version}\r\nHost: {}\r\n\r\n", setup.proxy.address()).unwrap();
        let mut got = Vec::new();
        let end = stream.read_to_end(&mut got).map_err(|error| error.kind());
        assert!(String::from_utf8_lossy(&got).contains("part"), "{version}: {end:?}");
        assert_eq!(end == Err(std::io::ErrorKind::ConnectionReset), is_told, "{version}: {end:?}");
    }
}

// --- Who does not read.

/// Memory that the proxy has now, in KiB.
fn resident(setup: &Setup) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", setup.proxy.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What each caller that does not read its response adds to the proxy's memory, in KiB.
fn unread_response(setup: &Setup) -> usize {
    const CALLERS: usize = 100;
    let begin = || {
        let mut caller = setup.caller();
        caller.send_head("GET", "/long", &[]);
        caller.read_exact(1000);
        caller
    };
    let warm: Vec<_> = (0..5).map(|_| begin()).collect();
    thread::sleep(std::time::Duration::from_millis(300));
    let before = resident(setup);
    let callers: Vec<_> = (0..CALLERS).map(|_| begin()).collect();
    thread::sleep(std::time::Duration::from_millis(500));
    let each = resident(setup).saturating_sub(before) / CALLERS;
    drop((warm, callers));
    assert_eq!(setup.caller().get("/fine").text(), OK_RESPONSE.split("\r\n\r\n").nth(1).unwrap());
    each
}

/// A GiB, or what the proxy takes of it.
fn respond_long(incoming: &mut IncomingRequest) -> After {
    if incoming.target() == "/fine" {
        return incoming.respond_ok();
    }
    incoming.respond("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    let piece = vec![b'x'; 1 << 20];
    while incoming.try_respond(&piece).is_ok() {}
    After::Close
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_uses_little_memory() {
    let upstream = Upstream::start(respond_long);
    let each = unread_response(&setup(&upstream, "").await);
    assert!(each <= 128, "{each} KiB a caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_uses_little_memory_over_tls() {
    let (pem, config) = certificate_for("127.0.0.1");
    let upstream = Upstream::secure(config, respond_long);
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, pem).unwrap();
    let set = format!("endpoints.ca_file=\"{}\"", ca_file.display());
    let each = unread_response(&setup_with(&upstream.origin, "", &["--set", &set]).await);
    assert!(each <= 128, "{each} KiB a caller");
}
